"""A small convolutional encoder of single frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.errors import UserError

STRIDE = 2  # of every layer but the last


class ConvolutionalEncoder(nn.Module):
    """Convolutions with batch normalisation: ``[B, H, W, C] -> [B, N, D]``, one token per place of the last map.

    Args:
        size: height and width of a frame.
        channels: ``C``.
        widths: channels after each layer, ``D`` last; every layer but the last halves the sides.

    Raises:
        UserError: the layers leave less than two places along a side.
    """

    def __init__(self, size: tuple[int, int], channels: int, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        halvings = STRIDE ** (len(widths) - 1)
        if min(size) < 2 * halvings:
            raise UserError(
                f"{len(widths)} convolutional layers need pictures of at least {2 * halvings} pixels a side, "
                f"got {size[0]} x {size[1]}; use fewer widths"
            )
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(zip((channels, *widths[:-1]), widths, strict=True)):
            stride = STRIDE if k < len(widths) - 1 else 1
            kernel = 5 if k == 0 else 3
            layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        for parameter in self.layers.parameters():
            if parameter.dim() == 4:  # the order in which CPUs convolve fastest
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        self.width = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Encode pictures in [0, 1]."""
        return self.layers(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)


def projector(width: int, hidden: int, out: int) -> nn.Sequential:
    """The head whose output is compared and which is thrown away after training (Chen et al. 2020, section 4.2)."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )
