"""Distributions of the stochastic state ``s``: of numbers that a network gives, samples, modes and divergences.

``raw [..., inputs]`` are a network's numbers; ``s [..., features]``. Samples are functions of noise that is drawn
beforehand, so that gradients pass through them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus


class Latent(Protocol):
    """A kind of stochastic state.

    Attributes:
        inputs: numbers that a network gives. features: entries of ``s``.
    """

    inputs: int
    features: int

    def noise(self, *shape: int, generator: torch.Generator) -> Tensor:
        """What `sample` takes, for states of that shape: ``[*shape, …]``."""

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """A state that gradients pass through."""

    def mode(self, raw: Tensor) -> Tensor:
        """The most probable state."""

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """``KL(q | p)`` in nats of the distributions of two ``raw``: ``[...]``."""


class Gaussian:
    """Independent normal numbers (PlaNet, DreamerV1).

    Args:
        size: of ``s``. least: smallest standard deviation.
    """

    def __init__(self, size: int, least: float) -> None:
        self.inputs, self.features, self.least = 2 * size, size, least

    def moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each ``[..., size]``."""
        mean, spread = raw.chunk(2, -1)
        return mean, softplus(spread) + self.least

    def noise(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Standard normal."""
        return torch.randn(*shape, self.features, generator=generator)

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Mean and noise in units of the standard deviation."""
        mean, deviation = self.moments(raw)
        return mean + deviation * noise

    def mode(self, raw: Tensor) -> Tensor:
        """The mean."""
        return raw.chunk(2, -1)[0]

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """``log(sigma_p / sigma_q) + (sigma_q^2 + (mu_q - mu_p)^2) / 2 sigma_p^2 - 1 / 2``, summed over entries."""
        (mean_q, deviation_q), (mean_p, deviation_p) = self.moments(q), self.moments(p)
        ratio = deviation_q / deviation_p
        apart = (mean_q - mean_p) / deviation_p
        return (0.5 * (ratio.square() + apart.square() - 1.0) - ratio.log()).sum(-1)


class Categorical:
    """Several one-hot vectors, with straight-through gradients (DreamerV2).

    Args:
        groups: vectors. classes: of each. uniform: share of the uniform distribution in each (DreamerV3).
    """

    def __init__(self, groups: int, classes: int, uniform: float = 0.01) -> None:
        self.groups, self.classes, self.uniform = groups, classes, uniform
        self.inputs = self.features = groups * classes

    def probabilities(self, raw: Tensor) -> Tensor:
        """``[..., groups, classes]``."""
        p = raw.unflatten(-1, (self.groups, self.classes)).softmax(-1)
        return (1.0 - self.uniform) * p + self.uniform / self.classes

    def noise(self, *shape: int, generator: torch.Generator) -> Tensor:
        """Gumbel's: of logarithms of probabilities plus it, the largest is a sample."""
        uniform = torch.rand(*shape, self.groups, self.classes, generator=generator)
        return -(-uniform.clamp(1e-6, 1 - 1e-6).log()).log()

    def sample(self, raw: Tensor, noise: Tensor) -> Tensor:
        """One-hot vectors whose gradient is that of the probabilities."""
        p = self.probabilities(raw)
        chosen = one_hot((p.log() + noise).argmax(-1), self.classes).to(p)
        return (chosen + p - p.detach()).flatten(-2)

    def mode(self, raw: Tensor) -> Tensor:
        """The most probable class of each."""
        p = self.probabilities(raw)
        return one_hot(p.argmax(-1), self.classes).to(p).flatten(-2)

    def kl(self, q: Tensor, p: Tensor) -> Tensor:
        """``sum q log(q / p)`` over classes and vectors."""
        q, p = self.probabilities(q), self.probabilities(p)
        return (q * (q.log() - p.log())).sum((-1, -2))
