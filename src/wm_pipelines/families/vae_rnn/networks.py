"""V, the variational autoencoder of single observations, and M, the recurrent mixture density network of latents.

Shapes: ``N`` rows, ``T`` steps, ``D`` numbers of a latent ``z``, ``H`` of the recurrent state ``h`` (and of the cell
``c``), ``A`` of an action. Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from wm_pipelines.blocks.encoders import decoder, encoder
from wm_pipelines.families.vae_rnn.mixture import Mixture
from wm_pipelines.spec import Space

_NARROWEST = -5.0  # log sigma_k: a narrower component says more than float32 sums over an episode can hold


class VAE(nn.Module):
    """V: ``q(z | x) = N(mu, diag sigma^2)`` and ``p(x | z) = N(Dec(z), s^2)``, on differences from a centre, in units.

    Args:
        space: of one observation. widths: of encoder and decoder. features: between the encoder and ``mu, sigma``.
        latent: ``D``.

    Raises:
        UserError: the layers do not divide the frames.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, space: Space, widths: Sequence[int], features: int, latent: int) -> None:
        super().__init__()
        self.enc = encoder(space, widths, features)
        self.posterior = nn.Linear(features, 2 * latent)
        self.dec = decoder(space, widths, latent)
        shape = self.enc.inputs(torch.empty(space.shape)).shape
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    @torch.no_grad()
    def learn_units(self, view: Tensor) -> None:
        """Centre and scale of training episodes ``[E, T, …]``."""
        centre, scale = self.enc.units(view)
        self.centre.copy_(centre)
        self.scale.copy_(scale)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Observations ``[N, …]`` -> ``mu`` and ``log sigma``, each ``[N, D]``."""
        features = self.enc((x.to(self.centre.dtype) - self.centre) / self.scale)
        mu, log_std = self.posterior(nn.functional.silu(features)).chunk(2, -1)
        return mu, log_std

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``[N, D]`` -> observations."""
        return self.centre + self.dec(z) * self.scale

    def error(self, x: Tensor, z: Tensor) -> Tensor:
        """Squared error of what is decoded, summed over an observation, in its units: ``[N]``."""
        return ((self.decode(z) - x) / self.scale).square().flatten(1).sum(1)


def divergence(mu: Tensor, log_std: Tensor) -> Tensor:
    """``KL(N(mu, sigma^2) || N(0, 1))`` summed over the latent: ``[..., D] -> [...]``."""
    return 0.5 * (mu.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)


class MDNRNN(nn.Module):
    """M: ``h' = LSTM(z, a, h)``; from ``h'`` a mixture over the next latent, as a change of ``z``, and the reward.

    Args:
        latent: ``D``. actions: ``A``. hidden: ``H``. components: ``K``. rewarded: whether there are rewards.
        trained: whether the recurrent weights are; else they stay as drawn, an echo of what came in.
    """

    reward_mean: Tensor
    reward_std: Tensor
    reward_ends: Tensor

    def __init__(self, latent: int, actions: int, hidden: int, components: int, rewarded: bool, trained: bool) -> None:
        super().__init__()
        self.latent, self.hidden, self.components = latent, hidden, components
        self.rnn = nn.LSTM(latent + actions, hidden, batch_first=True)
        self.rnn.requires_grad_(trained)
        self.mixture = nn.Linear(hidden, 3 * latent * components)
        self.reward: nn.Module | None = None
        if rewarded:
            layers = nn.Linear(latent + actions + hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
            self.reward = nn.Sequential(*layers)
        for name, value in (("reward_mean", [0.0]), ("reward_std", [1.0]), ("reward_ends", [-torch.inf, torch.inf])):
            self.register_buffer(name, torch.tensor(value))

    @torch.no_grad()
    def learn_rewards(self, rewards: Tensor) -> None:
        """Mean, spread and ends of the training rewards ``[E, T]``."""
        spread = rewards.std()
        self.reward_mean.copy_(rewards.mean())
        self.reward_std.copy_(spread if spread > 0 else torch.ones(()))
        self.reward_ends.copy_(torch.stack([rewards.min(), rewards.max()]))

    def forward(self, z: Tensor, actions: Tensor) -> tuple[Mixture, Tensor | None]:
        """What follows ``z [N, T, D]`` under ``actions [N, T, A]`` from an empty memory; see `step`."""
        seen = torch.cat([z, actions], -1)
        h, _ = self.rnn(seen)
        return self._next(z, h), self._reward(seen, h)

    def step(self, z: Tensor, action: Tensor, h: Tensor, c: Tensor) -> tuple[Mixture, Tensor | None, Tensor, Tensor]:
        """One step, ``[N, …]``: the next latent, the reward of the action in standard units, and the next memory."""
        seen = torch.cat([z, action], -1)
        _, (after, cell) = self.rnn(seen[:, None], (h[None].contiguous(), c[None].contiguous()))
        return self._next(z, after[0]), self._reward(seen, after[0]), after[0], cell[0]

    def parts(self, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``z``, ``h`` and ``c`` of ``[N, D + 2 H]``."""
        z, h, c = start.split([self.latent, self.hidden, self.hidden], -1)
        return z, h, c

    def in_units(self, reward: Tensor) -> Tensor:
        """Rewards in the world's units, within those of training: no dream is better than what was ever seen."""
        return (self.reward_mean + self.reward_std * reward).clamp(self.reward_ends[0], self.reward_ends[1])

    def _next(self, z: Tensor, h: Tensor) -> Mixture:
        logits, change, width = self.mixture(h).unflatten(-1, (3, self.latent, self.components)).unbind(-3)
        return Mixture(logits, z.unsqueeze(-1) + change, _NARROWEST + softplus(width - _NARROWEST))

    def _reward(self, seen: Tensor, h: Tensor) -> Tensor | None:
        return None if self.reward is None else self.reward(torch.cat([seen, h], -1))[..., 0]
