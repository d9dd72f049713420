"""A rigid pendulum: ``H = p^2 / (2 m l^2) + m g l (1 - cos q)``."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import ellipk

from wm_pipelines.system import System
from wm_pipelines.worlds import captions, register
from wm_pipelines.worlds.base import Array, Float, World, WorldParameters
from wm_pipelines.worlds.initial import Box, PlaneLaw, require_entries
from wm_pipelines.worlds.quantities import Quantity
from wm_pipelines.worlds.rendering import INK, Canvas, colour, render_batched
from wm_pipelines.worlds.simulation import simulate_separable


class PendulumParameters(WorldParameters):
    """Parameters of `Pendulum`."""

    mass: Annotated[float, Quantity("kg"), Field(gt=0)] = 1.0
    length: Annotated[float, Quantity("m"), Field(gt=0)] = 1.0
    gravity: Annotated[float, Quantity("m/s^2"), Field(gt=0)] = 9.81
    initial: PlaneLaw = Box(law="box", q=[2.0], p=[2.0])


@register
class Pendulum(World):
    """State ``(q, p)``: angle from the lowest point in rad (not wrapped), angular momentum in kg m^2/s."""

    name = "pendulum"
    Parameters = PendulumParameters

    def __init__(self, parameters: PendulumParameters) -> None:
        super().__init__(parameters)
        self.initial = parameters.initial
        self.mass, self.length, self.gravity = parameters.mass, parameters.length, parameters.gravity
        self.inertia = self.mass * self.length**2
        self.torque = self.mass * self.gravity * self.length  # the largest torque of gravity, m g l
        self.frequency = math.sqrt(self.gravity / self.length)

    def kinetic(self, z: Array) -> Array:
        """``p^2 / (2 m l^2) [...]`` in joules."""
        return z[..., 1] ** 2 / (2.0 * self.inertia)

    def energy(self, z: Array) -> Array:
        """``H [...]`` in joules, zero at rest in the lowest point.

        ``1 - cos q`` is written ``2 sin^2(q/2)``, which keeps its digits near the lowest point.
        """
        return self.kinetic(z) + 2.0 * self.torque * array_namespace(z).sin(0.5 * z[..., 0]) ** 2

    def velocity(self, p: Array) -> Array:
        """``dq/dt = p / (m l^2)``."""
        return p * (1.0 / self.inertia)

    def force(self, q: Array) -> Array:
        """``dp/dt = -m g l sin q``."""
        return -self.torque * array_namespace(q).sin(q)

    def dynamics(self, z: Array) -> Array:
        """``dz/dt``."""
        return array_namespace(z).concat([self.velocity(z[..., 1:]), self.force(z[..., :1])], axis=-1)

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 2]`` by the law ``initial``."""
        return require_entries(self.name, self.initial.sample(rng, episodes), 2)

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """Explicit symplectic roll-out ``[E, 2] -> [E, steps + 1, 2]``, 40 sub-steps or more per small oscillation."""
        return simulate_separable(
            self.name,
            z0,
            step,
            steps,
            velocity=self.velocity,
            force=self.force,
            energy=self.energy,
            kinetic=self.kinetic,
            longest=0.16 / self.frequency,
        )

    def period(self, energy: float) -> float:
        """Period in seconds of the motion at that energy, by the complete elliptic integral K.

        Below ``2 m g l`` of the swing, above it of one turn; infinite at it.
        """
        m = energy / (2.0 * self.torque)
        if m < 1.0:
            return 4.0 * float(ellipk(m)) / self.frequency
        return 2.0 * float(ellipk(1.0 / m)) / (self.frequency * math.sqrt(m))

    def system(self, step: float) -> System:
        """Separable and even in one angle; the pivot takes the momentum."""
        return System(
            name=self.name,
            dof=1,
            step=step,
            attributes={"mass": (self.mass,)},
            angles=(0,),
            structure=frozenset({"separable", "even"}),
            energy=self.energy,
            simulate=self.simulate,
            dynamics=self.dynamics,
            constants={"mass": self.mass, "length": self.length, "gravity": self.gravity},
        )

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The pivot in the middle, the rod as long as a third of the picture."""
        return render_batched(z, size, self._draw, half_width=1.5 * self.length)

    def _draw(self, canvas: Canvas, z: Float) -> None:
        bob = self.length * np.stack([np.sin(z[:, 0]), -np.cos(z[:, 0])], axis=-1)
        canvas.rod(np.zeros_like(bob), bob, 0.06 * self.length)
        canvas.disc(np.zeros_like(bob), 0.08 * self.length, INK)
        canvas.disc(bob, 0.22 * self.length, colour(0))

    def describe(self, z: Float) -> str:
        """Mass, length, and whether it swings (amplitude, period) or turns over the top (sense, turns)."""
        energy = float(self.energy(z[0]))
        subject = f"A {captions.number(self.mass, 'kg')} pendulum of length {captions.number(self.length, 'm')}"
        if energy == 0.0:
            return f"{subject} hangs at rest."
        period = captions.number(self.period(energy), "s")
        if energy < 2.0 * self.torque:
            amplitude = 2.0 * math.asin(math.sqrt(energy / (2.0 * self.torque)))
            return f"{subject} swings with an amplitude of {captions.degrees(amplitude)} and a period of {period}."
        turns = int(abs(z[-1, 0] - z[0, 0]) / (2.0 * math.pi))
        sense = captions.turning(float(z[0, 1]))
        return (
            f"{subject} turns over the top {sense}, once in {period}, and makes {captions.count(turns, 'full turn')}."
        )
