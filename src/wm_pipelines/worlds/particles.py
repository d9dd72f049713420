"""Particles with pair forces along the line between them: energy, momentum and angular momentum are conserved.

``H = sum_i p_i^2 / 2 m_i + sum_{i<j} phi(r_ij)``. States are ``z = (q, p)``; ``q.reshape(N, space)`` are positions.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.system import System
from wm_pipelines.worlds.base import Array, Float, World, WorldParameters
from wm_pipelines.worlds.rendering import Canvas, colour, render_batched
from wm_pipelines.worlds.simulation import simulate_adaptive


def like(z: Array, values: Float) -> Array:
    """A constant as an array of the kind, precision and device of ``z``."""
    return array_namespace(z).asarray(values, dtype=z.dtype, device=device(z))


@dataclass(frozen=True)
class InverseDistance:
    """``phi = c_ij / rho``, ``rho^2 = r^2 + eps^2`` (Plummer): gravity ``c = -G m_i m_j``, charges ``c = k e_i e_j``.

    Attributes:
        coupling: ``c [N, N]``, symmetric, in J m.
        softening: ``eps`` in metres; 0 is the singular law.
    """

    coupling: Float
    softening: float = 0.0

    def potential(self, r2: Array) -> Array:
        """``phi [..., N, N]`` of squared distances."""
        return like(r2, self.coupling) / array_namespace(r2).sqrt(r2 + self.softening**2)

    def tension(self, r2: Array) -> Array:
        """``phi'(r) / r [..., N, N]``: the pull along ``q_i - q_j``, positive where bodies attract."""
        rho2 = r2 + self.softening**2
        return -like(r2, self.coupling) / (rho2 * array_namespace(r2).sqrt(rho2))


@dataclass(frozen=True)
class Springs:
    """``phi = k (rho - L)^2 / 2`` between all pairs, ``rho^2 = r^2 + eps^2``.

    Attributes:
        stiffness: ``k`` in N/m.
        rest_length: ``L`` in metres.
        softening: ``eps`` in metres; without it the force jumps where two bodies pass through each other.
    """

    stiffness: float
    rest_length: float
    softening: float = 0.0

    def potential(self, r2: Array) -> Array:
        """``phi [..., N, N]`` of squared distances."""
        return 0.5 * self.stiffness * (array_namespace(r2).sqrt(r2 + self.softening**2) - self.rest_length) ** 2

    def tension(self, r2: Array) -> Array:
        """``phi'(r) / r [..., N, N]``."""
        return self.stiffness * (1.0 - self.rest_length / array_namespace(r2).sqrt(r2 + self.softening**2))


PairLaw = InverseDistance | Springs


class ParticleWorld(World):
    """A world of ``N`` particles. Subclasses say what the masses, the pair law and the start states are."""

    def __init__(
        self, parameters: WorldParameters, masses: Float, law: PairLaw, space: int, charges: Float | None = None
    ) -> None:
        super().__init__(parameters)
        self.masses, self.law, self.space, self.charges = masses, law, space, charges
        self.bodies = len(masses)
        self._upper = np.triu(np.ones((self.bodies, self.bodies)), 1)
        self._eye = np.eye(self.bodies)

    # -- laws, numpy and torch

    def positions(self, z: Array) -> Array:
        """Positions ``[..., N, space]`` in metres."""
        return z[..., : self.bodies * self.space].reshape(*z.shape[:-1], self.bodies, self.space)

    def momenta(self, z: Array) -> Array:
        """Momenta ``[..., N, space]`` in kg m/s."""
        return z[..., self.bodies * self.space :].reshape(*z.shape[:-1], self.bodies, self.space)

    def kinetic(self, z: Array) -> Array:
        """``sum_i p_i^2 / 2 m_i [...]`` in joules."""
        xp = array_namespace(z)
        return xp.sum(xp.sum(self.momenta(z) ** 2, axis=-1) * like(z, 0.5 / self.masses), axis=-1)

    def potential(self, z: Array) -> Array:
        """``sum_{i<j} phi(r_ij) [...]`` in joules."""
        _, r2 = self._pairs(self.positions(z))
        return array_namespace(z).sum(self.law.potential(r2) * like(z, self._upper), axis=(-2, -1))

    def energy(self, z: Array) -> Array:
        """``H [...]`` in joules."""
        return self.kinetic(z) + self.potential(z)

    def momentum(self, z: Array) -> Array:
        """``P = sum_i p_i [..., space]`` in kg m/s."""
        return array_namespace(z).sum(self.momenta(z), axis=-2)

    def angular_momentum(self, z: Array) -> Array:
        """``L = sum_i q_i x p_i`` about the origin, ``[..., 1]`` in a plane and ``[..., 3]`` in space, in kg m^2/s."""
        xp = array_namespace(z)
        q, p = self.positions(z), self.momenta(z)

        def component(a: int, b: int) -> Array:
            return xp.sum(q[..., a] * p[..., b] - q[..., b] * p[..., a], axis=-1)

        if self.space == 2:
            return component(0, 1)[..., None]
        return xp.stack([component(1, 2), component(2, 0), component(0, 1)], axis=-1)

    def velocity(self, p: Array) -> Array:
        """``dT/dp = p / m``, flat ``[..., N * space]``."""
        return p * like(p, np.repeat(1.0 / self.masses, self.space))

    def force(self, q: Array) -> Array:
        """``-dV/dq``, flat ``[..., N * space]``. Newton's third law holds to the last bit on every pair."""
        xp = array_namespace(q)
        differences, r2 = self._pairs(q.reshape(*q.shape[:-1], self.bodies, self.space))
        tension = self.law.tension(r2)
        return xp.stack([-xp.sum(tension * d, axis=-1) for d in differences], axis=-1).reshape(*q.shape)

    def dynamics(self, z: Array) -> Array:
        """``dz/dt``."""
        n = self.bodies * self.space
        return array_namespace(z).concat([self.velocity(z[..., n:]), self.force(z[..., :n])], axis=-1)

    def _pairs(self, q: Array) -> tuple[list[Array], Array]:
        """``q_i - q_j`` per dimension, each ``[..., N, N]``, and its square; 1 on the diagonal, where no pair is."""
        differences = [q[..., :, None, k] - q[..., None, :, k] for k in range(self.space)]
        return differences, sum((d * d for d in differences[1:]), differences[0] * differences[0]) + like(q, self._eye)

    def distances(self, z: Float) -> Float:
        """Smallest distance between two bodies, ``[...]`` in metres; infinite for a single body."""
        _, r2 = self._pairs(self.positions(z))
        return np.sqrt(np.where(self._upper > 0.0, r2, np.inf).min(axis=(-2, -1)))

    # -- the simulator

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """DOP853, every episode with step sizes of its own: ``[E, 2d] -> [E, steps + 1, 2d]``.

        Raises:
            UserError: two bodies start in the same place.
            IntegrationError: a collision, or an episode that does not keep its energy.
        """
        self._refuse_coincident(z0)
        return simulate_adaptive(
            self.name, z0, step, steps, dynamics=self.dynamics, energy=self.energy, kinetic=self.kinetic
        )

    def _refuse_coincident(self, z0: Float) -> None:
        coincident = np.flatnonzero(self.distances(z0) == 0.0)
        if coincident.size:
            episode = coincident[0]
            _, r2 = self._pairs(self.positions(z0[episode]))
            i, j = np.argwhere((r2 == 0.0) & (self._upper > 0.0))[0]
            raise UserError(
                f"{self.name}: bodies {i} and {j} coincide at the start of episode {episode}; move one of them"
            )

    def system(self, step: float) -> System:
        """Separable, pairwise, even; energy, momentum and angular momentum are conserved."""
        attributes = {"mass": tuple(float(m) for m in self.masses)}
        if self.charges is not None:
            attributes["charge"] = tuple(float(c) for c in self.charges)
        return System(
            name=self.name,
            dof=self.bodies * self.space,
            step=step,
            particles=self.bodies,
            space=self.space,
            attributes=attributes,
            structure=frozenset({"separable", "pairwise", "even"}),
            energy=self.energy,
            momentum=self.momentum,
            angular_momentum=self.angular_momentum,
            simulate=self.simulate,
            dynamics=self.dynamics,
            lyapunov_time=self.lyapunov_time,
            constants=self.constants,
        )

    @property
    def lyapunov_time(self) -> float | None:
        """``1 / largest Lyapunov exponent`` in seconds, where it was computed."""
        return None

    @property
    @abstractmethod
    def constants(self) -> dict[str, float]:
        """Numbers of the law that a family may ask for by name."""

    # -- pictures

    @cached_property
    def reach(self) -> float:
        """How far from the centre bodies start at most, in metres; sets the camera."""
        law = getattr(self.parameters, "initial", None)
        z0 = self.sample_initial_state(np.random.default_rng(0), 1 if getattr(law, "law", "") == "given" else 64)
        return float(np.linalg.norm(self.positions(z0), axis=-1).max()) or 1.0

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """Balls as heavy as their volume, seen from above; the camera rests at the origin."""
        return render_batched(z, size, self._draw, half_width=1.5 * self.reach)

    def _draw(self, canvas: Canvas, z: Float) -> None:
        largest = 0.3 * self.reach / max(1.0, self.bodies / 3.0) ** 0.5
        radii = largest * np.cbrt(self.masses / self.masses.max())
        q = self.positions(z)
        for body, radius in enumerate(radii):  # over bodies; every call paints all frames
            canvas.disc(q[:, body, :2], float(radius), colour(body))
