"""A network that sees maps at several scales. It draws its weights from torch's global generator."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from wm_pipelines.blocks.convolutional import Residual


class Pyramid(nn.Module):
    """U-Net (Ronneberger, Fischer, Brox 2015) of residual blocks; a learned offset per position, as walls stand still.

    Args:
        inputs: channels. widths: of the levels, each half as fine as the one before. blocks: per level.
        grid: height and width of the finest level.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], blocks: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.offset = nn.Parameter(torch.zeros(1, widths[0], *grid))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.inward = nn.ModuleList(nn.Sequential(*(Residual(w) for _ in range(blocks))) for w in widths)
        self.outward = nn.ModuleList(nn.Sequential(*(Residual(w) for _ in range(blocks))) for w in widths[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w] -> [B, widths[0], h, w]``."""
        x = self.inward[0](self.stem(x) + self.offset)
        kept = []
        for down, inward in zip(self.down, self.inward[1:], strict=True):
            kept.append(x)
            x = inward(down(x))
        for up, outward in zip(reversed(self.up), reversed(self.outward), strict=True):
            x = outward(kept.pop() + up(x))
        return silu(x)
