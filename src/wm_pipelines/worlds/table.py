"""The user's own system: a table of trajectories (CSV or Parquet) becomes a world by a parameter file alone.

Every row of the table is one moment of one episode: time, coordinates, momenta or velocities. Units and column names
are declared in the parameters; what is not in SI is converted. The energy is a formula, or unknown and left to learn.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.files import project_path
from wm_pipelines.formulas import Formula
from wm_pipelines.integrators import hamiltonian_field
from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, stream
from wm_pipelines.worlds.parts.captions import listing, number
from wm_pipelines.worlds.parts.energy_balance import EnergyLoss
from wm_pipelines.worlds.parts.quantities import to_base_units
from wm_pipelines.worlds.parts.simulation import simulate_adaptive
from wm_pipelines.worlds.parts.smoothing import FEWEST
from wm_pipelines.worlds.parts.table_consistency import refuse_leaps
from wm_pipelines.worlds.parts.table_parameters import TableParameters
from wm_pipelines.worlds.parts.table_report import contradictions, describe_loss, loss_of
from wm_pipelines.worlds.parts.table_smoothing import TableSmoothing
from wm_pipelines.worlds.parts.trajectories import (
    Trajectory,
    check_resampling,
    read_trajectories,
    regular_step,
    resampled,
)

logger = logging.getLogger(__name__)
_ONE_RECORDING = (
    "'{name}' is one recording, split by time: models are judged on how the motion they have learned from goes on, "
    "and on one stretch of it; for intervals and for other motions give several, with their column as episode"
)
_LEAPS = 0.02  # share of rows by which an angle may turn half around, where it is not wrapped


@register
class Table(SimulatedWorld):
    """Measured trajectories; simulated only where the energy formula is known."""

    name = "table"
    Parameters = TableParameters
    parameters: TableParameters

    def __init__(self, parameters: TableParameters) -> None:
        super().__init__(parameters)
        formula = parameters.energy
        self._hamiltonian = (
            formula if formula is None else Formula(formula, parameters.variables, parameters.known_numbers)
        )
        self._path = project_path(parameters.path)
        self._doubts: list[str] = []  # of the table as read

    @cached_property
    def _recorded(self) -> tuple[list[Trajectory], float]:
        """All episodes (seconds on a regular grid, coordinates without jumps, momenta if any) and the grid's step."""
        parameters, resample, name = self.parameters, self.parameters.resample, self._path.name
        columns = parameters.columns
        fewest = FEWEST if columns.estimated else 2 if resample is None else 4
        table = read_trajectories(self._path, columns, fewest, parameters.header)
        if all((t.state == t.state[0]).all() for t in table):
            raise UserError(f"'{name}': nothing moves: every row of an episode is the same")
        self._doubts = [line for place in parameters.angles if (line := self._too_fast(table, place))]
        turns = dict.fromkeys(parameters.angles, 2 * np.pi) | parameters.periods
        for trajectory in table:
            for place, period in turns.items():
                trajectory.state[:, place] = np.unwrap(trajectory.state[:, place], period=period)
            if columns.velocities is not None and not columns.estimated:
                trajectory.state[:, parameters.dof :] *= [m.si for m in parameters.mass_per_coordinate]
        masses = [m.si for m in parameters.mass_per_coordinate] if parameters.quadratic and columns.rates else None
        refuse_leaps(name, table, columns.coordinates, columns.rates, masses)
        if resample is not None:
            check_resampling(name, table, resample)
            return [resampled(t, resample) for t in table], resample
        step = regular_step(name, table)
        return [replace(t, time=t.time[0] + step * np.arange(len(t.time))) for t in table], step

    def _too_fast(self, table: Sequence[Trajectory], place: int) -> str | None:
        """Whether an angle, as read, turns by more than half a turn from row to row, and not because it is wrapped."""
        angles = [t.state[:, place] for t in table]
        reach, steps = np.ptp(np.concatenate(angles)), np.abs(np.concatenate([np.diff(a) for a in angles]))
        if reach <= 4 * np.pi or (steps > np.pi).mean() < _LEAPS:
            return None
        column = self.parameters.columns.coordinates[place]
        return (
            f"'{self._path.name}': '{column.column}' reaches {np.abs(np.concatenate(angles)).max():.3g} rad and moves "
            f"by more than half a turn in {(steps > np.pi).mean():.0%} of the rows: is its unit '{column.unit}'?"
        )

    @cached_property
    def _trajectories(self) -> list[Trajectory]:
        """All episodes with coordinates and momenta, smoothed where that is asked for or needed."""
        return self._smoothing(self._recorded[0])(self._recorded[0])

    def _smoothing(self, trajectories: Sequence[Trajectory]) -> TableSmoothing:
        """How states are smoothed, by the noise of these episodes."""
        return TableSmoothing.of(trajectories, self.parameters)

    @property
    def step(self) -> float:
        """Seconds between rows."""
        return self._recorded[1]

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """The table's episodes by split; by time where the table is one single episode.

        Raises:
            UserError: the table cannot be read, or does not fit the parameters; the message names column and row.
        """
        self._check_energy()
        by_time = len(self._recorded[0]) == 1
        splits = self._split_by_time() if by_time else self._split_by_episode(seed)
        smoothing = self._smoothing(splits["train"])  # the noise is learned where the families learn
        found = [*smoothing.report(self._path.name), *self._findings()]
        for level, line in found:
            logger.log(level, "%s.", line)
        facts = {
            "seed": seed,
            "source_sha256": hashlib.sha256(self._path.read_bytes()).hexdigest(),
            "split_by": "time" if by_time else "episode",
            "generator": __version__,
            "found": [[logging.getLevelName(level), line] for level, line in found],
            **smoothing.metadata(),
        }
        return {name: self._episodes(name, smoothing(parts), facts) for name, parts in splits.items()}

    def _findings(self) -> list[tuple[int, str]]:
        """What the table says against itself, and what energy its motion loses: log levels and lines."""
        name, loss = self._path.name, self._loss
        against = contradictions(name, self._trajectories, self.parameters, self._hamiltonian)
        told = [] if loss is None else describe_loss(name, loss, self.parameters)
        alone = [_ONE_RECORDING.format(name=name)] if len(self._trajectories) == 1 else []
        return [*((logging.WARNING, line) for line in (*self._doubts, *against, *alone)), *told]

    @cached_property
    def _loss(self) -> EnergyLoss | None:
        """What the declared energy loses along the table; without one, an energy that is estimated."""
        if self._acted:  # which brings energy and takes it
            return None
        return loss_of(self._trajectories, self.parameters, self._hamiltonian)

    @property
    def _keeps_energy(self) -> bool:
        """Whether an energy is declared, and the table does not lose it."""
        return self._hamiltonian is not None and not self._acted and not (self._loss is not None and self._loss.clear)

    @property
    def _acted(self) -> bool:
        """Whether somebody acts on the system: then nothing is conserved, and no formula says how it goes on."""
        return bool(self.parameters.columns.actions)

    def _episodes(self, split: str, parts: Sequence[Trajectory], facts: Mapping[str, Any]) -> Episodes:
        stretches = [piece for part in parts for piece in self._stretches(part)]
        if not stretches:
            raise UserError(
                f"'{self._path.name}': no episode of split '{split}' has more than {self.parameters.steps} "
                "rows; set a smaller `steps`"
            )
        lengths = {len(s.time) for s in stretches}
        if len(lengths) > 1:
            raise UserError(
                f"'{self._path.name}': episodes of split '{split}' have {min(lengths)} to {max(lengths)} "
                f"rows; set `steps: {min(lengths) - 1}` to cut them into equal stretches"
            )
        views = {
            "times": np.stack([s.time - s.time[0] for s in stretches]),
            "states": np.stack([s.state for s in stretches]),
            "derivatives": None
            if stretches[0].derivative is None
            else np.stack([s.derivative for s in stretches if s.derivative is not None]),
            "actions": np.stack([s.actions[:-1] for s in stretches if s.actions is not None]) if self._acted else None,
            "rewards": None
            if stretches[0].rewards is None
            else np.stack([s.rewards[:-1] for s in stretches if s.rewards is not None]),
        }
        return self.episodes(views, self.step, {**facts, "split": split, "episodes": [s.name for s in stretches]})

    def _stretches(self, trajectory: Trajectory) -> list[Trajectory]:
        if self.parameters.steps is None:
            return [trajectory]
        rows = self.parameters.steps + 1
        starts = range(0, len(trajectory.time) - rows + 1, rows)
        return [trajectory.part(start, start + rows) for start in starts]

    def _split_by_time(self) -> dict[str, list[Trajectory]]:
        [only] = self._recorded[0]
        if any(isinstance(s, list) for s in self.parameters.splits.values()):
            raise UserError(f"'{self._path.name}' is one single episode: give splits as fractions of its time")
        bounds = self._bounds(len(only.time), smallest=2, of="rows")
        return {name: [only.part(start, stop)] for name, (start, stop) in bounds.items()}

    def _split_by_episode(self, seed: int) -> dict[str, list[Trajectory]]:
        found = {t.name: t for t in self._recorded[0]}
        splits = self.parameters.splits
        if any(isinstance(s, list) for s in splits.values()):
            missing = [str(e) for s in splits.values() for e in s if str(e) not in found]
            if missing:
                raise UserError(f"'{self._path.name}' has no episode '{missing[0]}', which `splits` names")
            return {name: [found[str(e)] for e in s] for name, s in splits.items()}
        order = np.random.default_rng(stream(seed, "split")).permutation(len(found))
        bounds = self._bounds(len(found), smallest=1, of="episodes")
        # Sorted within the split, so that its rows stand in the order of the table.
        return {
            name: [self._recorded[0][i] for i in sorted(order[start:stop])] for name, (start, stop) in bounds.items()
        }

    def _bounds(self, count: int, smallest: int, of: str) -> dict[str, tuple[int, int]]:
        """First and last-plus-one of every split among ``count`` of them, in the order of the splits."""
        splits = self.parameters.splits
        ends = [0, *np.rint(np.cumsum(list(splits.values())) * count).astype(int).tolist()]
        bounds = dict(zip(splits, pairwise(ends), strict=True))
        for name, (start, stop) in bounds.items():
            if stop - start < smallest:
                raise UserError(
                    f"'{self._path.name}': {count} {of} are too few for split '{name}' "
                    f"({splits[name]:.0%}); give it more or leave it out"
                )
        return bounds

    def _check_energy(self) -> None:
        """Refuse a formula that is not finite on the data, or that contradicts the declared structure."""
        if self._hamiltonian is None:
            return
        states = np.concatenate([t.state for t in self._trajectories])
        with np.errstate(all="ignore"):
            energy = self._hamiltonian(states)
            slopes = self._hamiltonian.gradient(states)
        bad = np.flatnonzero(~(np.isfinite(energy) & np.isfinite(slopes).all(axis=-1)))
        if bad.size:
            raise UserError(
                f"formula '{self.parameters.energy}' or its gradient is not finite at data row "
                f"{bad[0] + 1} of '{self._path.name}'; mend the formula, its constants or the units"
            )
        d = self.parameters.dof
        if not slopes[:, d:].any() and states[:, d:].any():
            raise UserError(
                f"formula '{self.parameters.energy}' does not depend on the momenta in '{self._path.name}': no "
                "coordinate would move; complete it or set `energy: null`"
            )
        states = states[np.random.default_rng(0).permutation(len(states))[:512]]
        _check_structure(self._hamiltonian, states, self.parameters)

    # ------------------------------------------------------------ laws

    def energy(self, z: Array) -> Array:
        """H by the user's formula, in joules: ``[..., 2d] -> [...]``."""
        return self._known_hamiltonian()(z)

    def dynamics(self, z: Array) -> Array:
        """Hamilton's equations of the user's formula: ``[..., 2d] -> [..., 2d]``."""
        return hamiltonian_field(self._known_hamiltonian().gradient)(z)

    def momentum(self, z: Array) -> Array:
        """Total linear momentum of particles: ``[..., 2d] -> [..., space]``."""
        return self._particles(z)[1].sum(-2)

    def angular_momentum(self, z: Array) -> Array:
        """Total angular momentum of particles about the origin: ``[..., 2d] -> [..., 1 | 3]``."""
        xp = array_namespace(z)
        q, p = self._particles(z)
        planes = [(1, 2), (2, 0), (0, 1)] if self.parameters.space == 3 else [(0, 1)]
        return xp.stack([(q[..., i] * p[..., j] - q[..., j] * p[..., i]).sum(-1) for i, j in planes], axis=-1)

    def facts(self) -> dict[str, Any]:
        """What the parameters declare."""
        p = self.parameters
        found: dict[str, Any] = {}
        if p.particles:
            found |= {"particles": p.particles, "space": p.space, "attributes": {"mass": [m.si for m in p.masses]}}
        found |= {"angles": list(p.angles)} if p.angles else {}
        found |= {"structure": sorted(p.structure)} if p.structure else {}
        found |= {"second_order": True} if p.columns.velocities is not None else {}
        if self._hamiltonian is not None or self._keeps_momentum:
            found["conserved"] = ["energy"] * self._keeps_energy + self._keeps_momentum
        return found | ({"energy": {"law": "energy"}} if self._hamiltonian is not None else {})

    def laws(self) -> Laws:
        """Of the user's formula, where there is one."""
        known, kept = self._hamiltonian is not None, self._keeps_momentum
        goes_on = known and not self._acted
        return Laws(
            energy=self.energy if known else None,
            momentum=self.momentum if "momentum" in kept else None,
            angular_momentum=self.angular_momentum if "angular_momentum" in kept else None,
            simulate=self.simulate if goes_on else None,
            dynamics=self.dynamics if goes_on else None,
        )

    @property
    def _keeps_momentum(self) -> list[str]:
        """A sum over pairs of phi(|r_ij|) is unchanged by moving and by turning everything: Noether."""
        if "pairwise" not in self.parameters.structure or self._acted:
            return []
        return ["momentum", "angular_momentum"] if (self.parameters.space or 0) > 1 else ["momentum"]

    def _particles(self, z: Array) -> tuple[Array, Array]:
        shape = (*z.shape[:-1], self.parameters.particles, self.parameters.space)
        return z[..., : self.parameters.dof].reshape(shape), z[..., self.parameters.dof :].reshape(shape)

    def _known_hamiltonian(self) -> Formula:
        if self._hamiltonian is None:
            raise UserError(f"the energy behind '{self._path.name}' is unknown: set `energy` to a formula to simulate")
        return self._hamiltonian

    # ------------------------------------------------------------ simulation

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Draw start states ``[E, 2d]`` among the starts of the table's episodes, with replacement."""
        starts = np.stack([t.state[0] for t in self._trajectories])
        return starts[rng.integers(len(starts), size=episodes)]

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """Hamilton's equations of the formula, by DOP853: ``[E, 2d] -> [E, steps + 1, 2d]``.

        Raises:
            UserError: the energy is unknown.
            IntegrationError: an episode cannot be integrated, or does not keep its energy.
        """
        hamiltonian = self._known_hamiltonian()
        scale = self._scale

        def kinetic(y: Array) -> Array:
            z, d = y * scale, self.parameters.dof
            return 0.5 * (z[..., d:] * hamiltonian.gradient(z)[..., d:]).sum(-1)  # T, where T is quadratic in p

        # In units of the data's own size: DOP853's absolute tolerance means nothing in kg m/s of an atom or a planet.
        states = simulate_adaptive(
            self.entry,
            np.asarray(z0, np.float64) / scale,
            step,
            steps,
            dynamics=lambda y: self.dynamics(y * scale) / scale,
            energy=lambda y: hamiltonian(y * scale),
            kinetic=kinetic,
        )
        states *= scale
        states[:, 0] = z0
        return states

    @cached_property
    def _scale(self) -> Float:
        """Size of coordinates and of momenta in the table, one number each: ``[2d]``."""
        states = np.concatenate([t.state for t in self._trajectories])
        halves = np.split(states, 2, axis=-1)
        sizes = [float(np.sqrt(np.mean(half**2))) or 1.0 for half in halves]
        return np.repeat(sizes, self.parameters.dof)

    # ------------------------------------------------------------ views

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """Coordinates as coloured discs on white: ``[..., 2d] -> [..., size, size, 3]``.

        Particles stand where they are (the first two axes of space); any other coordinate is a bead on a line of its
        own, an angle a bead on a circle (downwards at 0).
        """
        place = self._places(np.asarray(z, np.float64)[..., : self.parameters.dof])
        pixel = (np.arange(size) + 0.5) / size
        image = np.ones((*z.shape[:-1], size, size, 3))
        for i in range(place.shape[-2]):
            across = pixel[None, :] - place[..., i, 0, None, None]
            down = pixel[:, None] - (1.0 - place[..., i, 1, None, None])
            # A soft edge, one pixel wide, so that motion smaller than a pixel is seen.
            cover = np.clip(0.5 + (0.06 - np.sqrt(across**2 + down**2)) * size, 0.0, 1.0)[..., None]
            image = image * (1.0 - cover) + cover * _COLOURS[i % len(_COLOURS)]
        return np.rint(255 * image).astype(np.uint8)

    def _places(self, q: Float) -> Float:
        """Where the discs are, in the unit square, y upwards: ``[..., d] -> [..., discs, 2]``."""
        low, high = self._range
        parameters = self.parameters
        if parameters.particles is not None and (parameters.space or 0) > 1:
            position = q.reshape(*q.shape[:-1], parameters.particles, parameters.space or 1)[..., :2]
            span = float((high - low).max()) or 1.0
            centre = ((low + high) / 2).reshape(parameters.particles, -1)[:, :2].mean(axis=0)
            return 0.5 + 0.8 * (position - centre) / span
        discs = len(low)
        x = 0.1 + 0.8 * (q - low) / np.where(high > low, high - low, 1.0)
        y = np.broadcast_to(1.0 - (np.arange(discs) + 0.5) / discs, x.shape).copy()
        for i in parameters.angles:
            x[..., i], y[..., i] = 0.5 + 0.35 * np.sin(q[..., i]), y[..., i] - 0.35 / discs * np.cos(q[..., i])
        return np.stack([x, y], axis=-1)

    @cached_property
    def _range(self) -> tuple[Float, Float]:
        q = np.concatenate([t.state[:, : self.parameters.dof] for t in self._trajectories])
        return q.min(axis=0), q.max(axis=0)

    def describe(self, z: Float) -> str:
        """One sentence about one episode ``[T + 1, 2d]``: which coordinates, how long, how far they range."""
        columns = self.parameters.columns.coordinates
        units = ["" if c.unit == "1" else c.unit for c in columns]
        shown = z[:, : self.parameters.dof] / np.array([to_base_units(c.unit) for c in columns])
        ranges = [
            f"{c.column} from {number(low)} to {number(high, unit)}"
            for c, unit, low, high in zip(columns[:4], units, shown.min(axis=0), shown.max(axis=0), strict=False)
        ]
        more = [f"{len(columns) - 4} more coordinates"] if len(columns) > 4 else []
        return f"Measured over {number((len(z) - 1) * self.step, 's')}: {listing([*ranges, *more])}."


_COLOURS = np.array([[0.12, 0.35, 0.70], [0.85, 0.33, 0.10], [0.20, 0.60, 0.30], [0.55, 0.30, 0.65]])


def _check_structure(hamiltonian: Formula, states: Float, parameters: TableParameters) -> None:
    """Raise UserError where the formula is not separable or even although the parameters say so."""
    q, p = np.split(states, 2, axis=-1)
    with np.errstate(all="ignore"):
        h = hamiltonian(states)

        def energy(q: Float, p: Float) -> Float:
            return hamiltonian(np.concatenate([q, p], axis=-1))

        others = np.roll(q, 1, axis=0), np.roll(p, 1, axis=0)
        departures = {
            "separable": h + energy(*others) - energy(q, others[1]) - energy(others[0], p),
            "even": np.maximum(np.abs(energy(-q, p) - h), np.abs(energy(q, -p) - h)),
        }
    for name, departure in departures.items():
        if name in parameters.structure and not (np.abs(departure) <= 1e-9 * np.abs(h).max()).all():
            raise UserError(f"structure: the energy formula '{parameters.energy}' is not {name}; remove '{name}'")
