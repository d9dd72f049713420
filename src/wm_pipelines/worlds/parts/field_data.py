"""Points, conditions and measurements of a field, each a view of its only episode.

``d`` coordinates, ``F`` fields; conditions and measurements in long format:

    interior [N, d]                 points at which the equations are imposed
    validation [V, d]               further such points, to judge residuals; no family trains on them
    condition_points [C, d], condition_values [C], condition_index [C]        which condition of the problem
    measurement_points [M, d], measurement_values [M], measurement_index [M]  which field; none of the three if M = 0
    grid [G, d], reference [G, F], grid_shape [d]     a regular grid, row-major, and the true fields on it
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from wm_pipelines.equations import Condition, Problem, box
from wm_pipelines.errors import UserError
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.quantities import LARGEST
from wm_pipelines.worlds.parts.table_files import as_numbers, read_columns

Arrays = dict[str, NDArray[Any]]
_AGREE = 1e-6  # largest difference, relative to the values' size, between two conditions where they meet


class PointsConfig(Settings):
    """How many points; each group is a scrambled Halton set of its own."""

    interior: int = Field(2540, ge=16)
    initial: int = Field(160, ge=4, description="on the initial face")
    boundary: int = Field(80, ge=4, description="shared between all other faces")
    validation: int = Field(1000, ge=16)


class MeasurementConfig(Settings):
    """Sparse, noisy observations of the observed fields, simulated or read from a table."""

    count: int = Field(
        0, ge=0, le=10_000_000, description="points of measurement; every observed field is measured there"
    )
    noise: float = Field(
        0.01, ge=0, le=1e6, allow_inf_nan=False, description="standard deviation, as a share of the field's RMS"
    )
    seed: int | None = Field(None, ge=0, description="of points and noise (default: the world's seed)")
    region: dict[str, tuple[FiniteFloat, FiniteFloat]] = Field(
        default_factory=dict, description="where to measure: coordinate -> [low, high] (default: everywhere)"
    )
    table: str | None = Field(None, description="CSV or Parquet with a column per coordinate and observed field")

    @model_validator(mode="after")
    def _one_source(self) -> MeasurementConfig:
        if self.table is not None and self.count:
            raise ValueError("measurements come from 'table' or are simulated ('count'), not both; remove one")
        return self


# ---------------------------------------------------------------- points


def anywhere(problem: Problem, count: int, seed: int, purpose: str) -> Float:
    """Points of the domain ``[count, d]``."""
    low, high = box(problem)
    return low + (high - low) * _halton(len(low), count, seed, purpose)


def grid_shape(problem: Problem, wanted: Sequence[int]) -> Sequence[int]:
    """Grid points per coordinate, a default where none are wanted.

    Raises:
        UserError: not one number per coordinate.
    """
    shape = wanted or {1: [201], 2: [101, 101], 3: [33, 33, 11]}.get(len(problem.coordinates), [])
    if len(shape) != len(problem.coordinates):
        raise UserError(
            f"parameter '{problem.name}.parameters.grid': one number for each of {', '.join(problem.coordinates)}, "
            f"got {list(wanted)}"
        )
    return shape


def grid(problem: Problem, wanted: Sequence[int]) -> Arrays:
    """The regular grid, row-major, and its shape."""
    shape = grid_shape(problem, wanted)
    axes = [np.linspace(*problem.domain[c], n) for c, n in zip(problem.coordinates, shape, strict=True)]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    return {"grid": points, "grid_shape": np.array(shape, np.int64)}


def _halton(dimension: int, count: int, seed: int, purpose: str) -> Float:
    """Scrambled Halton points in the unit cube ``[count, dimension]``; each purpose has a stream of its own."""
    from scipy.stats import qmc  # slow to import; listing pipelines imports this module

    salt = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    return qmc.Halton(dimension, rng=np.random.default_rng([seed, salt])).random(count)


def _on_face(problem: Problem, at: Mapping[str, float], unit: Float) -> Float:
    """Points of a face ``[n, d]`` from points of the unit cube."""
    low, high = box(problem)
    points = low + (high - low) * unit
    for coordinate, value in at.items():
        points[:, problem.coordinates.index(coordinate)] = value
    return points


# ---------------------------------------------------------------- conditions


def check_conditions(problem: Problem) -> None:
    """Compare conditions on the same symbol where their faces meet.

    Raises:
        UserError: two of them give different values at one point, or one is not finite.
    """
    rng = np.random.default_rng(0)
    for a, b in combinations(problem.conditions, 2):
        both = {**a.at, **b.at}
        apart = any(a.at[c] != b.at[c] for c in a.at.keys() & b.at.keys())
        if a.symbol != b.symbol or apart:
            continue
        meeting = _on_face(problem, both, rng.random((9, len(problem.coordinates))))
        first, second = _prescribed(a, meeting), _prescribed(b, meeting)
        scale = max(float(np.abs(first).max()), float(np.abs(second).max()), 1e-12)
        worst = int(np.argmax(np.abs(first - second)))
        if not np.abs(first - second)[worst] <= _AGREE * max(scale, _size_of(problem, a, rng)):
            point = ", ".join(f"{c} = {v:.4g}" for c, v in zip(problem.coordinates, meeting[worst], strict=True))
            raise UserError(
                f"'{problem.name}': conditions '{a.name}' and '{b.name}' contradict each other: {a.symbol} is "
                f"{first[worst]:.6g} by one and {second[worst]:.6g} by the other at {point}; make them agree"
            )


def _prescribed(condition: Condition, points: Float) -> Float:
    """The values that a condition prescribes at ``points [N, d]``: ``[N]``."""
    assert condition.value is not None
    return np.asarray(condition.value(points), np.float64)


def _size_of(problem: Problem, condition: Condition, rng: np.random.Generator) -> float:
    """Largest value of a condition on its face, so that a zero at a corner has a scale."""
    points = _on_face(problem, condition.at, rng.random((33, len(problem.coordinates))))
    return float(np.abs(_prescribed(condition, points)).max())


def conditions(problem: Problem, config: PointsConfig, seed: int) -> Arrays:
    """Points on every face; conditions on the same face share them. A condition at one point has one point."""
    faces = {tuple(sorted(c.at.items())): c.at for c in problem.conditions}
    elsewhere = [key for key, at in faces.items() if problem.time not in at and len(at) == 1]
    points, values, index = [], [], []
    for key, at in faces.items():
        wanted = config.initial if problem.time in at else -(-config.boundary // max(1, len(elsewhere)))
        if len(at) == len(problem.coordinates):
            wanted = 1
        on_face = _on_face(problem, at, _halton(len(problem.coordinates), wanted, seed, f"face {key}"))
        for i, condition in enumerate(problem.conditions):
            if condition.at == at:
                points.append(on_face)
                values.append(_prescribed(condition, on_face))
                index.append(np.full(wanted, i))
    return {
        "condition_points": np.concatenate(points),
        "condition_values": np.concatenate(values),
        "condition_index": np.concatenate(index).astype(np.int64),
    }


# ---------------------------------------------------------------- measurements


def measurements(
    problem: Problem, config: MeasurementConfig, reference: Callable[[Float], Float] | None, seed: int
) -> Arrays:
    """The three views of measurements, none where nothing is measured.

    Args:
        problem: whose name is that of the parameter files. config: where they come from.
        reference: to simulate them from. seed: of the world.

    Raises:
        UserError: no reference to simulate them from, a region outside the domain, a table with faults.
    """
    if config.table is not None:
        points, values = _read_table(problem, Path(config.table))
    elif config.count:
        points, values = _simulated(problem, config, reference, seed if config.seed is None else config.seed)
    else:
        return {}
    index = [problem.fields.index(name) for name in problem.observed]
    return {
        "measurement_points": np.repeat(points, len(index), axis=0),
        "measurement_values": values.ravel(),
        "measurement_index": np.tile(np.array(index, np.int64), len(points)),
    }


def _simulated(
    problem: Problem, config: MeasurementConfig, reference: Callable[[Float], Float] | None, seed: int
) -> tuple[Float, Float]:
    """Points ``[M, d]`` and noisy values ``[M, observed]``."""
    if reference is None:
        raise UserError(f"'{problem.name}': no reference to simulate measurements from; give measurements.table")
    first, last = _region(problem, config)
    points = first + (last - first) * _halton(len(first), config.count, seed, "measurements")
    index = [problem.fields.index(name) for name in problem.observed]
    size = np.sqrt(np.mean(np.square(reference(anywhere(problem, 512, 0, "size"))[:, index]), axis=0))
    salt = int.from_bytes(hashlib.sha256(b"noise").digest()[:8], "big")
    noise = np.random.default_rng([seed, salt]).standard_normal((config.count, len(index)))
    return points, reference(points)[:, index] + config.noise * size * noise


def _region(problem: Problem, config: MeasurementConfig) -> tuple[Float, Float]:
    """Corners of the box that is measured in, each ``[d]``."""
    low, high = box(problem)
    for name, (first, last) in config.region.items():
        about = f"parameter '{problem.name}.parameters.measurements.region.{name}'"
        if name not in problem.coordinates:
            raise UserError(f"{about}: no such coordinate; there are {', '.join(problem.coordinates)}")
        axis = problem.coordinates.index(name)
        if not low[axis] <= first < last <= high[axis]:
            raise UserError(f"{about}: need {low[axis]:g} <= low < high <= {high[axis]:g}, got [{first:g}, {last:g}]")
        low[axis], high[axis] = first, last
    return low, high


def _read_table(problem: Problem, path: Path) -> tuple[Float, Float]:
    """The user's own measurements: ``[M, d]``, ``[M, observed]``.

    Raises:
        UserError: no such file, not a table, a column missing or there twice, a value that is no number or outside
            the domain.
    """
    parameter = f"parameter '{problem.name}.parameters.measurements.table': "
    about = f"{parameter}'{path}'"
    if not path.is_file():
        raise UserError(f"{about} does not exist; give a CSV or Parquet file")
    columns = [*problem.coordinates, *problem.observed]
    frame = read_columns(path, columns, about=parameter)
    if frame.empty:
        raise UserError(f"{about} has no rows")
    seconds = problem.time if problem.units.get(problem.time or "") == "s" else None
    table = np.stack([as_numbers(frame[c], f"{about}, column '{c}'", is_time=c == seconds) for c in columns], axis=1)
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise UserError(f"{about}: {columns[column]} is not a number in row {row + 1}; remove or repair the row")
    if (np.abs(table) > LARGEST).any():
        row, column = np.argwhere(np.abs(table) > LARGEST)[0]
        raise UserError(f"{about}: {columns[column]} = {table[row, column]:g} in row {row + 1} is beyond {LARGEST:g}")
    points, values = np.split(table, [len(problem.coordinates)], axis=1)
    low, high = box(problem)
    outside = (points < low) | (points > high)
    if outside.any():
        row, axis = np.argwhere(outside)[0]
        name, ends = problem.coordinates[axis], problem.domain[problem.coordinates[axis]]
        raise UserError(
            f"{about}: {name} = {points[row, axis]:g} in row {row + 1} is outside the domain [{ends[0]:g}, {ends[1]:g}]"
        )
    return points, values
