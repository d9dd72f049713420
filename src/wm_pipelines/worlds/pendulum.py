"""A rigid pendulum: ``H = p^2 / (2 m l^2) + m g l (1 - cos q)``."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import ellipj, ellipk

from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Box, PlaneLaw, require_entries
from wm_pipelines.worlds.parts.quantities import Length, Mass, Quantity
from wm_pipelines.worlds.parts.rendering import INK, Canvas, colour, render_batched
from wm_pipelines.worlds.parts.simulation import check_energy


class PendulumParameters(WorldParameters):
    """Parameters of `Pendulum`."""

    mass: Mass = 1.0
    length: Length = 1.0
    gravity: Annotated[float, Quantity("m/s^2"), Field(gt=0)] = 9.81
    initial: PlaneLaw = Box(law="box", q=[2.0], p=[2.0])


_ROWS = 4096  # trajectories carried through time together; their two dozen numbers each stay in the cache
_TWO_TURNS = 4.0 * math.pi


def jacobi(u: float, m: Float) -> tuple[Float, Float, Float]:
    """Jacobi's ``sn, cn, dn (u | m)`` for ``m >= 0 [E]``; above 1 by the reciprocal (Abramowitz & Stegun 16.11)."""
    over = m > 1.0
    root = np.sqrt(np.where(over, m, 1.0))
    sn, cn, dn, _ = ellipj(root * u, np.where(over, 1.0 / np.maximum(m, 1.0), m))
    return sn / root, np.where(over, dn, cn), np.where(over, cn, dn)


@register
class Pendulum(SimulatedWorld):
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
        return require_entries(self.entry, self.initial.sample(rng, episodes), 2)

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """The exact flow ``[E, 2] -> [E, steps + 1, 2]``, in Jacobi's elliptic functions; see `_exact_flow`."""
        # The angle between two rows is known up to two turns: no body may make one unseen.
        fastest = 2.0 * math.sqrt(float(self.energy(z0).max(initial=0.0)) * 0.5 / self.torque) * self.frequency
        unseen = max(1, math.ceil(abs(step) * fastest / 3.0)) if math.isfinite(fastest) else 1
        states = np.empty((z0.shape[0], steps + 1, 2))
        for first in range(0, z0.shape[0], _ROWS):
            part = slice(first, first + _ROWS)
            self._exact_flow(z0[part], step / unseen, unseen, states[part])
        check_energy(self.entry, states, self.energy, self.kinetic, 1e-10)
        return states

    def _exact_flow(self, z0: Float, step: float, unseen: int, out: Float) -> None:
        """Write the trajectories of ``z0 [E, 2]`` to ``out [E, K, 2]``, one row per ``unseen`` steps.

        With ``s = sin(q/2)``, ``c = cos(q/2)``, ``w = p / (2 m l^2 omega)`` and ``k^2 = s^2 + w^2 = H / (2 m g l)``,
        Hamilton's equations are those of ``(s, c, w) = (k sn, dn, k cn)(omega t | k^2)``. The addition theorem
        (A. & S. 16.17) takes them from ``t`` to ``t + step`` by multiplications alone, over the top (k > 1) or not.
        """
        s, c, w = np.sin(0.5 * z0[:, 0]), np.cos(0.5 * z0[:, 0]), z0[:, 1] / (2.0 * self.inertia * self.frequency)
        sn, cn, dn = jacobi(self.frequency * step, s * s + w * w)
        sn2, sn_cn, sn_dn, cn_dn = sn * sn, sn * cn, sn * dn, cn * dn
        q = z0[:, 0]
        out[:, 0] = z0
        for k in range(1, out.shape[1]):
            for _ in range(unseen):
                sc, sw, cw = s * c, s * w, c * w
                scale = 1.0 / (1.0 - sn2 * (s * s))
                s, c, w = (cn_dn * s + sn * cw) * scale, (dn * c - sn_cn * sw) * scale, (cn * w - sn_dn * sc) * scale
                unit = 1.5 - 0.5 * (s * s + c * c)  # one step of Newton's back to s^2 + c^2 = 1: rounding cannot grow
                s, c = s * unit, c * unit
                angle = 2.0 * np.arctan2(s, c)
                q = angle + _TWO_TURNS * np.rint((q - angle) * (1.0 / _TWO_TURNS))
            out[:, k, 0], out[:, k, 1] = q, (2.0 * self.inertia * self.frequency) * w

    def period(self, energy: float) -> float:
        """Period in seconds of the motion at that energy, by the complete elliptic integral K.

        Below ``2 m g l`` of the swing, above it of one turn; infinite at it.
        """
        m = energy / (2.0 * self.torque)
        if m < 1.0:
            return 4.0 * float(ellipk(m)) / self.frequency
        return 2.0 * float(ellipk(1.0 / m)) / (self.frequency * math.sqrt(m))

    def facts(self) -> dict[str, Any]:
        """Separable and even in one angle; the pivot takes the momentum."""
        return {
            "attributes": {"mass": [self.mass]},
            "angles": [0],
            "structure": ["even", "separable"],
            "second_order": True,
            "conserved": ["energy"],
            "energy": {"law": "energy"},
        }

    def laws(self) -> Laws:
        """Of the plane pendulum."""
        return Laws(energy=self.energy, simulate=self.simulate, dynamics=self.dynamics)

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The pivot in the middle, the rod as long as a third of the image."""
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
