"""Encoders and decoders between one observation and one latent vector, chosen by the kind of space.

Modules draw their weights from torch's global generator. A new kind of space enters `ENCODERS` and `DECODERS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.batch_norm import BatchNorm1d, BatchNorm2d
from wm_pipelines.blocks.convolutional import channels_last
from wm_pipelines.blocks.videos import background, to_pixels
from wm_pipelines.errors import UserError
from wm_pipelines.spec import Space


class FrameEncoder(nn.Module):
    """Convolutions that halve the sides, then one linear map of all positions: ``[N, C, H, W] -> [N, D]``.

    The last map is not averaged but kept position by position: a latent has to say where things are. Each latent is
    normalised over the batch, so that errors of prediction have a scale.

    Args:
        shape: ``(H, W, C)`` of a frame. widths: channels after each layer. latent: ``D``.

    Raises:
        UserError: the layers do not divide the frame.
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int], latent: int) -> None:
        super().__init__()
        height, width, channels = shape
        unit = 2 ** len(widths)
        if height % unit or width % unit:
            raise UserError(
                f"{len(widths)} layers halve frames of {height} x {width} pixels to no whole number of positions; "
                f"use fewer widths, or sides that are multiples of {unit}"
            )
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(zip((channels, *widths), widths, strict=False)):
            kernel = 5 if k == 0 else 3
            layers += [nn.Conv2d(before, after, kernel, 2, kernel // 2, bias=False), BatchNorm2d(after), nn.SiLU()]
        self.layers = channels_last(nn.Sequential(*layers))
        self.out = nn.Linear(widths[-1] * (height // unit) * (width // unit), latent, bias=False)
        self.norm = BatchNorm1d(latent, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Encode frames in [0, 1]."""
        return self.norm(self.out(self.layers(x).flatten(1)))

    inputs = staticmethod(to_pixels)

    @staticmethod
    def units(view: Tensor) -> tuple[Tensor, Tensor]:
        """Background and one."""
        still = background(view)
        return still, torch.ones_like(still)


class FrameDecoder(nn.Module):
    """`FrameEncoder` the other way round: ``[N, D] -> [N, outputs C, H, W]``."""

    def __init__(self, shape: Sequence[int], widths: Sequence[int], latent: int, outputs: int = 1) -> None:
        super().__init__()
        height, width, channels = shape
        self.grid = (widths[-1], height // 2 ** len(widths), width // 2 ** len(widths))
        self.spread = nn.Linear(latent, self.grid[0] * self.grid[1] * self.grid[2])
        layers: list[nn.Module] = []
        for before, after in pairwise((*reversed(widths), widths[0])):
            layers += [nn.SiLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(widths[0], outputs * channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Decode."""
        grid = self.spread(z).unflatten(1, self.grid)
        return self.layers(grid.contiguous(memory_format=torch.channels_last))

    @staticmethod
    def view(x: Tensor) -> Tensor:
        """``[…, C, H, W]`` -> ``[…, H, W, C]``."""
        return x.movedim(-3, -1)


class VectorEncoder(nn.Module):
    """A perceptron: ``[N, n] -> [N, D]``, each latent normalised over the batch.

    Args:
        shape: ``(n,)``. widths: of the hidden layers. latent: ``D``.
    """

    def __init__(self, shape: Sequence[int], widths: Sequence[int], latent: int) -> None:
        super().__init__()
        layers = [part for a, b in pairwise((*shape, *widths)) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], latent, bias=False))
        self.norm = BatchNorm1d(latent, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Encode standardised vectors."""
        return self.norm(self.layers(x))

    @staticmethod
    def inputs(view: Tensor) -> Tensor:
        """Vectors as they are."""
        return view

    @staticmethod
    def units(view: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation; 1 where nothing changes."""
        spread = view.flatten(0, 1).std(0)
        return view.flatten(0, 1).mean(0), torch.where(spread > 0, spread, 1.0)


class VectorDecoder(nn.Module):
    """`VectorEncoder` the other way round: ``[N, D] -> [N, outputs n]``."""

    def __init__(self, shape: Sequence[int], widths: Sequence[int], latent: int, outputs: int = 1) -> None:
        super().__init__()
        layers = [part for a, b in pairwise((latent, *reversed(widths))) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[0], outputs * shape[0]))

    def forward(self, z: Tensor) -> Tensor:
        """Decode."""
        return self.layers(z)

    @staticmethod
    def view(x: Tensor) -> Tensor:
        """Vectors as they are, float64."""
        return x.double()


class BareEncoder(VectorEncoder):
    """Vectors, standardised, are their own latents: ``D = n``."""

    def __init__(self, shape: Sequence[int]) -> None:
        nn.Module.__init__(self)
        self.latent = shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """As it is."""
        return x


class BareDecoder(VectorDecoder):
    """`BareEncoder` the other way round; further numbers of each entry are linear in the latents."""

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        nn.Module.__init__(self)
        self.others = nn.Linear(shape[0], (outputs - 1) * shape[0]) if outputs > 1 else None

    def forward(self, z: Tensor) -> Tensor:
        """Decode."""
        return z if self.others is None else torch.cat([z, self.others(z)], -1)


ENCODERS: dict[str, Any] = {"frames": FrameEncoder, "vector": VectorEncoder}
"""By kind of space: networks ``(shape, widths, latent)`` of observations. Their `inputs` makes the numbers they take of
a view; `units` tells of training episodes ``[E, T, …]`` what these are centred by and divided by."""

DECODERS: dict[str, Any] = {"frames": FrameDecoder, "vector": VectorDecoder}
"""By kind of space: networks ``(shape, widths, latent, outputs)`` back, with ``outputs`` numbers for each of an
observation, along the axis behind the batch's; `view` makes of them what the view holds."""


def encoder(space: Space, widths: Sequence[int], latent: int) -> Any:
    """The encoder of a space; of vectors without hidden layers these themselves are the latents."""
    if space.kind == "vector" and not widths:
        return BareEncoder(space.shape)
    return ENCODERS[space.kind](space.shape, widths, latent)


def decoder(space: Space, widths: Sequence[int], latent: int, outputs: int = 1) -> Any:
    """The decoder of a space; see `encoder`."""
    if space.kind == "vector" and not widths:
        return BareDecoder(space.shape, outputs)
    return DECODERS[space.kind](space.shape, widths, latent, outputs)
