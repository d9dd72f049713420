"""For how long a roll-out can be trusted.

The normalised error and its threshold follow the valid-time measure of Pathak, Hunt, Girvan, Lu, Ott, *Model-free
prediction of large spatiotemporally chaotic systems from data*, Phys. Rev. Lett. 120, 024102 (2018), where the error is
divided by the size of the true signal and compared with 0.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.prediction import infinite_where_undefined, state_error

Float = NDArray[np.float64]

_UNIFORM_ANGLE_SPREAD = np.pi / np.sqrt(3.0)


def spread(truth: Float, angles: Sequence[int] = ()) -> Float:
    """Typical excursion of the truth, one number for the coordinates and one for the momenta, ``[E, K, 2d] -> [2d]``.

    The root mean square distance from the mean over all episodes and times. Coordinates and momenta have different
    units and are scaled apart; within each half one scale serves all, so that rotating the axes changes nothing and a
    heavy body that hardly moves is not judged by its own stillness. Angles that wind without end are capped at the
    spread of a uniform angle, π/√3.

    Returns:
        ``[2d]``, units of the state; 1 for a half that does not move at all.
    """
    variance = truth.reshape(-1, truth.shape[-1]).var(axis=0)
    if len(angles):
        turns = list(angles)
        variance[turns] = np.minimum(variance[turns], _UNIFORM_ANGLE_SPREAD**2)
    halves = np.sqrt(variance.reshape(2, -1).mean(axis=-1))
    return np.repeat(np.where(halves > 0.0, halves, 1.0), truth.shape[-1] // 2)


def relative_error_by_step(predicted: Float, truth: Float, angles: Sequence[int] = ()) -> Float:
    """Root mean square over the state of the error in units of the truth's `spread`: ``[S, E, K]``, dimensionless."""
    with np.errstate(over="ignore"):
        scaled = state_error(predicted, truth, angles) / spread(truth, angles)
        return np.sqrt(np.square(scaled).mean(axis=-1))


def horizon(error: Float, time: Float, threshold: float) -> Float:
    """``max{t : error(s) < threshold for all s <= t}``, counted from the start.

    An error that falls below the threshold again does not count: trust once lost stays lost. A roll-out that never
    crosses gets the whole length of the episode, which is then a lower bound of its horizon.

    Args:
        error: ``[S, E, K]``; NaN counts as infinite.
        time: ``[K]`` or ``[E, K]``, s.
        threshold: unit of the error, > 0.

    Returns:
        ``[S, E]``, s; 0 where already the first step is outside.

    Raises:
        ValueError: the threshold is not positive.
    """
    if not threshold > 0.0:
        raise ValueError(f"the horizon's threshold must be positive, got {threshold}")
    inside = infinite_where_undefined(error) < threshold
    trusted_rows = np.logical_and.accumulate(inside, axis=-1).sum(axis=-1)
    elapsed = np.broadcast_to(time - time[..., :1], error.shape)
    last = np.maximum(trusted_rows - 1, 0)
    return np.take_along_axis(elapsed, last[..., None], axis=-1)[..., 0]
