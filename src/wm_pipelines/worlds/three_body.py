"""Three bodies under Newton's gravity in a plane: ``H = sum_i p_i^2 / 2 m_i - G sum_{i<j} m_i m_j / r_ij``; chaotic."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import BodiesLaw, NearCircular, directions, require_entries
from wm_pipelines.worlds.parts.pair_laws import InverseDistance
from wm_pipelines.worlds.parts.particles import ParticleWorld
from wm_pipelines.worlds.parts.quantities import Mass, Quantity
from wm_pipelines.worlds.parts.rendering import colour_name

# Largest Lyapunov exponent in 1/s for equal masses with G m = 1 and the start states below. Mean of `lyapunov_exponent`
# over 64 starts (seed 0) followed for 10 s in intervals of 0.4 s; its standard error is 0.013.
LYAPUNOV_EXPONENT = 0.458
_MEASURED_FOR = NearCircular(radius=(0.9, 1.2), noise=0.05)


class ThreeBodyParameters(WorldParameters):
    """Parameters of `ThreeBody`. Natural units by default: G = 1."""

    masses: tuple[Mass, Mass, Mass] = (1.0, 1.0, 1.0)
    gravitational_constant: Annotated[float, Quantity("m^3/(kg*s^2)"), Field(gt=0)] = 1.0
    initial: BodiesLaw = NearCircular(radius=(0.9, 1.2), noise=0.05)


@register
class ThreeBody(ParticleWorld):
    """State ``(x1, y1, x2, y2, x3, y3, px1 … py3)`` in m and kg m/s."""

    name = "three_body"
    Parameters = ThreeBodyParameters

    def __init__(self, parameters: ThreeBodyParameters) -> None:
        masses = np.array(parameters.masses)
        self.initial, self.gravitational_constant = parameters.initial, parameters.gravitational_constant
        super().__init__(
            parameters, masses, InverseDistance(-self.gravitational_constant * np.outer(masses, masses)), 2
        )

    @property
    def lyapunov_time(self) -> float | None:
        """``1 / largest Lyapunov exponent`` in seconds; None for masses or starts it was not computed for."""
        if len(set(self.masses)) > 1 or self.initial != _MEASURED_FOR:
            return None
        return 1.0 / (LYAPUNOV_EXPONENT * math.sqrt(self.gravitational_constant * float(self.masses[0])))

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 12]``: Lagrange's equilateral triangle, anticlockwise, its velocities disturbed.

        `NearCircular`: corners at ``radius`` from the origin, and the velocities with which three equal bodies (of the
        mean mass) would circle rigidly; each component is then multiplied by ``1 + noise * U(-1, 1)`` (the three-body
        generator of Greydanus et al. 2019). With unequal masses the triangle is therefore not an equilibrium.
        """
        law = self.initial
        if law.law == "given":
            return require_entries(self.entry, law.sample(rng, episodes), 12)
        radius = rng.uniform(*law.radius, (episodes, 1))
        first = directions(rng, episodes, law.positions) * radius
        # |v|^2 / r = 2 G m cos(30 deg) / (sqrt(3) r)^2
        speed = np.sqrt(self.gravitational_constant * self.masses.mean() / (math.sqrt(3.0) * radius))
        q, v = [], []
        for corner in range(3):
            angle = 2.0 * math.pi * corner / 3.0
            position = first @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            q.append(position)
            v.append(speed / radius * np.stack([-position[:, 1], position[:, 0]], axis=-1))
        disturbance = 1.0 + law.noise * rng.uniform(-1.0, 1.0, (episodes, 3, 2))
        p = np.stack(v, axis=1) * disturbance * self.masses[:, None]
        return np.concatenate([np.concatenate(q, axis=-1), p.reshape(episodes, 6)], axis=-1)

    def describe(self, z: Float) -> str:
        """Masses, how close two of them come, and whether one is thrown out."""
        q = self.positions(z)
        pairs = [(0, 1), (0, 2), (1, 2)]
        apart = np.stack([np.linalg.norm(q[:, i] - q[:, j], axis=-1) for i, j in pairs])
        i, j = pairs[int(apart.min(axis=1).argmin())]
        closest = captions.number(float(apart.min()), "m")
        sense = captions.turning(float(self.angular_momentum(z[0])[0]))
        far = np.linalg.norm(q[-1] - np.average(q[-1], axis=0, weights=self.masses), axis=-1)
        end = f"; the {colour_name(int(far.argmax()))} one leaves the others" if far.max() > 4.0 * self.reach else ""
        return (
            f"Three bodies of {captions.masses(tuple(self.masses))} turn {sense} about each other; the "
            f"{colour_name(i)} and the {colour_name(j)} one come as close as {closest}{end}."
        )
