"""Bodies that move by laws of their own between kicks: at the start of a step, body 0 is given momentum."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.laws import Laws
from wm_pipelines.worlds.base import ControlledWorld, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts.quantities import Quantity

Impulse = Annotated[float, Quantity("kg*m/s"), Field(gt=0)]
"""Momentum that an action of 1 gives along its axis."""

_FOLLOWS = 0.3  # standard deviation of what disturbs a scripted action


class KickedWorld(ControlledWorld):
    """A plane world of mechanics with a hand on its first body; the plant state is the mechanical one, ``(q, p)``.

    Subclasses say which world it is without the hand (`free`), what is wanted (`reward`), and how one gets there by
    hand (`wanted_velocity`). The parameters have an `impulse`.
    """

    action_size = 2

    def __init__(self, parameters: WorldParameters, free: SimulatedWorld, masses: Float) -> None:
        super().__init__(parameters)
        self.impulse, self.masses = float(getattr(parameters, "impulse")), masses  # noqa: B009 - of the subclass
        self.velocity_entries = tuple(range(2 * len(masses), 4 * len(masses)))
        self._free = free

    @property
    def free(self) -> SimulatedWorld:
        """The world as it is left alone, under this world's name."""
        self._free.entry = self.entry
        return self._free

    def positions(self, z: Float) -> Float:
        """Of the bodies, ``[..., N, 2]`` in m."""
        return z[..., : 2 * len(self.masses)].reshape(*z.shape[:-1], -1, 2)

    def velocities(self, z: Float) -> Float:
        """Of the bodies, ``[..., N, 2]`` in m/s."""
        return z[..., 2 * len(self.masses) :].reshape(*z.shape[:-1], -1, 2) / self.masses[:, None]

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """As the world left alone draws it, ``[E, 4 N]``."""
        return self.free.sample_initial_state(rng, episodes)

    def kicked(self, z: Float, action: Float) -> Float:
        """The state right after the kick ``impulse * action``, actions cut at 1."""
        after = np.array(z, np.float64)
        first = 2 * len(self.masses)
        after[..., first : first + 2] += self.impulse * np.clip(action, -1.0, 1.0)
        return after

    def advance(self, z: Float, action: Float, step: float) -> Float:
        """A kick, then ``step`` seconds of the world left alone.

        Raises:
            IntegrationError: the bodies meet where they may not.
        """
        start = self.kicked(z, action)
        return self.left_alone(start.reshape(-1, start.shape[-1]), step).reshape(start.shape)

    def left_alone(self, z: Float, step: float) -> Float:
        """States ``[E, 4 N]`` after ``step`` seconds without a kick; here: by the simulator of the free world."""
        return self.free.simulate(z, step, 1)[:, 1]

    @abstractmethod
    def wanted_velocity(self, z: Float) -> Float:
        """Velocity ``[..., 2]`` in m/s that body 0 should have for the sake of the reward, roughly."""

    def scripted(self, rng: np.random.Generator, z: Float, row: int) -> Float:
        """Kicks towards the velocity wanted; disturbed."""
        del row
        missing = self.masses[0] * (self.wanted_velocity(z) - self.velocities(z)[..., 0, :])
        return missing / self.impulse + _FOLLOWS * rng.standard_normal((len(z), 2))

    def facts(self) -> dict[str, Any]:
        """Particles in a plane; kicks bring momentum and energy."""
        free = self.free.facts()
        return {name: free[name] for name in ("particles", "space", "attributes")} | {"conserved": []}

    def laws(self) -> Laws:
        """The mechanical energy, constant between kicks, and the world itself."""
        return Laws(energy=self.free.laws().energy, plant=self)

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """As the world left alone is drawn."""
        return self.free.render(z, size)
