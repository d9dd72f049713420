"""An energy of transitions, ``p(z' | z, a) ∝ exp(-E(z, a, z'))``: what is predicted is where the energy is low.

``score_matching`` (Vincent, *A connection between score matching and denoising autoencoders*, 2011; Song and Ermon,
*Generative modeling by estimating gradients of the data distribution*, NeurIPS 2019): ``E(· | sigma)`` is trained so
that ``-dE/du`` is the score of the data under noise sigma, for all sigma between two bounds.
``contrastive_divergence`` (Hinton 2002; Du and Mordatch, *Implicit generation and modeling with energy-based models*,
NeurIPS 2019): the energy of data is lowered, that of the model's own samples raised.

A prediction descends from m, the change that the energy's network expects before it has seen any, through ever smaller
sigma; a sample follows Langevin dynamics at temperature 1. ``u`` is the change of z in units of its spread, see
`parts.transitions`; the energy is in energy.py.

Beyond the papers: the gradient of a scalar energy is the score, not a network of its own; descents start from m;
errors of denoising weigh the same at all sigma below ``balance``; the chains of contrastive divergence start anew from
noise at every step and not from a buffer, and are as short in use as in training (Nijkamp et al., *Learning
non-convergent non-persistent short-run MCMC*, NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule
from wm_pipelines.families.energy_based.energy import Energy, Gradient, descend, ladder, langevin
from wm_pipelines.families.parts.transitions import TransitionConfig, TransitionFamily


class EnergyBasedConfig(TransitionConfig):
    """Defaults in ``conf/base/parameters_energy_based.yml``; sigmas are in units of change."""

    schedule: Schedule = Schedule(steps=300, batch_size=20, learning_rate=1e-2, warmup=20, gradient_clip=1.0)
    objective: Literal["score_matching", "contrastive_divergence"] = "score_matching"
    hidden: int = Field(64, ge=1, description="width of the energy network")
    depth: int = Field(2, ge=1, description="hidden layers that u passes")
    largest: float = Field(3.0, gt=0, description="sigma that a descent and a sample start from")
    smallest: float = Field(0.05, gt=0, description="sigma that they end at: the width of a certain outcome")
    descent_steps: int = Field(4, ge=1, description="gradient steps of a prediction")
    alpha: float = Field(0.3, gt=0, le=2, description="step of Langevin dynamics, in units of sigma^2")
    langevin_steps: int = Field(5, ge=0, description="Langevin steps of a sample at each sigma")
    # score_matching
    levels: int = Field(10, ge=1, description="sigmas that a sample passes")
    balance: float = Field(0.3, ge=0, description="sigma below which errors of denoising weigh the same")
    # contrastive_divergence
    magnitude: float = Field(1e-4, ge=0, description="weight of squared energies, which keeps them near 0")

    @model_validator(mode="after")
    def _ordered(self) -> EnergyBasedConfig:
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} exceeds largest {self.largest}")
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

    # ------------------------------------------------------------------------------------------------------- training

    def transition_loss(
        self, transition: Any, condition: Tensor, u: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of the variant."""
        normal = Normal(u, generator)
        c, u = transition.conditioned(condition.flatten(0, 1)), u.flatten(0, 1)
        if self.config.objective == "score_matching":
            return self._score_matching(transition, c, u, normal)
        return self._contrastive_divergence(transition, c, u, normal)

    def _score_matching(self, energy: Energy, c: Tensor, u: Tensor, normal: Normal) -> tuple[Tensor, dict[str, Tensor]]:
        """``w(sigma) |u + sigma xi - sigma^2 dE/du - u|^2``, sigma log-uniform: the data are where a descent leads.

        That is ``w sigma^4 |dE/du - xi / sigma|^2``, the distance of ``-dE/du`` from the score of the noise.
        """
        smallest, largest, balance = self.config.smallest, self.config.largest, self.config.balance
        sigma = smallest * (largest / smallest) ** normal.uniform()
        noisy = u + sigma * normal()
        slope = energy.gradient(noisy, energy.given(c, sigma))
        error = (noisy - sigma.square() * slope - u).square()
        weight = (1.0 + balance**2) / (sigma.square() + balance**2)
        return (weight * error).mean(), {"denoising": error.mean()}

    def _contrastive_divergence(
        self, energy: Energy, c: Tensor, u: Tensor, normal: Normal
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``E(data) - E(samples) + magnitude (E(data)^2 + E(samples)^2)``; a certain outcome has width ``smallest``."""
        sigma = torch.full((1, 1), self.config.smallest).to(u)
        data = u + sigma * normal()
        samples = self._chain(energy, c.detach(), self._outset(energy, c, normal), normal).detach()
        low, high = energy(data, c, sigma), energy(samples, c, sigma)
        size = low.square().mean() + high.square().mean()
        loss = low.mean() - high.mean() + self.config.magnitude * size
        return loss, {"energy_data": low.mean(), "energy_samples": high.mean()}

    # ------------------------------------------------------------------------------------------------------------ use

    def likely(self, transition: Any, condition: Tensor) -> Tensor:
        """Descent from m."""
        c = transition.conditioned(condition)
        start = transition.mean(c)
        return descend(
            start, [(sigma, _slope(transition, c, sigma)) for sigma in self._scales(self.config.descent_steps)]
        )

    def drawn(self, transition: Any, condition: Tensor, generator: torch.Generator) -> Tensor:
        """The end of a Langevin chain, its last noise taken off by one step of descent."""
        c, smallest = transition.conditioned(condition), self.config.smallest
        shape = (len(condition), transition.size)

        def normal() -> Tensor:
            return torch.randn(shape, generator=generator).to(condition)

        u = self._chain(transition, c, self._outset(transition, c, normal), normal)
        return descend(u, [(smallest, _slope(transition, c, smallest))])

    def _outset(self, energy: Energy, c: Tensor, normal: Callable[[], Tensor]) -> Tensor:
        """Where a chain starts: noise; under score matching about what the largest sigma makes of m."""
        noise = self.config.largest * normal()
        if self.config.objective == "contrastive_divergence":
            return noise
        largest = self.config.largest
        return descend(energy.mean(c), [(largest, _slope(energy, c, largest))]) + noise

    def _chain(self, energy: Energy, c: Tensor, u: Tensor, normal: Callable[[], Tensor]) -> Tensor:
        """Langevin dynamics from ``u`` at every sigma in turn."""
        for sigma in self._scales(self.config.levels):
            alpha = self.config.alpha * sigma**2
            u = langevin(u, _slope(energy, c, sigma), alpha, self.config.langevin_steps, normal)
        return u

    def _scales(self, count: int) -> list[float]:
        """The sigmas of so many levels: those trained, or the one that contrastive divergence knows."""
        if self.config.objective == "score_matching":
            return ladder(self.config.largest, self.config.smallest, count)
        return [self.config.smallest] * count


def _slope(energy: Energy, c: Tensor, sigma: float) -> Gradient:
    """``dE/du`` as a function of u."""
    with torch.no_grad():
        given = energy.given(c, torch.full((1, 1), sigma).to(c))
    return lambda u: energy.slope(u, given)


class Normal:
    """Random numbers of a training step for transitions ``[B, R, D]``, drawn for the global batch."""

    def __init__(self, like: Tensor, generator: torch.Generator) -> None:
        self.like, self.generator = like, generator

    def __call__(self) -> Tensor:
        """Standard normal ``[B R, D]``."""
        shape = (workers.everyone(len(self.like)), *self.like.shape[1:])
        return workers.mine(torch.randn(shape, generator=self.generator)).to(self.like).flatten(0, 1)

    def uniform(self) -> Tensor:
        """Uniform in [0, 1), one per transition: ``[B R, 1]``."""
        shape = (workers.everyone(len(self.like)), self.like.shape[1], 1)
        return workers.mine(torch.rand(shape, generator=self.generator)).to(self.like).flatten(0, 1)
