"""How much of a quantity a linear probe explains, with an interval over episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.statistics import Summary, resampling_weights

Float = NDArray[np.float64]


def explained_variance(
    predicted: Float, truth: Float, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Summary:
    """``R² = 1 - Σ (y - ŷ)² / Σ (y - ȳ)²`` over all columns together, and its percentile interval over episodes.

    Columns of one unit are pooled: the larger one of two weighs more. ``ȳ`` is the truth's own mean, so guessing it
    gives 0. Time steps of one episode resemble each other; episodes are what is resampled.

    Args:
        predicted, truth: ``[E, M, Q]``, episodes, time steps, columns. confidence: of the interval.
        resamples: number of bootstrap samples. seed: of the resampling.

    Returns:
        R², its interval (NaN for one episode), and n = E. A prediction that is not finite explains ``-inf``; a truth
        that does not vary is explained by 0.

    Raises:
        ValueError: shapes differ or are not of three axes.
    """
    if predicted.shape != truth.shape or truth.ndim != 3:
        raise ValueError(f"expected two arrays [E, M, Q] alike, got {list(predicted.shape)} and {list(truth.shape)}")
    with np.errstate(over="ignore", invalid="ignore"):
        left = np.square(predicted - truth).sum((1, 2))
    left = np.where(np.isfinite(left), left, np.inf)
    around = np.square(truth - truth.mean((0, 1))).sum((1, 2))
    value = _r2(left.sum(), around.sum())
    episodes = len(truth)
    if episodes == 1 or not np.isfinite(left).all():
        return Summary.scalar(float(value), n=episodes)
    weights = resampling_weights(episodes, resamples, seed)
    drawn = _r2(weights @ left, weights @ around)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Summary(value, np.minimum(low, value), np.maximum(high, value), episodes)


def _r2(left: Float, around: Float) -> Float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(around > 0, 1.0 - left / np.where(around > 0, around, 1.0), 0.0)
