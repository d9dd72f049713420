"""Trajectories read from a table (CSV or Parquet): columns and units declared, every number checked, SI afterwards."""

from __future__ import annotations

import lzma
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tarfile import TarError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.quantities import LARGEST, dimension, kind, to_base_units, within_bounds

_RESAMPLED = 2**30  # bytes that `resample` may make of any table; of a larger one ten times its size
_IRREGULAR = 1e-3  # of the step: what rounding in a text file may do to a regular time grid


class Column(Settings):
    """One column of the table and the unit of its numbers; the unit ``1`` means a plain number."""

    column: str
    unit: str

    @field_validator("unit", mode="before")
    @classmethod
    def _known_unit(cls, unit: Any) -> str:
        to_base_units(str(unit))
        return str(unit)


class Columns(Settings):
    """Which columns hold what; coordinates and momenta (or velocities) in the same order."""

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
    if not path.is_file():
        raise UserError(f"no table at '{path}'; set `path` to a CSV or Parquet file")
    frame = read_columns(path, [c.column for c in columns.all], columns.episode)
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
    return [Trajectory(name, time[rows], state[rows]) for name, rows in zip(names, groups, strict=True)]


def read_columns(path: Path, columns: Sequence[str], episode: str | None = None, about: str = "") -> Any:
    """Some columns of a CSV or Parquet file as a data frame; blank lines at its very end are dropped.

    Args:
        path: an existing file.
        columns: names, all different.
        episode: one more column, whose entries are names: two spellings of one number are not one name.
        about: how messages begin.

    Raises:
        UserError: the file cannot be read, or a column is missing or there twice.
    """
    import pandas as pd
    import pyarrow as pa

    wanted = [*columns] if episode is None else [*columns, episode]
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = _parquet(path, wanted, about)
        else:
            frame = _csv(path, wanted, episode, about)
    except UserError:
        raise
    except MemoryError:  # pyarrow's is also one of its ArrowExceptions
        raise UserError(f"{about}table '{path}' does not fit into memory; split it, or leave columns out") from None
    except (
        *(pa.ArrowException, OSError, ValueError, ImportError, RuntimeError),  # pandas' parser errors are ValueErrors,
        pd.errors.ParserWarning,  # its warnings are not
        *(EOFError, zlib.error, lzma.LZMAError, BadZipFile, TarError),  # of packed files
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{about}cannot read table '{path}': {reason}; is it a whole CSV or Parquet file?") from error
    filled = np.flatnonzero(frame.notna().any(axis=1).to_numpy())
    return frame.iloc[: filled[-1] + 1 if filled.size else 0]  # blank lines at the very end are no fault


def _parquet(path: Path, wanted: Sequence[str], about: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _check_header(path, file.schema_arrow.names, wanted, about)
        # Without pandas' metadata: a column is a column even where it once was an index, and types are numpy's.
        return file.read(columns=list(wanted)).to_pandas(ignore_metadata=True)[list(wanted)]


def _csv(path: Path, wanted: Sequence[str], episode: str | None, about: str) -> Any:
    import pandas as pd

    # A blank line is a fault to report, not to skip: it would shift the row numbers of later messages.
    form: Any = {"skip_blank_lines": False, "skipinitialspace": True, "encoding": "utf-8"}
    # The header as it is written: pandas calls a second `x` silently `x.1`.
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **form).iloc[0].tolist()
    with warnings.catch_warnings():
        # Rows longer than the header: pandas would drop the excess, or shift the columns, and only warn.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        text = {} if episode is None else {episode: str}
        frame = pd.read_csv(path, index_col=False, low_memory=False, dtype=text, **form)
    if len(header) == len(frame.columns):
        frame.columns = [name or invented for name, invented in zip(header, frame.columns, strict=True)]
    _check_header(path, list(frame.columns), wanted, about)
    frame = frame[list(wanted)]
    return frame if episode is None else frame.assign(**{episode: _names(path, frame[episode])})


def _check_header(path: Path, header: Sequence[str], wanted: Sequence[str], about: str) -> None:
    for name in wanted:
        if name not in header:
            found = ", ".join(map(str, header[:12]))
            raise UserError(f"{about}'{path.name}' has no column '{name}'; it has {found}")
        if (count := list(header).count(name)) > 1:
            raise UserError(f"{about}'{path.name}' has {count} columns '{name}'; which is meant? rename the others")


def _names(path: Path, texts: Any) -> Any:
    """Names of episodes from a text file: numbers where all are numbers, so that ``1.0`` is episode 1."""
    import pandas as pd

    spelled = pd.Series(texts.dropna().unique(), dtype=object)
    numbers = pd.to_numeric(spelled, errors="coerce")
    if numbers.isna().any() or (numbers.abs() >= 2**53).any():  # beyond, different numbers are one float
        return texts
    if (same := numbers.duplicated(keep=False)).any():
        one, other = spelled[numbers == numbers[same].iloc[0]].iloc[:2]
        raise UserError(
            f"'{path.name}', column '{texts.name}': '{one}' and '{other}' are one number; are they one episode? "
            "write them alike, or give them names"
        )
    return pd.to_numeric(texts)


def as_numbers(raw: Any, about: str, is_time: bool = False) -> Float:
    """One column as float64, NaN where an entry is no number. Durations become seconds.

    Args:
        raw: the column, of any type.
        about: how messages begin: which file, which column.
        is_time: whether it may hold durations.

    Raises:
        UserError: its type cannot mean numbers: truth values, dates, lists …
    """
    import pandas as pd

    kind_of = getattr(raw.dtype, "kind", "O")
    if kind_of == "m":
        if not is_time:
            raise UserError(f"{about}: expected numbers, got {raw.dtype} (durations); use seconds, metres …")
        return raw.dt.total_seconds().to_numpy(np.float64, na_value=np.nan)
    if kind_of in "bMc":
        raise UserError(f"{about}: expected numbers, got {raw.dtype}; use seconds, metres …")
    if raw.dtype == object:
        number = (str, bytes, int, float, Decimal, np.number, type(None), type(pd.NA))
        odd = (
            (row, entry)
            for row, entry in enumerate(raw, 1)
            if isinstance(entry, bool | np.bool_) or not isinstance(entry, number)
        )
        if (first := next(odd, None)) is not None:
            name = type(first[1]).__name__
            named = {"ndarray": "a list of numbers", "dict": "a structure", "bool": "a truth value"}.get(name, name)
            raise UserError(f"{about}, data row {first[0]}: expected a finite number, got {named}; give plain numbers")
    return pd.to_numeric(raw, errors="coerce").to_numpy(np.float64, na_value=np.nan)


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
        numbers = numbers * to_base_units(column.unit)
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

    Raises:
        UserError: the intervals differ by more than rounding explains, or are too short to be computed with.
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
    if not within_bounds(step):
        raise UserError(f"'{name}': a time step of {step:g} s is no physical time; mend the time column or its unit")
    return step


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
    return Trajectory(trajectory.name, trajectory.time[0] + grid, spline(np.minimum(grid, duration)))
