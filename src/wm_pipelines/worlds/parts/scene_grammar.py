"""Sentences about still scenes, and the scenes behind them: a grammar without ambiguity.

A scene is a row of objects, each a tuple of numbers ``(size, colour, shape, place)`` that index `SIZES`, `COLOURS`,
`SHAPES` and `PLACES`; no two share a place. They are mentioned in the order of their places, so that a scene has one
caption. As arrays scenes are ``[N, M, 4]``, absent objects -1.

Grammar::

    caption  = object {", " relation " " object}
    object   = "a " size " " colour " " shape " at the " place
    relation = "left of" | "above" | "above and left of" | "above and right of"

A relation is that of an object to the one mentioned next. It follows from their places and is checked in reading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZES = ("small", "large")
COLOURS = ("red", "blue", "amber", "green", "violet")
SHAPES = ("circle", "square", "triangle")
PLACES = ("top left", "top right", "bottom left", "bottom right")
ATTRIBUTES = ("size", "colour", "shape", "place")
"""What the last axis of scenes holds, in this order."""


class Thing(NamedTuple):
    """An object of a scene, by numbers."""

    size: int
    colour: int
    shape: int
    place: int


Scene = tuple[Thing, ...]

_OBJECT = (
    rf"a (?P<size>{'|'.join(SIZES)}) (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})"
    rf" at the (?P<place>{'|'.join(PLACES)})"
)
_NEXT = re.compile(rf"(?:, (?P<relation>above(?: and (?:left|right) of)?|left of) )?{_OBJECT}")


def relation(first: int, second: int) -> str:
    """Where an object at one place is of another that is mentioned later: ``"above and left of"``."""
    (row, column), (row_after, column_after) = divmod(first, 2), divmod(second, 2)
    across = "left of" if column < column_after else "right of" if column > column_after else ""
    if row == row_after:
        return across
    return f"above and {across}" if across else "above"


def caption(scene: Sequence[Thing]) -> str:
    """The sentence about a scene, whatever the order in which its objects are given.

    Raises:
        ValueError: there are no objects, or two share a place.
    """
    things = sorted(scene, key=lambda thing: thing.place)
    if not things:
        raise ValueError("a scene without objects has no caption")
    if len({thing.place for thing in things}) < len(things):
        raise ValueError("two objects of a scene share a place")
    words = _named(things[0])
    for before, after in pairwise(things):
        words += f", {relation(before.place, after.place)} {_named(after)}"
    return words


def scene(text: str) -> Scene:
    """The scene that a caption describes: ``scene(caption(s)) == s`` for scenes in the order of their places.

    Raises:
        ValueError: the text is no sentence of the grammar, or contradicts itself.
    """
    things: list[Thing] = []
    position = 0
    while position < len(text) or not things:
        found = _NEXT.match(text, position)
        if found is None or (found["relation"] is None) != (not things):
            raise ValueError(f"no caption of a scene from {text[position : position + 30]!r} on: {text!r}")
        thing = Thing(
            SIZES.index(found["size"]),
            COLOURS.index(found["colour"]),
            SHAPES.index(found["shape"]),
            PLACES.index(found["place"]),
        )
        if things and (things[-1].place >= thing.place or found["relation"] != relation(things[-1].place, thing.place)):
            raise ValueError(f"places and relations contradict each other: {text!r}")
        things.append(thing)
        position = found.end()
    return tuple(things)


def captions(scenes: NDArray[np.int64]) -> NDArray[Any]:
    """Captions ``[N]`` of scenes ``[N, M, 4]``."""
    return np.array([caption([Thing(*row) for row in one if row[0] >= 0]) for one in scenes.tolist()])


def scenes(texts: Sequence[str]) -> NDArray[np.int64]:
    """Scenes ``[N, M, 4]`` of captions; M is the largest number of objects, absent ones are -1.

    Raises:
        ValueError: see `scene`.
    """
    read = [scene(text) for text in texts]
    found = np.full((len(read), max(map(len, read), default=0), len(ATTRIBUTES)), -1, np.int64)
    for row, one in zip(found, read, strict=True):
        row[: len(one)] = one
    return found


def _named(thing: Thing) -> str:
    return f"a {SIZES[thing.size]} {COLOURS[thing.colour]} {SHAPES[thing.shape]} at the {PLACES[thing.place]}"
