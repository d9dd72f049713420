"""Trajectories read from a table (CSV or Parquet): columns and units declared, every number checked, SI afterwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.quantities import (
    LARGEST,
    UnitError,
    dimension,
    kind,
    split_quantity,
    to_base_units,
    within_bounds,
)
from wm_pipelines.worlds.parts.recorded_actions import ActionColumn, action_entries, number_column
from wm_pipelines.worlds.parts.table_files import as_numbers, read_columns

_RESAMPLED = 2**30  # bytes that `resample` may make of any table; of a larger one ten times its size
_IRREGULAR = 1e-3  # of the step: what a time grid may depart from a regular one beyond its last printed digit
_TIMES_READ = 4096  # of a table, to learn how many digits it prints


class Column(Settings):
    """One column of the table and the unit of its numbers; the unit ``1`` means a plain number.

    ``unit: 2.5 mm`` is a unit with a scale: each 1 of the table stands for 2.5 mm, as pixels do in a calibrated video.
    """

    column: str
    unit: str
    scale: float = Field(1.0, gt=0, description="how many units each 1 of the table stands for")

    @model_validator(mode="before")
    @classmethod
    def _scaled(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("unit"), str):
            return data
        try:
            number, unit = split_quantity(data["unit"])
        except UnitError:
            return data
        if not unit[:1].isalpha():  # 1, or 1/s
            return data
        if "scale" in data:
            raise ValueError(f"column '{data.get('column')}': the unit '{data['unit']}' has a scale; remove `scale`")
        return {**data, "unit": unit, "scale": number}

    @field_validator("unit", mode="before")
    @classmethod
    def _known_unit(cls, unit: Any) -> str:
        to_base_units(str(unit))
        return str(unit)

    @property
    def si(self) -> float:
        """What each 1 of the table is in SI base units."""
        return self.scale * to_base_units(self.unit)


class Columns(Settings):
    """Which columns hold what; coordinates and momenta (or velocities) in the same order."""

    episode: str | None = Field(None, description="null: the whole table is one episode")
    time: Column
    coordinates: list[Column] = Field(min_length=1)
    momenta: list[Column] | None = None
    velocities: list[Column] | Literal["estimate"] | None = Field(
        None, description="estimate: the slopes of smoothing splines through the coordinates"
    )
    actions: list[ActionColumn] = Field(default_factory=list, description="that of a row acts until the next row")
    reward: str | None = Field(None, description="column of plain numbers, each for the action in its row")

    @property
    def estimated(self) -> bool:
        """Whether the table has coordinates alone, and velocities are estimated."""
        return self.velocities == "estimate"

    @property
    def rates(self) -> list[Column]:
        """The momenta or the velocities, whichever the table has; none where they are estimated."""
        return self.momenta or (self.velocities if isinstance(self.velocities, list) else None) or []

    @property
    def all(self) -> list[Column]:
        """Time, coordinates, momenta or velocities."""
        return [self.time, *self.coordinates, *self.rates]

    @property
    def acted(self) -> list[str]:
        """Names of the columns of actions and rewards."""
        return [a.column for a in self.actions] + ([self.reward] if self.reward is not None else [])

    @property
    def reduced(self) -> bool:
        """Whether the table is in units of its own: every column a plain number."""
        return all(c.unit == "1" for c in self.all)

    @model_validator(mode="after")
    def _fit_together(self) -> Columns:
        if (self.momenta is None) == (self.velocities is None):
            raise ValueError("give either momenta or velocities, one column per coordinate (or velocities: estimate)")
        if self.reward is not None and not self.actions:
            raise ValueError("reward: a reward is one of an action; declare actions, too")
        if not self.estimated and len(self.rates) != len(self.coordinates):
            raise ValueError(f"{len(self.coordinates)} coordinates but {len(self.rates)} momenta or velocities")
        names = [c.column for c in self.all] + ([self.episode] if self.episode is not None else []) + self.acted
        if len(set(names)) < len(names):
            raise ValueError(f"column '{next(n for n in names if names.count(n) > 1)}' is used twice")
        if not self.reduced:
            self._check_units()
        return self

    def _check_units(self) -> None:
        expect_unit(self.time, "s")
        for coordinate, rate in zip(self.coordinates, self.rates, strict=not self.estimated):
            # The product of a coordinate and its momentum is an action, whatever kind of coordinate it is.
            wanted = f"kg*m^2/s/({coordinate.unit})" if self.momenta else f"({coordinate.unit})/s"
            named = {"m": ("kg*m/s", "m/s"), "rad": ("kg*m^2/s", "rad/s")}
            for unit, (momentum, velocity) in named.items():
                if dimension(coordinate.unit) == dimension(unit):
                    wanted = momentum if self.momenta else velocity
            expect_unit(rate, wanted)


def expect_unit(column: Column, unit: str) -> None:
    """Raise ValueError where a column does not measure what ``unit`` measures."""
    if dimension(column.unit) != dimension(unit):
        got = kind(column.unit).split(" ", 1)[1]
        raise ValueError(f"column '{column.column}': expected {kind(unit)} in {unit}, got {column.unit} ({got})")


@dataclass(frozen=True)
class Trajectory:
    """One episode of the table in SI units: ``time [K]``, ``state [K, 2d]`` (``[K, d]`` before rates are estimated).

    Attributes:
        derivative: ``[K, 2d]``, where it was estimated. digit: the last digit of its times that the table prints, s.
        actions: ``[K, A]`` in [-1, 1], and rewards ``[K]``, where the table has any; the last row's are of no use.
    """

    name: str
    time: Float
    state: Float
    derivative: Float | None = None
    digit: float = 0.0
    actions: Float | None = None
    rewards: Float | None = None

    def part(self, start: int, stop: int) -> Trajectory:
        """Rows ``start`` to ``stop - 1``."""
        names = ("time", "state", "derivative", "actions", "rewards")
        rows: dict[str, Any] = {n: None if (a := getattr(self, n)) is None else a[start:stop] for n in names}
        return replace(self, **rows)


def read_trajectories(
    path: Path, columns: Columns, fewest: int = 2, header: Sequence[str] | None = None
) -> list[Trajectory]:
    """Read the table's episodes, in the order of their first rows, in SI units; velocities are not yet momenta.

    Args:
        path: a CSV or Parquet file.
        columns: what to read.
        fewest: rows an episode must have.
        header: see `read_columns`.

    Raises:
        UserError: names the column and the data row (counted from 1, without the header).
    """
    if not path.is_file():
        raise UserError(f"no table at '{path}'; set `path` to a CSV or Parquet file")
    frame = read_columns(path, [*(c.column for c in columns.all), *columns.acted], columns.episode, header=header)
    if len(frame) == 0:
        raise UserError(f"'{path.name}' has no rows; a table of trajectories needs at least {fewest} per episode")
    episode, names = _episode_codes(path, frame, columns.episode)
    values = [_numbers(path, frame, c, is_time=c is columns.time) for c in columns.all]
    time, state = values[0], np.stack(values[1:], axis=-1)
    order = np.argsort(episode, kind="stable")
    _check_time(path, columns.time.column, episode[order], time[order], state[order], order)
    groups = np.split(order, np.flatnonzero(np.diff(episode[order])) + 1)
    for name, rows in zip(names, groups, strict=True):
        if len(rows) < fewest:
            raise UserError(f"'{path.name}': episode '{name}' has {len(rows)} rows, at least {fewest} are needed")
    digit = last_digit(frame[columns.time.column]) * columns.time.si
    acting = np.ones(len(frame), np.bool_)
    acting[[rows[-1] for rows in groups]] = False
    actions = action_entries(path, frame, columns.actions, acting) if columns.actions else None
    rewards = None if columns.reward is None else number_column(path, frame, columns.reward, acting)
    return [
        Trajectory(
            name,
            time[rows],
            state[rows],
            digit=digit,
            actions=None if actions is None else actions[rows],
            rewards=None if rewards is None else rewards[rows],
        )
        for name, rows in zip(names, groups, strict=True)
    ]


def last_digit(raw: Any) -> float:
    """The place of the last digit that a table prints of its times: 0.001 for ``0.033, 0.067, 0.1``.

    The largest over the powers of ten, where numbers are printed with equally many significant digits (``6.67e-02,
    1.03e+00``). For numbers in full double precision that is a rounding error.
    """
    if getattr(raw.dtype, "kind", "O") not in "if":
        return 0.0
    entries = raw.to_numpy()[np.linspace(0, len(raw) - 1, min(len(raw), _TIMES_READ)).astype(int)]
    by_power: defaultdict[int, list[int]] = defaultdict(list)
    for entry in entries[entries != 0]:
        written = Decimal(str(entry)).normalize()
        by_power[written.adjusted()].append(int(written.as_tuple().exponent))
    if not by_power:
        return 0.0
    # Zeros at the end are not seen in numbers: of ten entries one at least shows the last digit.
    places = [min(places) for places in by_power.values() if len(places) >= 10]
    return float(10.0 ** max(places, default=min(map(min, by_power.values()))))


def _numbers(path: Path, frame: Any, column: Column, is_time: bool) -> Float:
    """One column in SI units, every entry a finite number."""
    import pandas as pd

    raw, about = frame[column.column], f"'{path.name}', column '{column.column}'"
    numbers = as_numbers(raw, about, is_time)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        entry = raw.iloc[bad[0]]
        shown = "nothing (NaN)" if pd.isna(entry) else repr(str(entry)[:40])
        raise UserError(
            f"{about}, data row {bad[0] + 1}: expected a finite number, got {shown}"
            + (f" ({bad.size} such rows)" if bad.size > 1 else "")
        )
    if getattr(raw.dtype, "kind", "O") == "m":  # seconds already, whatever unit is declared
        if column.unit == "1":
            raise UserError(f"{about}: the file holds durations, no plain numbers; declare `unit: s`")
        return numbers
    with np.errstate(over="ignore"):
        numbers = numbers * column.si
    huge = np.flatnonzero(np.abs(numbers) > LARGEST)
    if huge.size:
        raise UserError(
            f"{about}, data row {huge[0] + 1}: {raw.iloc[huge[0]]} {column.unit} is beyond {LARGEST:g} in SI units; "
            "mend the row or the unit"
        )
    return numbers


def _episode_codes(path: Path, frame: Any, column: str | None) -> tuple[NDArray[np.intp], list[str]]:
    """Number of the episode of every row, and the episodes' names, in the order of their first rows."""
    import pandas as pd

    if column is None:
        return np.zeros(len(frame), np.intp), ["0"]
    empty = np.flatnonzero(frame[column].isna().to_numpy())
    if empty.size:
        raise UserError(f"'{path.name}', column '{column}', data row {empty[0] + 1}: the episode is missing")
    if not pd.api.types.is_hashable(frame[column].iloc[0]):
        raise UserError(f"'{path.name}', column '{column}': expected a name or a number per row, got lists")
    codes, names = pd.factorize(frame[column], sort=False)
    whole = pd.api.types.is_float_dtype(frame[column]) and all(float(n).is_integer() for n in names)
    return codes, [str(int(n)) if whole else str(n) for n in names]


def _check_time(
    path: Path, column: str, episode: NDArray[np.intp], time: Float, state: Float, order: NDArray[np.intp]
) -> None:
    """Time must increase within an episode. All sorted by episode; ``order`` are places in the table."""
    wrong = np.flatnonzero((np.diff(episode) == 0) & (np.diff(time) <= 0))
    if wrong.size == 0:
        return
    i = wrong[0]
    before, here = order[i] + 1, order[i + 1] + 1
    if time[i] == time[i + 1] and (state[i] == state[i + 1]).all():
        raise UserError(f"'{path.name}', data row {here}: a duplicate of row {before}; remove it")
    raise UserError(
        f"'{path.name}', column '{column}', data row {here}: time does not increase ({time[i]:g} s to "
        f"{time[i + 1]:g} s); sort the rows, or declare the column that tells episodes apart"
    )


def regular_step(name: str, trajectories: Sequence[Trajectory]) -> float:
    """The step that all episodes share.

    Times lie on a regular grid where none departs from it by more than half the last digit that the table prints; or
    where no interval departs from the usual one by a thousandth.

    Raises:
        UserError: the intervals differ by more than rounding explains, or are too short to be computed with.
    """
    intervals = np.concatenate([np.diff(t.time) for t in trajectories])
    usual, step = float(np.median(intervals)), float(np.mean(intervals))
    allowed = _IRREGULAR * usual
    if np.abs(intervals - usual).max() > allowed and not _as_printed(trajectories, intervals):
        # Name what rounding does not explain, if there is such a row.
        rounding = max(allowed, 1.5 * max(t.digit for t in trajectories))
        least = rounding if np.abs(intervals - usual).max() > rounding else allowed
        odd = next(t for t in trajectories if np.abs(np.diff(t.time) - usual).max(initial=0.0) > least)
        gap = np.diff(odd.time)
        row = int(np.argmax(np.abs(gap - usual) > least))
        raise UserError(
            f"'{name}': time steps are not all equal: {gap[row]:g} s after row {row + 1} of episode '{odd.name}', "
            f"usually {usual:g} s; set `resample: {usual:g}` (cubic spline) or mend the table"
        )
    if not within_bounds(step):
        raise UserError(f"'{name}': a time step of {step:g} s is no physical time; mend the time column or its unit")
    return step


def _as_printed(trajectories: Sequence[Trajectory], intervals: Float) -> bool:
    """Whether one step for all episodes exists from which no time departs by more than half its last digit."""
    from scipy.optimize import minimize_scalar

    digit, shortest, longest = max(t.digit for t in trajectories), float(intervals.min()), float(intervals.max())
    # The intervals of a rounded grid are the two multiples of the digit about the step; where that is hardly longer
    # than the digit, a missing row would look like one of them.
    if not 0.0 < 1.5 * digit < intervals.mean() or longest - shortest > digit * (1 + 1e-6):
        return False

    def width(step: float) -> float:
        """The largest range of ``t - k step`` in an episode: convex in the step."""
        return max(float(np.ptp(t.time - t.time[0] - step * np.arange(len(t.time)))) for t in trajectories)

    accuracy = 1e-4 * digit / max(len(t.time) for t in trajectories)
    best = minimize_scalar(width, bounds=(shortest, longest), method="bounded", options={"xatol": accuracy})
    return float(best.fun) <= digit * (1 + 1e-3)


def check_resampling(name: str, trajectories: Sequence[Trajectory], step: float) -> None:
    """Refuse a grid so fine that the episodes on it would fill the memory.

    Raises:
        UserError: how many rows that would be.
    """
    rows = [float(t.time[-1] - t.time[0]) / step + 1.0 for t in trajectories]
    own, width = sum(len(t.time) for t in trajectories), 8 * (1 + trajectories[0].state.shape[1])
    allowed = max(_RESAMPLED, 10 * own * width) / width
    if sum(rows) > allowed:
        raise UserError(
            f"'{name}': `resample: {step:g}` makes {max(rows):.3g} rows of an episode, {sum(rows):.3g} in all "
            f"({sum(rows) * width / 2**30:.3g} GiB), of {own} rows in the table; use at least "
            f"{step * sum(rows) / allowed:.1g} s"
        )


def resampled(trajectory: Trajectory, step: float) -> Trajectory:
    """The trajectory on a regular grid from its first moment on, by cubic splines."""
    from scipy.interpolate import CubicSpline

    duration = trajectory.time[-1] - trajectory.time[0]
    steps = int(np.floor(duration / step * (1 + 1e-12)))
    if steps < 1:
        raise UserError(f"`resample: {step:g}` is longer than episode '{trajectory.name}' ({duration:g} s)")
    grid = step * np.arange(steps + 1.0)
    spline = CubicSpline(trajectory.time - trajectory.time[0], trajectory.state, axis=0)
    return replace(trajectory, time=trajectory.time[0] + grid, state=spline(np.minimum(grid, duration)))
