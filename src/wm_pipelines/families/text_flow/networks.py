"""Networks of one seed: a reader of captions, and a velocity field of frames that is told what was read.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from wm_pipelines.blocks.flow_condition import Condition
from wm_pipelines.blocks.transformer import Block
from wm_pipelines.errors import UserError
from wm_pipelines.families.text_flow.words import PADDING

_WAVES = 8  # cosines of t
_GROUPS = 8  # of channels that are normalised together


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


class Modulated(nn.Module):
    """A residual block whose inner channels are scaled and shifted by a condition, the identity at first.

    Feature-wise linear modulation (Perez et al., *FiLM: visual reasoning with a general conditioning layer*, AAAI
    2018), placed as by Dhariwal and Nichol, *Diffusion models beat GANs on image synthesis*, NeurIPS 2021.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(_GROUPS, width), nn.GroupNorm(_GROUPS, width, affine=False)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(hidden, 2 * width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """``[N, width, h, w]``, conditions ``[N, hidden]`` -> ``[N, width, h, w]``."""
        scale, shift = self.modulation(c)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.first(silu(self.norm1(x))))
        return x + self.second(silu(h * (1.0 + scale) + shift))


class FrameVelocity(nn.Module):
    """``v(x, t | caption) = (d(x, t, c) - x) / (1 - t)``, of a U-Net d of the frame that x is on the way to.

    (Ronneberger, Fischer, Brox, *U-Net*, MICCAI 2015; the network of the data as in `flow.networks.VelocityField`.) The
    finest level sees patches of ``patch`` by ``patch`` pixels. To the coarsest the condition adds a map of its own: a
    caption says what is where, and convolutions alone do not know where they are.

    Args:
        shape: ``(C, H, W)`` of frames. patch: pixels along a side. widths: of the levels, each half as fine as the one
            before. blocks: per level, inwards and outwards. caption: entries of an embedding. hidden: of the condition.

    Raises:
        UserError: patch and levels do not divide the frame, or a width is no multiple of 8.
    """

    def __init__(
        self, shape: Sequence[int], patch: int, widths: Sequence[int], blocks: int, caption: int, hidden: int
    ) -> None:
        super().__init__()
        channels, height, width = shape
        unit = patch * 2 ** (len(widths) - 1)
        if height % unit or width % unit:
            raise UserError(f"frames of {height} x {width} pixels are no multiple of {unit}: fewer widths, other patch")
        if any(w % _GROUPS for w in widths):
            raise UserError(f"widths {list(widths)}: multiples of {_GROUPS} only")
        self.patch = patch
        self.condition = Condition({"caption": caption, "time": _WAVES}, hidden, ("caption",))
        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.inward = nn.ModuleList(_level(w, blocks, hidden) for w in widths)
        self.outward = nn.ModuleList(_level(w, blocks, hidden) for w in widths)
        self.coarse = (widths[-1], height // unit, width // unit)
        self.layout = nn.Linear(hidden, math.prod(self.coarse))
        self.norm = nn.GroupNorm(_GROUPS, widths[0])
        self.out = nn.Conv2d(widths[0], channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, t: Tensor, caption: Tensor, known: Tensor) -> Tensor:
        """Velocities ``[N, C, H, W]`` at x, at times t < 1 ``[N, 1]``, of embedded captions ``[N, ·]``.

        Rows that are not ``known [N, 1]`` are told no caption.
        """
        waves = torch.cos(math.pi * t * torch.arange(1, _WAVES + 1, device=t.device))
        c = silu(self.condition(torch.cat([caption, waves.expand(len(x), -1)], 1), known))
        return (self._data(x, c) - x) / (1.0 - t[:, :, None, None])

    def _data(self, x: Tensor, c: Tensor) -> Tensor:
        h, kept = self.stem(pixel_unshuffle(x, self.patch)), []
        for level, blocks in enumerate(self.inward):
            if level:
                kept.append(h)
                h = self.down[level - 1](h)
            if level == len(self.inward) - 1:
                h = h + self.layout(c).unflatten(1, self.coarse)
            h = _through(blocks, h, c)
        for level in reversed(range(len(self.outward))):
            h = _through(self.outward[level], h, c)
            if level:
                h = kept.pop() + self.up[level - 1](h)
        return pixel_shuffle(self.out(silu(self.norm(h))), self.patch)


def _level(width: int, blocks: int, hidden: int) -> nn.ModuleList:
    return nn.ModuleList(Modulated(width, hidden) for _ in range(blocks))


def _through(blocks: nn.Module, h: Tensor, c: Tensor) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        h = block(h, c)
    return h
