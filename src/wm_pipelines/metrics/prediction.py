"""How far the predicted states are from the true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def infinite_where_undefined(error: Float) -> Float:
    """Replace NaN by infinity: an error that cannot be computed is not a small one. Any shape."""
    return np.where(np.isnan(error), np.inf, error)


def mean_over_steps(error: Float) -> Float:
    """Mean over the predicted steps, ``[..., K] -> [...]``; the given start (row 0) is left out.

    Raises:
        ValueError: there is no predicted step.
    """
    if error.shape[-1] < 2:
        raise ValueError(f"a roll-out needs at least one predicted step, got {error.shape[-1]} row(s) with the start")
    return error[..., 1:].mean(axis=-1)


def state_error(predicted: Float, truth: Float, angles: Sequence[int] = ()) -> Float:
    """Predicted minus true state.

    Args:
        predicted: ``[S, E, K, 2d]``.
        truth: ``[E, K, 2d]``, same units.
        angles: entries of the state that are angles in radians: their difference is brought into ``[-pi, pi]``, because
            a pendulum one turn further on is in the same place.

    Returns:
        ``[S, E, K, 2d]``, with infinity where the prediction is not finite.

    Raises:
        ValueError: the shapes do not fit.
    """
    if predicted.shape[1:] != truth.shape:
        raise ValueError(f"prediction {predicted.shape} and truth {truth.shape} differ after the seed axis")
    with np.errstate(invalid="ignore", over="ignore"):
        error = predicted - truth
        if len(angles):
            turns = list(angles)
            error[..., turns] = np.remainder(error[..., turns] + np.pi, 2 * np.pi) - np.pi
    error[~np.isfinite(predicted)] = np.inf
    return error


def mse_by_step(predicted: Float, truth: Float, angles: Sequence[int] = ()) -> Float:
    """Mean squared error over the entries of the state, at every row: ``[S, E, K]``, (unit of the state)²."""
    with np.errstate(over="ignore"):
        return np.square(state_error(predicted, truth, angles)).mean(axis=-1)


def mse(predicted: Float, truth: Float, angles: Sequence[int] = ()) -> Float:
    """Mean squared error over the predicted steps and the entries of the state: ``[S, E]``, (unit of the state)²."""
    return mean_over_steps(mse_by_step(predicted, truth, angles))
