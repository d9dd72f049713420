"""A double pendulum of two point masses on massless rods; its Hamiltonian is not separable.

With ``D = q1 - q2`` and ``M(q) = m1 + m2 sin^2 D``:

    H = [m2 l2^2 p1^2 + (m1 + m2) l1^2 p2^2 - 2 m2 l1 l2 p1 p2 cos D] / (2 m2 l1^2 l2^2 M)
        + (m1 + m2) g l1 (1 - cos q1) + m2 g l2 (1 - cos q2)
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Box, PlaneLaw, require_entries
from wm_pipelines.worlds.parts.quantities import Length, Mass, Quantity
from wm_pipelines.worlds.parts.rendering import INK, Canvas, colour, render_batched
from wm_pipelines.worlds.parts.simulation import simulate_adaptive

# Largest Lyapunov exponent in units of sqrt(g / l): equal masses, equal rods, released at rest from angles in ±2 rad.
# Mean of `lyapunov_exponent` over 64 starts (seed 0), 20 s in intervals of 0.4 s; its standard error is 0.016.
LYAPUNOV_EXPONENT = 0.1000
_MEASURED_FOR = Box(law="box", q=[2.0, 2.0], p=[0.0, 0.0])


class DoublePendulumParameters(WorldParameters):
    """Parameters of `DoublePendulum`; the first of each pair belongs to the upper rod."""

    masses: tuple[Mass, Mass] = (1.0, 1.0)
    lengths: tuple[Length, Length] = (1.0, 1.0)
    gravity: Annotated[float, Quantity("m/s^2"), Field(gt=0)] = 9.81
    initial: PlaneLaw = Box(law="box", q=[2.0, 2.0], p=[0.0, 0.0])


@register
class DoublePendulum(SimulatedWorld):
    """State ``(q1, q2, p1, p2)``: angles of the rods from the vertical in rad, conjugate momenta in kg m^2/s."""

    name = "double_pendulum"
    Parameters = DoublePendulumParameters

    def __init__(self, parameters: DoublePendulumParameters) -> None:
        super().__init__(parameters)
        self.initial = parameters.initial
        self.m1, self.m2 = parameters.masses
        self.l1, self.l2 = parameters.lengths
        self.gravity = parameters.gravity

    def kinetic(self, z: Array) -> Array:
        """``p^T A(q)^{-1} p / 2 [...]`` in joules, ``A`` the mass matrix."""
        xp = array_namespace(z)
        difference = z[..., 0] - z[..., 1]
        bracket = self._bracket(z[..., 2], z[..., 3], xp.cos(difference))
        return bracket / (2.0 * self.m2 * (self.l1 * self.l2) ** 2 * self._inertia(xp.sin(difference)))

    def energy(self, z: Array) -> Array:
        """``H [...]`` in joules, zero at rest in the lowest point."""
        xp = array_namespace(z)
        upper = (self.m1 + self.m2) * self.gravity * self.l1 * 2.0 * xp.sin(0.5 * z[..., 0]) ** 2
        lower = self.m2 * self.gravity * self.l2 * 2.0 * xp.sin(0.5 * z[..., 1]) ** 2
        return self.kinetic(z) + upper + lower

    def dynamics(self, z: Array) -> Array:
        """``dz/dt``: Hamilton's equations of H above."""
        xp = array_namespace(z)
        q1, q2, p1, p2 = (z[..., i] for i in range(4))
        m1, m2, l1, l2, g = self.m1, self.m2, self.l1, self.l2, self.gravity
        cos, sin = xp.cos(q1 - q2), xp.sin(q1 - q2)
        inertia = self._inertia(sin)
        dq1 = (l2 * p1 - l1 * p2 * cos) / (l1**2 * l2 * inertia)
        dq2 = ((m1 + m2) * l1 * p2 - m2 * l2 * p1 * cos) / (m2 * l1 * l2**2 * inertia)
        # dT/dD: the cosine in the numerator, then M in the denominator.
        twist = p1 * p2 * sin / (l1 * l2 * inertia) - self._bracket(p1, p2, cos) * sin * cos / (l1 * l2 * inertia) ** 2
        dp1 = -(m1 + m2) * g * l1 * xp.sin(q1) - twist
        dp2 = -m2 * g * l2 * xp.sin(q2) + twist
        return xp.stack([dq1, dq2, dp1, dp2], axis=-1)

    def _bracket(self, p1: Array, p2: Array, cos: Array) -> Array:
        m2, l1, l2 = self.m2, self.l1, self.l2
        return m2 * l2**2 * p1**2 + (self.m1 + m2) * l1**2 * p2**2 - 2.0 * m2 * l1 * l2 * p1 * p2 * cos

    def _inertia(self, sin: Array) -> Array:
        return self.m1 + self.m2 * sin**2

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 4]`` by the law ``initial``."""
        return require_entries(self.entry, self.initial.sample(rng, episodes), 4)

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """DOP853 ``[E, 4] -> [E, steps + 1, 4]``: chaos magnifies every error, so accuracy comes before structure."""
        return simulate_adaptive(
            self.entry, z0, step, steps, dynamics=self.dynamics, energy=self.energy, kinetic=self.kinetic
        )

    @property
    def lyapunov_time(self) -> float | None:
        """``1 / largest Lyapunov exponent`` in seconds; None for proportions it was not computed for."""
        if self.m1 != self.m2 or self.l1 != self.l2 or self.initial != _MEASURED_FOR:
            return None
        return 1.0 / (LYAPUNOV_EXPONENT * math.sqrt(self.gravity / self.l1))

    def facts(self) -> dict[str, Any]:
        """Even in two angles; the pivot takes the momentum."""
        return {
            "attributes": {"mass": [self.m1, self.m2]},
            "angles": [0, 1],
            "structure": ["even"],
            "conserved": ["energy"],
            "energy": {"law": "energy"},
        }

    def laws(self) -> Laws:
        """Of the double pendulum; chaotic at higher energies."""
        return Laws(
            energy=self.energy, simulate=self.simulate, dynamics=self.dynamics, lyapunov_time=self.lyapunov_time
        )

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The pivot in the middle; the stretched pendulum nearly reaches the edge."""
        return render_batched(z, size, self._draw, half_width=1.2 * (self.l1 + self.l2))

    def _draw(self, canvas: Canvas, z: Float) -> None:
        pivot = np.zeros((z.shape[0], 2))
        joint = self.l1 * np.stack([np.sin(z[:, 0]), -np.cos(z[:, 0])], axis=-1)
        end = joint + self.l2 * np.stack([np.sin(z[:, 1]), -np.cos(z[:, 1])], axis=-1)
        unit = 0.5 * (self.l1 + self.l2)
        canvas.rod(pivot, joint, 0.07 * unit)
        canvas.rod(joint, end, 0.07 * unit)
        canvas.disc(pivot, 0.09 * unit, INK)
        largest = max(self.m1, self.m2) ** (1 / 3)
        canvas.disc(joint, 0.25 * unit * self.m1 ** (1 / 3) / largest, colour(0))
        canvas.disc(end, 0.25 * unit * self.m2 ** (1 / 3) / largest, colour(1))

    def describe(self, z: Float) -> str:
        """Rods, the angles it starts from, and how often the lower rod goes over."""
        rods = captions.listing([captions.number(length, "m") for length in (self.l1, self.l2)])
        angles = captions.listing([captions.degrees(float(a)) for a in z[0, :2]])
        passed = np.floor((z[:, 1] + math.pi) / (2.0 * math.pi))
        over = int(np.abs(np.diff(passed)).sum())
        end = f"goes over the top {captions.count(over, 'time')}" if over else "never goes over the top"
        return f"A double pendulum with rods of {rods} starts at {angles}; its lower rod {end}."
