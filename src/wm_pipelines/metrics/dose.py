"""Does physics help to act? The error of a law and what it costs, and which error foretells success best.

**Law error.** How far a roll-out under given actions is from the truth at the planner's horizon, in units of the
truth's spread: one axis for simulators that are wrong by a known amount and for what was learned.

**Trend.** Scores at rising doses of one error, on the same starts: neighbouring doses are compared in pairs.

**Rank correlation.** Kendall's tau-b within each world (neither scores nor errors of different worlds compare), mean
over worlds. Kendall and not Spearman: it is a mean over pairs of models, so that models drawn twice by a bootstrap add
no pair of their own and bias nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from wm_pipelines.metrics.statistics import Summary, pooled, summarise

Float = NDArray[np.float64]

# ---------------------------------------------------------------- the error of a law


def scale(truth: Float) -> Float:
    """Standard deviation of every entry over all episodes and times, ``[..., n] -> [n]``; 1 where nothing moves."""
    deviation = truth.reshape(-1, truth.shape[-1]).std(axis=0)
    return np.where(deviation > 0.0, deviation, 1.0)


def law_error(found: Float, true: Float, sigma: Float) -> Float:
    """Root mean square over the entries of the error in units of ``sigma``: ``[..., n] -> [...]``, dimensionless.

    0 is the true law; the mean of the truth scores about 1; infinite where nothing was said.

    Args:
        found: predicted states at one step. true: those that happened. sigma: ``[n]``, see `scale`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.sqrt(np.square((found - true) / sigma).mean(axis=-1))
    return np.where(np.isnan(error), np.inf, error)


def energy_error(found: Float, true: Float, truth: Float, energy: Callable[[Any], Any]) -> Float:
    """``|E - E_true|`` in standard deviations of the true energy, ``[..., n] -> [...]``, dimensionless.

    Args:
        found, true: see `law_error`. truth: all true states ``[E, T, n]``. energy: ``z -> [...]``.
    """
    deviation = float(np.std(energy(truth)))
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(np.asarray(energy(found), np.float64) - energy(true)) / (deviation or 1.0)
    return np.where(np.isnan(error), np.inf, error)


# ---------------------------------------------------------------- dose and response


@dataclass(frozen=True)
class Trend:
    """What rising doses do to a score.

    Attributes:
        steps: change from every dose to the next, ``D - 1`` of them; intervals that hold together.
        whole: change from the first to the last dose.
        isotonic: ``[D]``, the never-rising curve nearest to the means.
        misfit: largest distance of a mean from it.
    """

    steps: Sequence[Summary]
    whole: Summary
    isotonic: Float
    misfit: float

    @property
    def monotone(self) -> bool:
        """Whether no step rises by more than its interval allows: chance alone would explain every rise."""
        return all(step.ci_low <= 0.0 for step in self.steps)

    @property
    def falls(self) -> bool:
        """Whether the last dose is worse than the first beyond its interval: what does not fall shows no response."""
        return bool(self.whole.ci_high < 0.0)


def trend(scores: Float, confidence: float = 0.95) -> Trend:
    """Of scores ``[D, E]`` on the same ``E`` starts, doses rising along the first axis, the harmless one first.

    The ``D - 1`` intervals of steps hold together (Bonferroni).
    """
    each = 1.0 - (1.0 - confidence) / (len(scores) - 1)
    steps = [summarise(after - before, each) for before, after in pairwise(scores)]
    means = scores.mean(axis=1)
    isotonic = np.asarray(isotonic_regression(means, increasing=False).x)
    whole = summarise(scores[-1] - scores[0], confidence)
    return Trend(steps, whole, isotonic, float(np.abs(means - isotonic).max()))


@dataclass(frozen=True)
class Place:
    """Where a model stands beside a curve of doses.

    Attributes:
        dose: at which a simulator has the same law error. score: what the curve says there.
        gap: the model's score less that; seeds and starts in the interval.
    """

    dose: float
    score: float
    gap: Summary


def place(doses: Float, errors: Float, scores: Float, error: float, own: Float) -> Place | None:
    """A model beside the curve of one corruption, between whose doses lines are drawn; None where that does not reach.

    Args:
        doses: ``[D]``, the harmless one first. errors: ``[D]``, their law errors. scores: ``[D, E]``, their scores.
        error: the model's law error. own: its scores ``[S, E]`` on the same starts.
    """
    rising = np.maximum.accumulate(errors)
    if not np.isfinite(error) or error > rising[-1] or error < rising[0]:
        return None
    after = int(np.clip(np.searchsorted(rising, error), 1, len(rising) - 1))
    width = rising[after] - rising[after - 1]
    share = (error - rising[after - 1]) / width if width > 0.0 else 0.0
    dose = (1.0 - share) * doses[after - 1] + share * doses[after]
    expected = (1.0 - share) * scores[after - 1] + share * scores[after]
    return Place(float(dose), float(expected.mean()), pooled(own - expected))


# ---------------------------------------------------------------- which error foretells success


@dataclass(frozen=True)
class Judged:
    """Models (of a family, a seed, a world) with what they reached and what was foretold, all ``[N]``.

    Attributes:
        world, family: labels. success: higher is better.
        predictors: by name; lower or higher may be better. NaN: not measured there.
    """

    world: NDArray[Any]
    family: NDArray[Any]
    success: Float
    predictors: Mapping[str, Float]


def rank_correlations(
    judged: Judged, *, draws: int = 2000, seed: int = 0, confidence: float = 0.95, least: int = 4
) -> dict[str, Summary]:
    """Kendall's tau-b of success with every predictor: mean over worlds, interval by a hierarchical bootstrap.

    Worlds are drawn, and families (the same ones in every world: those that act well in one often do in another), both
    with replacement, with all seeds of a family: drawing seeds once more would count their spread twice (Davison and
    Hinkley, *Bootstrap Methods and their Application*, 1997, section 3.8). The interval holds the middle of what is
    found. Drawing worlds and families makes it rather too wide where there are several worlds (Owen, *The pigeonhole
    bootstrap*, Annals of Applied Statistics 1, 2007). Share of nominal 95 % intervals that contain the truth, per cent,
    and their mean width (in brackets), simulated with three seeds a family, whose spread is half or twice that of the
    families; of several worlds, these share half their variance:

    ========================  ===========  ===========  ===========
    worlds, families, spread  tau = 0      tau = 0.49   tau = 0.71
    ========================  ===========  ===========  ===========
    1, 5, half                94.5 (0.98)  93.0 (0.80)  95.5 (0.57)
    1, 8, half                94.5 (0.80)  94.5 (0.59)  95.5 (0.43)
    1, 8, twice               93.0 (0.58)  91.5 (0.47)  93.5 (0.33)
    3, 8, half                98.0 (0.71)  98.5 (0.56)  98.0 (0.38)
    3, 8, twice               99.0 (0.53)  99.5 (0.41)  100  (0.29)
    ========================  ===========  ===========  ===========

    Args:
        judged: the models. draws: of the bootstrap. seed: of it. confidence: asked for.
        least: families of which a predictor must be known, else it is left out.

    Returns:
        Predictor -> tau, its interval, number of models.
    """
    return {
        name: _correlation(judged, values, draws, seed, confidence)
        for name, values in judged.predictors.items()
        if len(set(judged.family[_known(judged, values)])) >= least
    }


def _known(judged: Judged, values: Float) -> NDArray[np.bool_]:
    return ~np.isnan(values) & ~np.isnan(judged.success)


def _correlation(judged: Judged, values: Float, draws: int, seed: int, confidence: float) -> Summary:
    known = _known(judged, values)
    worlds, world = np.unique(judged.world[known], return_inverse=True)
    family = np.unique(judged.family[known], return_inverse=True)[1]
    signs = [(_signs(judged.success[known][world == w]), _signs(values[known][world == w])) for w in range(len(worlds))]
    once = _tau(np.ones((1, len(world))), np.ones((1, len(worlds))), signs, world)[0]
    rng = np.random.default_rng(seed)
    by_family = _times(rng, int(family.max()) + 1, draws)
    drawn = _tau(by_family[:, family], _times(rng, len(worlds), draws), signs, world)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Summary.scalar(once, n=len(world))
    low, high = np.quantile(drawn, [(1.0 - confidence) / 2, (1.0 + confidence) / 2])
    return Summary.scalar(once, min(float(low), once), max(float(high), once), len(world))


def _signs(values: Float) -> Float:
    """Signs ``[N, N]`` of all differences; infinite values are alike."""
    return np.asarray(values[:, None] > values[None, :], np.float64) - (values[:, None] < values[None, :])


def _tau(weights: Float, of_world: Float, signs: Sequence[tuple[Float, Float]], world: NDArray[np.intp]) -> Float:
    """Kendall's tau-b with models counted ``weights [B, N]`` times and worlds ``of_world [B, W]`` times: ``[B]``.

    A world in which either quantity is the same for all that were drawn says nothing; NaN where no world says anything.
    """
    sums, total = np.zeros(len(weights)), np.zeros(len(weights))
    for w, (one, other) in enumerate(signs):
        count = weights[:, world == w]
        agree, first, second = (((count @ m) * count).sum(1) for m in (one * other, np.abs(one), np.abs(other)))
        there = (first > 0.0) & (second > 0.0)
        tau = np.divide(agree, np.sqrt(first * second), out=np.zeros_like(agree), where=there)
        sums += of_world[:, w] * tau
        total += of_world[:, w] * there
    return np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0.0)


def _times(rng: np.random.Generator, count: int, draws: int) -> Float:
    """How often each of ``count`` things is among as many drawn with replacement, ``[B, count]``."""
    return rng.multinomial(count, np.full(count, 1.0 / count), draws).astype(np.float64)
