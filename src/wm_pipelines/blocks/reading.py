"""Transformers that read tokens of different number: padding is never looked at, what was read can be kept.

Modules draw their weights from torch's global generator. Axes: ``B`` examples, ``L`` tokens, ``D`` features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from wm_pipelines.blocks.transformer import Block
from wm_pipelines.blocks.words import PADDING

Kept = tuple[Tensor, Tensor]
"""Keys and values ``[B, heads, L, D / heads]`` of what was read."""


class ReadingBlock(Block):
    """A pre-norm block with a mask, which goes on from keys and values of what was read before."""

    def read(self, x: Tensor, mask: Tensor, before: Kept | None = None) -> tuple[Tensor, Kept]:
        """``x [B, n, D]`` looks at all that was read before and at itself, where ``mask [B, n, N]`` allows.

        Returns:
            ``[B, n, D]``, and the keys and values of all ``N``.
        """
        attention, source = self.attention, self.norm1(x)
        q = attention.query(source).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        both = attention.key_value(source).unflatten(-1, (2, attention.heads, -1))
        k, v = both.permute(2, 0, 3, 1, 4)
        if before is not None:
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        seen = scaled_dot_product_attention(q, k, v, mask[:, None])
        x = x + attention.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x)), (k, v)


class Reader(nn.Module):
    """Blocks one after the other, and a norm behind the last; ``depth`` 0 has the norm alone."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ReadingBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialise(self, width)

    def forward(self, x: Tensor, mask: Tensor, before: Sequence[Kept] | None = None) -> tuple[Tensor, list[Kept]]:
        """See `ReadingBlock.read`; what is kept comes by block."""
        kept = []
        for depth, block in enumerate(self.blocks):
            assert isinstance(block, ReadingBlock)
            x, known = block.read(x, mask, None if before is None else before[depth])
            kept.append(known)
        return self.norm(x), kept


class TextTower(nn.Module):
    """Texts as points: tokens ``[B, L]`` (0: padding) -> ``[B, P]``.

    What stands at the words is added up and divided by the root of their number: in a mean, one word of many would
    hardly be seen. With ``depth`` 0 a text is a bag of words.

    Args:
        vocabulary: tokens that there are. length: L at most. width, depth, heads: of the transformer. out: P.
    """

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int, out: int) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(vocabulary, width))
        self.places = nn.Parameter(0.3 * torch.randn(length, width)) if depth else None
        self.reader = Reader(width, depth, heads)
        self.leave = nn.Linear(width, out)

    def forward(self, tokens: Tensor) -> Tensor:
        """Read texts of at least one word."""
        there = tokens != PADDING
        x = self.words[tokens] if self.places is None else self.words[tokens] + self.places[: tokens.shape[1]]
        read, _ = self.reader(x, there[:, None, :].expand(-1, tokens.shape[1], -1))
        count = there.sum(1, keepdim=True).clamp(min=1).to(read)
        return self.leave((read * there[..., None]).sum(1) / count.sqrt())


def initialise(network: nn.Module, width: int) -> None:
    """Linear weights that suit narrow transformers; what blocks add shrinks with depth (Radford et al., 2019)."""
    blocks = [part for part in network.modules() if isinstance(part, ReadingBlock)]
    for block in blocks:
        for part in block.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=1.0 / math.sqrt(width))
                nn.init.zeros_(part.bias)
        for last in (block.attention.out, block.mlp[-1]):
            with torch.no_grad():
                last.get_parameter("weight").div_(math.sqrt(2.0 * len(blocks)))


def trimmed(tokens: Tensor) -> Tensor:
    """Tokens ``[..., L]`` without the columns that are padding in all rows; at least one column stays."""
    there = (tokens != PADDING).reshape(-1, tokens.shape[-1]).any(0).nonzero()
    return tokens[..., : int(there.max()) + 1 if len(there) else 1]
