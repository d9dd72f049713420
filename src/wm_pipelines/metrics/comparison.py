"""Which of two models is better, where both were judged on the same episodes; and the set of those that may be best.

Episodes differ more than models do: an easy one is easy for all. The difference of two models on one episode is free of
that, and the interval of its mean says whether new episodes would tell the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wm_pipelines.metrics.statistics import Summary, seed_half_width, summarise

Float = NDArray[np.float64]

_RESTLESS = 30.0  # times the median variance of seeds: for more than that no model counts in the pooled one
_ASTRAY = 6.0  # standard deviations of a seed from a model's best one, beyond which it is not told how far


def paired_difference(a: Float, b: Float, confidence: float = 0.95) -> Summary:
    """Mean of ``a - b`` with an interval that covers new episodes, and new seeds where there are several.

    The differences are those of the means over seeds, episode by episode; the spread of either model's seeds is added
    to their interval in quadrature, as in `statistics.pooled`.

    Args:
        a, b: ``[S, E]`` and ``[S', E]`` or ``[E]``, the same episodes in the same order. An infinity is a model that
            was lost on that episode: two that were lost alike do not differ there; where one alone was, the mean is
            infinite, and its other end is that of the remaining episodes if a sample without the lost ones is likely
            enough. Where each lost episodes that the other did not, nothing can be said: NaN between infinities.
        confidence: coverage asked for.

    Returns:
        value, ci_low, ci_high (0-d; NaN bounds for one episode), n = E.

    Raises:
        ValueError: the numbers of episodes differ, there are none, or a value is NaN.
    """
    a, b = (np.atleast_2d(np.asarray(x, np.float64)) for x in (a, b))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"models are paired on the same episodes, got {a.shape[1]} and {b.shape[1]}")
    difference = _difference(a.mean(axis=0), b.mean(axis=0))
    up, down = np.isposinf(difference).any(), np.isneginf(difference).any()
    if up and down:
        return Summary.scalar(np.nan, -np.inf, np.inf, len(difference))
    if down:
        value, low, high, n = summarise(-difference, confidence)
        return Summary(-value, -high, -low, n)
    found = summarise(difference, confidence)
    if up:
        return found
    kept = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    seeds = math.hypot(*[seed_half_width(x[:, kept].mean(axis=1), confidence) for x in (a, b) if kept.any()])
    below, above = found.value - found.ci_low, found.ci_high - found.value
    low, high = found.value - np.hypot(below, seeds), found.value + np.hypot(above, seeds)
    return Summary(found.value, low, high, found.n)


def _difference(a: Float, b: Float) -> Float:
    alike = np.isinf(a) & (a == b)
    with np.errstate(invalid="ignore"):
        return np.where(alike, 0.0, a - b)


# ---------------------------------------------------------------- the best


def best_set(
    values: Mapping[str, Float],
    lower_is_better: bool,
    within: tuple[float, float] = (-math.inf, math.inf),
    confidence: float = 0.95,
) -> list[str]:
    """All models that cannot be told from the best: who is left out is worse both on new episodes and with new seeds.

    The best is the one with the best mean. Another is told from it if two one-sided tests both say that it is worse:

    - over **episodes**, paired, seeds averaged: Student's t of the differences. Corrections for skewness, as in
      `statistics.half_widths`, serve at 95 %; at the level of many comparisons, with twenty episodes, theirs is a cubic
      far from where it holds: they would not tell a model that is worse on each of them by half;
    - over **seeds**, not paired: Student's t of the difference of the seeds' means. Two or three seeds do not tell a
      model's scatter: it is taken to be at least the pooled one of all models, with the degrees of freedom of all.
      Models whose seeds agree exactly (closed forms) do not scatter. A seed that ran away counts as `_ASTRAY` standard
      deviations worse than that model's best: else a model would be kept *because* it explodes. One seed says
      nothing, and only episodes count.

    Both compare logarithms of the distance from the good end of the metric's range where it has one (errors at 0,
    shares explained at 1): hard episodes and bad seeds are worse by factors, and the sum of a few of them would hide
    that a model is a million times worse on all. What lies on that end has no logarithm. On some episodes it counts as
    the least distance of all others; where the mean of a seed of the best model lies there, seeds are compared as
    they are.

    Whoever has the best mean was picked for its luck, too: each of ``k - 1`` tests is made at level
    ``(1 - confidence) / (k - 1)`` (Bonferroni), so that the model that is best in truth is left out with a probability
    of at most ``1 - confidence``. Holm's steps would not keep that promise, because the model compared with is itself
    chosen from the data (Hsu, *Multiple Comparisons*, 1996, chapter 4: comparisons with the best).

    Simulated with 20 episodes and ten models of which one is better by 2 %: it is in the set in 97 to 100 % of cases
    with two to five seeds whose logarithms scatter by 0 to 1; where models scatter unequally (standard deviations
    apart by a factor of e), two seeds keep it in 91 %, three in 95 %, five in 96 %; where it alone scatters, ten
    times as much as the others, in 89, 93 and 96 %.

    Args:
        values: model -> ``[S, E]``, the same episodes for all. Infinite: see `paired_difference`.
        lower_is_better: which way is good. within: the metric's range, see `ranges.value_range`.
        confidence: that the set holds the best.

    Returns:
        Names in the order of ``values``; the one with the best mean is always among them. No name for no models.

    Raises:
        ValueError: as `paired_difference`.
    """
    if not values:
        return []
    sign = 1.0 if lower_is_better else -1.0
    worse = {name: sign * np.atleast_2d(np.asarray(v, np.float64)) for name, v in values.items()}
    first = min(worse, key=lambda name: worse[name].mean())
    level = (1.0 - confidence) / max(1, len(worse) - 1)
    limit = within[0] if lower_is_better else -within[1]
    episodes, seeds = _distances(worse, limit, 0), _distances(worse, limit, 1)
    if math.isfinite(limit) and (worse[first].mean(axis=1) == limit).any():
        seeds = {name: v.mean(axis=1) for name, v in worse.items()}
    floor, degrees = _pooled_variance(seeds)

    def told(name: str) -> bool:
        if not _worse(episodes[name], episodes[first], level):
            return False
        pair = (seeds[name], seeds[first])
        if not degrees or not all(np.isfinite(x).all() for x in pair) or all(np.ptp(x) == 0.0 for x in pair):
            return True
        a, b = (np.minimum(x, x.min() + _ASTRAY * math.sqrt(floor)) for x in pair)
        error = math.sqrt(sum(max(float(x.var(ddof=1)) if len(x) > 1 else 0.0, floor) / len(x) for x in (a, b)))
        return bool(a.mean() - b.mean() > stats.t.ppf(1.0 - level, degrees) * error)

    return [name for name in worse if name == first or not told(name)]


def _worse(a: Float, b: Float, level: float) -> bool:
    """Whether ``a`` is above ``b`` in the mean, both ``[E]``, by a one-sided test."""
    difference = _difference(a, b)
    if len(difference) < 2 or not np.isfinite(difference).all():
        return bool(paired_difference(a, b, 1.0 - 2.0 * level).ci_low > 0.0)
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return bool(difference.mean() > stats.t.ppf(1.0 - level, len(difference) - 1) * error)


def _distances(worse: Mapping[str, Float], limit: float, axis: int) -> dict[str, Float]:
    """Means over an axis, as logarithms of the distance from the limit, on their side of which all must be.

    What lies on the limit itself counts as the least distance of all those that do not: as good as anybody else.
    """
    means = {name: v.mean(axis=axis) for name, v in worse.items()}
    distances = np.concatenate([m - limit for m in means.values()])
    least = min(distances[distances > 0.0], default=0.0)
    if math.isinf(limit) or distances.min() < 0.0 or not 0.0 < least < math.inf:
        return means
    return {name: np.log(np.maximum(m - limit, least)) for name, m in means.items()}


def _pooled_variance(seeds: Mapping[str, Float]) -> tuple[float, int]:
    """Of a seed, over all models whose seeds differ, and its degrees of freedom.

    No model counts for more than `_RESTLESS` times the median: those that run away, by a factor of 1e60 from seed to
    seed, say nothing of the others, and their own comparisons use their own variance.
    """
    spread = [x for x in seeds.values() if len(x) > 1 and np.isfinite(x).all() and np.ptp(x) > 0.0]
    if not spread:
        return 0.0, 0
    variance, degrees = np.array([x.var(ddof=1) for x in spread]), np.array([len(x) - 1 for x in spread])
    capped = np.minimum(variance, _RESTLESS * np.median(variance))
    return float(np.average(capped, weights=degrees)), int(degrees.sum())


def overlapping_set(values: Mapping[str, tuple[float, float, float]], lower_is_better: bool) -> list[str]:
    """The same where only each model's value and interval are known: those whose intervals meet that of the best.

    More cautious than a comparison of the differences: intervals that do not meet are told apart, some that meet could
    be. Without an interval (NaN) a value stands for itself.

    Args:
        values: model -> value, ci_low, ci_high. lower_is_better: which way is good.
    """
    if not values:
        return []
    ends = {
        name: (value if math.isnan(low) else low, value if math.isnan(high) else high)
        for name, (value, low, high) in values.items()
    }
    first = min(values, key=lambda name: values[name][0] if lower_is_better else -values[name][0])
    low, high = ends[first]
    return [name for name, (a, b) in ends.items() if a <= high and b >= low]
