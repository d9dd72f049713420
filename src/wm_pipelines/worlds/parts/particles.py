"""Particles with pair forces along the line between them: energy, momentum and angular momentum are conserved.

``H = sum_i p_i^2 / 2 m_i + sum_{i<j} phi(r_ij)``. States are ``z = (q, p)``; ``q.reshape(N, space)`` are positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.laws import Laws
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts.pair_laws import PairLaw, like
from wm_pipelines.worlds.parts.rendering import Canvas, colour, render_batched
from wm_pipelines.worlds.parts.simulation import simulate_adaptive

# Up to here all pairs of all states at once: fastest, and what every stored trajectory of few bodies was made by.
FEW = 16
# Above this numpy evaluates each pair once, block by block; below, calls cost more than the pairs they save.
_MANY = 64
# Pairs evaluated together: arrays of half a megabyte, which stay in the cache; for torch, which may be on a device
# where calls are dear, 32.
_PAIRS_NUMPY, _PAIRS_TORCH = 2**16, 2**22


class ParticleWorld(SimulatedWorld):
    """A world of ``N`` particles. Subclasses say what the masses, the pair law and the start states are."""

    def __init__(
        self, parameters: WorldParameters, masses: Float, law: PairLaw, space: int, charges: Float | None = None
    ) -> None:
        super().__init__(parameters)
        self.masses, self.law, self.space, self.charges = masses, law, space, charges
        self.bodies = len(masses)

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
        return self._by_parts(self._potential, self._potential_blocked, self.positions(z))

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
        positions = q.reshape(*q.shape[:-1], self.bodies, self.space)
        return self._by_parts(self._force, self._force_blocked, positions).reshape(*q.shape)

    def dynamics(self, z: Array) -> Array:
        """``dz/dt``."""
        n = self.bodies * self.space
        return array_namespace(z).concat([self.velocity(z[..., n:]), self.force(z[..., :n])], axis=-1)

    def distances(self, z: Float) -> Float:
        """Smallest distance between two bodies, ``[...]`` in metres; infinite for a single body."""
        return self._by_parts(self._distances, self._distances_blocked, self.positions(z))

    # -- pairs: of few bodies all at once, of many block by block

    def _by_parts(self, at_once: Callable[[Array], Array], blocked: Callable[[Float], Array], q: Array) -> Array:
        """A law of positions ``[..., N, space]``; many bodies in memory that does not grow with the states."""
        numpy = is_numpy_array(q)
        part = max(1, (_PAIRS_NUMPY if numpy else _PAIRS_TORCH) // self.bodies**2)
        states = math.prod(q.shape[:-2])
        in_blocks = numpy and self.bodies > _MANY and states > 0
        if self.bodies <= FEW or (states <= part and not in_blocks):
            return at_once(q)
        rows = q.reshape(-1, self.bodies, self.space)
        if in_blocks:
            values = np.stack([blocked(row) for row in rows])
        else:
            values = array_namespace(q).concat([at_once(rows[k : k + part]) for k in range(0, states, part)])
        return values.reshape((*q.shape[:-2], *values.shape[1:]))

    def _potential(self, q: Array) -> Array:
        _, r2 = self._pairs(q)
        return array_namespace(q).sum(self.law.potential(r2) * like(q, self._upper), axis=(-2, -1))

    def _force(self, q: Array) -> Array:
        xp = array_namespace(q)
        differences, r2 = self._pairs(q)
        tension = self.law.tension(r2)
        return xp.stack([-xp.sum(tension * d, axis=-1) for d in differences], axis=-1)

    def _distances(self, q: Float) -> Float:
        _, r2 = self._pairs(q)
        return np.sqrt(np.where(self._upper > 0.0, r2, np.inf).min(axis=(-2, -1)))

    def _pairs(self, q: Array) -> tuple[list[Array], Array]:
        """``q_i - q_j`` per dimension, each ``[..., N, N]``, and its square; 1 on the diagonal, where no pair is."""
        differences = [q[..., :, None, k] - q[..., None, :, k] for k in range(self.space)]
        return differences, sum((d * d for d in differences[1:]), differences[0] * differences[0]) + like(q, self._eye)

    @cached_property
    def _upper(self) -> Float:
        return np.triu(np.ones((self.bodies, self.bodies)), 1)

    @cached_property
    def _eye(self) -> Float:
        return np.eye(self.bodies)

    def _potential_blocked(self, q: Float) -> Float:
        total = np.zeros(())
        for law, _, r2 in self._blocks(q):
            phi = law.potential(r2)
            here = len(phi)
            total += phi[:, here:].sum() + np.triu(phi[:, :here], 1).sum()
        return total

    def _force_blocked(self, q: Float) -> Float:
        force, first = np.zeros((self.space, self.bodies)), 0
        for law, differences, r2 in self._blocks(q):
            tension = law.tension(r2)
            last = first + len(r2)
            for total, d in zip(force, differences, strict=True):
                d *= tension
                total[first:last] -= d.sum(axis=1)
                # The same numbers once more: what pulls one body of a pair pulls the other the other way.
                total[last:] += d[:, last - first :].sum(axis=0)
            first = last
        return force.T

    def _distances_blocked(self, q: Float) -> Float:
        smallest = np.inf
        for _, _, r2 in self._blocks(q):
            np.fill_diagonal(r2, np.inf)
            smallest = np.minimum(smallest, r2.min())  # which, unlike min, keeps NaN
        return np.sqrt(smallest)

    def _blocks(self, q: Float) -> Iterator[tuple[PairLaw, list[Float], Float]]:
        """Some bodies and all from the first of them on, ``[rows, columns]``: their law, ``q_i - q_j`` and its square.

        The square in front holds the pairs among the rows in both orders, and 1 on its diagonal; what lies behind it
        holds each pair once. The arrays are used again for the next block.
        """
        x = np.ascontiguousarray(q.T)
        rows = max(1, _PAIRS_NUMPY // self.bodies)
        memory = np.empty((self.space + 2, min(rows, self.bodies) * self.bodies))
        for first in range(0, self.bodies, rows):
            here, onwards = slice(first, min(first + rows, self.bodies)), slice(first, None)
            shape = (here.stop - first, self.bodies - first)
            *differences, r2, square = (m[: shape[0] * shape[1]].reshape(shape) for m in memory)
            for d, coordinate in zip(differences, x, strict=True):
                np.subtract(coordinate[here, None], coordinate[onwards], out=d)
            np.multiply(differences[0], differences[0], out=r2)
            for d in differences[1:]:
                r2 += np.multiply(d, d, out=square)
            np.fill_diagonal(r2, 1.0)
            yield self.law.between(here, onwards), differences, r2

    # -- the simulator

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """DOP853, every episode with step sizes of its own: ``[E, 2d] -> [E, steps + 1, 2d]``.

        Raises:
            UserError: two bodies start in the same place.
            IntegrationError: a collision, or an episode that does not keep its energy.
        """
        self._refuse_coincident(z0)
        return simulate_adaptive(
            self.entry,
            z0,
            step,
            steps,
            dynamics=self.dynamics,
            energy=self.energy,
            kinetic=self.kinetic,
            size=self.size,
        )

    @property
    def size(self) -> str:
        """What the world's log lines say about how much there is to compute."""
        return f"{self.bodies:,} bodies, {self.bodies * (self.bodies - 1) // 2:,} pairs"

    def _refuse_coincident(self, z0: Float) -> None:
        coincident = np.flatnonzero(self.distances(z0) == 0.0)
        if coincident.size:
            episode = coincident[0]
            q = self.positions(z0[episode])
            i = next(i for i in range(self.bodies) if ((q[i] - q[i + 1 :]) ** 2).sum(axis=-1).min() == 0.0)
            j = i + 1 + int(((q[i] - q[i + 1 :]) ** 2).sum(axis=-1).argmin())
            raise UserError(
                f"{self.entry}: bodies {i} and {j} coincide at the start of episode {episode}; move one of them"
            )

    def facts(self) -> dict[str, Any]:
        """Separable, pairwise, even; energy, momentum and angular momentum are conserved."""
        attributes = {"mass": [float(m) for m in self.masses]}
        if self.charges is not None:
            attributes["charge"] = [float(c) for c in self.charges]
        return {
            "particles": self.bodies,
            "space": self.space,
            "attributes": attributes,
            "structure": ["even", "pairwise", "separable"],
            "second_order": True,
            "conserved": ["energy", "momentum", "angular_momentum"],
            "energy": {"law": "energy"},
        }

    def laws(self) -> Laws:
        """Of the pair forces."""
        return Laws(
            energy=self.energy,
            momentum=self.momentum,
            angular_momentum=self.angular_momentum,
            simulate=self.simulate,
            dynamics=self.dynamics,
            lyapunov_time=self.lyapunov_time,
        )

    @property
    def lyapunov_time(self) -> float | None:
        """``1 / largest Lyapunov exponent`` in seconds, where it was computed."""
        return None

    # -- images

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
