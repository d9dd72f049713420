"""What codes mean that a model found by itself: how many it uses, what they tell, of whom, and what they do.

Axes: ``E`` episodes, ``T`` transitions, ``K`` codes, ``C`` classes. Codes and classes are integers ``[E, T]`` from 0.
Transitions of one episode resemble each other: intervals and null distributions are over episodes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.statistics import Summary, half_widths

Float = NDArray[np.float64]
Codes = NDArray[np.int64]
Score = Callable[[Codes, Codes], float]

IN_USE = 0.01  # share of the transitions above which a code counts as used


def shares(codes: Codes, count: int) -> Float:
    """Share of the transitions with each of ``count`` codes: ``[K]``."""
    return np.bincount(codes.ravel(), minlength=count) / codes.size


def used(codes: Codes, count: int, least: float = IN_USE) -> int:
    """How many codes have more than a share ``least`` of the transitions."""
    return int((shares(codes, count) > least).sum())


def perplexity(codes: Codes, count: int) -> float:
    """Exponential of the entropy of the codes' use: ``count`` if all are used alike, 1 if a single one is."""
    p = shares(codes, count)
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


def directions(moved: Float, still: float) -> Codes:
    """0 back, 1 still, 2 forth, of displacements ``[...]``: still is what is not further than ``still``."""
    return 1 + np.sign(np.where(np.abs(moved) > still, moved, 0.0)).astype(np.int64)


def displacements(moved: Float, still: float, far: float) -> Codes:
    """Five classes of displacements ``[...]``: far back, back, still, forth, far forth; far is beyond ``far``."""
    sizes = (np.abs(moved) > still).astype(np.int64) + (np.abs(moved) > far)
    return 2 + np.sign(moved).astype(np.int64) * sizes


# ---------------------------------------------------------------- what codes tell


def adjusted_mutual_information(codes: Codes, classes: Codes) -> float:
    """Adjusted mutual information (Vinh, Epps, Bailey 2010), by scikit-learn; 0 by chance, 1 at most."""
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(classes.ravel(), codes.ravel()))


def normalised_mutual_information(codes: Codes, classes: Codes) -> float:
    """Mutual information over the mean of both entropies, by scikit-learn; not corrected for chance."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(classes.ravel(), codes.ravel()))


def with_interval(score: Score, codes: Codes, classes: Codes, confidence: float = 0.95) -> tuple[Summary, Float]:
    """A score of codes and classes ``[E, T]``, its interval by the jackknife over episodes, and their parts in it.

    Returns:
        The summary (n = E; no interval for one episode), and pseudo-values ``[E]`` whose mean is the score.
    """
    value, episodes = score(codes, classes), len(codes)
    if episodes == 1:
        return Summary.scalar(value, n=1), np.array([value])
    without = np.array([score(np.delete(codes, e, 0), np.delete(classes, e, 0)) for e in range(episodes)])
    parts = value + (episodes - 1) * (without.mean() - without)
    below, above = (float(half) for half in half_widths(parts, confidence))
    return Summary.scalar(value, value - below, value + above, episodes), parts


def null_scores(score: Score, codes: Codes, classes: Codes) -> Float:
    """The score where codes say nothing: those of every episode beside the classes of another, ``[E - 1]``.

    Whole episodes change places, so that what follows from their being smooth in time belongs to the null; all cyclic
    shifts are taken, nothing is drawn.
    """
    return np.array([score(codes, np.roll(classes, shift, 0)) for shift in range(1, len(codes))])


def conditional_information(codes: Codes, classes: Codes, given: Codes) -> float:
    """``I(code; class | given)`` in nats, by counting; biased upwards where cells hold few transitions."""
    _, a = np.unique(codes.ravel(), return_inverse=True)
    _, b = np.unique(classes.ravel(), return_inverse=True)
    _, c = np.unique(given.ravel(), return_inverse=True)
    shape = (a.max() + 1, b.max() + 1, c.max() + 1)
    p = np.bincount(np.ravel_multi_index((a, b, c), shape), minlength=int(np.prod(shape))).reshape(shape) / codes.size
    ratio = p * p.sum((0, 1)), p.sum(1)[:, None] * p.sum(0)
    inside = p > 0
    return float((p[inside] * np.log(ratio[0][inside] / ratio[1][inside])).sum())


def information_beyond(codes: Codes, classes: Codes, given: Codes, draws: int = 20) -> float:
    """`conditional_information` less its chance value, 0 at least.

    That is its mean where codes are permuted among transitions alike in ``given``, by a generator of a fixed seed.
    """
    rng, flat = np.random.default_rng(0), given.ravel()
    order = np.argsort(flat, kind="stable")
    chance = []
    for _ in range(draws):
        shuffled = np.lexsort((rng.random(flat.size), flat))
        permuted = np.empty_like(codes.ravel())
        permuted[order] = codes.ravel()[shuffled]
        chance.append(conditional_information(permuted, classes, given))
    return max(0.0, conditional_information(codes, classes, given) - float(np.mean(chance)))


def distractor_share(codes: Codes, agent: Codes, exogenous: Codes) -> float:
    """Of what codes tell of either beyond the other, the share that is of exogenous change; NaN where that is nothing.

    ``I(c; exogenous | agent) / (I(c; exogenous | agent) + I(c; agent | exogenous))``, each less its chance value: 0 for
    codes that mean actions, 1 for codes that describe what happens anyway. What both have in common (an agent that
    follows a ball moves as the ball does) counts for neither.
    """
    other = information_beyond(codes, exogenous, agent)
    own = information_beyond(codes, agent, exogenous)
    return other / (other + own) if other + own > 0 else float("nan")


# ---------------------------------------------------------------- what codes do


def meanings(codes: Codes, classes: Codes, count: int) -> Codes:
    """The most frequent class of each of ``count`` codes, ``[K]``; of codes that never occur, of all transitions."""
    kinds = int(classes.max()) + 1
    table = np.bincount(codes.ravel() * kinds + classes.ravel(), minlength=count * kinds).reshape(count, kinds)
    table[table.sum(1) == 0] = table.sum(0)
    return np.asarray(table.argmax(1))


def consistency(codes: Codes, classes: Codes, meaning: Codes) -> Float:
    """Share of the transitions of every episode whose class is the one that their code means: ``[E]``.

    Args:
        codes, classes: ``[E, T]``. meaning: of every code, `meanings` of other episodes.
    """
    return np.asarray((meaning[codes] == classes).mean(1))
