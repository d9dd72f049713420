"""A star in the plane of a galaxy: ``H = (px^2 + py^2 + x^2 + y^2) / 2 + lambda (x^2 y - y^3 / 3)``, natural units.

M. Hénon and C. Heiles, Astron. J. 69, 73 (1964). Smooth, low-dimensional, and no sum over pairs. Regular and chaotic
motion share one energy: islands in a chaotic sea that grows with it, up to the escape energy ``1 / 6 lambda^2``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Given, require_entries
from wm_pipelines.worlds.parts.rendering import Canvas, colour, render_batched
from wm_pipelines.worlds.parts.simulation import simulate_separable

Share = Annotated[float, Field(gt=0, lt=1)]
# Corners of the triangle that holds every motion below the escape energy, in units of 1 / lambda: the saddles of V.
_SADDLES = np.array([[0.0, 1.0], [-np.sqrt(0.75), -0.5], [np.sqrt(0.75), -0.5]])


class Microcanonical(Settings):
    """Energies uniform in an interval, states uniform on the surface of each energy.

    Attributes:
        energy: from and to, as shares of the escape energy.
    """

    law: Literal["microcanonical"] = "microcanonical"
    energy: tuple[Share, Share] = (0.5, 0.95)

    @model_validator(mode="after")
    def _ordered(self) -> Microcanonical:
        if self.energy[0] > self.energy[1]:
            raise ValueError(f"energy: expected [lowest, highest], got {list(self.energy)}; swap them")
        return self


class HenonHeilesParameters(WorldParameters):
    """Parameters of `HenonHeiles`.

    Attributes:
        coupling: ``lambda``. initial: start states.
    """

    coupling: float = Field(1.0, gt=0)
    initial: Annotated[Microcanonical | Given, Field(discriminator="law")] = Microcanonical()


@register
class HenonHeiles(SimulatedWorld):
    """State ``(x, y, px, py)``; mass, stiffness and so the frequency of small oscillations are 1.

    No Lyapunov time is given: at one energy some starts are regular and some chaotic, so that no exponent is all's.
    """

    name = "henon_heiles"
    Parameters = HenonHeilesParameters

    def __init__(self, parameters: HenonHeilesParameters) -> None:
        super().__init__(parameters)
        self.initial, self.coupling = parameters.initial, parameters.coupling
        self.escape = 1.0 / (6.0 * self.coupling**2)

    def kinetic(self, z: Array) -> Array:
        """``|p|^2 / 2 [...]``."""
        return 0.5 * (z[..., 2] ** 2 + z[..., 3] ** 2)

    def potential(self, q: Array) -> Array:
        """``V [..., 2] -> [...]``."""
        x, y = q[..., 0], q[..., 1]
        return 0.5 * (x**2 + y**2) + self.coupling * (x**2 * y - y**3 / 3.0)

    def energy(self, z: Array) -> Array:
        """``H [...]``."""
        return self.kinetic(z) + self.potential(z[..., :2])

    def velocity(self, p: Array) -> Array:
        """``dq/dt = p``."""
        return 1.0 * p

    def force(self, q: Array) -> Array:
        """``-dV/dq = -(x + 2 lambda x y, y + lambda (x^2 - y^2))``."""
        x, y = q[..., 0], q[..., 1]
        pull = [x + 2.0 * self.coupling * x * y, y + self.coupling * (x**2 - y**2)]
        return -array_namespace(q).stack(pull, axis=-1)

    def dynamics(self, z: Array) -> Array:
        """``dz/dt``."""
        return array_namespace(z).concat([self.velocity(z[..., 2:]), self.force(z[..., :2])], axis=-1)

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 4]``, below the escape energy.

        In two degrees of freedom the microcanonical density, ``integral of delta(H - E) d^2 p``, is the same at every
        place that the energy reaches: places are uniform in ``V(q) < E``, momenta of uniform direction.

        Raises:
            UserError: a given one can escape.
        """
        law = self.initial
        if isinstance(law, Given):
            z0 = require_entries(self.name, law.sample(rng, episodes), 4)
            if (open_ := np.flatnonzero(~self.bound(z0))).size:
                raise UserError(f"{self.name}: start state {open_[0]} can escape; lower its energy")
            return z0
        energy = rng.uniform(*law.energy, episodes) * self.escape
        q, missing = np.empty((episodes, 2)), np.arange(episodes)
        while missing.size:
            q[missing] = _in_triangle(rng, missing.size) / self.coupling
            missing = missing[self.potential(q[missing]) >= energy[missing]]
        angle = rng.uniform(0.0, 2.0 * np.pi, episodes)
        size = np.sqrt(2.0 * (energy - self.potential(q)))
        return np.concatenate([q, size[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)], axis=-1)

    def bound(self, z: Float) -> NDArray[np.bool_]:
        """Whether states ``[..., 4]`` never leave: below the escape energy and within the triangle of the saddles."""
        # Inside: less than 1/2 along the outward normal of every side, which points away from the saddle opposite.
        inside = (self.coupling * z[..., :2] @ -_SADDLES.T < 0.5).all(axis=-1)
        return np.asarray(inside & (self.energy(z) < self.escape))

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """``[E, 4] -> [E, steps + 1, 4]``, Blanes and Moan's symplectic order 6."""
        return simulate_separable(
            self.name, z0, step, steps, velocity=self.velocity, force=self.force, energy=self.energy,
            kinetic=self.kinetic, longest=0.1, tolerance=1e-10,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Separable; energy alone is conserved."""
        return {
            "attributes": {"mass": [1.0]},
            "structure": ["separable"],
            "second_order": True,
            "conserved": ["energy"],
            "energy": {"law": "energy"},
        }

    def laws(self) -> Laws:
        """Of Hénon and Heiles."""
        return Laws(energy=self.energy, simulate=self.simulate, dynamics=self.dynamics)

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The star within the triangle of the escape energy."""
        return render_batched(z, size, self._draw, half_width=1.2 / self.coupling)

    def _draw(self, canvas: Canvas, z: Float) -> None:
        corners = [np.broadcast_to(corner, (len(z), 2)) / self.coupling for corner in _SADDLES]
        for k in range(3):
            canvas.rod(corners[k - 1], corners[k], 0.02 / self.coupling)
        canvas.disc(z[:, :2], 0.12 / self.coupling, colour(0))

    def describe(self, z: Float) -> str:
        """Energy, and how far out it comes."""
        share = captions.number(float(self.energy(z[0])) / self.escape, digits=2)
        far = captions.number(float(np.linalg.norm(z[:, :2], axis=-1).max()))
        return (
            f"A star in the Hénon-Heiles potential, at {share} of the escape energy, comes {far} far from the centre."
        )


def _in_triangle(rng: np.random.Generator, count: int) -> Float:
    """Points ``[count, 2]`` uniform in the triangle of the saddles."""
    weights = rng.dirichlet(np.ones(3), count)
    return weights @ _SADDLES
