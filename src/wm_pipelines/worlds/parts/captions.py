"""Words for captions: numbers with units, counts, directions."""

from __future__ import annotations

import math
from collections.abc import Sequence

_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def number(value: float, unit: str = "", digits: int = 3) -> str:
    """A number to so many significant digits, with its unit: ``number(0.12345, "m") -> "0.123 m"``."""
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-3 <= abs(value) < 1e6:
        text = f"{value:.0f}"
    return f"{text} {unit}" if unit else text


def degrees(angle: float) -> str:
    """An angle in radians, in whole degrees: ``"-30 degrees"``."""
    return f"{round(math.degrees(angle)) + 0:d} degrees"  # + 0: no minus zero


def count(n: int, noun: str) -> str:
    """``count(2, "turn") -> "two turns"``; figures above twelve."""
    word = _SMALL[n] if 0 <= n < len(_SMALL) else str(n)
    return f"{word} {noun}" if n == 1 else f"{word} {noun}s"


def turning(angular: float) -> str:
    """The sense of a positive or negative rotation in a right-handed plane."""
    return "anticlockwise" if angular > 0 else "clockwise"


def listing(words: Sequence[str]) -> str:
    """``["a", "b", "c"] -> "a, b and c"``."""
    *head, last = words
    return f"{', '.join(head)} and {last}" if head else last


def masses(values: Sequence[float]) -> str:
    """The masses of several bodies: once where they are equal, all where few, a range where many."""
    if len(set(values)) == 1:
        return number(values[0], "kg") + (" each" if len(values) > 1 else "")
    if len(values) <= 4:
        return listing([number(v) for v in values]) + " kg"
    return f"{number(min(values))} to {number(max(values), 'kg')}"
