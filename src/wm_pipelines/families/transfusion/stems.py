"""From pixels to patches and back: linear, or the few convolutions of a small U-Net (section 3.2 of the paper).

Modules draw their weights from torch's global generator. Axes: ``M`` images, ``P`` patches row by row, ``D`` features
of a patch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, silu

from wm_pipelines.errors import UserError

STEMS = ("linear", "unet")
_SMALL = 1e-3  # added to mean squares before roots: what is silent stays silent
_FINE = 2  # pixels along a side that a U-Net's finest level sees as one position

Kept = tuple[Tensor, ...]
"""What a stem keeps of an embedding for the way back, finest first."""


def stem(kind: str, shape: tuple[int, int, int], patch: int, width: int, channels: int) -> Stem:
    """The embedding of patches and its inverse.

    Args:
        kind: one of `STEMS`. shape: ``(C, H, W)`` of images. patch: pixels along a side. width: ``D``.
        channels: of the convolutions.

    Raises:
        UserError: there is no such stem, or patches do not divide the image.
    """
    if shape[1] % patch or shape[2] % patch:
        raise UserError(f"images of {shape[1]} x {shape[2]} pixels are not divisible into patches of {patch}")
    if kind == "linear":
        return LinearStem(shape, patch, width)
    if kind == "unet":
        return UNetStem(shape, patch, width, channels)
    raise UserError(f"stem '{kind}' unknown; known: {', '.join(STEMS)}")


class Stem(nn.Module, ABC):
    """From images to patches and back."""

    @abstractmethod
    def embed(self, x: Tensor, level: Tensor) -> tuple[Tensor, Kept]:
        """Images ``[M, C, H, W]``, embedded levels of noise ``[M, D]`` -> patches ``[M, P, D]`` and what is kept."""

    @abstractmethod
    def images(self, h: Tensor, level: Tensor, kept: Kept) -> Tensor:
        """Features of patches ``[M, P, D]`` and what was kept -> images ``[M, C, H, W]``."""


class LinearStem(Stem):
    """Every patch by itself: nothing passes between patches but by attention."""

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        self.patch, self.rows = patch, shape[1] // patch
        self.enter = nn.Linear(shape[0] * patch**2, width)
        self.leave = nn.Linear(width, shape[0] * patch**2)

    def embed(self, x: Tensor, level: Tensor) -> tuple[Tensor, Kept]:
        """Images ``[M, C, H, W]``, embedded levels of noise ``[M, D]`` -> patches ``[M, P, D]``, nothing kept."""
        return self.enter(pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)) + level[:, None], ()

    def images(self, h: Tensor, level: Tensor, kept: Kept) -> Tensor:
        """Features of patches ``[M, P, D]`` -> images ``[M, C, H, W]``."""
        del level, kept
        return pixel_shuffle(self.leave(h).transpose(1, 2).unflatten(2, (self.rows, -1)), self.patch)


class UNetStem(Stem):
    """The outer levels of a U-Net around the transformer: down to patches, up again beside what was seen going down.

    The finest level sees two by two pixels as one position; every further one is half as fine and twice as wide. Its
    convolutions pass between neighbouring patches: with it no image is causal.

    Channels are normalised at each position, not over the image: of pictures that are mostly background, statistics
    over the image tell how much of it objects cover, and colours pale with them. The image as it came goes around
    everything, as much of it as suits the level of noise (a learned gate, closed at first), as in Karras et al.,
    *Elucidating the design space of diffusion-based generative models*, NeurIPS 2022, section 5.

    On the way up, what the transformer says of a patch also scales and shifts the channels within it (Park et al.,
    *Semantic image synthesis with spatially-adaptive normalization*, CVPR 2019): else fine levels draw by what they
    see in the noise around them, and a circle that was asked for gets a square's corner.

    Raises:
        UserError: the patch is no power of two from 4 on.
    """

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int, channels: int) -> None:
        super().__init__()
        if patch < 2 * _FINE or patch & (patch - 1):
            raise UserError(f"a U-Net's patch is 4, 8, 16 …, got {patch}")
        self.rows, pixels = shape[1] // patch, shape[0] * _FINE**2
        widths = [channels * 2**k for k in range((patch // _FINE).bit_length() - 1)]
        self.enter = nn.Conv2d(pixels, channels, 3, padding=1)
        self.inward = nn.ModuleList(Residual(w, width) for w in widths)
        self.outward = nn.ModuleList(Residual(w, width) for w in widths)
        self.join = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths)
        pairs = list(pairwise([*widths, width]))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.told = nn.ModuleList(nn.Conv2d(width, 2 * w, 1) for w in widths)
        self.leave = nn.Conv2d(channels, pixels, 3, padding=1)
        self.around = nn.Linear(width, 1)
        for told in self.told:
            nn.init.zeros_(told.get_parameter("weight"))
        nn.init.zeros_(self.around.weight)
        nn.init.zeros_(self.around.bias)

    def embed(self, x: Tensor, level: Tensor) -> tuple[Tensor, Kept]:
        """Images ``[M, C, H, W]``, embedded levels of noise ``[M, D]`` -> patches ``[M, P, D]`` and what is kept."""
        h, kept = self.enter(pixel_unshuffle(x, _FINE)), []
        for inward, down in zip(self.inward, self.down, strict=True):
            kept.append(inward(h, level))
            h = down(kept[-1])
        return h.flatten(2).transpose(1, 2) + level[:, None], (x, *kept)

    def images(self, h: Tensor, level: Tensor, kept: Kept) -> Tensor:
        """Features of patches ``[M, P, D]`` and what was kept -> images ``[M, C, H, W]``."""
        said = h = h.transpose(1, 2).unflatten(2, (self.rows, -1))
        x, *inner = kept
        for depth in reversed(range(len(inner))):
            h = self.join[depth](torch.cat([self.up[depth](h), inner[depth]], 1))
            h = self.outward[depth](h, level, interpolate(self.told[depth](said), h.shape[2:]))
        return pixel_shuffle(self.leave(silu(h)), _FINE) + self.around(level)[:, :, None, None] * x


class Residual(nn.Module):
    """Two convolutions beside the identity; the level of noise scales and shifts the channels between them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, level: Tensor, told: Tensor | None = None) -> Tensor:
        """``[M, channels, h, w]``, embedded levels ``[M, D]``, what is told ``[M, 2 channels, h, w]`` -> as x."""
        modulation = self.modulation(level)[:, :, None, None]
        scale, shift = (modulation if told is None else modulation + told).chunk(2, 1)
        h = _normalised(self.first(silu(self.gain * _normalised(x))))
        return x + self.second(silu(h * (1.0 + scale) + shift))


def _normalised(h: Tensor) -> Tensor:
    """Channels of ``[M, channels, h, w]`` of root mean square 1 at each position."""
    return h * torch.rsqrt(h.square().mean(1, keepdim=True) + _SMALL)
