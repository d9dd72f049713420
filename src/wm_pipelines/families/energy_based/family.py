"""An energy of transitions, ``p(z' | z, a) ∝ exp(-E(z, a, z'))``: what is predicted is where the energy is low.

``score_matching`` (Vincent, *A connection between score matching and denoising autoencoders*, 2011; Song and Ermon,
*Generative modeling by estimating gradients of the data distribution*, NeurIPS 2019): ``E(· | sigma)`` is trained so
that ``-dE/du`` is the score of the data under noise sigma, at all sigma between two bounds.
``contrastive_divergence`` (Hinton 2002; Du and Mordatch, *Implicit generation and modeling with energy-based models*,
NeurIPS 2019): the energy of data is lowered, that of the model's own samples raised.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule
from wm_pipelines.families.energy_based.energy import Energy, descend, ladder, langevin
from wm_pipelines.families.parts.transitions import TransitionConfig, TransitionFamily


class EnergyBasedConfig(TransitionConfig):
    """Defaults in ``conf/base/parameters_energy_based.yml``."""

    schedule: Schedule = Schedule(steps=300, batch_size=20, learning_rate=5e-3, warmup=20, gradient_clip=1.0)
    training: Literal["score_matching", "contrastive_divergence"] = "score_matching"
    hidden: int = Field(64, ge=1, description="width of the energy network")
    depth: int = Field(2, ge=1, description="hidden layers between u and its energy")
    largest: float = Field(3.0, gt=0, description="sigma that a descent or a sample starts from, in units of change")
    smallest: float = Field(0.05, gt=0, description="sigma that it ends at; the width of a certain outcome")
    descent_steps: int = Field(4, ge=1, description="of a prediction")
    levels: int = Field(10, ge=1, description="sigmas that a sample passes through")
    langevin_steps: int = Field(5, ge=0, description="of a sample at each level")
    alpha: float = Field(0.3, gt=0, le=2, description="step of Langevin dynamics, in units of sigma^2")
    balance: float = Field(0.3, ge=0, description="sigma below which errors of denoising weigh the same")
    negative_steps: int = Field(20, ge=1, description="k of CD-k")
    magnitude: float = Field(1e-3, ge=0, description="weight of the squared energies, which keeps them near 0")

    @model_validator(mode="after")
    def _ordered(self) -> "EnergyBasedConfig":
        if self.smallest > self.largest:
            raise ValueError("smallest must not exceed largest")
        return self


@register
class EnergyBased(TransitionFamily):
    """Prediction by descent on a learned energy."""

    name: ClassVar[str] = "energy_based"
    Config: ClassVar[type[FamilyConfig]] = EnergyBasedConfig
    config: EnergyBasedConfig

    def make_transition(self, size: int, condition: int) -> nn.Module:
        """The energy network."""
        c = self.config
        return Energy(size, condition, c.hidden, c.depth, c.largest, c.smallest)

    def transition_loss(
        self, transition: Any, condition: Tensor, u: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.training == "score_matching":
            return self._score_matching(transition, condition, u, generator)
        return self._contrastive_divergence(transition, condition, u, generator)

    def _score_matching(self, energy, condition, u, generator):
        c = self.config
        drawn = workers.mine(torch.rand(workers.everyone(len(u)), u.shape[1], 1, generator=generator)).to(u)
        sigma = c.smallest * (c.largest / c.smallest) ** drawn.flatten(0, 1)
        noisy = u.flatten(0, 1) + sigma * self._noise(u, generator)
        slope = energy.gradient(noisy, energy.conditioned(condition.flatten(0, 1)), sigma, create_graph=True)
        error = (noisy - sigma.square() * slope - u.flatten(0, 1)).square()
        loss = (error * (1 + c.balance**2) / (sigma.square() + c.balance**2)).mean()
        return loss, {"denoising": error.mean()}

    def _contrastive_divergence(self, energy, condition, u, generator):
        c = self.config
        sigma = torch.full((1, 1), c.smallest, dtype=u.dtype)
        seen = energy.conditioned(condition.flatten(0, 1))
        data = u.flatten(0, 1) + c.smallest * self._noise(u, generator)
        start = c.largest * self._noise(u, generator)
        fixed = seen.detach()
        own = langevin(
            start, lambda v: energy.gradient(v, fixed, sigma), c.alpha * c.smallest**2, c.negative_steps,
            lambda: self._noise(u, generator),
        ).detach()
        low, high = energy(data, seen, sigma), energy(own, seen, sigma)
        size = (low.square() + high.square()).mean()
        loss = (low - high).mean() + c.magnitude * size
        return loss, {"data": low.mean(), "samples": high.mean()}

    def _noise(self, u: Tensor, generator: torch.Generator) -> Tensor:
        shape = (workers.everyone(len(u)), *u.shape[1:])
        return workers.mine(torch.randn(shape, generator=generator)).to(u).flatten(0, 1)

    def likely(self, transition: Any, condition: Tensor) -> Tensor:
        c = self.config
        seen = transition.conditioned(condition)
        scales = ladder(c.largest, c.smallest, c.descent_steps) if c.training == "score_matching" else [c.smallest] * c.descent_steps
        start = condition.new_zeros(len(condition), transition.point.out_features)
        return descend(start, [(s, self._gradient(transition, seen, s)) for s in scales])

    def drawn(self, transition: Any, condition: Tensor, generator: torch.Generator) -> Tensor:
        c = self.config
        seen = transition.conditioned(condition)
        shape = (len(condition), transition.point.out_features)
        draw = lambda: torch.randn(shape, generator=generator).to(condition)
        u = c.largest * draw()
        if c.training == "score_matching":
            for s in ladder(c.largest, c.smallest, c.levels):
                u = langevin(u, self._gradient(transition, seen, s), c.alpha * s * s, c.langevin_steps, draw)
        else:
            u = langevin(u, self._gradient(transition, seen, c.smallest), c.alpha * c.smallest**2, c.negative_steps, draw)
        return descend(u, [(c.smallest, self._gradient(transition, seen, c.smallest))])

    @staticmethod
    def _gradient(energy, seen, sigma):
        at = torch.full((1, 1), sigma, dtype=seen.dtype, device=seen.device)
        return lambda u: energy.gradient(u, seen, at)
