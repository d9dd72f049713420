"""Small convolutional networks of single frames, alone or below a transformer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from wm_pipelines.blocks.batch_norm import BatchNorm1d, BatchNorm2d
from wm_pipelines.errors import UserError


def channels_last(layers: nn.Sequential) -> nn.Sequential:
    """Store the weights of convolutions in the order in which CPUs convolve fastest; in place."""
    for parameter in layers.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return layers


class ConvolutionalEncoder(nn.Module):
    """Convolutions with batch normalisation: ``[B, H, W, C] -> [B, N, D]``, one token per position of the last map.

    Works on centred pixels ``2 x - 1``: zero, what lies beyond the border, is neither black nor white.

    Args:
        size: height and width of a frame.
        channels: ``C``.
        widths: channels after each layer, ``D`` last; all layers but the last halve the sides (rounded up).

    Raises:
        UserError: less than two positions would be left along a side.
    """

    def __init__(self, size: tuple[int, int], channels: int, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        halvings = len(widths) - 1
        height, width = (math.ceil(side / 2**halvings) for side in size)
        if min(height, width) < 2:
            raise UserError(
                f"{halvings} halvings leave {height} x {width} positions of images of {size[0]} x {size[1]} pixels; "
                "use fewer convolutional widths"
            )
        self.size, self.channels, self.grid, self.width = size, channels, (1, height, width), widths[-1]
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(zip((channels, *widths), widths, strict=False)):
            kernel = 5 if k == 0 else 3
            convolution = nn.Conv2d(before, after, kernel, 2 if k < halvings else 1, kernel // 2, bias=False)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, BatchNorm2d(after), nn.GELU()]
        self.layers = channels_last(nn.Sequential(*layers))

    @property
    def tokens(self) -> int:
        """Positions of the last map."""
        return math.prod(self.grid)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Encode images in [0, 1], or only those pixels where ``seen [B, H, W, 1]`` is 1 and not 0.

        Raises:
            UserError: the images are not of the size that the encoder was built for.
        """
        if x.shape[1:] != (*self.size, self.channels):
            expected = f"[B, {self.size[0]}, {self.size[1]}, {self.channels}]"
            raise UserError(f"the encoder takes {expected}, got {list(x.shape)}")
        centred = 2 * x - 1 if seen is None else (2 * x - 1) * seen
        return self.layers(centred.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)


class Residual(nn.Module):
    """``x + conv(silu(conv(silu(x))))``, the identity at first; ``[B, C, h, w]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.second(silu(self.first(silu(x))))


def unit_gain(module: nn.Module) -> None:
    """Draw all linear weights anew so that activations keep their size (Glorot & Bengio 2010).

    The customary standard deviation of 0.02 is for widths of many hundreds; narrow transformers hardly move with it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)


def projector(width: int, widths: Sequence[int]) -> nn.Sequential:
    """The head whose output is compared and which is thrown away after training (Chen et al. 2020, section 4.2).

    Args:
        width: of the features. widths: after each layer, the output last; all but that are normalised over the batch.
    """
    layers: list[nn.Module] = []
    for before, after in zip((width, *widths), widths[:-1], strict=False):
        layers += [nn.Linear(before, after, bias=False), BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear((width, *widths)[-2], widths[-1]))
