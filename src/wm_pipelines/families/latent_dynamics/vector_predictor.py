"""A predictor whose latent is one vector per observation: encoder and decoder by its kind, a perceptron between them.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.encoders import decoder, encoder
from wm_pipelines.blocks.latent_transition import LatentTransition, differences, perceptron
from wm_pipelines.spec import Space

LOG_VARIANCE = (-12.0, 2.0)  # pixels are quantised to 1/255: less than exp(-12) says nothing about them


class VectorPredictor(nn.Module):
    """Encoder ``Enc``, transition ``f`` and decoder ``Dec`` of one seed, on differences from a centre, in units.

    Shapes: ``x [B, T, …]`` are observations as encoders take them (frames ``[B, T, C, H, W]`` in [0, 1]).

    Args:
        space: of one observation. widths: of encoder and decoder. latent: ``D``. memory: latents that f sees.
        hidden: width of f, which has two hidden layers. variance: decode it, too.
        action: ``A``, entries of an action. rewarded: predict rewards, too. ensemble: how many f there are, which
            differ in their first weights and each roll out on their own.

    Raises:
        UserError: the layers do not divide the frames.
    """

    centre: Tensor
    scale: Tensor
    reward_units: Tensor

    def __init__(
        self,
        space: Space,
        widths: Sequence[int],
        latent: int,
        memory: int,
        hidden: int,
        variance: bool,
        action: int = 0,
        rewarded: bool = False,
        ensemble: int = 1,
    ) -> None:
        super().__init__()
        self.memory = memory
        self.enc = encoder(space, widths, latent)
        self.dec = decoder(space, widths, latent, 1 + variance)
        latent = getattr(self.enc, "latent", latent)
        self.f = nn.ModuleList(LatentTransition(latent, memory, hidden, 2, action) for _ in range(ensemble))
        shape = self.enc.inputs(torch.empty(space.shape)).shape
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))
        self.r = perceptron(memory * latent + action, hidden) if rewarded else None
        self.register_buffer("reward_units", torch.tensor([0.0, 1.0]))

    @torch.no_grad()
    def learn_units(self, view: Tensor, rewards: Tensor | None = None) -> None:
        """Centre and scale of training episodes ``[E, T, …]``, and of rewards ``[E, T]``."""
        centre, scale = self.enc.units(view)
        self.centre.copy_(centre)
        self.scale.copy_(scale)
        if rewards is not None:
            spread = rewards.std()
            self.reward_units.copy_(torch.stack([rewards.mean(), torch.where(spread > 0, spread, 1.0)]))

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

    def roll_out(self, past: Tensor, steps: int, actions: Tensor | None = None) -> Tensor:
        """Latents ``[…, T, D]`` -> the next ones ``[…, steps, D]``, each from those before it: the ensemble's mean."""
        return (
            torch.stack(self.roll_outs(past, steps, actions)).mean(0)
            if len(self.f) > 1
            else self.roll_outs(past, steps, actions)[0]
        )

    def roll_outs(self, past: Tensor, steps: int, actions: Tensor | None = None) -> list[Tensor]:
        """Those of every f of the ensemble; actions are ``[…, steps, A]``."""
        return [f.roll_out(past, steps, actions) for f in self.f]  # type: ignore[operator]

    def standardised_rewards(self, past: Tensor, future: Tensor, actions: Tensor) -> Tensor:
        """Rewards ``[…, K]`` of actions ``[…, K, A]``, each taken in the latents before it.

        Args:
            past: latents ``[…, memory, D]``. future: those that followed, ``[…, K, D]``.
        """
        assert self.r is not None
        latents, steps = torch.cat([past, future], -2), actions.shape[-2]
        window = [latents[..., k : k + steps, :] for k in range(self.memory)]
        return self.r(torch.cat([*differences(window), actions], -1)).squeeze(-1)

    def rewards(self, past: Tensor, future: Tensor, actions: Tensor) -> Tensor:
        """`standardised_rewards` in units of the world's."""
        return self.reward_units[0] + self.reward_units[1] * self.standardised_rewards(past, future, actions)

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.dec(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
