"""How much of a quantity a linear probe explains, with an interval over episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.statistics import Summary, half_widths

Float = NDArray[np.float64]


def explained_variance(predicted: Float, truth: Float, confidence: float = 0.95) -> Summary:
    """``R² = 1 - Σ (y - ŷ)² / Σ (y - ȳ)²`` over all columns together, and its interval over episodes.

    Columns of one unit are pooled: the larger one of two weighs more. ``ȳ`` is the truth's own mean, so guessing it
    gives 0. Time steps of one episode resemble each other; episodes are what is independent.

    ``ρ = 1 - R²`` is a ratio of two means over episodes. Its linearisation ``(left - ρ around) / mean(around)`` has the
    mean 0, and the half-widths of that mean (`statistics.half_widths`) are those of ``ρ``: towards R² = 1 on its own
    scale, away from it on that of its logarithm. Each is the more cautious choice at its end.

    Share of nominal 95 % intervals over 20 episodes of 6 steps that contain the true R², per cent, simulated
    (`benchmarks/interval_coverage.py`), for errors that are independent at every step, and for those that are one per
    episode:

    ===============================  =============  ===============
    errors                           of every step  one per episode
    ===============================  =============  ===============
    normal                           96.5           97.4
    Laplace                          96.4           96.9
    exponential                      97.0           95.0
    Student t, 5 degrees of freedom  97.0           94.9
    Student t, 4 degrees of freedom  94.0           93.5
    Student t, 3 degrees of freedom  89.4           87.9
    ===============================  =============  ===============

    Squares of Student's t with 3 degrees of freedom have no variance, and nothing covers their mean at n = 20.

    Args:
        predicted, truth: ``[E, M, Q]``, episodes, time steps, columns. confidence: of the interval.

    Returns:
        R², its interval (at most 1; NaN for one episode or a truth that does not vary), and n = E. A prediction that is
        not finite explains ``-inf``; a truth that does not vary is explained by 0.

    Raises:
        ValueError: shapes differ or are not of three axes.
    """
    left, around = _sums(predicted, truth)
    ratio, episodes = _ratio(left, around), len(truth)
    value = 1.0 - ratio if around.sum() > 0 else 0.0
    if episodes == 1 or not np.isfinite(ratio) or not around.sum() > 0:
        return Summary.scalar(value, n=episodes)
    below, above = (float(half) for half in half_widths(_linearised(left, around, ratio), confidence))
    low = 1.0 - ratio * np.exp(above / ratio) if ratio > 0 else value
    return Summary.scalar(value, low, min(1.0, value + below), episodes)


def explained_by_episode(predicted: Float, truth: Float) -> Float:
    """Every episode's part in R²: ``[E]``, with the mean R².

    Differences between two models of these values vary as the difference of their R² does, so that paired comparisons
    need nothing else. ``-inf`` where a prediction is not finite.

    Args:
        predicted, truth: as in `explained_variance`.
    """
    left, around = _sums(predicted, truth)
    if not around.sum() > 0:
        return np.zeros(len(truth))
    finite = np.isfinite(left)
    if not finite.all():
        return np.where(finite, 1.0 - left / around.mean(), -np.inf)
    ratio = _ratio(left, around)
    return 1.0 - ratio - _linearised(left, around, ratio)


def _linearised(left: Float, around: Float, ratio: float) -> Float:
    return (left - ratio * around) / around.mean()


def _sums(predicted: Float, truth: Float) -> tuple[Float, Float]:
    """Squares that are left and squares around the mean, of every episode: ``[E]`` each."""
    if predicted.shape != truth.shape or truth.ndim != 3:
        raise ValueError(f"expected two arrays [E, M, Q] alike, got {list(predicted.shape)} and {list(truth.shape)}")
    with np.errstate(over="ignore", invalid="ignore"):
        left = np.square(predicted - truth).sum((1, 2))
    return np.where(np.isfinite(left), left, np.inf), np.square(truth - truth.mean((0, 1))).sum((1, 2))


def _ratio(left: Float, around: Float) -> float:
    """Share that is not explained."""
    return float(left.sum() / around.sum()) if around.sum() > 0 else 1.0
