"""Scenes that change now and then, and objects that drift about meanwhile, which no caption tells.

Scenes are ``[C, T, M, 4]`` of numbers (size, colour, shape, place), absent objects -1; an object keeps its slot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.scene_grammar import PLACES, SIZES

_DRIFT = 0.15  # of the room that an object has, standard deviation from frame to frame

Scenes = NDArray[np.int64]


def changing(
    rng: np.random.Generator, first: Scenes, frames: int, chance: float, pairs: list[tuple[int, int]]
) -> Scenes:
    """Clips ``[C, T, M, 4]`` that begin with scenes ``[C, M, 4]``.

    With a probability of ``chance`` a frame differs from the one before: an object appears, goes away, moves to another
    quarter or is exchanged for another one in its place, whichever can be, with equal probabilities.

    Args:
        rng: the only source of chance. pairs: combinations ``(colour, shape)`` that may occur.
    """
    clips = np.repeat(first[:, None], frames, axis=1)
    for clip in clips:
        for t in range(1, frames):
            clip[t] = clip[t - 1]
            if rng.random() < chance:
                _change(rng, clip[t], pairs)
    return clips


def _change(rng: np.random.Generator, scene: Scenes, pairs: list[tuple[int, int]]) -> None:
    """Change one object of a scene ``[M, 4]`` in place."""
    there, absent = np.flatnonzero(scene[:, 0] >= 0), np.flatnonzero(scene[:, 0] < 0)
    free = np.setdiff1d(np.arange(len(PLACES)), scene[there, 3])
    possible = ["exchange"]
    possible += ["appear"] if len(absent) and len(free) else []
    possible += ["go"] if len(there) > 1 else []
    possible += ["move"] if len(free) else []
    kind = str(rng.choice(possible))
    slot = int(rng.choice(absent if kind == "appear" else there))
    before = scene[slot].copy()
    if kind == "go":
        scene[slot] = -1
    elif kind == "move":
        scene[slot, 3] = rng.choice(free)
    else:
        place = rng.choice(free) if kind == "appear" else before[3]
        while True:
            scene[slot] = [rng.integers(len(SIZES)), *pairs[rng.integers(len(pairs))], place]
            if (scene[slot] != before).any():
                break


def drifting(rng: np.random.Generator, shape: tuple[int, int, int]) -> Float:
    """Where objects of clips are within the room that they have, ``[C, T, M, 2]`` in -1 … 1: random walks that turn."""
    start = rng.uniform(-1.0, 1.0, (shape[0], 1, shape[2], 2))
    steps = _DRIFT * rng.standard_normal((shape[0], shape[1] - 1, shape[2], 2))
    walked = np.concatenate([start, start + np.cumsum(steps, axis=1)], axis=1)
    folded = np.mod(walked + 1.0, 4.0)  # mirrored at both ends
    return np.asarray(np.where(folded > 2.0, 4.0 - folded, folded) - 1.0)
