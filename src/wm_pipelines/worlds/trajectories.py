"""Trajectories read from a table (CSV or Parquet): columns and units declared, every number checked, SI afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.quantities import dimension, kind, to_base_units

_IRREGULAR = 1e-3  # of the step: what rounding in a text file may do to a regular time grid


class Column(BaseModel):
    """One column of the table and the unit of its numbers; the unit ``1`` means a plain number."""

    model_config = ConfigDict(extra="forbid")

    column: str
    unit: str

    @field_validator("unit", mode="before")
    @classmethod
    def _known_unit(cls, unit: Any) -> str:
        to_base_units(str(unit))
        return str(unit)


class Columns(BaseModel):
    """Which columns hold what; coordinates and momenta (or velocities) in the same order."""

    model_config = ConfigDict(extra="forbid")

    episode: str | None = Field(None, description="null: the whole table is one episode")
    time: Column
    coordinates: list[Column] = Field(min_length=1)
    momenta: list[Column] | None = None
    velocities: list[Column] | None = None

    @property
    def rates(self) -> list[Column]:
        """The momenta or the velocities, whichever the table has."""
        return self.momenta or self.velocities or []

    @property
    def all(self) -> list[Column]:
        """Time, coordinates, momenta or velocities."""
        return [self.time, *self.coordinates, *self.rates]

    @property
    def reduced(self) -> bool:
        """Whether the table is in units of its own: every column a plain number."""
        return all(c.unit == "1" for c in self.all)

    @model_validator(mode="after")
    def _fit_together(self) -> Columns:
        if (self.momenta is None) == (self.velocities is None):
            raise ValueError("give either momenta or velocities, one column per coordinate")
        if len(self.rates) != len(self.coordinates):
            raise ValueError(f"{len(self.coordinates)} coordinates but {len(self.rates)} momenta or velocities")
        names = [c.column for c in self.all] + ([self.episode] if self.episode is not None else [])
        if len(set(names)) < len(names):
            raise ValueError(f"column '{next(n for n in names if names.count(n) > 1)}' is used twice")
        if not self.reduced:
            self._check_units()
        return self

    def _check_units(self) -> None:
        expect_unit(self.time, "s")
        for coordinate, rate in zip(self.coordinates, self.rates, strict=True):
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
    """One episode of the table in SI units: ``time [K]``, ``state [K, 2d]``."""

    name: str
    time: Float
    state: Float

    def part(self, start: int, stop: int) -> Trajectory:
        """Rows ``start`` to ``stop - 1``."""
        return Trajectory(self.name, self.time[start:stop], self.state[start:stop])


def project_path(path: str) -> Path:
    """A relative path starts at the project's root: the nearest directory upwards that has a pyproject.toml."""
    here = Path.cwd()
    root = next((d for d in (here, *here.parents) if (d / "pyproject.toml").is_file()), here)
    return root / Path(path).expanduser()


def read_trajectories(path: Path, columns: Columns, fewest: int = 2) -> list[Trajectory]:
    """Read the table's episodes, in the order of their first rows, in SI units; velocities are not yet momenta.

    Args:
        path: a CSV or Parquet file.
        columns: what to read.
        fewest: rows an episode must have.

    Raises:
        UserError: names the column and the data row (counted from 1, without the header).
    """
    frame = _frame(path, columns)
    if len(frame) == 0:
        raise UserError(f"'{path.name}' has no rows; a table of trajectories needs at least {fewest} per episode")
    episode, names = _episode_codes(path, frame, columns.episode)
    values = [_numbers(path, frame, c.column) * to_base_units(c.unit) for c in columns.all]
    time, state = values[0], np.stack(values[1:], axis=-1)
    order = np.argsort(episode, kind="stable")
    _check_time(path, columns.time.column, episode[order], time[order], state[order], order)
    groups = np.split(order, np.flatnonzero(np.diff(episode[order])) + 1)
    for name, rows in zip(names, groups, strict=True):
        if len(rows) < fewest:
            raise UserError(f"'{path.name}': episode '{name}' has {len(rows)} rows, at least {fewest} are needed")
    return [Trajectory(name, time[rows], state[rows]) for name, rows in zip(names, groups, strict=True)]


def _frame(path: Path, columns: Columns) -> Any:
    """The declared columns as a data frame."""
    import pandas as pd
    import pyarrow as pa

    if not path.is_file():
        raise UserError(f"no table at '{path}'; set `path` to a CSV or Parquet file")
    wanted = [c.column for c in columns.all] + ([columns.episode] if columns.episode is not None else [])
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
        else:
            with warnings.catch_warnings():
                # Rows longer than the header: pandas would drop the excess, or shift the columns, and only warn.
                warnings.simplefilter("error", pd.errors.ParserWarning)
                # A blank line is a fault to report, not to skip: it would shift the row numbers of later messages.
                frame = pd.read_csv(
                    path, index_col=False, skip_blank_lines=False, skipinitialspace=True, low_memory=False
                )
    # pandas' parser errors are ValueErrors, its warnings are not.
    except (pa.ArrowException, OSError, ValueError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"cannot read table '{path}': {reason}; is it a whole CSV or Parquet file?") from error
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        found = ", ".join(map(str, frame.columns[:12]))
        raise UserError(f"'{path.name}' has no column '{missing[0]}'; it has {found}")
    frame = frame[wanted]
    filled = np.flatnonzero(frame.notna().any(axis=1).to_numpy())
    return frame.iloc[: filled[-1] + 1 if filled.size else 0]  # blank lines at the very end are no fault


def _numbers(path: Path, frame: Any, column: str) -> Float:
    """One column as float64, every entry a finite number."""
    import pandas as pd

    raw = frame[column]
    if pd.api.types.is_bool_dtype(raw) or pd.api.types.is_datetime64_any_dtype(raw):
        raise UserError(f"'{path.name}', column '{column}': expected numbers, got {raw.dtype}; use seconds, metres …")
    numbers = pd.to_numeric(raw, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        entry = raw.iloc[bad[0]]
        shown = "nothing (NaN)" if pd.isna(entry) else repr(str(entry)[:40])
        raise UserError(
            f"'{path.name}', column '{column}', data row {bad[0] + 1}: expected a finite number, got {shown}"
            + (f" ({bad.size} such rows)" if bad.size > 1 else "")
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

    Raises:
        UserError: the intervals differ by more than rounding explains.
    """
    intervals = np.concatenate([np.diff(t.time) for t in trajectories])
    usual, step = float(np.median(intervals)), float(np.mean(intervals))
    for trajectory in trajectories:
        gap = np.diff(trajectory.time)
        odd = np.flatnonzero(np.abs(gap - usual) > _IRREGULAR * usual)
        if odd.size:
            raise UserError(
                f"'{name}': time steps are not all equal: {gap[odd[0]]:g} s after row {odd[0] + 1} of episode "
                f"'{trajectory.name}', usually {usual:g} s; set `resample: {usual:g}` (cubic spline) or mend the table"
            )
    return step


def resampled(trajectory: Trajectory, step: float) -> Trajectory:
    """The trajectory on a regular grid from its first moment on, by cubic splines."""
    from scipy.interpolate import CubicSpline

    duration = trajectory.time[-1] - trajectory.time[0]
    steps = int(np.floor(duration / step * (1 + 1e-12)))
    if steps < 1:
        raise UserError(f"`resample: {step:g}` is longer than episode '{trajectory.name}' ({duration:g} s)")
    grid = step * np.arange(steps + 1.0)
    spline = CubicSpline(trajectory.time - trajectory.time[0], trajectory.state, axis=0)
    return Trajectory(trajectory.name, trajectory.time[0] + grid, spline(np.minimum(grid, duration)))
