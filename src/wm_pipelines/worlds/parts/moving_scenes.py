"""Scenes that change now and then, and objects that drift about meanwhile, which no caption tells.

Scenes are ``[C, T, M, 4]`` of numbers (size, colour, shape, place), absent objects -1; an object keeps its slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.scene_grammar import PLACES, SIZES

_DRIFT = 0.15  # of the room that an object has, standard deviation from frame to frame

Scenes = NDArray[np.int64]


def changing(
    rng: np.random.Generator,
    first: Scenes,
    frames: int,
    chance: float,
    pairs: list[tuple[int, int]],
    objects: Sequence[float],
) -> Scenes:
    """Clips ``[C, T, M, 4]`` that begin with scenes ``[C, M, 4]``.

    With a probability of ``chance`` a frame differs from the one before: an object appears, goes away, moves to another
    quarter or is exchanged for another one in its place. Numbers of objects stay as frequent as in the first scenes:
    appearing and going away are accepted as Metropolis et al. (1953) do, else an object is exchanged.

    Args:
        rng: the only source of chance. pairs: combinations ``(colour, shape)`` that may occur.
        objects: shares of scenes of 1, 2, … M objects.
    """
    clips = np.repeat(first[:, None], frames, axis=1)
    for clip in clips:
        for t in range(1, frames):
            clip[t] = clip[t - 1]
            if rng.random() < chance:
                _change(rng, clip[t], pairs, objects)
    return clips


def _change(rng: np.random.Generator, scene: Scenes, pairs: list[tuple[int, int]], objects: Sequence[float]) -> None:
    """Change one object of a scene ``[M, 4]`` in place."""
    there, absent = np.flatnonzero(scene[:, 0] >= 0), np.flatnonzero(scene[:, 0] < 0)
    free = np.setdiff1d(np.arange(len(PLACES)), scene[there, 3])
    kind = str(rng.choice(["exchange", "move", "appear", "go"]))
    share = [0.0, *objects, 0.0]  # by number, from none to one too many
    number = len(there) + {"appear": 1, "go": -1}.get(kind, 0)
    if rng.random() * share[len(there)] >= share[number]:
        kind = "exchange"
    slot = int(rng.choice(absent if kind == "appear" else there))
    before = scene[slot].copy()
    if kind == "go":
        scene[slot] = -1
    elif kind == "move" and len(free):
        scene[slot, 3] = rng.choice(free)
    else:
        place = rng.choice(free) if kind == "appear" else before[3]
        while (scene[slot] == before).all():
            scene[slot] = [rng.integers(len(SIZES)), *pairs[rng.integers(len(pairs))], place]


def drifting(rng: np.random.Generator, shape: tuple[int, int, int]) -> Float:
    """Where objects of clips are within the room that they have, ``[C, T, M, 2]`` in -1 … 1: random walks that turn."""
    start = rng.uniform(-1.0, 1.0, (shape[0], 1, shape[2], 2))
    steps = _DRIFT * rng.standard_normal((shape[0], shape[1] - 1, shape[2], 2))
    walked = np.concatenate([start, start + np.cumsum(steps, axis=1)], axis=1)
    folded = np.mod(walked + 1.0, 4.0)  # mirrored at both ends
    return np.asarray(np.where(folded > 2.0, 4.0 - folded, folded) - 1.0)
