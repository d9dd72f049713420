"""A mass on a spring: ``H = p^2 / 2m + k q^2 / 2``."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Annulus, PlaneLaw, require_entries
from wm_pipelines.worlds.parts.quantities import Mass, Quantity
from wm_pipelines.worlds.parts.rendering import INK, Canvas, colour, render_batched
from wm_pipelines.worlds.parts.simulation import check_energy


class MassSpringParameters(WorldParameters):
    """Parameters of `MassSpring`."""

    mass: Mass = 1.0
    stiffness: Annotated[float, Quantity("N/m"), Field(gt=0)] = 4.0
    initial: PlaneLaw = Annulus(law="annulus", radius=(0.2, 1.0))


@register
class MassSpring(SimulatedWorld):
    """State ``(q, p)``: displacement in m, momentum in kg m/s; the wall takes the momentum, energy is kept."""

    name = "mass_spring"
    Parameters = MassSpringParameters

    def __init__(self, parameters: MassSpringParameters) -> None:
        super().__init__(parameters)
        self.initial = parameters.initial
        self.mass, self.stiffness = parameters.mass, parameters.stiffness
        self.frequency = math.sqrt(self.stiffness / self.mass)

    def kinetic(self, z: Array) -> Array:
        """``p^2 / 2m [...]`` in joules."""
        return z[..., 1] ** 2 / (2.0 * self.mass)

    def energy(self, z: Array) -> Array:
        """``H [...]`` in joules."""
        return self.kinetic(z) + 0.5 * self.stiffness * z[..., 0] ** 2

    def dynamics(self, z: Array) -> Array:
        """``dz/dt = (p / m, -k q)``."""
        return array_namespace(z).concat([z[..., 1:] / self.mass, -self.stiffness * z[..., :1]], axis=-1)

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 2]`` by the law ``initial``."""
        return require_entries(self.entry, self.initial.sample(rng, episodes), 2)

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """The exact flow, a rotation in the plane ``(m omega q, p)``; no step of it depends on the one before."""
        angle = self.frequency * step * np.arange(steps + 1)
        impedance = self.mass * self.frequency
        q0, p0 = z0[:, :1], z0[:, 1:]
        cos, sin = np.cos(angle), np.sin(angle)
        states = np.stack([q0 * cos + (p0 / impedance) * sin, p0 * cos - (impedance * q0) * sin], axis=-1)
        check_energy(self.entry, states, self.energy, self.kinetic, 1e-10)
        return states

    def facts(self) -> dict[str, Any]:
        """Separable and even; nothing but energy is conserved."""
        return {
            "attributes": {"mass": [self.mass]},
            "structure": ["even", "separable"],
            "second_order": True,
            "conserved": ["energy"],
            "energy": {"law": "energy"},
        }

    def laws(self) -> Laws:
        """Of the harmonic oscillator."""
        return Laws(energy=self.energy, simulate=self.simulate, dynamics=self.dynamics)

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The mass slides to the right of a wall; the image is four of the largest amplitudes wide."""
        return render_batched(z, size, self._draw, half_width=2.0 * self._reach)

    @cached_property
    def _reach(self) -> float:
        """The largest amplitude that the law of start states gives, in metres."""
        z0 = self.sample_initial_state(np.random.default_rng(0), 1 if self.initial.law == "given" else 256)
        return math.sqrt(2.0 * float(self.energy(z0).max()) / self.stiffness) or 1.0

    def _draw(self, canvas: Canvas, z: Float) -> None:
        unit = self._reach

        def at(x: Float | float, y: float) -> Float:
            return np.stack([np.broadcast_to(x, z.shape[:1]), np.full(z.shape[0], y * unit)], axis=-1)

        wall, mass = -1.8 * unit, z[:, 0]
        canvas.rod(at(wall, -0.9), at(wall, 0.9), 0.12 * unit)
        canvas.rod(at(wall, -0.46), at(1.8 * unit, -0.46), 0.06 * unit)
        canvas.coil(at(wall, 0.0), at(mass - 0.3 * unit, 0.0), 0.07 * unit, 0.2 * unit, 7, INK)
        canvas.disc(at(mass, 0.0), 0.38 * unit, colour(0))

    def describe(self, z: Float) -> str:
        """Mass, stiffness, amplitude, period."""
        spring = f"{captions.number(self.mass, 'kg')} mass on a spring of {captions.number(self.stiffness, 'N/m')}"
        amplitude = math.sqrt(2.0 * float(self.energy(z[0])) / self.stiffness)
        if amplitude == 0.0:
            return f"A {spring} rests."
        period = 2.0 * math.pi / self.frequency
        return (
            f"A {spring} oscillates with an amplitude of {captions.number(amplitude, 'm')} "
            f"and a period of {captions.number(period, 's')}."
        )
