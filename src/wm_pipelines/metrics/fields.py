"""How good a solution of a partial differential equation is: against a reference, and by the laws alone.

Axes: ``S`` seeds, ``G`` grid points, ``N`` points, ``C`` points of conditions, ``T`` instants, ``F`` fields.
Quantities such as residuals and densities come already evaluated, by the *true* equation. A value that is not finite
counts as an infinite error; no metric returns NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_simpson, simpson

from wm_pipelines.metrics.prediction import infinite_where_undefined

Float = NDArray[np.float64]


def relative_l2(predicted: Float, reference: Float) -> Float:
    """``‖u - u*‖ / ‖u*‖`` of every field over the grid: ``[S, G, F], [G, F] -> [S, F]``; of a zero field, ``‖u‖``."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.linalg.norm(predicted - reference, axis=1)
    size = np.linalg.norm(reference, axis=0)
    return infinite_where_undefined(error / np.where(size > 0, size, 1.0))


def rms(values: Float) -> Float:
    """Root mean square over the last axis: the norm of a residual or of a divergence, ``[S, N] -> [S]``, its unit."""
    with np.errstate(over="ignore", invalid="ignore"):
        return infinite_where_undefined(np.sqrt(np.mean(np.square(values), axis=-1)))


def residual_norm(residuals: Sequence[Float]) -> Float:
    """Root mean square of the residuals of all equations together, each ``[S, N]``: ``[S]``.

    Raises:
        ValueError: there is no equation.
    """
    if not residuals:
        raise ValueError("residual_norm needs at least one equation's residual")
    return np.sqrt(np.mean(np.square(np.stack([rms(r) for r in residuals])), axis=0))


def boundary_error(predicted: Float, given: Float) -> Float:
    """Root mean square of what conditions are missed by, in units of their own RMS: ``[S, C], [C] -> [S]``.

    Conditions that are all zero are measured in their own unit.
    """
    size = float(np.sqrt(np.mean(np.square(given))))
    return rms(predicted - given) / (size if size > 0 else 1.0)


def content(density: Float, axes: Sequence[Float]) -> Float:
    """Integral over a regular grid by Simpson's rule.

    Args:
        density: ``[S, n_1, …, n_k, …]``. axes: coordinates of the first ``k`` grid axes, which are integrated over.

    Returns:
        ``[S, …]``.
    """
    for axis in axes:
        density = simpson(density, x=axis, axis=1)
    return np.asarray(density, np.float64)


def balance_error(time: Float, stored: Float, production: Float) -> Float:
    """Worst breach of ``E(t) - E(0) = ∫_0^t P`` as a share of the largest ``|E|``: ``[S]``.

    Args:
        time: ``[T]``, at least three instants. stored: ``E``, content of the domain ``[S, T]``.
        production: ``P``, integral of what is produced ``[S, T]``.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        made = cumulative_simpson(production, x=time, axis=1, initial=0.0)
        breach = np.abs(stored - stored[:, :1] - made).max(axis=1)
        size = np.abs(stored).max(axis=1)
        return infinite_where_undefined(breach / np.where(size > 0, size, 1.0))


def steady_balance_error(production: Float, size: Float) -> Float:
    """``|∫P| / size`` of a steady field, where nothing may be produced in sum: ``[S], [S] -> [S]``.

    Args:
        production: integral of all production. size: integral that counts as 100 %, e.g. of the kinetic energy.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return infinite_where_undefined(np.abs(production) / size)


def coefficient_error(value: Float, truth: float) -> Float:
    """``|alpha - alpha*| / |alpha*|`` of a coefficient that was found: ``[S] -> [S]``."""
    return infinite_where_undefined(np.abs(value - truth) / abs(truth))


def covers(low: Float, high: Float, truth: float) -> Float:
    """1 where the stated interval holds the true coefficient, else 0: ``[S], [S] -> [S]``."""
    return ((low <= truth) & (truth <= high)).astype(np.float64)
