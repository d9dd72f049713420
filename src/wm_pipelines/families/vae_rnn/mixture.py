"""A mixture of ``K`` Gaussians for every number: density, mean, samples at a temperature (World Models, app. A.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """``sum_k pi_k N(mu_k, sigma_k^2)`` of numbers that are independent of each other.

    Attributes:
        logits, mean, log_std: ``[..., D, K]``: ``log pi_k`` up to a constant, ``mu_k``, ``log sigma_k``.
    """

    logits: Tensor
    mean: Tensor
    log_std: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of every number of ``z [..., D]``."""
        error = (z.unsqueeze(-1) - self.mean) * (-self.log_std).exp()
        each = -0.5 * error.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(self.logits.log_softmax(-1) + each, -1)

    def expected(self) -> Tensor:
        """``sum_k pi_k mu_k``, ``[..., D]``."""
        return (self.logits.softmax(-1) * self.mean).sum(-1)

    def sample(self, uniform: Tensor, normal: Tensor, temperature: float) -> Tensor:
        """Samples ``[..., D]``: component by ``pi_k^(1/tau)``, then ``mu_k + sqrt(tau) sigma_k eps``.

        Args:
            uniform, normal: ``[..., D]`` numbers that choose the component and deviate from its mean.
            temperature: ``tau``; towards 0 the mean of the most likely component, towards infinity all are as likely.
        """
        below = (self.logits / temperature).softmax(-1).cumsum(-1)[..., :-1]
        chosen = (uniform.unsqueeze(-1) >= below).sum(-1, keepdim=True)
        mean, log_std = (part.gather(-1, chosen).squeeze(-1) for part in (self.mean, self.log_std))
        return mean + math.sqrt(temperature) * log_std.exp() * normal
