"""A table compared with itself: do coordinates move as their rates say, and as a declared energy says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.parts.quantities import dimension, to_base_units
from wm_pipelines.worlds.parts.trajectories import Column, Trajectory

Float = NDArray[np.float64]

_OFF = 0.1  # departure of a least-squares ratio from 1 that is named
_ONE_OF_UNITS = 0.9  # of the coordinate's steps explained: from here on a ratio that is not 1 is one of units
_NO_RATE = 0.5  # likewise: below, it is no rate of the coordinate
_LEAPS = 2.0  # times what the fastest row of the table covers in one step
_FAR = 0.2  # of the coordinate's range: shorter leaps may be noise
_LONE_LEAPS = 10.0  # where there are no rates: times what nine of ten steps cover at most
_FEW = 0.1  # of the steps: where more of them leap, it is the rates that are wrong
_LENGTHS = ("m", "cm", "mm", "um", "nm", "angstrom", "km", "inch", "ft", "au")
_ANGLES, _TIMES = ("rad", "deg", "turn"), ("s", "ms", "us", "ns", "ps", "fs", "min", "h", "day", "year")


@dataclass(frozen=True)
class Movement:
    """How far the rates of a coordinate account for its steps.

    Attributes:
        ratio: of the steps to the integrals of the rates, least squares. explained: share of the steps' squares that
            the rates explain with that ratio.
    """

    ratio: float
    explained: float


def movement(times: Sequence[Float], coordinates: Sequence[Float], rates: Sequence[Float]) -> Movement | None:
    """Steps over two rows against Simpson's rule; None where nothing moves or no episode has three rows."""
    steps = np.concatenate([q[2:] - q[:-2] for q in coordinates])
    integrals = np.concatenate(
        [(t[2:] - t[:-2]) / 6 * (v[:-2] + 4 * v[1:-1] + v[2:]) for t, v in zip(times, rates, strict=True)]
    )
    squares, own = float((integrals**2).sum()), float((steps**2).sum())
    if squares == 0.0 or own == 0.0:
        return None
    across = float((steps * integrals).sum())
    return Movement(across / squares, (across / squares) * (across / own))  # a square of 1e180 is no number


def compare_rates(
    name: str, trajectories: Sequence[Trajectory], q: Column, rate: Column, place: int, v: Sequence[Float]
) -> str | None:
    """What is wrong between a coordinate and the column of its rates, one line; None where nothing is.

    Args:
        name: of the file. place: of the coordinate. v: its velocity by the table, of every episode ``[K]``, SI.
    """
    found = movement([t.time for t in trajectories], [t.state[:, place] for t in trajectories], v)
    if found is None:
        return None
    if found.explained < _NO_RATE:
        return (
            f"'{name}': '{rate.column}' explains {max(found.explained, 0):.0%} of the steps of '{q.column}': is it its "
            "rate, and do rows lie close enough together?"
        )
    if abs(found.ratio - 1.0) < _OFF or found.explained < _ONE_OF_UNITS:
        return None
    fitting = _unit_that_fits(rate, found.ratio)
    remedy = f"its unit seems to be {fitting}, not {rate.unit}" if fitting else "look at its unit and at the masses"
    return f"'{name}': slopes of '{q.column}' are {found.ratio:.3g} times '{rate.column}': {remedy}"


def compare_energy(
    name: str, trajectories: Sequence[Trajectory], q: Column, place: int, dh_dp: Sequence[Float]
) -> str | None:
    """What is wrong between a coordinate and ``dH/dp`` of the declared energy, one line; None where nothing is."""
    found = movement([t.time for t in trajectories], [t.state[:, place] for t in trajectories], dh_dp)
    if found is None or (abs(found.ratio - 1.0) < _OFF and found.explained > _NO_RATE):
        return None
    return (
        f"'{name}': slopes of '{q.column}' are {found.ratio:.3g} times dH/dp{place + 1} of the declared energy (which "
        f"explains {max(found.explained, 0):.0%} of them): look at the formula, its constants and the masses"
    )


def _unit_that_fits(rate: Column, ratio: float) -> str | None:
    """A unit of the same kind that would make the ratio 1."""
    wanted = rate.si * ratio
    for over, under in product((*_ANGLES, *_LENGTHS), _TIMES):
        unit = f"{over}/{under}"
        if dimension(unit) == dimension(rate.unit) and abs(to_base_units(unit) / wanted - 1.0) < 0.03:
            same_kind = (over in _ANGLES) == ("rad" in rate.unit or "deg" in rate.unit or "turn" in rate.unit)
            if same_kind:
                return unit
    return None


def refuse_leaps(
    name: str,
    trajectories: Sequence[Trajectory],
    columns: Sequence[Column],
    rates: Sequence[Column],
    masses: Sequence[float] | None,
) -> None:
    """Refuse coordinates that jump: written back into a periodic box, an undeclared angle, a reset within an episode.

    Args:
        name: of the file. columns: of the coordinates. rates: of their rates, or none.
        masses: what the second half of a state is divided by to be a velocity; None where it is none.

    Raises:
        UserError: which coordinate jumps, where, and how far it should have moved.
    """
    first, boxes = "", {}
    for place, column in enumerate(columns):
        steps = [np.diff(t.state[:, place]) for t in trajectories]
        covered = [np.zeros_like(s) for s in steps]
        if masses is not None:
            speeds = [t.state[:, len(columns) + place] / masses[place] for t in trajectories]
            covered = [0.5 * (v[1:] + v[:-1]) * np.diff(t.time) for v, t in zip(speeds, trajectories, strict=True)]
        far = _leap(trajectories, place, steps, None if masses is None else covered)
        leaps = [np.flatnonzero(np.abs(s) > far) for s in steps]
        if not 0 < sum(map(len, leaps)) < _FEW * sum(map(len, steps)):
            continue
        unit, si = "" if column.unit == "1" else f" {column.unit}", to_base_units(column.unit)
        lengths = np.concatenate([np.abs(s - c)[k] for s, c, k in zip(steps, covered, leaps, strict=True)])
        boxes[column.column] = f"{float(np.median(lengths)) / si:.3g}{unit}"
        if first:
            continue
        episode = next(k for k, found in enumerate(leaps) if len(found))
        row = int(leaps[episode][0])
        moves = covered[episode][row] / si
        first = (
            f"'{name}': '{column.column}' jumps by {steps[episode][row] / si:+.3g}{unit} after row {row + 1} of "
            f"episode '{trajectories[episode].name}'"
            + ("" if masses is None else f" while '{rates[place].column}' says {moves:+.2g}")
            + ": wrapped into a box? unwrap it, or declare "
        )
        if dimension(column.unit) == dimension("rad"):
            first += f"`angles: [{place}]` or "
    if first:
        raise UserError(f"{first}`period: {{{', '.join(f'{c}: {box}' for c, box in boxes.items())}}}`")


def _leap(
    trajectories: Sequence[Trajectory], place: int, steps: Sequence[Float], covered: Sequence[Float] | None
) -> float:
    """How far a coordinate cannot come in one step."""
    reach = float(np.ptp(np.concatenate([t.state[:, place] for t in trajectories])))
    if covered is None:
        return max(_LONE_LEAPS * float(np.quantile(np.abs(np.concatenate(steps)), 0.9)), 0.5 * reach)
    return max(_LEAPS * max(float(np.abs(c).max()) for c in covered), _FAR * reach)
