"""Networks of one seed: a reader of captions, and a velocity field of frames that is told what was read.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from wm_pipelines.blocks.flow_condition import Condition
from wm_pipelines.blocks.frame_network import FrameNetwork
from wm_pipelines.blocks.transformer import Block
from wm_pipelines.blocks.words import PADDING

_WAVES = 8  # cosines of t


class Reader(nn.Module):
    """A small transformer: tokens ``[N, L]`` -> embeddings of captions ``[N, width]``.

    What stands at the words is added up and divided by the root of their number: in a mean, one word of many would
    hardly be seen.

    Args:
        vocabulary: tokens that there are. length: L. width, depth, heads: of the transformer.
    """

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(vocabulary, width))
        self.positions = nn.Parameter(0.3 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Read; what stands behind the end of a caption is looked at, but not added."""
        h = self.words[tokens] + self.positions
        for block in self.blocks:
            h = block(h)
        there = (tokens != PADDING).unsqueeze(-1).to(h)
        return (self.norm(h) * there).sum(1) / there.sum(1).clamp(min=1.0).sqrt()


class FrameVelocity(nn.Module):
    """``v(x, t | caption) = (d(x, t, c) - x) / (1 - t)``, of a network d of the frame that x is on the way to.

    (The network of the data as in `flow.networks.VelocityField`.)

    Args:
        shape, patch, widths, blocks, hidden: see `FrameNetwork`. caption: entries of an embedding.
    """

    def __init__(
        self, shape: Sequence[int], patch: int, widths: Sequence[int], blocks: int, caption: int, hidden: int
    ) -> None:
        super().__init__()
        self.condition = Condition({"caption": caption, "time": _WAVES}, hidden, ("caption",))
        self.data = FrameNetwork(shape, patch, widths, blocks, hidden)

    def forward(self, x: Tensor, t: Tensor, caption: Tensor, known: Tensor) -> Tensor:
        """Velocities ``[N, C, H, W]`` at x, at times t < 1 ``[N, 1]``, of embedded captions ``[N, ·]``.

        Rows that are not ``known [N, 1]`` are told no caption.
        """
        waves = torch.cos(math.pi * t * torch.arange(1, _WAVES + 1, device=t.device))
        c = silu(self.condition(torch.cat([caption, waves.expand(len(x), -1)], 1), known))
        return (self.data(x, c) - x) / (1.0 - t[:, :, None, None])
