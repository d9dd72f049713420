"""VICReg: what keeps representations from collapsing by their variances and covariances."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import relu

from wm_pipelines.blocks.workers import gathered
from wm_pipelines.errors import UserError


def vicreg_terms(z: Tensor, spread: float = 1.0, epsilon: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Variance and covariance terms of VICReg (Bardes et al. 2022) for ``[B, D]``.

    The first is how far standard deviations fall short of ``spread`` (mean over features), the second the sum of
    squared covariances of different features over ``D``. The batch is that of all workers.
    """
    z = gathered(z)
    if len(z) < 2:
        raise UserError(f"VICReg needs a batch of at least 2, got {len(z)}")
    centred = z - z.mean(0)
    variance = relu(spread - (centred.square().sum(0) / (len(z) - 1) + epsilon).sqrt()).mean()
    covariance = centred.T @ centred / (len(z) - 1)
    off = covariance - torch.diag(covariance.diagonal())
    return variance, off.square().sum() / z.shape[1]
