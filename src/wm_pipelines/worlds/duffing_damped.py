"""A damped Duffing oscillator: ``m q'' + c q' + k q + b q^3 = 0``; energy is lost, ``dE/dt = -c v^2``.

G. Duffing, Erzwungene Schwingungen (1918), here without the drive. For ``k < 0`` a double well: every motion ends in
one of the two minima ``q = ±sqrt(-k / b)``. Not a Hamiltonian system in (q, p): no energy is conserved.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Box, PlaneLaw, require_entries
from wm_pipelines.worlds.parts.quantities import Mass, Quantity
from wm_pipelines.worlds.parts.rendering import INK, Canvas, colour, render_batched
from wm_pipelines.worlds.parts.simulation import simulate_adaptive

_OUTLINE = 24  # straight pieces that the drawn potential is made of


class DuffingParameters(WorldParameters):
    """Parameters of `DuffingDamped`.

    Attributes:
        mass: ``m``. damping: ``c``; 0: an ordinary Duffing oscillator, whose energy is conserved.
        stiffness: ``k``; below zero: a double well. cubic: ``b`` in N/m^3.
    """

    mass: Mass = 1.0
    damping: Annotated[float, Quantity("N*s/m"), Field(ge=0)] = 0.15
    stiffness: Annotated[float, Quantity("N/m")] = -1.0
    cubic: Annotated[float, Quantity("N/m^3"), Field(ge=0)] = 1.0
    initial: PlaneLaw = Box(law="box", q=[1.5], p=[1.0])

    @model_validator(mode="after")
    def _confining(self) -> DuffingParameters:
        if self.stiffness <= 0.0 and self.cubic == 0.0:
            raise ValueError("nothing pulls the mass back; give a stiffness or a cubic above zero")
        return self


@register
class DuffingDamped(SimulatedWorld):
    """State ``(q, p)``: displacement in m, momentum ``p = m v`` in kg m/s; friction takes energy and momentum."""

    name = "duffing_damped"
    Parameters = DuffingParameters

    def __init__(self, parameters: DuffingParameters) -> None:
        super().__init__(parameters)
        self.initial, self.mass, self.damping = parameters.initial, parameters.mass, parameters.damping
        self.stiffness, self.cubic = parameters.stiffness, parameters.cubic

    def kinetic(self, z: Array) -> Array:
        """``p^2 / 2m [...]`` in joules."""
        return z[..., 1] ** 2 / (2.0 * self.mass)

    def potential(self, q: Array) -> Array:
        """``k q^2 / 2 + b q^4 / 4`` in joules, elementwise."""
        return 0.5 * self.stiffness * q**2 + 0.25 * self.cubic * q**4

    def energy(self, z: Array) -> Array:
        """Mechanical energy ``[...]`` in joules, zero at rest in the middle; it falls by ``c v^2`` per second."""
        return self.kinetic(z) + self.potential(z[..., 0])

    def power(self, z: Array) -> Array:
        """``dE/dt = -c v^2 [...]`` in watts."""
        return -self.damping * (z[..., 1] / self.mass) ** 2

    def dynamics(self, z: Array) -> Array:
        """``dz/dt = (p / m, -k q - b q^3 - c p / m)``."""
        q, p = z[..., :1], z[..., 1:]
        force = -self.stiffness * q - self.cubic * q**3 - self.damping * (p / self.mass)
        return array_namespace(z).concat([p / self.mass, force], axis=-1)

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 2]`` by the law ``initial``."""
        return require_entries(self.name, self.initial.sample(rng, episodes), 2)

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """DOP853 ``[E, 2] -> [E, steps + 1, 2]``; what friction took, ``W' = c v^2``, is carried along.

        The check is the balance ``E(t) + W(t) = E(0)``: energy itself is not kept.
        """

        def balance(y: Array) -> Array:
            return self.energy(y[..., :2]) + y[..., 2]

        def with_work(y: Array) -> Array:
            return np.concatenate([self.dynamics(y[..., :2]), -self.power(y[..., :2])[..., None]], axis=-1)

        y0 = np.concatenate([z0, np.zeros((len(z0), 1))], axis=-1)
        states = simulate_adaptive(
            self.name, y0, step, steps, dynamics=with_work, energy=balance, kinetic=self.kinetic
        )  # fmt: skip
        return np.ascontiguousarray(states[..., :2])

    def facts(self) -> dict[str, Any]:
        """Velocity is momentum over mass. Nothing is conserved, and no energy is told: it would not be one's."""
        told = {"attributes": {"mass": [self.mass]}, "second_order": True}
        if self.damping > 0.0:
            return {**told, "conserved": []}
        return {**told, "structure": ["even", "separable"], "conserved": ["energy"], "energy": {"law": "energy"}}

    def laws(self) -> Laws:
        """Of the damped oscillator; the energy is the mechanical one, whose decay is the truth."""
        return Laws(energy=self.energy, simulate=self.simulate, dynamics=self.dynamics)

    @property
    def minima(self) -> tuple[float, ...]:
        """Where the mass can rest for good, in metres."""
        if self.stiffness >= 0.0:
            return (0.0,)
        q = math.sqrt(-self.stiffness / self.cubic)
        return (-q, q)

    # -- images and words

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """A ball in the bowl of its potential; the image shows all places that start states reach."""
        return render_batched(z, size, self._draw, half_width=1.3 * self._reach)

    @cached_property
    def _reach(self) -> float:
        """How far from the middle the start states come, in metres."""
        z0 = self.sample_initial_state(np.random.default_rng(0), 1 if self.initial.law == "given" else 256)
        energy = float(self.energy(z0).max())
        # b q^4 / 4 + k q^2 / 2 = E
        if self.cubic == 0.0:
            return math.sqrt(max(2.0 * energy / self.stiffness, 0.0)) or 1.0
        root = math.sqrt(max(self.stiffness**2 + 4.0 * self.cubic * energy, 0.0))
        return math.sqrt(max((root - self.stiffness) / self.cubic, 0.0)) or 1.0

    def _draw(self, canvas: Canvas, z: Float) -> None:
        unit = self._reach
        lowest, highest = float(self.potential(np.array(self.minima)).min()), float(self.potential(np.array(unit)))
        span = max(highest - lowest, 1e-12)

        def at(q: Float) -> Float:
            return np.stack([q, 1.2 * unit * ((self.potential(q) - lowest) / span) - 0.8 * unit], axis=-1)

        bowl = np.linspace(-1.1 * unit, 1.1 * unit, _OUTLINE + 1)
        for a, b in pairwise(bowl):
            canvas.rod(at(np.full(len(z), a)), at(np.full(len(z), b)), 0.05 * unit, INK)
        canvas.disc(at(z[:, 0]) + np.array([0.0, 0.16 * unit]), 0.16 * unit, colour(0))

    def describe(self, z: Float) -> str:
        """Mass, friction, how much energy is lost, and where the motion ends."""
        minima = np.array(self.minima)
        lowest = float(self.potential(minima).min())
        first, last = (float(self.energy(z[k])) - lowest for k in (0, -1))
        start = f"A {captions.number(self.mass, 'kg')} mass with friction"
        if len(minima) > 1:
            start += " in a double well"
        if first <= 0.0:
            return f"{start} rests."
        lost = captions.number(100.0 * (1.0 - last / first), digits=2)
        side = ""
        if len(minima) > 1 and last + lowest < 0.0:  # below the hump in the middle: it cannot change sides any more
            side = f" and ends on the {'right' if z[-1, 0] > 0 else 'left'}"
        return f"{start} loses {lost} % of its energy{side}."
