"""SIGReg: what keeps representations from collapsing without a second network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from wm_pipelines.blocks.workers import averaged, everyone
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
    about 1.06, whatever ``B``; for any other distribution it grows like ``B``. The batch is that of all workers.

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
    real, imaginary = averaged(angle.cos().mean(0)) - normal.to(z), averaged(angle.sin().mean(0))
    return everyone(len(z)) * ((real.square() + imaginary.square()) @ weight.to(z)).mean()
