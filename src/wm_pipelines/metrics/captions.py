"""Captions judged by the scenes that they describe, never as strings; how surprising texts are.

Axes: ``N`` captions. Scenes are ``[N, M, 4]`` of numbers, absent objects -1 (`scene_parser`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.scene_parser import Scenes, attributes_right
from wm_pipelines.metrics.statistics import Summary, t_quantile

Float = NDArray[np.float64]
Read = Callable[[str], Sequence[Sequence[int]]]


def scenes_of(texts: Sequence[str], read: Read) -> tuple[Scenes, NDArray[np.bool_]]:
    """Scenes that captions describe, and which of them are sentences about a scene at all.

    Args:
        texts: captions. read: text -> objects; ValueError where it is no such sentence.

    Returns:
        scenes ``[N, M, 4]``, of what is no sentence without objects; ``[N]``.
    """
    found: list[Sequence[Sequence[int]]] = []
    for text in texts:
        try:
            found.append(read(text))
        except ValueError:
            found.append(())
    scenes = np.full((len(found), max((len(one) for one in found), default=1) or 1, 4), -1, np.int64)
    for row, one in zip(scenes, found, strict=True):
        if len(one):
            row[: len(one)] = one
    return scenes, np.array([len(one) > 0 for one in found])


def captions_right(texts: Sequence[str], read: Read, wanted: Scenes) -> dict[str, NDArray[np.bool_]]:
    """Which captions say what is there, attribute by attribute: `attributes_right` of the scenes they describe.

    Returns:
        ``[N]`` each, and ``sentence``: whether it is one. What is no sentence is wrong in everything.
    """
    found, sentence = scenes_of(texts, read)
    right = attributes_right(found, wanted)
    return {"sentence": sentence} | {name: value & sentence for name, value in right.items()}


def perplexity(nats: Float, units: Float) -> tuple[Summary, Float]:
    """``exp(sum of nats / sum of units)``, its 95 % interval over texts, and the part of every text in it.

    The ratio is linearised about the means (the delta method), and its interval taken to the exponential.

    Args:
        nats: minus the natural logarithm of the probability of texts, ``[N]``, N >= 2.
        units: tokens or bytes of each, ``[N]``.

    Returns:
        the summary; ``[N]`` values whose mean is the perplexity.

    Raises:
        ValueError: fewer than two texts, or one without units.
    """
    nats, units = np.asarray(nats, np.float64), np.asarray(units, np.float64)
    if len(nats) < 2 or len(nats) != len(units) or (units <= 0).any():
        raise ValueError(f"perplexity needs two texts or more with units each, got {len(nats)} and {len(units)}")
    ratio = nats.sum() / units.sum()
    apart = (nats - ratio * units) / units.mean()
    half = t_quantile(len(nats) - 1, 0.95) * apart.std(ddof=1) / np.sqrt(len(nats))
    value = np.exp(ratio)
    low, high = np.exp(ratio - half), np.exp(ratio + half)
    return Summary.scalar(float(value), float(low), float(high), n=len(nats)), np.asarray(value * (1.0 + apart))


def others_of_their_kind(kind: NDArray[Any]) -> NDArray[np.int64]:
    """For every entry of ``kind [N]`` another one of the same kind, the next; itself where it is alone."""
    others = np.arange(len(kind))
    for one in np.unique(kind):
        mine = np.flatnonzero(kind == one)
        others[mine] = np.roll(mine, 1)
    return others
