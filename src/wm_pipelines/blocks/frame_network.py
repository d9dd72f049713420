"""A network from frames to frames under a condition, as flows of frames use it.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from wm_pipelines.errors import UserError

_GROUPS = 8  # of channels that are normalised together


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


class FrameNetwork(nn.Module):
    """A U-Net under a condition (Ronneberger, Fischer, Brox, *U-Net*, MICCAI 2015), 0 at first.

    The finest level sees patches of ``patch`` by ``patch`` pixels. To the coarsest the condition adds a map of its own:
    convolutions alone do not know where they are.

    Args:
        shape: ``(C, H, W)`` of what goes in and comes out. patch: pixels along a side. widths: of the levels, each half
            as fine as the one before. blocks: per level, inwards and outwards. hidden: of the condition.
        beside: channels that are seen beside what goes in. kernel: of the first and the last convolution; 1: patches
            are embedded one by one.

    Raises:
        UserError: patch and levels do not divide the frame, or a width is no multiple of 8.
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch: int,
        widths: Sequence[int],
        blocks: int,
        hidden: int,
        beside: int = 0,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        unit = patch * 2 ** (len(widths) - 1)
        if height % unit or width % unit:
            raise UserError(f"frames of {height} x {width} pixels are no multiple of {unit}: fewer widths, other patch")
        if any(w % _GROUPS for w in widths):
            raise UserError(f"widths {list(widths)}: multiples of {_GROUPS} only")
        self.patch = patch
        self.stem = nn.Conv2d((channels + beside) * patch**2, widths[0], kernel, padding=kernel // 2)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.inward = nn.ModuleList(_level(w, blocks, hidden) for w in widths)
        self.outward = nn.ModuleList(_level(w, blocks, hidden) for w in widths)
        self.coarse = (widths[-1], height // unit, width // unit)
        self.layout = nn.Linear(hidden, math.prod(self.coarse))
        self.norm = nn.GroupNorm(_GROUPS, widths[0])
        self.out = nn.Conv2d(widths[0], channels * patch**2, kernel, padding=kernel // 2)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, c: Tensor, beside: Tensor | None = None) -> Tensor:
        """``[N, C, H, W]``, conditions ``[N, hidden]`` and what is seen beside ``[N, ·, H, W]`` -> ``[N, C, H, W]``."""
        seen = x if beside is None else torch.cat([x, beside], 1)
        h, kept = self.stem(pixel_unshuffle(seen, self.patch)), []
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
