"""A frame predictor whose latent is one vector per frame: convolutional encoder and decoder, a perceptron between them.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.frame_encoder import FrameEncoder, LatentDynamics

_LOG_VARIANCE = (-12.0, 2.0)  # pixels are quantised to 1/255: less than exp(-12) says nothing about them


class FrameDecoder(nn.Module):
    """`FrameEncoder` the other way round: ``[N, D] -> [N, C, H, W]``."""

    def __init__(self, size: tuple[int, int], channels: int, widths: tuple[int, ...], latent: int) -> None:
        super().__init__()
        self.grid = (widths[-1], size[0] // 2 ** len(widths), size[1] // 2 ** len(widths))
        self.spread = nn.Linear(latent, self.grid[0] * self.grid[1] * self.grid[2])
        layers: list[nn.Module] = []
        for before, after in pairwise((*reversed(widths), widths[0])):
            layers += [nn.SiLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(widths[0], channels, 3, padding=1))

    def forward(self, z: Tensor) -> Tensor:
        """Decode."""
        grid = self.spread(z).unflatten(1, self.grid)
        return self.layers(grid.contiguous(memory_format=torch.channels_last))


class VectorPredictor(nn.Module):
    """Encoder ``Enc``, transition ``f`` and decoder ``Dec`` of one seed, on differences from a background.

    Args:
        size: height and width of a frame. channels: 1 or 3. widths: of encoder and decoder. latent: ``D``.
        memory: latents that f sees. hidden: width of f, which has two hidden layers. variance: decode it, too.

    Raises:
        UserError: the layers do not divide the frames.
    """

    background: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        widths: tuple[int, ...],
        latent: int,
        memory: int,
        hidden: int,
        variance: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("background", torch.zeros(channels, *size))
        self.channels = channels
        self.enc = FrameEncoder(size, channels, widths, latent)
        self.dec = FrameDecoder(size, (1 + variance) * channels, widths, latent)
        self.f = LatentDynamics(latent, memory, hidden, 2)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``[B, T, C, H, W]`` in [0, 1] -> latents ``[B, T, D]``."""
        x = (frames - self.background).flatten(0, 1).permute(0, 2, 3, 1)
        return self.enc(x).unflatten(0, frames.shape[:2])

    def pooled(self, frames: Tensor) -> Tensor:
        """The latents themselves."""
        return self.encode(frames)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``[B, T, D]`` -> means of frames ``[B, T, C, H, W]``."""
        return self.background + self._decoded(latents)[:, :, : self.channels]

    def decode_log_variance(self, latents: Tensor) -> Tensor:
        """Latents ``[B, T, D]`` -> log variances of frames ``[B, T, C, H, W]``."""
        return (self._decoded(latents)[:, :, self.channels :] - 4.0).clamp(*_LOG_VARIANCE)

    def roll_out(self, past: Tensor, steps: int) -> Tensor:
        """Latents ``[B, T, D]`` -> the next ones ``[B, steps, D]``, every one from the ones before it."""
        return self.f.roll_out(past, steps)

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.dec(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
