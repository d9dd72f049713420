"""Terms that keep representations from collapsing."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, relu

from wm_pipelines.errors import UserError


def sigreg(
    z: Tensor,
    generator: torch.Generator,
    directions: int = 64,
    knots: int = 9,
    reach: float = 5.0,
) -> Tensor:
    r"""Sketched isotropic Gaussian regularisation (Balestriero and LeCun 2025): ``[B, D]`` -> a number.

    The Epps-Pulley distance between the batch's characteristic function along a random unit direction and that of the
    standard normal, averaged over directions:

        B \int |mean_b exp(i t u_b) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,

    by the trapezoidal rule on ``[-reach, reach]``. The integrand is even and vanishes at 0, so that ``knots`` on
    ``[0, reach]`` do the work of ``2 knots - 1``. Its mean for normal samples is ``sqrt(2 pi) (1 - 1 / sqrt(3))``,
    about 1.06, whatever ``B``; for any other distribution it grows like ``B``.

    Args:
        z: representations.
        generator: on the CPU; draws the directions.
        directions: how many, new ones at each call.
        knots: of the integral, 0 included.
        reach: of the integral.
    """
    if directions < 1 or knots < 2:
        raise UserError(f"sigreg needs at least 1 direction and 2 knots, got {directions} and {knots}")
    drawn = torch.randn(z.shape[1], directions, generator=generator, dtype=torch.float64)
    u = z @ normalize(drawn, dim=0).to(z)
    step = reach / (knots - 1)
    t = step * torch.arange(1, knots, dtype=torch.float64)
    normal = torch.exp(-t.square() / 2)
    weight = 2.0 * step * normal
    weight[-1] /= 2.0
    angle = u[..., None] * t.to(z)
    real, imaginary = angle.cos().mean(0) - normal.to(z), angle.sin().mean(0)
    return len(z) * ((real.square() + imaginary.square()) @ weight.to(z)).mean()


def vicreg_terms(z: Tensor, spread: float = 1.0, epsilon: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Variance and covariance terms of VICReg (Bardes et al. 2022) for ``[B, D]``.

    The first is how far standard deviations fall short of ``spread`` (mean over features), the second the sum of
    squared covariances of different features over ``D``.
    """
    if len(z) < 2:
        raise UserError(f"VICReg needs a batch of at least 2, got {len(z)}")
    centred = z - z.mean(0)
    variance = relu(spread - (centred.square().sum(0) / (len(z) - 1) + epsilon).sqrt()).mean()
    covariance = centred.T @ centred / (len(z) - 1)
    off = covariance - torch.diag(covariance.diagonal())
    return variance, off.square().sum() / z.shape[1]


def info_nce(a: Tensor, b: Tensor, temperature: float = 0.1, ignore: Tensor | None = None) -> Tensor:
    """Symmetric contrastive loss of ``[B, D]`` and ``[B, D]``: row ``i`` of one belongs to row ``i`` of the other.

    Args:
        a: representations; only their directions count.
        b: their partners.
        temperature: of the softmax over cosines.
        ignore: ``[B, B]``, True where ``a_i`` and ``b_j`` are no negatives of each other, as within one episode. The
            partners themselves always count.
    """
    if temperature <= 0:
        raise UserError(f"temperature must be positive, got {temperature}")
    logits = normalize(a, dim=-1) @ normalize(b, dim=-1).T / temperature
    if ignore is not None:
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)
        logits = logits.masked_fill(ignore & ~own, -math.inf)
    partner = torch.arange(len(a), device=a.device)
    return (cross_entropy(logits, partner) + cross_entropy(logits.T, partner)) / 2
