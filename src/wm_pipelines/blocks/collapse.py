"""Monitors of representation collapse, cheap enough for every point of a learning curve.

A loss that compares two encodings falls to zero when every picture is encoded alike; these numbers do not.
"""

from __future__ import annotations

import torch
from torch import Tensor


def feature_std(z: Tensor) -> Tensor:
    """Standard deviation of a feature over pictures, mean over features: ``[B, D] -> []``."""
    return z.std(0).mean()


def effective_rank(z: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values of centred features (Roy & Vetterli 2007).

    Args:
        z: ``[B, D]``.

    Returns:
        ``[]``, between 1 and ``min(B, D)``.
    """
    return _spread(torch.linalg.svdvals(z - z.mean(0)))


def rankme(z: Tensor) -> Tensor:
    """RankMe (Garrido et al. 2023, eq. 1): the same of the features as they are, ``[B, D] -> []``."""
    return _spread(torch.linalg.svdvals(z))


def _spread(singular: Tensor) -> Tensor:
    share = singular / singular.sum().clamp_min(1e-30) + 1e-7
    return torch.exp(-(share * share.log()).sum())
