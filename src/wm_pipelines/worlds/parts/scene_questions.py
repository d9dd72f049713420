"""Questions about still scenes, and their answers: both follow from the scene (`scene_grammar`), nothing is guessed.

The first two words of a question tell its kind, so that whoever sees no picture can still know the majority answer.
Objects are named by what is asked of them *not*: by their place, or by other attributes where those leave no doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.worlds.parts.scene_grammar import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing, caption, relation

KINDS = ("description", "colour", "shape", "size", "place", "count", "existence", "relation")
"""Kinds of questions; the first wants the whole caption."""
DESCRIBE = "what is there?"

_NUMBERS = ("none", "one", "two", "three", "four")
_WEIGHTS = {"relation": 3.0}  # beside 1 of the others: few scenes have two objects to relate
_HARD = 0.5  # share of the questions after what is not there that mix what is there
_TRIES = 20  # draws of a question that the scene has not been asked yet

Pair = tuple[int, int]


class Question(NamedTuple):
    """A question with its answer; ``kind`` indexes `KINDS`."""

    kind: int
    question: str
    answer: str


def questions(
    rng: np.random.Generator, scenes: NDArray[np.int64], count: int, pairs: Sequence[Pair]
) -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.int64]]:
    """Ask scenes ``[N, M, 4]`` for their description and ``count`` questions more.

    Args:
        rng: the only source of chance. pairs: combinations ``(colour, shape)`` that may be asked after.

    Returns:
        questions, answers ``[N, count + 1]``, and their kinds.
    """
    rows = []
    for one in scenes.tolist():
        scene = tuple(Thing(*row) for row in one if row[0] >= 0)
        rows.append([Question(0, DESCRIBE, caption(scene)), *_asked(rng, scene, count, pairs)])
    return (
        np.array([[q.question for q in row] for row in rows]),
        np.array([[q.answer for q in row] for row in rows]),
        np.array([[q.kind for q in row] for row in rows], np.int64),
    )


def _asked(rng: np.random.Generator, scene: Scene, count: int, pairs: Sequence[Pair]) -> list[Question]:
    """Different questions as far as the scene has as many."""
    unsuitable = {"relation": not _related(scene), "place": not _placed(scene)}
    kinds = [kind for kind in _ASK if not unsuitable.get(kind, False)]
    weights = np.array([_WEIGHTS.get(kind, 1.0) for kind in kinds])
    shares = weights / weights.sum()
    found: list[Question] = []
    for _ in range(count):
        for _ in range(_TRIES):
            kind = kinds[int(rng.choice(len(kinds), p=shares))]
            question, answer = _ASK[kind](rng, scene, pairs)
            if all(question != other.question for other in found):
                break
        found.append(Question(KINDS.index(kind), question, answer))
    return found


# ---------------------------------------------------------------------------------------------- one kind after another


def _colour(rng: np.random.Generator, scene: Scene, pairs: Sequence[Pair]) -> tuple[str, str]:
    del pairs
    thing = _one(rng, scene)
    return f"what colour is the {_reference(rng, scene, thing, 'size shape')}?", COLOURS[thing.colour]


def _shape(rng: np.random.Generator, scene: Scene, pairs: Sequence[Pair]) -> tuple[str, str]:
    del pairs
    thing = _one(rng, scene)
    return f"what shape has the {_reference(rng, scene, thing, 'size colour')}?", SHAPES[thing.shape]


def _size(rng: np.random.Generator, scene: Scene, pairs: Sequence[Pair]) -> tuple[str, str]:
    del pairs
    thing = _one(rng, scene)
    return f"how large is the {_reference(rng, scene, thing, 'colour shape')}?", SIZES[thing.size]


def _place(rng: np.random.Generator, scene: Scene, pairs: Sequence[Pair]) -> tuple[str, str]:
    del pairs
    named = _placed(scene)
    thing, name = named[int(rng.integers(len(named)))]
    return f"which quarter holds the {name}?", PLACES[thing.place]


def _count(rng: np.random.Generator, scene: Scene, pairs: Sequence[Pair]) -> tuple[str, str]:
    del pairs
    what, value = int(rng.integers(4)), _one(rng, scene)
    if rng.random() < 0.5:  # something that may well not be there
        value = Thing(int(rng.integers(len(SIZES))), int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES))), 0)
    noun, number = [
        ("objects", len(scene)),
        (f"{SIZES[value.size]} objects", sum(t.size == value.size for t in scene)),
        (f"{COLOURS[value.colour]} objects", sum(t.colour == value.colour for t in scene)),
        (f"{SHAPES[value.shape]}s", sum(t.shape == value.shape for t in scene)),
    ][what]
    return f"how many {noun} are there?", _NUMBERS[number]


def _existence(rng: np.random.Generator, scene: Scene, pairs: Sequence[Pair]) -> tuple[str, str]:
    there = sorted({(t.colour, t.shape) for t in scene})
    if rng.random() < 0.5:
        colour, shape = there[int(rng.integers(len(there)))]
        return f"is there a {COLOURS[colour]} {SHAPES[shape]}?", "yes"
    absent = sorted(set(pairs) - set(there))
    mixed = [p for p in absent if p[0] in {c for c, _ in there} or p[1] in {s for _, s in there}]
    among = mixed if mixed and rng.random() < _HARD else absent
    colour, shape = among[int(rng.integers(len(among)))]
    return f"is there a {COLOURS[colour]} {SHAPES[shape]}?", "no"


def _relation(rng: np.random.Generator, scene: Scene, pairs: Sequence[Pair]) -> tuple[str, str]:
    del pairs
    named = _related(scene)
    first, second = rng.choice(len(named), size=2, replace=False).tolist()
    (a, a_name), (b, b_name) = named[first], named[second]
    return f"where is the {a_name}, seen from the {b_name}?", f"{seen_from(a.place, b.place)} it"


def seen_from(place: int, other: int) -> str:
    """Where a place is of another, whichever comes first: ``"below and right of"``."""
    if place < other:
        return relation(place, other)
    opposite = {"above": "below", "left": "right", "right": "left"}
    return " ".join(opposite.get(word, word) for word in relation(other, place).split())


_ASK: dict[str, Callable[[np.random.Generator, Scene, Sequence[Pair]], tuple[str, str]]] = {
    "colour": _colour, "shape": _shape, "size": _size, "place": _place, "count": _count, "existence": _existence,
    "relation": _relation,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- naming


def _one(rng: np.random.Generator, scene: Scene) -> Thing:
    return scene[int(rng.integers(len(scene)))]


def _reference(rng: np.random.Generator, scene: Scene, thing: Thing, by: str) -> str:
    """Half of the time, and where attributes do not tell one object, by its place."""
    attributes = by.split()
    if rng.random() < 0.5 and _unique(scene, thing, attributes):
        return _named(thing, attributes)
    return f"object at the {PLACES[thing.place]}"


def _related(scene: Scene) -> list[tuple[Thing, str]]:
    """Objects that colour and shape tell, with their names; none where they are fewer than two."""
    found = [(t, _named(t, ["colour", "shape"])) for t in scene if _unique(scene, t, ["colour", "shape"])]
    return found if len(found) > 1 else []


def _placed(scene: Scene) -> list[tuple[Thing, str]]:
    """Objects that two attributes tell, with all such names; none where all objects are twins."""
    by = (["size", "colour"], ["size", "shape"], ["colour", "shape"])
    return [(t, _named(t, attributes)) for t in scene for attributes in by if _unique(scene, t, attributes)]


def _unique(scene: Scene, thing: Thing, attributes: Sequence[str]) -> bool:
    return sum(all(getattr(t, a) == getattr(thing, a) for a in attributes) for t in scene) == 1


def _named(thing: Thing, attributes: Sequence[str]) -> str:
    words = {"size": SIZES[thing.size], "colour": COLOURS[thing.colour], "shape": SHAPES[thing.shape]}
    return " ".join(words[a] for a in attributes) + ("" if "shape" in attributes else " object")
