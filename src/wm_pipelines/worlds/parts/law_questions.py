"""Questions about the laws of moving bodies; the simulator answers them.

A clip is states ``z [T, 2d]`` of a `SimulatedWorld`, and what is broken in it (`parts.impossible`), if anything. The
first two words of a question tell its kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from wm_pipelines.worlds.base import Float, SimulatedWorld
from wm_pipelines.worlds.parts import captions

BREACHES = {"teleport": "continuity", "energy_jump": "energy", "pass_through": "contact"}
"""What is broken, by kind of impossible future."""

_SAME = 1e-6  # of its largest value, by which a conserved quantity may differ
_SHORTEST = 2  # rows of the stretch that a question is about
_DRAWS = 20  # of a stretch with the answer wanted, so that yes and no are as frequent as can be


class Clip(NamedTuple):
    """States ``[T, 2d]`` a step in seconds apart, the world, the kind of breach (None: lawful), its first row."""

    z: Float
    step: float
    world: SimulatedWorld
    breach: str | None
    row: int


Answered = tuple[str, str]


def _law(rng: np.random.Generator, clip: Clip) -> Answered:
    del rng
    return "which law breaks?", "none" if clip.breach is None else BREACHES[clip.breach]


def _frame(rng: np.random.Generator, clip: Clip) -> Answered:
    del rng
    return "at which frame does a law break?", "never" if clip.breach is None else f"frame {clip.row}"


def _energy(rng: np.random.Generator, clip: Clip) -> Answered:
    del rng
    energy = clip.world.laws().energy
    assert energy is not None
    value = np.asarray(energy(clip.z))
    return "is energy kept?", _yes(bool(np.ptp(value) <= _SAME * np.abs(value).max()))


def _momentum(rng: np.random.Generator, clip: Clip) -> Answered:
    """Of all bodies together: walls change it, collisions do not."""
    total = momenta(clip).sum(1)
    size = np.abs(momenta(clip)).max()

    def kept(first: int, last: int) -> bool:
        return bool(np.abs(total[first : last + 1] - total[first]).max() <= _SAME * size)

    return _about(rng, clip, "is momentum kept", kept)


def _meeting(rng: np.random.Generator, clip: Clip) -> Answered:
    """Bodies collide between two rows where others, which pass through each other, would be elsewhere by then."""
    ghosts = clip.world.ghostly()
    assert ghosts is not None
    after = clip.z[1:].copy()
    if clip.breach in ("teleport", "energy_jump"):  # until the jump all was lawful
        before = clip.z[clip.row - 1 : clip.row]
        after[clip.row - 1] = clip.world.simulate(before, clip.step, 1)[0, 1]
    free = ghosts.simulate(clip.z[:-1], clip.step, 1)[:, 1]
    meets = np.abs(after - free).max(1) > _SAME * np.abs(clip.z).max()
    return _about(rng, clip, "do they collide", lambda first, last: bool(meets[first:last].any()))


def _swing(rng: np.random.Generator, clip: Clip) -> Answered:
    turns = turning(clip)
    return _about(rng, clip, "does it swing back", lambda first, last: bool(turns[first:last].any()))


def _turns(rng: np.random.Generator, clip: Clip) -> Answered:
    del rng
    return "how often does it turn round?", captions.count(int(turning(clip).sum()), "time")


ASK: dict[str, Callable[[np.random.Generator, Clip], Answered]] = {
    "law": _law, "frame": _frame, "energy": _energy, "momentum": _momentum, "meeting": _meeting, "swing": _swing,
    "turns": _turns,
}  # fmt: skip
"""Question and answer by kind."""


def momenta(clip: Clip) -> Float:
    """Of every body, ``[T, N, space]``."""
    facts = clip.world.facts()
    p = clip.z[:, clip.z.shape[1] // 2 :]
    return np.asarray(p.reshape(len(p), -1, facts.get("space", 1)))


def turning(clip: Clip) -> Float:
    """Whether the single momentum changes its sign between two rows, ``[T - 1]``."""
    forward = clip.z[:, -1] > 0.0
    return np.asarray(forward[1:] != forward[:-1])


def _about(rng: np.random.Generator, clip: Clip, words: str, holds: Callable[[int, int], bool]) -> Answered:
    """A stretch of rows with the answer that a coin wants, as far as there is any."""
    wanted, rows = rng.random() < 0.5, len(clip.z)
    first, last, found = 0, 0, False
    for _ in range(_DRAWS):
        first = int(rng.integers(0, rows - _SHORTEST))
        last = int(rng.integers(first + _SHORTEST, rows))
        found = holds(first, last)
        if found == wanted:
            break
    return f"{words} from frame {first} to frame {last}?", _yes(found)


def _yes(true: bool) -> str:
    return "yes" if true else "no"
