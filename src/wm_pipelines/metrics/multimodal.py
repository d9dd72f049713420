"""Does a model know all futures of one state, and how likely each is? Asked of samples where the futures are known.

``C`` samples, ``M`` true futures (modes), ``N`` conditions (states and actions from which the future branches), ``D``
numbers that describe an outcome. Every function gives a value per condition, so that the caller can pool them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

RADIUS = 0.25
"""How near to a mode counts as at it, in units of the distance to the nearest other mode: half of the way to the
border between them."""


def mode_shares(samples: Float, modes: Float, radius: float = RADIUS) -> Float:
    """Share of the samples at each mode, ``[M, N]``; what is missing to 1 is near none.

    Args:
        samples: ``[C, N, D]``; those that are not finite are at no mode. modes: ``[M, N, D]``, M >= 2.
        radius: see `RADIUS`, below 0.5, so that no sample is at two modes.

    Raises:
        ValueError: two modes are the same, or the radius makes them overlap.
    """
    if not 0.0 < radius < 0.5:
        raise ValueError(f"radius must lie between 0 and 0.5, got {radius}")
    between = np.linalg.norm(modes[:, None] - modes[None], axis=-1)  # [M, M, N]
    between[np.diag_indices(len(modes))] = np.inf
    nearest = between.min(1)  # [M, N]
    if not (nearest > 0.0).all():
        raise ValueError("two modes of a condition are the same")
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.linalg.norm(samples[:, None] - modes, axis=-1)  # [C, M, N]
        return np.asarray((distance < radius * nearest).mean(0))


def all_found(shares: Float, chances: Float, least: float = 0.2) -> NDArray[np.bool_]:
    """Whether every mode has at least the part ``least`` of the mass that it truly has: ``[N]``.

    Args:
        shares: of `mode_shares`, ``[M, N]``. chances: true probabilities ``[M, N]``. least: part of the true mass.
    """
    return np.asarray((shares >= np.maximum(least * chances, np.finfo(float).tiny)).all(0))


def mass_error(shares: Float, chances: Float) -> Float:
    """Largest ``|share at a mode - its true probability|`` of a condition: ``[N]``, 0 … 1.

    Args:
        shares: of `mode_shares`, ``[M, N]``. chances: true probabilities ``[M, N]``.
    """
    return np.asarray(np.abs(shares - chances).max(0))


def off_mode(shares: Float) -> Float:
    """Share of the samples that are near no mode: ``[N]``, 0 … 1. shares: of `mode_shares`, ``[M, N]``."""
    return np.asarray(1.0 - shares.sum(0))
