"""A ball above a floor: free fall, ``H = p^2 / 2m + m g h`` for ``h >= 0``, and impacts that turn its momentum.

``p -> -e p`` at ``h = 0``, e the coefficient of restitution (Newton). With e = 1 energy is conserved. With e < 1 every
impact takes the share ``1 - e^2`` of it, infinitely many of them in a finite time (Zeno), after which the ball rests.
No smooth law gives an impact: derivatives are those of the flight between them.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.errors import UserError
from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Given, LengthRange, require_entries
from wm_pipelines.worlds.parts.quantities import Mass, Quantity
from wm_pipelines.worlds.parts.rendering import Canvas, colour, render_batched
from wm_pipelines.worlds.parts.simulation import check_energy


class Thrown(Settings):
    """Heights uniform in an interval, velocities uniform in ``±speed``."""

    law: Literal["thrown"] = "thrown"
    height: LengthRange = (0.5, 2.0)
    speed: Annotated[float, Quantity("m/s"), Field(ge=0)] = 2.0


class BallParameters(WorldParameters):
    """Parameters of a ball above a floor, wherever it starts.

    Attributes:
        restitution: ``e``, vertical speed after an impact over that before; 1: elastic.
    """

    mass: Mass = 1.0
    gravity: Annotated[float, Quantity("m/s^2"), Field(gt=0)] = 9.81
    restitution: Annotated[float, Field(gt=0, le=1)] = 1.0


class BouncingBallParameters(BallParameters):
    """Parameters of `BouncingBall`."""

    initial: Annotated[Thrown | Given, Field(discriminator="law")] = Thrown()


@register
class BouncingBall(SimulatedWorld):
    """State ``(h, p)``: height of the ball's lowest point above the floor in m, momentum upwards in kg m/s."""

    name = "bouncing_ball"
    Parameters = BouncingBallParameters

    def __init__(self, parameters: BouncingBallParameters) -> None:
        super().__init__(parameters)
        self.initial, self.mass, self.gravity = parameters.initial, parameters.mass, parameters.gravity
        self.restitution = parameters.restitution

    # -- laws

    def kinetic(self, z: Array) -> Array:
        """``p^2 / 2m [...]`` in joules."""
        return z[..., 1] ** 2 / (2.0 * self.mass)

    def energy(self, z: Array) -> Array:
        """``H [...]`` in joules, zero at rest on the floor."""
        return self.kinetic(z) + self.mass * self.gravity * z[..., 0]

    def dynamics(self, z: Array) -> Array:
        """``dz/dt = (p / m, -m g)``, the flight between impacts; zero for a ball that rests on the floor."""
        xp = array_namespace(z)
        rests = (z[..., 0] <= 0.0) & (z[..., 1] == 0.0)
        weight = xp.full_like(z[..., 1], -self.mass * self.gravity)
        return xp.stack([z[..., 1] / self.mass, xp.where(rests, xp.zeros_like(weight), weight)], axis=-1)

    def allowed(self, z: Float) -> NDArray[np.bool_]:
        """Whether the ball is above the floor, ``[...]``; rounding forgiven."""
        return np.asarray(np.isfinite(z).all(axis=-1) & (z[..., 0] >= -1e-9))

    def meets(self, z: Float, seconds: float) -> NDArray[np.bool_]:
        """Whether the ball touches the floor within that time, ``[...]``; one that rests on it does."""
        h, v = np.maximum(z[..., 0], 0.0), z[..., 1] / self.mass
        return np.asarray((v + np.sqrt(v**2 + 2.0 * self.gravity * h)) / self.gravity <= seconds)

    # -- start states

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 2]`` above the floor.

        Raises:
            UserError: a given one is below it.
        """
        law = self.initial
        if isinstance(law, Given):
            z0 = require_entries(self.name, law.sample(rng, episodes), 2)
            self._refuse_below(z0)
            return z0
        velocity = rng.uniform(-law.speed, law.speed, episodes)
        return np.stack([rng.uniform(*law.height, episodes), self.mass * velocity], axis=-1)

    def _refuse_below(self, z0: Float) -> None:
        if (below := np.flatnonzero(~self.allowed(z0))).size:
            raise UserError(f"{self.name}: the ball starts below the floor in episode {below[0]}; raise it")

    # -- the simulator

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """``[E, 2] -> [E, steps + 1, 2]``, exact to rounding: no row depends on the one before.

        Raises:
            UserError: a start below the floor; a negative step where impacts lose energy, which cannot be undone.
        """
        if step < 0.0:
            if self.restitution < 1.0:
                raise UserError(f"{self.name}: impacts that lose energy cannot be undone; use a positive step")
            mirror = np.array([1.0, -1.0])  # an elastic ball whose momentum is turned goes back where it came from
            return self.simulate(z0 * mirror, -step, steps) * mirror
        self._refuse_below(z0)
        g, time = self.gravity, step * np.arange(steps + 1)
        h0, v0 = np.maximum(z0[:, :1], 0.0), z0[:, 1:] / self.mass
        impact = np.sqrt(v0**2 + 2.0 * g * h0)  # speed of the first impact
        since = time - (v0 + impact) / g  # seconds since then
        impacts, start, launch = self._flight(np.maximum(since, 0.0), impact)
        # Within its flight, from the launch; before the first impact, from the start.
        t = np.where(since < 0.0, time, since - start)
        h, v = np.where(since < 0.0, h0, 0.0), np.where(since < 0.0, v0, launch)
        # A ball at rest has no speed to start a flight with.
        fall = np.where((since >= 0.0) & (launch == 0.0), 0.0, g)
        states = np.stack([np.maximum(h + t * (v - 0.5 * fall * t), 0.0), self.mass * (v - fall * t)], axis=-1)
        states[:, 0] = z0
        self._check(states, np.where(since < 0.0, 0.0, impacts))
        return states

    def _flight(self, since: Float, impact: Float) -> tuple[Float, Float, Float]:
        """Of every time ``since [E, K]`` the first impact: impacts so far, seconds to the last one, speed after it.

        Speeds after the impacts are ``u e, u e^2, …``, u = ``impact [E, 1]``; a flight lasts ``2 / g`` times its speed.
        After the last of infinitely many impacts their number is infinite and the speed 0.
        """
        e, unit = self.restitution, 2.0 * impact / self.gravity
        with np.errstate(divide="ignore", invalid="ignore"):
            if e == 1.0:
                impacts = np.where(unit > 0.0, np.floor(since / unit) + 1.0, np.inf)
                start = np.where(unit > 0.0, (impacts - 1.0) * unit, 0.0)
                return impacts, start, np.where(unit > 0.0, impact, 0.0) * np.ones_like(since)
            # Flight n starts after unit (e + … + e^(n-1)) = unit (e - e^n) / (1 - e): solved for n.
            left = e - since * (1.0 - e) / unit
            n = np.where(left > 0.0, np.floor(np.log(np.maximum(left, 1e-300)) / np.log(e)), np.inf)
            n = np.where(unit > 0.0, np.maximum(n, 1.0), np.inf)
            begins = [unit * (e - e**k) / (1.0 - e) for k in (n, n + 1.0)]
            # Rounding of the logarithm may miss a flight by one.
            n = np.where(since < begins[0], n - 1.0, np.where(since >= begins[1], n + 1.0, n))
            n = np.where(np.isfinite(n), n, np.inf)
            return n, np.where(np.isfinite(n), unit * (e - e**n) / (1.0 - e), since), impact * e**n

    def _check(self, states: Float, impacts: Float) -> None:
        """Refuse episodes whose energy is not ``E(0) e^(2 n)`` after n impacts."""
        kept = self.restitution ** (2.0 * impacts) if self.restitution < 1.0 else np.ones_like(impacts)
        lost = self.energy(states[:, :1]) * (1.0 - kept)
        with_lost = np.concatenate([states, lost[..., None]], axis=-1)
        check_energy(self.name, with_lost, lambda y: self.energy(y) + y[..., 2], self.kinetic, 1e-10)

    # -- what is told, what judges know

    def facts(self) -> dict[str, Any]:
        """Velocity is momentum over mass; energy is conserved by elastic impacts alone."""
        told = {"attributes": {"mass": [self.mass]}, "second_order": True}
        if self.restitution < 1.0:
            return {**told, "conserved": []}
        return {**told, "structure": ["separable"], "conserved": ["energy"], "energy": {"law": "energy"}}

    def laws(self) -> Laws:
        """Of flight and impact; where impacts lose energy, its decay is the truth."""
        return Laws(energy=self.energy, simulate=self.simulate, dynamics=self.dynamics, meets=self.meets)

    # -- images and words

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The floor below, the ball above it; the highest start nearly reaches the upper edge."""
        top = self._reach
        return render_batched(z, size, self._draw, half_width=0.65 * top, centre=(0.0, 0.5 * top))

    @cached_property
    def _reach(self) -> float:
        """The greatest height that start states lead to, in metres."""
        z0 = self.sample_initial_state(np.random.default_rng(0), 1 if self.initial.law == "given" else 256)
        return float(self.energy(z0).max()) / (self.mass * self.gravity) or 1.0

    def _draw(self, canvas: Canvas, z: Float) -> None:
        unit = self._reach

        def at(x: float, y: Float | float) -> Float:
            return np.stack([np.full(len(z), x), np.broadcast_to(y, len(z))], axis=-1)

        canvas.rod(at(-0.6 * unit, -0.02 * unit), at(0.6 * unit, -0.02 * unit), 0.04 * unit)
        canvas.disc(at(0.0, z[:, 0] + 0.08 * unit), 0.08 * unit, colour(0))

    def describe(self, z: Float) -> str:
        """Height, kind of impact, and how often it is seen to turn upwards."""
        top = captions.number(float(self.energy(z[0])) / (self.mass * self.gravity), "m")
        kind = "elastic" if self.restitution == 1.0 else f"restitution {captions.number(self.restitution)}"
        turns = int(((z[:-1, 1] < 0.0) & (z[1:, 1] > 0.0)).sum())
        seen = captions.count(turns, "time") if turns else "never"
        return f"A ball that reaches {top} bounces on a floor ({kind}); it is seen to turn upwards {seen}."
