"""Two bodies under Newton's gravity, one of which has a thruster: it shall circle at a given distance.

At the start of a step body 0 is given the momentum ``impulse * action``; then both move as in `two_body`, by Kepler's
exact flow: a planner tries thrusts that bring the bodies close together, where a numerical integrator gives up. The
reward of a step is ``-|r - R| / R`` before it, ``r`` the distance of the bodies and ``R`` the radius wanted of the
relative orbit: kept at 0, it is a circle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.kepler import kepler_flow
from wm_pipelines.worlds.parts.kicked import Impulse, KickedWorld
from wm_pipelines.worlds.parts.quantities import Length
from wm_pipelines.worlds.two_body import TwoBody, TwoBodyParameters

_APPROACH = 0.3  # 1/s: how fast the script closes the distance that is left


class TwoBodyThrusterParameters(TwoBodyParameters):
    """Parameters of `TwoBodyThruster`: those of the bodies, the thruster, and the orbit wanted."""

    impulse: Impulse = 0.05
    radius: Length = 2.5


@register
class TwoBodyThruster(KickedWorld):
    """State ``(x1, y1, x2, y2, px1, py1, px2, py2)`` as of `two_body`. Two actions: kick of body 0 along x and y."""

    name = "two_body_thruster"
    Parameters = TwoBodyThrusterParameters
    parameters: TwoBodyThrusterParameters

    def __init__(self, parameters: TwoBodyThrusterParameters) -> None:
        bodies = TwoBody(parameters)
        super().__init__(parameters, bodies, bodies.masses)
        self.radius, self.gm = parameters.radius, bodies.gm

    def left_alone(self, z: Float, step: float) -> Float:
        """Kepler's flow about a centre of mass that goes straight on."""
        q, v, share = self.positions(z), self.velocities(z), self.masses / self.masses.sum()
        drift = (share[:, None] * v).sum(-2)
        centre = (share[:, None] * q).sum(-2) + step * drift
        r, r_dot = kepler_flow(self._apart(z), v[..., 0, :] - v[..., 1, :], self.gm, step)
        m0, m1 = self.masses
        places = [centre + share[1] * r, centre - share[0] * r]
        momenta = [m0 * (drift + share[1] * r_dot), m1 * (drift - share[0] * r_dot)]
        return np.concatenate([*places, *momenta], -1)

    def _apart(self, z: Float) -> Float:
        """From body 1 to body 0, ``[..., 2]``."""
        q = self.positions(z)
        return q[..., 0, :] - q[..., 1, :]

    def reward(self, z: Float, action: Float) -> Float:
        """Minus the departure from the distance wanted, as a share of it."""
        del action
        return -np.abs(np.linalg.norm(self._apart(z), axis=-1) - self.radius) / self.radius

    def wanted_velocity(self, z: Float) -> Float:
        """That of the circle at this distance, with the present sense of turning, and slowly towards the radius."""
        r, v = self._apart(z), self.velocities(z)
        distance = np.linalg.norm(r, axis=-1, keepdims=True)
        outwards = r / distance
        across = np.stack([-outwards[..., 1], outwards[..., 0]], -1)
        sense = np.sign(((v[..., 0, :] - v[..., 1, :]) * across).sum(-1, keepdims=True))
        closing = _APPROACH * (self.radius - distance)
        return v[..., 1, :] + closing * outwards + sense * np.sqrt(self.gm / distance) * across

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """From above; the camera goes along with the centre of mass, which thrust sets in motion."""
        q = self.positions(z)
        centre = (q * self.masses[:, None]).sum(-2, keepdims=True) / self.masses.sum()
        seen = np.array(z, np.float64)
        seen[..., :4] = (q - centre).reshape(*z.shape[:-1], 4)
        return self.free.render(seen, size)
