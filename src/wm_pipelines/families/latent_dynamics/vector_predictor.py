"""A predictor whose latent is one vector per observation: encoder and decoder by its kind, a perceptron between them.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.encoders import decoder, encoder
from wm_pipelines.blocks.latent_transition import LatentTransition
from wm_pipelines.spec import Space

LOG_VARIANCE = (-12.0, 2.0)  # pixels are quantised to 1/255: less than exp(-12) says nothing about them


class VectorPredictor(nn.Module):
    """Encoder ``Enc``, transition ``f`` and decoder ``Dec`` of one seed, on differences from a centre, in units.

    Shapes: ``x [B, T, …]`` are observations as encoders take them (frames ``[B, T, C, H, W]`` in [0, 1]).

    Args:
        space: of one observation. widths: of encoder and decoder. latent: ``D``. memory: latents that f sees.
        hidden: width of f, which has two hidden layers. variance: decode it, too.

    Raises:
        UserError: the layers do not divide the frames.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self, space: Space, widths: Sequence[int], latent: int, memory: int, hidden: int, variance: bool
    ) -> None:
        super().__init__()
        self.enc = encoder(space, widths, latent)
        self.dec = decoder(space, widths, latent, 1 + variance)
        self.f = LatentTransition(latent, memory, hidden, 2)
        shape = self.enc.inputs(torch.empty(space.shape)).shape
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    @torch.no_grad()
    def learn_units(self, view: Tensor) -> None:
        """Centre and scale of training episodes ``[E, T, …]``."""
        centre, scale = self.enc.units(view)
        self.centre.copy_(centre)
        self.scale.copy_(scale)

    def encode(self, x: Tensor) -> Tensor:
        """Observations -> latents ``[B, T, D]``."""
        x = (x.to(self.centre.dtype) - self.centre) / self.scale
        return self.enc(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def pooled(self, x: Tensor) -> Tensor:
        """The latents themselves."""
        return self.encode(x)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``[B, T, D]`` -> means of observations."""
        return self.centre + self._decoded(latents)[:, :, : len(self.centre)] * self.scale

    def decode_log_variance(self, latents: Tensor) -> Tensor:
        """Latents ``[B, T, D]`` -> log variances of observations."""
        raw = self._decoded(latents)[:, :, len(self.centre) :]
        return (raw - 4.0).clamp(*LOG_VARIANCE) + 2 * self.scale.log()

    def roll_out(self, past: Tensor, steps: int) -> Tensor:
        """Latents ``[B, T, D]`` -> the next ones ``[B, steps, D]``, every one from the ones before it."""
        return self.f.roll_out(past, steps)

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.dec(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
