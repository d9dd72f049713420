"""Impossible futures: episodes that obey the law until a row in their middle, break it there, and obey it again.

A model that has understood a world is surprised by them (violation of expectation; Riochet et al., IntPhys 2018).

- ``teleport``: a body is suddenly somewhere else, its momentum unchanged.
- ``energy_jump``: all momenta are suddenly longer or shorter, by what changes the energy by a factor.
- ``pass_through``: bodies go through each other instead of colliding; only episodes where that shows are kept.

A world needs no code of its own for the first two: its facts say which coordinates are angles and which belong to
one particle. `SimulatedWorld.allowed` says what is inside the world, `SimulatedWorld.ghostly` gives bodies that ignore
each other.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds.base import Float, SimulatedWorld

Rows = NDArray[np.intp]
_ROUNDS = 200  # of draws, until something counts as impossible to draw
_DEFAULT = {"teleport": 0.5, "energy_jump": 2.0}


class Impossible(Settings):
    """How the episodes of a split break the law."""

    kind: Literal["teleport", "energy_jump", "pass_through"]
    amount: float | None = Field(
        None,
        gt=0,
        description="teleport: the jump, as a share of the range of positions, of half a turn for an angle (0.5); "
        "energy_jump: the energy after over before (2)",
    )
    between: tuple[float, float] = Field((1 / 3, 2 / 3), description="shares of the episode within which it happens")

    @model_validator(mode="after")
    def _complete(self) -> Impossible:
        if not 0.0 <= self.between[0] < self.between[1] <= 1.0:
            raise ValueError(f"between: expected two shares of an episode, rising, got {list(self.between)}")
        if self.kind == "pass_through" and self.amount is not None:
            raise ValueError("amount: 'pass_through' has none; remove it")
        if self.kind == "energy_jump" and self.amount == 1.0:
            raise ValueError("amount: a factor of 1 leaves the energy as it is; give another")
        if self.amount is None:
            self.amount = _DEFAULT.get(self.kind)
        return self

    def rows(self, steps: int) -> tuple[int, int]:
        """First and last row that may be altered; there is one before and one after them.

        Raises:
            UserError: there is none.
        """
        first, last = max(1, math.ceil(self.between[0] * steps)), min(steps - 1, math.floor(self.between[1] * steps))
        if first > last:
            raise UserError(f"impossible.between: no row lies there in an episode of {steps} steps; use longer ones")
        return first, last


def simulate_impossible(
    world: SimulatedWorld,
    breach: Impossible,
    *,
    step: float,
    steps: int,
    episodes: int,
    starts: np.random.Generator,
    rng: np.random.Generator,
) -> tuple[Float, Rows]:
    """Episodes that break the law once.

    Args:
        world: the world.
        breach: how.
        step: seconds between rows.
        steps: ``T``.
        episodes: ``E``.
        starts: draws start states.
        rng: draws all else.

    Returns:
        States ``[E, T + 1, 2d]`` and, per episode, the altered row ``[E]``: the first to which the law does not lead
        from the row before.

    Raises:
        UserError: the world cannot be broken in that way, or not so strongly.
    """
    first, last = breach.rows(steps)
    if breach.kind == "pass_through":
        return _passing(world, first, last, step, steps, episodes, starts, rng)
    lawful = np.asarray(world.simulate(world.sample_initial_state(starts, episodes), step, steps), np.float64)
    amount = float(breach.amount or 0.0)
    if breach.kind == "teleport":
        rows = rng.integers(first, last + 1, episodes)
        altered = teleported(world, lawful[np.arange(episodes), rows], lawful, amount, rng)
    else:
        altered, rows = energy_changed(world, lawful, amount, first, last, rng)
    return _continued(world, lawful, altered, rows, step), rows


# ---------------------------------------------------------------- the kinds


def teleported(world: SimulatedWorld, z: Float, lawful: Float, amount: float, rng: np.random.Generator) -> Float:
    """One body of every episode moved, its momentum kept, to where bodies of this world are found.

    A body is a particle, or a generalised coordinate. It moves ``amount`` times the range of all lawful positions in a
    random direction, an angle by ``amount * pi``; it stays inside that range and where it is
    `allowed`.

    Args:
        world: the world.
        z: states ``[E, 2d]``.
        lawful: episodes of the same split ``[E, T + 1, 2d]``.
        amount: see above.
        rng: draws bodies and directions.

    Raises:
        UserError: there is no room for such a jump.
    """
    facts, episodes, dof = world.facts(), len(z), z.shape[-1] // 2
    q = lawful[..., :dof]
    low, high = q.min(axis=(0, 1)), q.max(axis=(0, 1))
    angle = np.isin(np.arange(dof), facts.get("angles", ()))
    low[angle], high[angle] = -np.inf, np.inf
    space = facts.get("space", 1) if "particles" in facts else 1
    distance = np.where(angle, math.pi, (high - low)[~angle].max(initial=0.0))[::space] * amount
    moved, pending = z.copy(), np.arange(episodes)
    for _ in range(_ROUNDS):
        if pending.size == 0:
            return moved
        body = rng.integers(dof // space, size=pending.size)
        way = rng.standard_normal((pending.size, space))
        jump = distance[body, None] * way / np.linalg.norm(way, axis=-1, keepdims=True)
        trial = z[pending].copy()
        trial[np.arange(pending.size)[:, None], space * body[:, None] + np.arange(space)] += jump
        inside = ((trial[:, :dof] >= low) & (trial[:, :dof] <= high)).all(axis=-1)
        good = inside & world.allowed(trial)
        moved[pending[good]] = trial[good]
        pending = pending[~good]
    raise UserError(f"'{world.name}' has no room for a teleport of {amount:g} of its range; lower impossible.amount")


def energy_changed(
    world: SimulatedWorld, lawful: Float, factor: float, first: int, last: int, rng: np.random.Generator
) -> tuple[Float, Rows]:
    """All momenta of one row of every episode scaled so that ``H`` becomes ``H + (factor - 1) |H|``.

    Where the energy falls, only a row with enough kinetic energy will do. Bodies at rest set off in a random direction.

    Args:
        world: the world; its kinetic energy is quadratic in the momenta.
        lawful: episodes ``[E, T + 1, 2d]``.
        factor: energy after over before.
        first: row that may be altered.
        last: the same.
        rng: draws rows.

    Returns:
        Altered states ``[E, 2d]`` and their rows ``[E]``.

    Raises:
        UserError: the energy is unknown or not quadratic in the momenta, or there is less to lose than asked for.
    """
    energy, d = world.laws().energy, lawful.shape[-1] // 2
    if energy is None:
        raise UserError(f"'{world.name}' has no known energy that could jump; use another impossible.kind")
    window = lawful[:, first : last + 1]
    before = energy(window)
    kinetic = before - energy(_with_momenta(window, np.zeros_like(window[..., d:])))
    wanted = kinetic + (factor - 1.0) * np.abs(before)
    lot = np.where(wanted >= 0.0, rng.random(wanted.shape), -1.0)
    if (poor := np.flatnonzero(lot.max(axis=1) < 0.0)).size:
        raise UserError(
            f"'{world.name}': episode {poor[0]} never moves fast enough to keep {factor:g} of its energy; "
            "raise impossible.amount"
        )
    pick = (np.arange(len(lawful)), lot.argmax(axis=1))
    z, target = window[pick], before[pick] + (factor - 1.0) * np.abs(before[pick])
    still = kinetic[pick] <= 1e-12 * np.abs(before[pick])
    p = np.where(still[:, None], rng.standard_normal((len(z), d)), z[:, d:])
    rest = energy(_with_momenta(z, np.zeros_like(p)))
    for _ in range(2):  # the second time without the rounding of a small difference of large energies
        has = energy(_with_momenta(z, p)) - rest
        with np.errstate(divide="ignore", invalid="ignore"):
            p = p * np.where(has > 0.0, np.sqrt(np.maximum(target - rest, 0.0) / has), 1.0)[:, None]
    altered = _with_momenta(z, p)
    if not np.allclose(energy(altered), target, rtol=1e-9, atol=1e-12 * float(np.abs(before).max())):
        raise UserError(f"'{world.name}': its kinetic energy is not quadratic in the momenta; use a teleport instead")
    return altered, first + pick[1]


def _passing(
    world: SimulatedWorld,
    first: int,
    last: int,
    step: float,
    steps: int,
    episodes: int,
    starts: np.random.Generator,
    rng: np.random.Generator,
) -> tuple[Float, Rows]:
    """Bodies that pass through each other, and the first row at which they would have bounced instead.

    From a random row on they ignore each other. Kept are episodes that depart from the law within the rows allowed and
    show bodies inside each other in two frames at least.
    """
    ghosts = world.ghostly()
    if ghosts is None:
        raise UserError(f"the bodies of '{world.name}' do not collide; use impossible.kind teleport or energy_jump")
    kept: list[tuple[Float, int]] = []
    for _ in range(_ROUNDS):
        lawful = world.simulate(world.sample_initial_state(starts, episodes), step, steps)
        begins = rng.integers(first, last + 1, episodes)
        z = _continued(ghosts, lawful, lawful[np.arange(episodes), begins], begins, step)
        departs = (np.abs(z - lawful) > 1e-9 * np.abs(lawful).max()).any(axis=-1)
        rows, seen = departs.argmax(axis=1), (~world.allowed(z)).sum(axis=1) >= 2
        good = departs.any(axis=1) & (rows >= first) & (rows <= last) & seen
        kept += [(z[e], int(rows[e])) for e in np.flatnonzero(good)]
        if len(kept) >= episodes:
            return np.stack([z for z, _ in kept[:episodes]]), np.array([row for _, row in kept[:episodes]])
    raise UserError(f"'{world.name}': its bodies hardly ever meet; use longer episodes, larger or faster bodies")


def _continued(law: SimulatedWorld, lawful: Float, altered: Float, rows: Rows, step: float) -> Float:
    """Episodes that are ``lawful`` before their row, ``altered [E, 2d]`` in it, and follow ``law`` from there."""
    length = lawful.shape[1]
    future = law.simulate(altered, step, length - 1 - int(rows.min()))
    z = lawful.copy()
    for episode, row in enumerate(rows):
        z[episode, row:] = future[episode, : length - row]
    return z


def _with_momenta(z: Float, p: Float) -> Float:
    return np.concatenate([z[..., : z.shape[-1] // 2], p], axis=-1)
