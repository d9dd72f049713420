"""Transformers that read tokens of different number: padding is never looked at, what was read can be kept.

Modules draw their weights from torch's global generator. Axes: ``B`` examples, ``L`` tokens, ``D`` features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from wm_pipelines.blocks.transformer import Block
from wm_pipelines.blocks.words import PADDING

_LENGTHS = (4, 16)  # tokens that texts are grouped by

Kept = tuple[Tensor, Tensor]
"""Keys and values ``[B, heads, L, D / heads]`` of what was read."""


class ReadingBlock(Block):
    """A pre-norm block with a mask, which goes on from keys and values of what was read before."""

    def keep(self, x: Tensor, before: Kept | None = None) -> Kept:
        """Keys and values of ``x [B, n, D]``, behind those of what was read before."""
        both = self.attention.key_value(self.norm1(x)).unflatten(-1, (2, self.attention.heads, -1))
        k, v = both.permute(2, 0, 3, 1, 4)
        return (k, v) if before is None else (torch.cat([before[0], k], 2), torch.cat([before[1], v], 2))

    def look(self, x: Tensor, kept: Kept, mask: Tensor) -> Tensor:
        """``x [B, n, D]`` looks at all that is kept, where ``mask [B, n, N]`` allows."""
        attention = self.attention
        q = attention.query(self.norm1(x)).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        seen = scaled_dot_product_attention(q, *kept, mask[:, None])
        x = x + attention.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Reader(nn.Module):
    """Blocks one after the other, and a norm behind the last; ``depth`` 0 has the norm alone."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ReadingBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialise(self, width)

    def forward(
        self, x: Tensor, mask: Tensor, before: Sequence[Kept] | None = None, last: int | None = None
    ) -> tuple[Tensor, list[Kept]]:
        """Read ``x [B, n, D]`` after what was read before, each looking where ``mask [B, n, N]`` allows.

        Args:
            x, mask: see above. before: what was kept of it, by block.
            last: so many of the last tokens are wanted alone: the last block does no more for the others than they
                need; None: all.

        Returns:
            ``[B, last, D]``; keys and values of all ``N``, by block.
        """
        kept = []
        for depth, block in enumerate(self.blocks):
            assert isinstance(block, ReadingBlock)
            kept.append(block.keep(x, None if before is None else before[depth]))
            if last is not None and depth == len(self.blocks) - 1:
                x, mask = x[:, x.shape[1] - last :], mask[:, mask.shape[1] - last :]
            if x.shape[1]:
                x = block.look(x, kept[-1], mask)
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


def by_length(tokens: Tensor) -> list[Tensor]:
    """Numbers of the rows of ``[R, L]`` in groups with about as many tokens: short texts need less padding."""
    lengths = (tokens != PADDING).sum(1)
    bounds = [0, *_LENGTHS, tokens.shape[1]]
    groups = [((lengths > low) & (lengths <= high)).nonzero()[:, 0] for low, high in pairwise(bounds)]
    groups[0] = torch.cat([(lengths == 0).nonzero()[:, 0], groups[0]])
    return [rows for rows in groups if len(rows)]


def once_each(read: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
    """What is read of every row of ``[R, L]``, equal rows once, short ones apart from long ones: ``[R, ...]``."""
    different, which = tokens.unique(dim=0, return_inverse=True)
    groups = by_length(different)
    found = torch.cat([read(trimmed(different[rows])) for rows in groups])
    place = torch.cat(groups).argsort()
    return found[place][which]
