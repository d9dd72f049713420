"""What a user declares of a table of trajectories; see `worlds.table`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from wm_pipelines.errors import did_you_mean
from wm_pipelines.formulas import FUNCTIONS, Formula
from wm_pipelines.worlds.base import WorldParameters, check_splits
from wm_pipelines.worlds.parts.quantities import Amount, Seconds, dimension, kind
from wm_pipelines.worlds.parts.trajectories import Columns, expect_unit


class TableParameters(WorldParameters):
    """A table of trajectories and what is known about the system it was measured on.

    Attributes:
        path: a CSV or Parquet file; relative paths start at the project's root.
        columns: names and units.
        header: names of all columns, from left to right, of a text file that does not name them itself.
        masses: one per particle, or one per coordinate where there are no particles (of an angle: moment of inertia).
            Needed with velocities, ``p = m v``; known to the energy formula as ``m1, m2, …``. Where velocities are
            estimated and there are no particles, 1 each unless given: momenta are then velocities.
        particles: number of particles; coordinates are then listed particle by particle.
        space: dimension of the particles' space; with `particles` only.
        energy: formula of H in ``q1, q2, …, p1, p2, …``, the masses and the constants; null: unknown, to be learned.
        constants: named numbers of the formula, with units.
        structure: what is declared about H, see `docs/bring-your-own-data.md`; a known energy is checked against it.
        angles: indices (from 0) of coordinates that are angles; jumps by a turn are taken out.
        period: length of the box, by column, of coordinates that were written back into one; jumps by it are taken out.
            A bare number has the unit of its column.
        smoothing: whether the states are those of a smoothing spline: ``auto``, where the noise is clear (`smoothing`;
            never with actions, which disturb motion as noise does) or velocities are estimated; ``always``; ``never``.
        resample: seconds between rows of a new, regular grid (cubic spline); null: the table's grid is regular.
        steps: cut every episode into stretches of that many steps (a rest is dropped); null: episodes as they are.
        splits: fractions of the episodes (of the time, where there is one episode alone), or lists of episodes.
    """

    path: str
    columns: Columns
    header: list[str] | None = Field(None, min_length=2)
    masses: list[Amount] = Field(default_factory=list)
    particles: int | None = Field(None, ge=1)
    space: int | None = Field(None, ge=1, le=3)
    energy: str | None = None
    constants: dict[str, Amount] = Field(default_factory=dict)
    structure: list[Literal["separable", "even", "pairwise"]] = Field(default_factory=list)
    angles: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    period: dict[str, Amount] = Field(default_factory=dict)
    smoothing: Literal["auto", "always", "never"] = "auto"
    resample: Seconds | None = None
    steps: int | None = Field(None, ge=1)
    splits: dict[str, Any] = Field(default_factory=lambda: {"train": 0.7, "validation": 0.15, "test": 0.15})

    @property
    def dof(self) -> int:
        """Number of coordinates."""
        return len(self.columns.coordinates)

    @property
    def mass_per_coordinate(self) -> list[Amount]:
        """The masses, repeated for every coordinate of a particle."""
        masses = self.masses or [Amount(value=1.0)] * (self.dof if self.columns.estimated else 0)
        return [m for m in masses for _ in range(self.space or 1)]

    @property
    def periods(self) -> dict[int, float]:
        """SI length of the box by the coordinate's place."""
        found = {}
        for place, column in enumerate(self.columns.coordinates):
            if (length := self.period.get(column.column)) is not None:
                found[place] = length.value * column.si if length.unit is None else length.si
        return found

    @property
    def quadratic(self) -> bool:
        """Whether the kinetic energy is known to be ``sum p^2 / 2m``: there are masses, and momenta are ``m v``."""
        return self.columns.momenta is None or self.particles is not None

    @property
    def known_numbers(self) -> dict[str, float]:
        """Masses ``m1, m2, …`` and constants, in SI base units."""
        masses = {f"m{i}": mass.si for i, mass in enumerate(self.masses, 1)}
        return masses | {name: amount.si for name, amount in self.constants.items()}

    @model_validator(mode="after")
    def _fit_together(self) -> TableParameters:
        if (self.particles is None) != (self.space is None):
            raise ValueError("particles and space belong together; give both or neither")
        if self.particles is not None and self.particles * (self.space or 0) != self.dof:
            raise ValueError(
                f"{self.particles} particles in {self.space} dimensions need "
                f"{self.particles * (self.space or 0)} coordinates, columns lists {self.dof}"
            )
        if "pairwise" in self.structure and self.particles is None:
            raise ValueError("structure 'pairwise' needs particles and space")
        if any(angle >= self.dof for angle in self.angles):
            raise ValueError(f"angles {self.angles}: coordinates are counted from 0 to {self.dof - 1}")
        for angle in self.angles:
            expect_unit(self.columns.coordinates[angle], "rad")
        if self.columns.estimated and self.smoothing == "never":
            raise ValueError("smoothing: velocities are estimated by smoothing; set auto, or give velocities")
        if self.resample is not None and self.columns.actions:
            raise ValueError("resample: an action lasts from row to row, not on another grid; give a regular one")
        self._check_periods()
        self._check_masses()
        self._check_constants()
        _check_splits(self.splits)
        return self

    def _check_periods(self) -> None:
        coordinates = {c.column: c for c in self.columns.coordinates}
        for name, length in self.period.items():
            if name not in coordinates:
                raise ValueError(f"period: '{name}' is no coordinate{did_you_mean(name, coordinates)}")
            unit = coordinates[name].unit
            if length.unit is not None and dimension(length.unit) != dimension(unit):
                raise ValueError(f"period.{name}: expected {kind(unit)} in {unit}, got {length.value:g} {length.unit}")
            if not length.value > 0:
                raise ValueError(f"period.{name}: a length must be positive, got {length.value:g}")

    def _check_masses(self) -> None:
        wanted = self.particles or self.dof
        given = isinstance(self.columns.velocities, list)
        needed = given or self.particles is not None
        if (self.masses or needed) and len(self.masses) != wanted:
            per = "particle" if self.particles else "coordinate"
            raise ValueError(f"masses: expected {wanted} (one per {per}), got {len(self.masses)}")
        for place, mass in enumerate(self.masses):
            if not mass.si > 0:
                raise ValueError(f"masses.{place}: a mass must be positive, got {mass.value:g}")
        if self.columns.momenta is not None or self.columns.reduced:
            return
        velocities = [c.unit for c in self.columns.rates] or [f"({c.unit})/s" for c in self.columns.coordinates]
        for mass, q, velocity in zip(self.mass_per_coordinate, self.columns.coordinates, velocities, strict=True):
            action = dimension(q.unit) * dimension(velocity)
            if mass.unit is not None and dimension(mass.unit) * action != dimension("J*s"):
                raise ValueError(
                    f"masses: '{mass.value:g} {mass.unit}' ({kind(mass.unit).split(' ', 1)[1]}) cannot be "
                    f"the mass of '{q.column}'; a length takes kg, an angle kg*m^2"
                )

    def _check_constants(self) -> None:
        taken = {*self.variables, *(f"m{i}" for i in range(1, len(self.masses) + 1)), *FUNCTIONS, "pi"}
        for name in self.constants:
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or name in taken:
                raise ValueError(f"constants.{name}: this name is taken or not a name; choose another")
        if self.energy is None:
            return
        used = Formula(self.energy, self.variables, self.known_numbers).used
        if not any(name.startswith("p") for name in used):  # then dq/dt = dH/dp = 0
            lacks = "no momentum p1, p2, …" if used else "neither q1, q2, … nor p1, p2, …"
            raise ValueError(
                f"energy: '{self.energy}' has {lacks} in it: no coordinate would move; complete it or set null"
            )

    @property
    def variables(self) -> list[str]:
        """Names of the entries of a state in the energy formula."""
        return [f"{letter}{i}" for letter in "qp" for i in range(1, self.dof + 1)]


def _check_splits(splits: Mapping[str, Any]) -> None:
    check_splits(splits, "test: 0.3")
    if all(isinstance(s, list) and s for s in splits.values()):
        named = [str(episode) for split in splits.values() for episode in split]
        if len(set(named)) < len(named):
            raise ValueError(f"splits: episode '{next(n for n in named if named.count(n) > 1)}' is named twice")
        return
    if not all(isinstance(s, int | float) and not isinstance(s, bool) and 0 < s <= 1 for s in splits.values()):
        raise ValueError("splits: give fractions between 0 and 1, or non-empty lists of episodes, for all of them")
    if sum(splits.values()) > 1 + 1e-9:
        raise ValueError(f"splits: the fractions add up to {sum(splits.values()):g}, more than 1")
