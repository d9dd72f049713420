"""The recurrent state-space model of one seed.

Shapes: ``N`` rows, ``T`` rows of an episode, ``A`` entries of an action; belief ``[N, B]``: the deterministic state
``h`` followed by the stochastic state ``s``; ``x`` are observations as encoders take them (`blocks.encoders`).
Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from wm_pipelines.blocks.encoders import decoder, encoder
from wm_pipelines.families.rssm.latents import Latent
from wm_pipelines.spec import Space


class Filtered(NamedTuple):
    """What a sequence of observations tells.

    Attributes:
        belief: ``[N, T, B]``. posterior, prior: numbers of the distributions of ``s``, ``[N, T, inputs]``.
    """

    belief: Tensor
    posterior: Tensor
    prior: Tensor


class WorldModel(nn.Module):
    """Dynamics ``h' = f(h, s, a)``, ``p(s' | h')``, ``q(s' | h', x')``, and what a belief says of ``x`` and ``r``.

    Args:
        space: of an observation. actions: ``A``. latent: kind of ``s``. deterministic: size of ``h``. hidden: width of
            the perceptrons. widths: of encoder and decoder. features: ``D``, of an encoded observation. rewarded:
            predict rewards.
    """

    centre: Tensor
    scale: Tensor
    reward_mean: Tensor
    reward_scale: Tensor

    def __init__(
        self,
        space: Space,
        actions: int,
        latent: Latent,
        deterministic: int,
        hidden: int,
        widths: Sequence[int],
        features: int,
        rewarded: bool,
    ) -> None:
        super().__init__()
        self.latent, self.deterministic = latent, deterministic
        belief = deterministic + latent.features
        self.h0 = nn.Parameter(torch.zeros(deterministic))
        self.enc = encoder(space, widths, features)
        self.enter = nn.Linear(latent.features + actions, hidden)
        self.f = nn.GRUCell(hidden, deterministic)
        self.prior = perceptron(deterministic, hidden, latent.inputs)
        self.of_observation = nn.Linear(features, hidden)
        self.of_memory = nn.Linear(deterministic, hidden, bias=False)
        self.posterior = nn.Linear(hidden, latent.inputs)
        self.predict_features = perceptron(belief, hidden, features)
        self.dec = decoder(space, widths, features)
        self.predict_reward = perceptron(belief, hidden, 1) if rewarded else None
        shape = self.enc.inputs(torch.empty(space.shape)).shape
        for name, start in (("centre", torch.zeros(shape)), ("scale", torch.ones(shape))):
            self.register_buffer(name, start)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_scale", torch.ones(()))

    @torch.no_grad()
    def learn_units(self, centre: Tensor, scale: Tensor, rewards: Tensor | None) -> None:
        """Keep what observations are centred by and divided by; of rewards ``[E, T]`` mean and spread."""
        self.centre.copy_(centre)
        self.scale.copy_(scale)
        if rewards is not None:
            spread = rewards.std()
            self.reward_mean.copy_(rewards.mean())
            self.reward_scale.copy_(torch.where(spread > 0, spread, 1.0))

    # ------------------------------------------------------------------------------------------------- observations

    def standardised(self, x: Tensor) -> Tensor:
        """Observations ``[N, …]`` in the units in which they are encoded and compared."""
        return (x.to(self.centre.dtype) - self.centre) / self.scale

    def encode(self, standardised: Tensor) -> Tensor:
        """Features ``[N, D]`` of observations in those units."""
        return self.enc(standardised)

    def decode(self, features: Tensor) -> Tensor:
        """Features ``[N, D]`` -> observations in those units."""
        return self.dec(features)

    def observed(self, standardised: Tensor) -> Tensor:
        """From those units back to observations ``[N, …]``."""
        return self.centre + self.scale * standardised

    # ----------------------------------------------------------------------------------------------------- dynamics

    def split(self, belief: Tensor) -> tuple[Tensor, Tensor]:
        """``h`` and ``s`` of beliefs ``[..., B]``."""
        return belief[..., : self.deterministic], belief[..., self.deterministic :]

    def first(self, count: int) -> Tensor:
        """``h`` before the first observation, ``[count, …]``."""
        return torch.tanh(self.h0).expand(count, -1)

    def step(self, belief: Tensor, action: Tensor) -> Tensor:
        """``h' = f(h, s, a)``."""
        h, s = self.split(belief)
        return self.f(silu(self.enter(torch.cat([s, action], -1))), h)

    def infer(self, h: Tensor, features: Tensor) -> Tensor:
        """Numbers of ``q(s | h, x)``, the observation as features."""
        return self.posterior(silu(self.of_memory(h) + self.of_observation(features)))

    def filter(self, features: Tensor, actions: Tensor, noise: Tensor) -> Filtered:
        """Posterior samples along a sequence.

        Args:
            features: of the observations, ``[N, T, D]``. actions: between them, ``[N, T - 1, A]``.
            noise: of the samples, ``[N, T, …]``.
        """
        beliefs: list[Tensor] = []
        memories, posteriors = [], []
        seen = self.of_observation(features)
        for t in range(features.shape[1]):
            h = self.step(beliefs[-1], actions[:, t - 1]) if t else self.first(len(features))
            posterior = self.posterior(silu(self.of_memory(h) + seen[:, t]))
            beliefs.append(torch.cat([h, self.latent.sample(posterior, noise[:, t])], -1))
            memories.append(h)
            posteriors.append(posterior)
        return Filtered(torch.stack(beliefs, 1), torch.stack(posteriors, 1), self.prior(torch.stack(memories, 1)))

    def believe(self, h: Tensor, raw: Tensor) -> Tensor:
        """The belief at the mode of a distribution of ``s``."""
        return torch.cat([h, self.latent.mode(raw)], -1)

    def imagine(self, belief: Tensor, actions: Tensor) -> Tensor:
        """Beliefs ``[N, H, B]`` that follow from actions ``[N, H, A]``, at the modes of the prior."""
        beliefs = []
        for action in actions.unbind(1):
            h = self.step(belief, action)
            belief = self.believe(h, self.prior(h))
            beliefs.append(belief)
        return torch.stack(beliefs, 1)

    def reward(self, belief: Tensor) -> Tensor:
        """Reward ``[...]`` of the action that led to a belief, in units of the rewards' spread from their mean."""
        assert self.predict_reward is not None
        return self.predict_reward(belief)[..., 0]


def perceptron(inputs: int, hidden: int, outputs: int, layers: int = 1) -> nn.Sequential:
    """Hidden layers and a linear one."""
    parts: list[nn.Module] = []
    for k in range(layers):
        parts += [nn.Linear(hidden if k else inputs, hidden), nn.SiLU()]
    return nn.Sequential(*parts, nn.Linear(hidden, outputs))
