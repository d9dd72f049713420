"""Field data: the points at which a field's equations are imposed, its conditions, measurements and the reference.

Plain arrays by name, ``d`` coordinates, ``F`` fields, conditions and measurements in long format:

    interior [N, d]                 points at which the equations are imposed
    validation [V, d]               further such points, to judge residuals; no family trains on them
    condition_points [C, d], condition_values [C], condition_index [C]        which condition of the system
    measurement_points [M, d], measurement_values [M], measurement_index [M]  which field
    grid [G, d], reference [G, F], grid_shape [d]     a regular grid, row-major, and the true fields on it
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wm_pipelines.errors import UserError, validate
from wm_pipelines.fields import Condition, FieldSystem, box
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.fields import get_field_world
from wm_pipelines.worlds.fields.base import FieldWorld

FieldData = dict[str, NDArray[Any]]
_AGREE = 1e-6  # largest difference, relative to the values' size, between two conditions where they meet


class PointsConfig(BaseModel):
    """How many points; each group is a scrambled Halton set of its own."""

    model_config = ConfigDict(extra="forbid")

    interior: int = Field(2540, ge=16)
    initial: int = Field(160, ge=4, description="on the initial face")
    boundary: int = Field(80, ge=4, description="shared between all other faces")
    validation: int = Field(1000, ge=16)


class MeasurementConfig(BaseModel):
    """Sparse, noisy observations of the observed fields, simulated or read from a table."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(0, ge=0, description="places and times of measurement; every observed field is measured there")
    noise: float = Field(
        0.01, ge=0, allow_inf_nan=False, description="standard deviation, as a share of the field's RMS"
    )
    seed: int | None = Field(None, ge=0, description="of places and noise (default: the field's seed)")
    region: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="where to measure: coordinate -> [low, high] (default: everywhere)"
    )
    table: str | None = Field(None, description="CSV or Parquet with a column per coordinate and observed field")

    @model_validator(mode="after")
    def _one_source(self) -> MeasurementConfig:
        if self.table is not None and self.count:
            raise ValueError("measurements come from 'table' or are simulated ('count'), not both; remove one")
        return self


class FieldConfig(BaseModel):
    """One entry of the parameter files: which equation, which numbers in it, which points."""

    model_config = ConfigDict(extra="forbid")

    world: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(0, ge=0)
    points: PointsConfig = PointsConfig()
    measurements: MeasurementConfig = MeasurementConfig()
    unknown: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="coefficients to be found from the measurements: symbol -> [low, high]"
    )
    grid: list[int] = Field(default_factory=list, description="grid points per coordinate, for the evaluation")

    @model_validator(mode="after")
    def _enough(self) -> FieldConfig:
        if any(n < 2 for n in self.grid):
            raise ValueError(f"grid needs at least 2 points per coordinate, got {self.grid}")
        if self.unknown and not self.measurements.count and self.measurements.table is None:
            names = ", ".join(self.unknown)
            raise ValueError(f"nothing to find {names} from; give measurements.count or measurements.table")
        return self


def build_field_world(config: FieldConfig, where: str | None = None) -> FieldWorld:
    """The world of a configuration.

    Raises:
        UserError: unknown world, or a parameter that cannot be.
    """
    kind = get_field_world(config.world)
    return kind(validate(kind.Parameters, config.parameters, f"{where or config.world}.parameters"))


def build_field_system(config: FieldConfig, where: str | None = None) -> FieldSystem:
    """The description handed to families and metrics, coefficients hidden where the configuration says so.

    Raises:
        UserError: as `build_field_world`; an unknown coefficient that the world has not.
    """
    where = where or config.world
    world = build_field_world(config, where)
    try:
        system = world.with_unknown(config.unknown)
    except UserError as error:
        raise UserError(f"'{where}': {error}") from None
    # The user's own measurements of an unknown coefficient: the world's value is not the truth about them.
    return replace(system, reference=None) if config.measurements.table and config.unknown else system


def ingest_field(config: FieldConfig, where: str | None = None) -> FieldData:
    """All arrays of one entry of the parameter files (see the module).

    Raises:
        UserError: a parameter that cannot be, conditions that contradict each other, a table with faults.
    """
    where = where or config.world
    system = build_field_system(config, where)
    check_conditions(system, where)
    low, high = box(system)
    points = config.points
    data: FieldData = {
        "interior": low + (high - low) * _halton(len(low), points.interior, config.seed, "interior"),
        "validation": low + (high - low) * _halton(len(low), points.validation, config.seed, "validation"),
        **_conditions(system, points, config.seed),
        **_measurements(system, config, where),
        **_grid(system, config, where),
    }
    for name, array in data.items():
        if not np.isfinite(array).all():
            raise UserError(f"'{where}': {name} is not finite; check the world's formulas and parameters")
    return data


def content_hash(data: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, types, shapes and bytes of all arrays, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in sorted(data.items()):
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_conditions(system: FieldSystem, where: str) -> None:
    """Compare conditions on the same symbol where their faces meet.

    Raises:
        UserError: two of them give different values at one point, or one is not finite.
    """
    rng = np.random.default_rng(0)
    for a, b in combinations(system.conditions, 2):
        both = {**a.at, **b.at}
        apart = any(a.at[c] != b.at[c] for c in a.at.keys() & b.at.keys())
        if a.symbol != b.symbol or apart:
            continue
        meeting = _on_face(system, both, rng.random((9, len(system.coordinates))))
        first, second = np.asarray(a.value(meeting)), np.asarray(b.value(meeting))
        scale = max(float(np.abs(first).max()), float(np.abs(second).max()), 1e-12)
        worst = int(np.argmax(np.abs(first - second)))
        if not np.abs(first - second)[worst] <= _AGREE * max(scale, _size_of(system, a, rng)):
            place = ", ".join(f"{c} = {v:.4g}" for c, v in zip(system.coordinates, meeting[worst], strict=True))
            raise UserError(
                f"'{where}': conditions '{a.name}' and '{b.name}' contradict each other: {a.symbol} is "
                f"{first[worst]:.6g} by one and {second[worst]:.6g} by the other at {place}; make them agree"
            )


def _size_of(system: FieldSystem, condition: Condition, rng: np.random.Generator) -> float:
    """Largest value of a condition on its face, so that a zero at a corner has a scale."""
    points = _on_face(system, condition.at, rng.random((33, len(system.coordinates))))
    return float(np.abs(condition.value(points)).max())


def _halton(dimension: int, count: int, seed: int, purpose: str) -> Float:
    """Scrambled Halton points in the unit cube ``[count, dimension]``; each purpose has a stream of its own."""
    from scipy.stats import qmc  # slow to import; listing pipelines imports this module

    salt = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big")
    return qmc.Halton(dimension, rng=np.random.default_rng([seed, salt])).random(count)


def _on_face(system: FieldSystem, at: Mapping[str, float], unit: Float) -> Float:
    """Points of a face ``[n, d]`` from points of the unit cube."""
    low, high = box(system)
    points = low + (high - low) * unit
    for coordinate, value in at.items():
        points[:, system.coordinates.index(coordinate)] = value
    return points


def _conditions(system: FieldSystem, config: PointsConfig, seed: int) -> FieldData:
    """Points on every face; conditions on the same face share them. A condition at one point has one point."""
    faces = {tuple(sorted(c.at.items())): c.at for c in system.conditions}
    elsewhere = [key for key, at in faces.items() if system.time not in at and len(at) == 1]
    points, values, index = [], [], []
    for key, at in faces.items():
        wanted = config.initial if system.time in at else -(-config.boundary // max(1, len(elsewhere)))
        if len(at) == len(system.coordinates):
            wanted = 1
        on_face = _on_face(system, at, _halton(len(system.coordinates), wanted, seed, f"face {key}"))
        for i, condition in enumerate(system.conditions):
            if condition.at == at:
                points.append(on_face)
                values.append(np.asarray(condition.value(on_face), np.float64))
                index.append(np.full(wanted, i))
    return {
        "condition_points": np.concatenate(points),
        "condition_values": np.concatenate(values),
        "condition_index": np.concatenate(index).astype(np.int64),
    }


def _grid(system: FieldSystem, config: FieldConfig, where: str) -> FieldData:
    shape = config.grid or {1: [201], 2: [101, 101], 3: [33, 33, 11]}.get(len(system.coordinates), [])
    if len(shape) != len(system.coordinates):
        raise UserError(
            f"parameter '{where}.grid': one number for each of {', '.join(system.coordinates)}, got {config.grid}"
        )
    axes = [np.linspace(*system.domain[c], n) for c, n in zip(system.coordinates, shape, strict=True)]
    grid = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    data = {"grid": grid, "grid_shape": np.array(shape, np.int64)}
    if system.reference is not None:
        data["reference"] = np.asarray(system.reference(grid), np.float64)
    return data


# ---------------------------------------------------------------- measurements


def _measurements(system: FieldSystem, config: FieldConfig, where: str) -> FieldData:
    own = config.measurements
    if own.table is not None:
        points, values = _read_table(system, Path(own.table), where)
    elif own.count:
        points, values = _simulated(system, own, config.seed if own.seed is None else own.seed, where)
    else:
        points, values = np.empty((0, len(system.coordinates))), np.empty((0, len(system.observed)))
    index = [system.fields.index(name) for name in system.observed]
    return {
        "measurement_points": np.repeat(points, len(index), axis=0),
        "measurement_values": values.ravel(),
        "measurement_index": np.tile(np.array(index, np.int64), len(points)),
    }


def _simulated(system: FieldSystem, config: MeasurementConfig, seed: int, where: str) -> tuple[Float, Float]:
    """Places ``[M, d]`` and noisy values ``[M, observed]``."""
    if system.reference is None:
        raise UserError(f"'{where}': no reference to simulate measurements from; give measurements.table")
    low, high = box(system)
    first, last = _region(system, config, where)
    points = first + (last - first) * _halton(len(low), config.count, seed, "measurements")
    anywhere = low + (high - low) * _halton(len(low), 512, 0, "size")
    index = [system.fields.index(name) for name in system.observed]
    size = np.sqrt(np.mean(np.square(system.reference(anywhere)[:, index]), axis=0))
    salt = int.from_bytes(hashlib.sha256(b"noise").digest()[:8], "big")
    noise = np.random.default_rng([seed, salt]).standard_normal((config.count, len(index)))
    return points, system.reference(points)[:, index] + config.noise * size * noise


def _region(system: FieldSystem, config: MeasurementConfig, where: str) -> tuple[Float, Float]:
    """Corners of the box that is measured in, each ``[d]``."""
    low, high = box(system)
    for name, (first, last) in config.region.items():
        if name not in system.coordinates:
            known = ", ".join(system.coordinates)
            raise UserError(f"parameter '{where}.measurements.region.{name}': no such coordinate; there are {known}")
        axis = system.coordinates.index(name)
        if not low[axis] <= first < last <= high[axis]:
            raise UserError(
                f"parameter '{where}.measurements.region.{name}': need {low[axis]:g} <= low < high <= {high[axis]:g}, "
                f"got [{first:g}, {last:g}]"
            )
        low[axis], high[axis] = first, last
    return low, high


def _read_table(system: FieldSystem, path: Path, where: str) -> tuple[Float, Float]:
    """The user's own measurements: ``[M, d]``, ``[M, observed]``.

    Raises:
        UserError: no such file, not a table, a missing column, a value that is no number or outside the domain.
    """
    import pandas as pd

    about = f"parameter '{where}.measurements.table': '{path}'"
    if not path.is_file():
        raise UserError(f"{about} does not exist; give a CSV or Parquet file")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{about} cannot be read: {' '.join(str(error).split())[:100]}") from None
    columns = [*system.coordinates, *system.observed]
    if missing := [c for c in columns if c not in frame]:
        raise UserError(f"{about} has no column {', '.join(missing)}; it needs {', '.join(columns)}")
    if frame.empty:
        raise UserError(f"{about} has no rows")
    table = frame[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise UserError(f"{about}: {columns[column]} is not a number in row {row + 1}; remove or repair the row")
    points, values = np.split(table, [len(system.coordinates)], axis=1)
    low, high = box(system)
    outside = (points < low) | (points > high)
    if outside.any():
        row, axis = np.argwhere(outside)[0]
        name, ends = system.coordinates[axis], system.domain[system.coordinates[axis]]
        raise UserError(
            f"{about}: {name} = {points[row, axis]:g} in row {row + 1} is outside the domain [{ends[0]:g}, {ends[1]:g}]"
        )
    return points, values
