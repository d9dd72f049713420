"""A mean and how sure we are of it: bootstrap intervals, seeded, deterministic, honest about infinities.

Percentile intervals with Hesterberg's small-sample correction (*What Teachers Should Know About the Bootstrap*, The
American Statistician 69 (2015), "expanded percentile interval"): the plain percentile interval is too narrow by the
factor that separates ``z √((n-1)/n)`` from Student's t.

A resampled mean cannot leave the range of the observations, so intervals over very few of them fall short of what they
promise: of nominal 95 % intervals over 3, 5, 8 and 20 normal values, 76, 92, 94 and 95 % contain the mean (simulated);
over 3 seeds that differ more than their episodes do, 80 %.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Float = NDArray[np.float64]


class Summary(NamedTuple):
    """A mean, its confidence interval (NaN where one observation says nothing about spread) and the number averaged."""

    value: Float
    ci_low: Float
    ci_high: Float
    n: int

    @classmethod
    def scalar(cls, value: float, ci_low: float = np.nan, ci_high: float = np.nan, n: int = 1) -> Summary:
        """One number, with an interval that was found by other means."""
        return cls(np.asarray(value, np.float64), np.asarray(ci_low, np.float64), np.asarray(ci_high, np.float64), n)


@lru_cache(maxsize=64)
def resampling_weights(n: int, resamples: int, seed: int) -> Float:
    """Share of each of ``n`` observations in each bootstrap sample: ``[resamples, n]``, rows sum to one."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples)
    return counts / n


@lru_cache(maxsize=64)
def _expanded_tail(n: int, confidence: float) -> float:
    """Probability to cut off at each end so that ``n`` normal observations are covered as by Student's t."""
    quantile = stats.t.ppf(0.5 + confidence / 2, n - 1) * np.sqrt(n / (n - 1))
    return float(stats.norm.cdf(-quantile))


def _weighted_means(weights: Float, values: Float) -> Float:
    """``weights @ values`` in which an infinity counts only where it was drawn; ``[B, n] @ [n, M] -> [B, M]``."""
    infinite = np.isinf(values)
    means = weights @ np.where(infinite, 0.0, values)
    if infinite.any():
        means[weights @ infinite > 0.0] = np.inf
    return means


def _interval(means: Float, value: Float, tail: float) -> tuple[Float, Float]:
    """Order statistics of the resampled means; never interpolated, since one neighbour may be infinite."""
    low = np.quantile(means, tail, axis=0, method="inverted_cdf")
    high = np.quantile(means, 1.0 - tail, axis=0, method="inverted_cdf")
    return np.minimum(low, value), np.maximum(high, value)


def _checked(values: Float) -> Float:
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise ValueError("nothing to summarise: no values")
    if np.isnan(values).any() or np.isneginf(values).any():
        raise ValueError("NaN or -inf among the values: say what a failed roll-out counts as (the metrics say +inf)")
    return values


def summarise(values: Float, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Summary:
    """Mean over the first axis with a bootstrap interval.

    Args:
        values: ``[N]`` or ``[N, ...]``, independent observations along the first axis (episodes); ``+inf`` is a value
            like any other: the mean is infinite, and so is the upper end; the lower end is finite if drawing none
            of them is likely enough.
        confidence: coverage asked for.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        value, ci_low, ci_high shaped as one observation (NaN bounds for N = 1), and n = N.

    Raises:
        ValueError: no values, or NaN among them.
    """
    # Sorted, so that the order of the episodes cannot change the interval.
    values = np.sort(_checked(values), axis=0)
    n = len(values)
    value = values.mean(axis=0)
    if n == 1:
        undefined = np.full_like(value, np.nan)
        return Summary(value, undefined, undefined, 1)
    means = _weighted_means(resampling_weights(n, resamples, seed), values.reshape(n, -1))
    low, high = _interval(means.reshape(resamples, *value.shape), value, _expanded_tail(n, confidence))
    return Summary(value, low, high, n)


def pooled(values: Float, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Summary:
    """Mean over seeds and episodes with an interval that covers a new seed on a new episode set.

    Every seed is judged on the same episodes, so seeds and episodes are crossed, not nested: seeds are resampled,
    episodes are resampled, independently, and an observation weighs by the product (Owen, *The pigeonhole bootstrap*,
    Annals of Applied Statistics 1 (2007)). Treating the S·E values as independent would claim a precision that is not
    there.

    Args:
        values: ``[S, E]``; ``+inf`` as in `summarise`.
        confidence: coverage asked for.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        value, ci_low, ci_high (0-d), n = S·E. With one seed the interval is that of `summarise` over episodes, with one
        episode that over seeds.

    Raises:
        ValueError: no values, or NaN among them.
    """
    values = _checked(values)
    n_seeds, n_episodes = values.shape
    if n_seeds == 1 or n_episodes == 1:
        return summarise(values.reshape(-1), confidence, resamples, seed)
    of_seeds = resampling_weights(n_seeds, resamples, seed)
    of_episodes = resampling_weights(n_episodes, resamples, seed + 1)
    per_resample = _weighted_means(of_seeds, values)
    infinite = np.isinf(per_resample)
    means = (of_episodes * np.where(infinite, 0.0, per_resample)).sum(axis=1)
    means[(of_episodes * infinite).sum(axis=1) > 0.0] = np.inf
    value = values.mean()
    low, high = _interval(means, value, (1.0 - confidence) / 2)
    return Summary(value, low, high, values.size)
