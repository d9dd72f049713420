"""Two bodies under Newton's gravity: ``H = p_1^2 / 2 m_1 + p_2^2 / 2 m_2 - G m_1 m_2 / r``."""

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


class TwoBodyParameters(WorldParameters):
    """Parameters of `TwoBody`. Natural units by default: G = 1."""

    masses: tuple[Mass, Mass] = (1.0, 1.0)
    gravitational_constant: Annotated[float, Quantity("m^3/(kg*s^2)"), Field(gt=0)] = 1.0
    initial: BodiesLaw = NearCircular(radius=(0.8, 1.2), noise=0.1)


@register
class TwoBody(ParticleWorld):
    """State ``(x1, y1, x2, y2, px1, py1, px2, py2)`` in m and kg m/s, in a plane."""

    name = "two_body"
    Parameters = TwoBodyParameters

    def __init__(self, parameters: TwoBodyParameters) -> None:
        masses = np.array(parameters.masses)
        self.initial, self.gravitational_constant = parameters.initial, parameters.gravitational_constant
        super().__init__(
            parameters, masses, InverseDistance(-self.gravitational_constant * np.outer(masses, masses)), 2
        )
        self.reduced = float(masses.prod() / masses.sum())
        self.gm = self.gravitational_constant * float(masses.sum())

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 8]`` in the frame of the centre of mass.

        `NearCircular`: both bodies on circles around it, anticlockwise, at the mean distance ``radius``; the velocity
        of the circle is multiplied by ``1 + noise * N(0, 1)`` (the two-body generator of Greydanus et al. 2019).
        """
        law = self.initial
        if law.law == "given":
            return require_entries(self.entry, law.sample(rng, episodes), 8)
        if law.positions == "square":
            half = rng.uniform(*law.radius, (episodes, 2))
        else:
            half = directions(rng, episodes, "circle") * rng.uniform(*law.radius, (episodes, 1))
        apart = 2.0 * half
        distance = np.linalg.norm(apart, axis=-1, keepdims=True)
        across = np.stack([-apart[:, 1], apart[:, 0]], axis=-1) / distance
        speed = np.sqrt(self.gm / distance) * (1.0 + law.noise * rng.standard_normal((episodes, 1)))
        m1, m2 = self.masses
        p = self.reduced * speed * across
        return np.concatenate([apart * m2 / (m1 + m2), -apart * m1 / (m1 + m2), p, -p], axis=-1)

    def elements(self, z: Float) -> tuple[Float, Float]:
        """Semi-major axis (m, of the relative orbit; negative where unbound) and eccentricity, ``[...]`` each."""
        q, p = self.positions(z), self.momenta(z)
        r = q[..., 0, :] - q[..., 1, :]
        v = p[..., 0, :] / self.masses[0] - p[..., 1, :] / self.masses[1]
        distance = np.linalg.norm(r, axis=-1)
        specific = 0.5 * (v**2).sum(-1) - self.gm / distance
        spin = r[..., 0] * v[..., 1] - r[..., 1] * v[..., 0]
        eccentricity = np.sqrt(np.maximum(1.0 + 2.0 * specific * spin**2 / self.gm**2, 0.0))
        return -0.5 * self.gm / specific, eccentricity

    def describe(self, z: Float) -> str:
        """Masses, and the orbit: sense, eccentricity, distances, period; or that they part for good."""
        axis, eccentricity = (float(x) for x in self.elements(z[0]))
        subject = f"Two bodies of {captions.masses(tuple(self.masses))}"
        if axis <= 0.0:
            return f"{subject} pass each other once and part for good."
        period = 2.0 * math.pi * math.sqrt(axis**3 / self.gm)
        near, far = axis * (1.0 - eccentricity), axis * (1.0 + eccentricity)
        # The sense of the relative motion, whatever the centre of mass does.
        q, p = self.positions(z[0]), self.momenta(z[0])
        r, v = q[1] - q[0], p[1] / self.masses[1] - p[0] / self.masses[0]
        sense = captions.turning(float(r[0] * v[1] - r[1] * v[0]))
        return (
            f"{subject} orbit each other {sense} every {captions.number(period, 's')}, {captions.number(near)} to "
            f"{captions.number(far, 'm')} apart (eccentricity {eccentricity:.2f})."
        )
