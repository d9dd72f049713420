"""Hard discs in a square box: free flight, and elastic collisions with each other and with the walls.

Event-driven: every collision happens at its own time, between the rows too, so nothing is lost to a time step.
Two discs that meet exchange the impulse ``J = -2 mu (v_ij . n) n`` along the line ``n`` between them, ``mu`` their
reduced mass (Alder & Wainwright, J. Chem. Phys. 31, 459 (1959); here with a box instead of periodic images).
"""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Any, Literal

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Discriminator, Field, Tag, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.integrators import IntegrationError
from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Given, require_entries
from wm_pipelines.worlds.parts.pair_laws import like
from wm_pipelines.worlds.parts.quantities import Length, Mass, Quantity
from wm_pipelines.worlds.parts.rendering import Canvas, colour, colour_name, render_batched
from wm_pipelines.worlds.parts.simulation import check_energy

Speed = Annotated[float, Quantity("m/s"), Field(ge=0)]
_DRAWS = 1000  # of one start state, until the box counts as too full
_EVENTS = 10_000  # collisions of one episode between two rows, at most


class Scattered(Settings):
    """Discs anywhere in the box but not on each other, directions uniform, speeds uniform in an interval."""

    law: Literal["scattered"] = "scattered"
    speed: tuple[Speed, Speed] = (1.0, 2.0)

    @model_validator(mode="after")
    def _ordered(self) -> Scattered:
        if self.speed[0] > self.speed[1]:
            raise ValueError(f"speed: expected [slowest, fastest], got {list(self.speed)}; swap them")
        return self


def _form(value: object) -> str:
    return "list" if isinstance(value, list | tuple) else "each"


class BouncingBallsParameters(WorldParameters):
    """Parameters of `BouncingBalls`; masses and radii are one for all, or a list with one per ball."""

    balls: int = Field(2, ge=1)
    masses: Annotated[
        Annotated[Mass, Tag("each")] | Annotated[list[Mass], Tag("list")],
        Discriminator(_form),
    ] = 1.0
    radii: Annotated[
        Annotated[Length, Tag("each")] | Annotated[list[Length], Tag("list")],
        Discriminator(_form),
    ] = 0.25
    side: Length = Field(2.0, description="of the box; its centre is the origin")
    initial: Annotated[Scattered | Given, Field(discriminator="law")] = Scattered()

    @model_validator(mode="after")
    def _fit_together(self) -> BouncingBallsParameters:
        for name in ("masses", "radii"):
            values = getattr(self, name)
            if isinstance(values, list) and len(values) != self.balls:
                raise ValueError(f"{name} lists {len(values)} numbers for {self.balls} balls; give one per ball")
        if 2.0 * self.list_of("radii").max() >= self.side:
            raise ValueError(f"radii: a ball is wider than the box ({self.side:g} m); make it smaller")
        return self

    def list_of(self, name: str) -> Float:
        """Masses or radii as ``[N]``."""
        value = getattr(self, name)
        return np.array(value if isinstance(value, list) else [value] * self.balls, dtype=np.float64)


@register
class BouncingBalls(SimulatedWorld):
    """State ``(q_1 … q_N, p_1 … p_N)``: centres in m and momenta in kg m/s, two entries each."""

    name = "bouncing_balls"
    Parameters = BouncingBallsParameters
    parameters: BouncingBallsParameters

    def __init__(self, parameters: BouncingBallsParameters) -> None:
        super().__init__(parameters)
        self.initial, self.balls, self.side = parameters.initial, parameters.balls, parameters.side
        self.masses, self.radii = parameters.list_of("masses"), parameters.list_of("radii")
        self.pairs = list(combinations(range(self.balls), 2))
        self.meet = True  # False: discs pass through each other (an impossible world)

    # -- laws

    def energy(self, z: Array) -> Array:
        """``sum_i p_i^2 / 2 m_i [...]`` in joules; there is no other."""
        xp = array_namespace(z)
        return xp.sum(z[..., 2 * self.balls :] ** 2 * like(z, np.repeat(0.5 / self.masses, 2)), axis=-1)

    def gaps(self, z: Float) -> Float:
        """Free space between the rims ``[..., pairs + N]`` in metres: of every pair, then of every ball and its wall.

        Negative where discs overlap, or reach into a wall.
        """
        q = z[..., : 2 * self.balls].reshape(*z.shape[:-1], self.balls, 2)
        between = [np.linalg.norm(q[..., i, :] - q[..., j, :], axis=-1) - self._contact(i, j) for i, j in self.pairs]
        walls = 0.5 * self.side - self.radii - np.abs(q).max(axis=-1)
        return np.concatenate([np.stack(between, axis=-1), walls], axis=-1) if between else walls

    def _contact(self, i: int, j: int) -> float:
        return float(self.radii[i] + self.radii[j])

    def allowed(self, z: Float) -> NDArray[np.bool_]:
        """Whether no discs overlap and none reaches into a wall, ``[...]``; touching is allowed, rounding forgiven."""
        return np.asarray((self.gaps(z) >= -1e-9 * self.side).all(axis=-1))

    def ghostly(self) -> BouncingBalls:
        """The same balls, which the walls alone can stop."""
        ghosts = BouncingBalls(self.parameters)
        ghosts.meet = False
        return ghosts

    # -- start states

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 4 N]`` without overlap: an episode whose discs overlap is drawn again.

        Raises:
            UserError: the discs hardly fit into the box, or given ones overlap.
        """
        if isinstance(self.initial, Given):
            z0 = require_entries(self.entry, self.initial.sample(rng, episodes), 4 * self.balls)
            self._refuse_overlap(z0)
            return z0
        room = np.repeat(0.5 * self.side - self.radii, 2)
        z0 = np.zeros((episodes, 4 * self.balls))
        missing = np.arange(episodes)
        for _ in range(_DRAWS):
            z0[missing, : 2 * self.balls] = rng.uniform(-room, room, (missing.size, 2 * self.balls))
            missing = missing[(self.gaps(z0[missing]) < 0.0).any(axis=-1)]
            if missing.size == 0:
                break
        else:
            raise UserError(f"{self.entry}: {self.balls} balls hardly fit into the box; lower `radii` or raise `side`")
        angle = rng.uniform(0.0, 2.0 * np.pi, (episodes, self.balls))
        size = self.masses * rng.uniform(*self.initial.speed, (episodes, self.balls))
        z0[:, 2 * self.balls :] = np.stack([size * np.cos(angle), size * np.sin(angle)], -1).reshape(episodes, -1)
        return z0

    def _refuse_overlap(self, z0: Float) -> None:
        bad = np.flatnonzero(~self.allowed(z0))
        if bad.size:
            raise UserError(
                f"{self.entry}: balls overlap, or reach into a wall, at the start of episode {bad[0]}; move them apart"
            )

    # -- the simulator

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """``[E, 4 N] -> [E, steps + 1, 4 N]``, exact to rounding; backwards in time for a negative step.

        Raises:
            UserError: discs overlap at the start.
            IntegrationError: an episode has no end of collisions between two rows.
        """
        z0 = np.asarray(z0, np.float64)
        if self.meet:
            self._refuse_overlap(z0)
        sign = -1.0 if step < 0.0 else 1.0
        q = z0[:, : 2 * self.balls].reshape(-1, self.balls, 2).copy()
        p = sign * z0[:, 2 * self.balls :].reshape(-1, self.balls, 2)
        states = np.empty((len(z0), steps + 1, z0.shape[1]))
        states[:, 0] = z0
        for row in range(1, steps + 1):
            self._advance(q, p, abs(step))
            states[:, row, : 2 * self.balls] = q.reshape(len(z0), -1)
            states[:, row, 2 * self.balls :] = sign * p.reshape(len(z0), -1)
        check_energy(self.entry, states, self.energy, self.energy, 1e-12)
        return states

    def _advance(self, q: Float, p: Float, duration: float) -> None:
        """Carry all episodes ``q, p [E, N, 2]`` on by so many seconds, in place, collision by collision."""
        left = np.full(len(q), duration)
        going = np.arange(len(q))
        for _ in range(_EVENTS):
            now_q, now_p = q[going], p[going]
            waits = self._waits(now_q, now_p)
            first = waits.argmin(axis=-1)
            wait = waits[np.arange(len(going)), first]
            collides = wait < left[going]
            flight = np.minimum(wait, left[going])
            now_q += (now_p / self.masses[:, None]) * flight[:, None, None]
            q[going] = now_q
            left[going] -= flight
            going, first = going[collides], first[collides]
            if going.size == 0:
                return
            self._collide(q, p, going, first)
        raise IntegrationError(f"{self.entry}: an episode has no end of collisions; use another box, radii or starts")

    def _waits(self, q: Float, p: Float) -> Float:
        """Seconds until every possible event ``[E, 2 N + pairs]``: each ball at a wall per axis, then each pair.

        Infinite where two do not approach each other; zero, never less, where rounding left them in contact.
        """
        v = p / self.masses[:, None]
        room = (0.5 * self.side - self.radii)[:, None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            walls = np.where(v == 0.0, np.inf, np.maximum((np.copysign(room, v) - q) / v, 0.0))
        waits = [walls.reshape(len(q), -1)]
        for i, j in self.pairs if self.meet else ():
            dq, dv = q[:, i] - q[:, j], v[:, i] - v[:, j]
            closing = -(dq * dv).sum(-1)
            gap = (dq * dq).sum(-1) - self._contact(i, j) ** 2
            root = closing**2 - (dv * dv).sum(-1) * gap
            meets = (closing > 0.0) & (root > 0.0)
            # The smaller root of |dq + dv t| = r_i + r_j, in the form that does not cancel.
            denominator = np.where(meets, closing + np.sqrt(np.maximum(root, 0.0)), 1.0)
            waits.append(np.where(meets, np.maximum(gap / denominator, 0.0), np.inf)[:, None])
        return np.concatenate(waits, axis=-1)

    def _collide(self, q: Float, p: Float, episodes: NDArray[np.intp], event: NDArray[np.intp]) -> None:
        """Turn the momenta of the episodes listed, each by its own event (numbered as in `_waits`), in place."""
        walls = event < 2 * self.balls
        e, ball, axis = episodes[walls], event[walls] // 2, event[walls] % 2
        p[e, ball, axis] *= -1.0
        for number, (i, j) in enumerate(self.pairs, 2 * self.balls):
            e = episodes[event == number]
            if e.size == 0:
                continue
            dq = q[e, i] - q[e, j]
            normal = dq / np.linalg.norm(dq, axis=-1, keepdims=True)
            reduced = self.masses[i] * self.masses[j] / (self.masses[i] + self.masses[j])
            closing = ((p[e, i] / self.masses[i] - p[e, j] / self.masses[j]) * normal).sum(-1, keepdims=True)
            impulse = -2.0 * reduced * closing * normal
            p[e, i] += impulse
            p[e, j] -= impulse

    def facts(self) -> dict[str, Any]:
        """Particles in a plane; the walls take momentum and angular momentum."""
        return {
            "particles": self.balls,
            "space": 2,
            "attributes": {"mass": self.masses.tolist(), "radius": self.radii.tolist()},
            "conserved": ["energy"],
            "energy": {"law": "energy"},
        }

    def laws(self) -> Laws:
        """Elastic collisions."""
        return Laws(energy=self.energy, simulate=self.simulate)

    # -- images and words

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The box from wall to wall, every ball in a colour of its own."""
        return render_batched(z, size, self._draw, half_width=0.5 * self.side)

    def _draw(self, canvas: Canvas, z: Float) -> None:
        for ball in range(self.balls):
            canvas.disc(z[:, 2 * ball : 2 * ball + 2], float(self.radii[ball]), colour(ball))

    def describe(self, z: Float) -> str:
        """How many, how heavy, in which box, and how fast the fastest ever is."""
        p = z[:, 2 * self.balls :].reshape(len(z), self.balls, 2)
        speed = np.linalg.norm(p, axis=-1) / self.masses
        fastest = int(speed.max(axis=0).argmax())
        number = captions.count(self.balls, "ball").capitalize()
        return (
            f"{number} of {captions.masses(tuple(self.masses))} in a box of side {captions.number(self.side, 'm')}; "
            f"the {colour_name(fastest)} one is the fastest at {captions.number(float(speed.max()), 'm/s')}."
        )
