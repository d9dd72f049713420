"""How diverse are sampled futures, beside the true ones of the same starts?

``C`` samples of each of ``E`` starts, ``K`` rows with the start in front, ``n`` entries of a state. What is compared is
how far a state has come since the start, so that starts that lie apart are no diversity. Entries that the truth leaves
as they are have no scale and are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def diversity(samples: Float, truth: Float) -> float:
    """Standard deviation over starts and samples over that of the truth over starts, mean over rows and entries.

    Args:
        samples: ``[C, E, K, n]``. truth: ``[E, K, n]``.

    Raises:
        ValueError: the truth does not move, or all of it alike.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        spread = _since_start(samples).std(axis=(0, 1))
    return _beside(spread, truth)


def sample_spread(samples: Float, truth: Float) -> float:
    """Root of the mean variance over the samples of one start, over the same; see `diversity`."""
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.sqrt(_since_start(samples).var(axis=0).mean(axis=0))
    return _beside(spread, truth)


def _since_start(states: Float) -> Float:
    return states[..., 1:, :] - states[..., :1, :]


def _beside(spread: Float, truth: Float) -> float:
    """Mean of ``spread [K - 1, n]`` in units of the truth's; infinite where samples are not finite."""
    unit = _since_start(truth).std(axis=0)
    moves = unit > 1e-9 * np.abs(truth).max()
    if not moves.any():
        raise ValueError("the truth does not move, or all of it alike: there is no diversity to compare with")
    return float(np.where(np.isfinite(spread), spread, np.inf)[moves] @ (1.0 / unit[moves]) / moves.sum())
