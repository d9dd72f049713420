"""The next state as a mixture of Gaussians, ``p(z' | z, a) = sum_k pi_k N(u; mu_k, diag sigma_k^2)``.

Bishop, *Mixture density networks*, 1994: a perceptron gives weights, means and widths, trained by likelihood. With one
component it is the Gaussian of most probabilistic dynamics models, whose only answer to two futures is one wide
future between them; with several it can tell them apart. ``u`` is the change of z, see `parts.transitions`.

Beyond the paper: widths have a lower bound, without which the likelihood of certain outcomes is infinite.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule
from wm_pipelines.families.parts.transitions import TransitionConfig, TransitionFamily, perceptron


class MixtureDensityConfig(TransitionConfig):
    """Defaults in ``conf/base/parameters_mixture_density.yml``."""

    schedule: Schedule = Schedule(steps=300, batch_size=20, learning_rate=5e-3, warmup=20, gradient_clip=1.0)
    components: int = Field(5, ge=1, description="K")
    hidden: int = Field(64, ge=1, description="width of the perceptron")
    depth: int = Field(2, ge=1, description="its hidden layers")
    smallest: float = Field(0.02, gt=0, description="smallest sigma, in units of change")


class Mixture(nn.Module):
    """The parameters of a mixture from a condition, of one seed.

    Args:
        size: D. condition: entries of a condition. components: K. hidden, depth: of the perceptron. smallest: sigma.
    """

    def __init__(self, size: int, condition: int, components: int, hidden: int, depth: int, smallest: float) -> None:
        super().__init__()
        self.size, self.components, self.smallest = size, components, smallest
        self.net = perceptron(condition, hidden, depth, components * 2 * size)
        self.weight = perceptron(condition, hidden, depth, components) if components > 1 else None

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``log pi [N, K]``, ``mu [N, K, D]``, ``sigma [N, K, D]`` of conditions ``[N, ·]``."""
        mu, raw = self.net(condition).unflatten(-1, (self.components, 2, self.size)).unbind(-2)
        sigma = self.smallest + nn.functional.softplus(raw)
        if self.weight is None:
            return condition.new_zeros(len(condition), 1), mu, sigma
        return self.weight(condition).log_softmax(-1), mu, sigma

    def log_density(self, u: Tensor, condition: Tensor) -> Tensor:
        """``log p(u | condition)`` of ``u [N, D]``: ``[N]``."""
        log_pi, mu, sigma = self(condition)
        apart = (u[:, None] - mu) / sigma
        each = -0.5 * apart.square().sum(-1) - sigma.log().sum(-1) - 0.5 * self.size * math.log(2 * math.pi)
        return torch.logsumexp(log_pi + each, -1)


@register
class MixtureDensity(TransitionFamily):
    """Prediction by the mean of the most probable component."""

    name: ClassVar[str] = "mixture_density"
    Config: ClassVar[type[FamilyConfig]] = MixtureDensityConfig
    config: MixtureDensityConfig

    def make_transition(self, size: int, condition: int) -> nn.Module:
        """The mixture."""
        c = self.config
        return Mixture(size, condition, c.components, c.hidden, c.depth, c.smallest)

    def transition_loss(
        self,
        transition: Any,
        condition: Tensor,
        u: Tensor,
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood per number."""
        nll = -transition.log_density(u.flatten(0, 1), condition.flatten(0, 1)).mean() / u.shape[-1]
        return nll, {"nll": nll}

    def likely(self, transition: Any, condition: Tensor) -> Tensor:
        """Mean of the most probable component."""
        log_pi, mu, _ = transition(condition)
        return mu[torch.arange(len(mu), device=mu.device), log_pi.argmax(-1)]

    def drawn(self, transition: Any, condition: Tensor, generator: torch.Generator) -> Tensor:
        """A component, and a point of it."""
        log_pi, mu, sigma = transition(condition)
        chance = torch.rand(len(mu), 1, generator=generator).to(mu)
        chosen = (log_pi.exp().cumsum(-1) < chance).sum(-1).clamp(max=transition.components - 1)
        rows = torch.arange(len(mu), device=mu.device)
        noise = torch.randn(mu[:, 0].shape, generator=generator).to(mu)
        return mu[rows, chosen] + sigma[rows, chosen] * noise
