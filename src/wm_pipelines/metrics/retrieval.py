"""Finding the right text among others: what counts as right, and wrong texts that a bag of words cannot tell.

Axes: ``N`` frames, ``C`` candidates. Scenes are ``[N, M, 4]`` of numbers, absent objects -1 (`scene_parser`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.scene_parser import Scenes

Float = NDArray[np.float64]


def distinct(lists: Iterable[Sequence[str]], count: int) -> list[str]:
    """The first ``count`` different texts of several lists, in order; all of the first list in any case.

    One scene has one caption: that texts differ means that scenes differ, and no other candidate is right as well.
    """
    first, *more = lists
    found = dict.fromkeys(first)
    for text in (text for texts in more for text in texts):
        if len(found) >= count:
            break
        found.setdefault(text, None)
    return list(found)


def right_first(scores: Float, wanted: NDArray[np.int64]) -> Float:
    """Whether the wanted candidate has the largest score, ``[N, C] -> [N]``.

    Shared with k others it counts 1 / (k + 1): a model to which all texts are alike is right by chance.
    """
    own = scores[np.arange(len(scores)), wanted]
    best = scores.max(axis=1, initial=-np.inf)
    return np.where(own == best, 1.0 / np.maximum((scores == best[:, None]).sum(1), 1), 0.0)


def swapped(scenes: Scenes, attributes: Sequence[int]) -> tuple[NDArray[np.int64], Scenes]:
    """Scenes in which the first two objects that differ in one of the attributes have exchanged it.

    The caption of such a scene has the words of the true one. Of several attributes the one is taken that stands at
    the scene's own number, counted round, so that all have their turn.

    Args:
        scenes: ``[N, M, 4]``. attributes: which may be exchanged, by their place on the last axis.

    Returns:
        which scenes have such objects ``[K]``; those scenes ``[K, M, 4]``, others than before.
    """
    which, found = [], []
    for row, scene in enumerate(scenes):
        turned = _turned(scene, [attributes[(row + k) % len(attributes)] for k in range(len(attributes))])
        if turned is not None:
            which.append(row)
            found.append(turned)
    return np.array(which, np.int64), np.array(found, np.int64).reshape(len(which), *scenes.shape[1:])


def _turned(scene: NDArray[np.int64], attributes: Sequence[int]) -> NDArray[np.int64] | None:
    before = _as_set(scene)
    for attribute in attributes:
        for a in range(len(scene)):
            for b in range(a + 1, len(scene)):
                if min(scene[a, 0], scene[b, 0]) < 0 or scene[a, attribute] == scene[b, attribute]:
                    continue
                turned = scene.copy()
                turned[[a, b], attribute] = scene[[b, a], attribute]
                if _as_set(turned) != before:
                    return turned
    return None


def _as_set(scene: NDArray[np.int64]) -> frozenset[tuple[int, ...]]:
    return frozenset(tuple(row) for row in scene.tolist() if row[0] >= 0)
