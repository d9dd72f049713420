"""A table's noise: found, reported, taken out; and velocities where the table has none."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.parts.quantities import to_base_units
from wm_pipelines.worlds.parts.smoothing import FEWEST, Noise, estimate_noise, interpolating, smoothed
from wm_pipelines.worlds.parts.table_parameters import TableParameters
from wm_pipelines.worlds.parts.trajectories import Column, Trajectory


@dataclass(frozen=True)
class TableSmoothing:
    """How the states of a table are smoothed.

    Attributes:
        parameters: of the table. noises: one per column of the recorded states; empty: episodes are too short to tell.
        active: whether states are smoothed at all. left_out: rows at either end of an episode that are left out then,
            where the curve is uncertain.
    """

    parameters: TableParameters
    noises: tuple[Noise, ...]
    active: bool
    left_out: int

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory], parameters: TableParameters) -> TableSmoothing:
        """By the noise of these episodes."""
        long = [t for t in trajectories if len(t.time) >= FEWEST]
        columns = range(long[0].state.shape[1]) if long else ()
        noises = tuple(estimate_noise([t.time for t in long], [t.state[:, k] for t in long]) for k in columns)
        wanted = parameters.columns.estimated or parameters.smoothing == "always"
        # What actions do to velocities looks like noise.
        looks = parameters.smoothing == "auto" and not parameters.columns.actions
        active = wanted or (looks and any(n.clear for n in noises))
        if active and not long:
            raise UserError(f"smoothing: no episode has the {FEWEST} rows that it needs; give longer ones")
        noises = tuple(n if wanted or n.clear else interpolating(n) for n in noises)
        reach = max((n.reach for n in noises), default=0)
        return cls(parameters, noises, active, min([reach, *(len(t.time) // 10 for t in long)]) if active else 0)

    def __call__(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """Smoothed episodes with momenta and derivatives; where nothing is smoothed, the very same episodes.

        Derivatives are given because families learn as much from them as from rows, at a tenth of the cost: on the
        validation split of a simulated pendulum (16 runs, 30 Hz, noise of half a degree) the horizon of `mlp` is the
        whole record either way, its mean relative error 0.062 with derivatives and without.

        Raises:
            UserError: an episode is too short to be smoothed.
        """
        return [self._smoothed(t) for t in trajectories] if self.active else list(trajectories)

    def _smoothed(self, trajectory: Trajectory) -> Trajectory:
        rows = len(trajectory.time)
        if rows < FEWEST:
            raise UserError(
                f"episode '{trajectory.name}' has {rows} rows in one split, smoothing needs {FEWEST}; leave it out or "
                "give the split more"
            )
        curves = [smoothed(trajectory.time, trajectory.state[:, k], noise) for k, noise in enumerate(self.noises)]
        value, slope, second = (np.stack(part, axis=-1) for part in zip(*curves, strict=True))
        if self.parameters.columns.estimated:
            mass = np.array([m.si for m in self.parameters.mass_per_coordinate])
            state, derivative = np.hstack([value, mass * slope]), np.hstack([slope, mass * second])
        else:
            state, derivative = value, slope
        found = replace(trajectory, state=state, derivative=derivative)
        return found.part(self.left_out, rows - self.left_out)

    # ------------------------------------------------------------ what is said of it

    def report(self, name: str) -> list[tuple[int, str]]:
        """Level and text of log lines about the noise and what was done; ``name`` is the file's."""
        estimated, lines = self.parameters.columns.estimated, []
        noisy = [f"{d:.2g}{unit} on '{c.column}'" for c, d, unit, n in self._columns() if estimated or n.clear]
        if self.active:
            what = (
                f"noise (standard deviation) of {', '.join(noisy)} is" if noisy else "no clear noise; what there is is"
            )
            rates = "; velocities are its slopes" if estimated else ""
            keep = "" if estimated else "; `smoothing: never` keeps the rows as they are"
            lines.append(
                (
                    logging.INFO if estimated else logging.WARNING,
                    f"'{name}': {what} taken out by a smoothing spline, in all splits{rates}; the first and last "
                    f"{self.left_out} rows of each episode are left out{keep}",
                )
            )
        elif noisy:
            lines.append(
                (
                    logging.WARNING,
                    f"'{name}': noise (standard deviation) of {', '.join(noisy)} is left in: smoothing is off",
                )
            )
        if estimated and not self.parameters.masses:
            lines.append(
                (logging.INFO, f"'{name}': no masses are given: momenta are velocities, energies per unit of mass")
            )
        return lines

    def metadata(self) -> dict[str, Any]:
        """For the header of the episodes; nothing where nothing was smoothed."""
        if not self.active:
            return {}
        found = {c.column: {"noise": d, "unit": c.unit} for c, d, _, _ in self._columns()}
        return {"smoothed": found, "rows_left_out_at_each_end": self.left_out}

    def _columns(self) -> list[tuple[Column, float, str, Noise]]:
        """Column, noise in its unit, that unit as text, noise; nothing where episodes are too short to tell."""
        if not self.noises:
            return []
        columns = [*self.parameters.columns.coordinates, *self.parameters.columns.rates]
        scale = [to_base_units(c.unit) for c in columns]
        if not self.parameters.columns.momenta:  # recorded states hold momenta already
            masses = [m.si for m in self.parameters.mass_per_coordinate]
            scale = [s * m for s, m in zip(scale, [1.0] * self.parameters.dof + masses, strict=False)]
        return [
            (c, n.deviation / s, "" if c.unit == "1" else f" {c.unit}", n)
            for c, s, n in zip(columns, scale, self.noises, strict=True)
        ]
