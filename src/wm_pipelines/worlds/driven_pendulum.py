"""A rod on a hinge with a motor: the steps of Gymnasium's ``Pendulum-v1``, in batches, with any mass, length, friction.

``theta' = theta + omega' h``, ``omega' = omega + (3 g / 2 l sin theta + 3 / m l^2 (u - b omega)) h``, cut at the
largest speed; reward ``-(theta^2 + 0.1 omega^2 + 0.001 u^2)`` of the state before the step, ``theta`` wrapped, 0 on
top. With friction ``b = 0`` the steps are Gymnasium's to rounding.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, ControlledWorld, Float, WorldParameters
from wm_pipelines.worlds.parts.quantities import Length, Mass, Quantity
from wm_pipelines.worlds.parts.rendering import INK, Canvas, colour, render_batched

_FASTEST = 8.0  # rad/s


class DrivenPendulumParameters(WorldParameters):
    """Parameters of `DrivenPendulum`; the defaults are Gymnasium's."""

    mass: Mass = 1.0
    length: Length = 1.0
    gravity: Annotated[float, Quantity("m/s^2"), Field(gt=0)] = 10.0
    friction: Annotated[float, Quantity("N*m*s"), Field(ge=0)] = 0.0
    torque: Annotated[float, Quantity("N*m"), Field(gt=0, description="largest")] = 2.0


@register
class DrivenPendulum(ControlledWorld):
    """Plant state ``(theta, omega)``: angle from the top in rad (not wrapped), rad/s. One action: torque.

    Shown are ``(cos theta, sin theta, omega)``.
    """

    name = "driven_pendulum"
    Parameters = DrivenPendulumParameters
    parameters: DrivenPendulumParameters
    action_size = 1
    velocity_entries = (1,)

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Any angle, up to 1 rad/s, as Gymnasium does: ``[E, 2]``."""
        return rng.uniform([-np.pi, -1.0], [np.pi, 1.0], (episodes, 2))

    def advance(self, z: Float, action: Float, step: float) -> Float:
        """One step of semi-implicit Euler."""
        p, (angle, speed) = self.parameters, (z[..., 0], z[..., 1])
        torque = np.clip(p.torque * action[..., 0], -p.torque, p.torque)
        if p.friction:
            torque = torque - p.friction * speed
        speed = speed + (3 * p.gravity / (2 * p.length) * np.sin(angle) + 3.0 / (p.mass * p.length**2) * torque) * step
        speed = np.clip(speed, -_FASTEST, _FASTEST)
        return np.stack([angle + speed * step, speed], -1)

    def reward(self, z: Float, action: Float) -> Float:
        """Minus the cost of being away from the top, of speed, of torque."""
        torque = self.parameters.torque * np.clip(action[..., 0], -1.0, 1.0)
        angle = ((z[..., 0] + np.pi) % (2 * np.pi)) - np.pi
        return -(angle**2 + 0.1 * z[..., 1] ** 2 + 0.001 * torque**2)

    def observe(self, z: Float) -> Float:
        """``(cos theta, sin theta, omega)``."""
        return np.stack([np.cos(z[..., 0]), np.sin(z[..., 0]), z[..., 1]], -1)

    def plant_state(self, seen: Float) -> Float:
        """Angle and speed behind ``(cos theta, sin theta, omega)``."""
        return np.stack([np.arctan2(seen[..., 1], seen[..., 0]), seen[..., 2]], -1)

    def scripted(self, rng: np.random.Generator, z: Float, row: int) -> Float:  # noqa: ARG002
        """Pumps energy up to that of standing on top, then holds by feedback; disturbed."""
        p = self.parameters
        angle, speed = ((z[:, 0] + np.pi) % (2 * np.pi)) - np.pi, z[:, 1]
        missing = 1.5 * p.gravity / p.length * (1.0 - np.cos(angle)) - 0.5 * speed**2
        held = -(12.0 * angle + 3.0 * speed) / p.torque
        action = np.where(np.abs(angle) < 0.4, held, np.sign(missing * speed))
        return (action + 0.3 * rng.standard_normal(len(z)))[:, None]

    def energy(self, z: Array) -> Array:
        """Of what is shown, ``[..., 3] -> [...]``, in joules, 0 at rest on top: conserved where nothing acts."""
        p = self.parameters
        inertia = p.mass * p.length**2 / 3.0
        return 0.5 * inertia * z[..., 2] ** 2 + 0.5 * p.mass * p.gravity * p.length * (z[..., 0] - 1.0)

    def laws(self) -> Laws:
        """Its energy, and itself."""
        return Laws(energy=self.energy, plant=self)

    def facts(self) -> dict[str, Any]:
        """What is shown holds an angle as cosine and sine."""
        return {"observed": ["cosine", "sine", "speed"]}

    def score_elsewhere(self, starts: Float, actions: Float) -> Float | None:
        """Returns in Gymnasium's own ``Pendulum-v1``, where this is that world and the package is there."""
        p = self.parameters
        if p != DrivenPendulumParameters(gravity=p.gravity):
            return None
        from gymnasium.envs.classic_control.pendulum import PendulumEnv

        env = PendulumEnv(g=p.gravity)
        env.reset(seed=0)
        returns = np.zeros(len(starts))
        for k, (start, own) in enumerate(zip(starts, actions, strict=True)):
            env.state = np.array(start, np.float64)
            for action in own:
                _, reward, *_ = env.step(np.clip(p.torque * action, -p.torque, p.torque))
                returns[k] += reward
        return returns

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The rod from its hinge in the middle, which it turns about."""
        return render_batched(z, size, self._draw, half_width=1.25 * self.parameters.length)

    def _draw(self, canvas: Canvas, z: Float) -> None:
        length = self.parameters.length
        tip = length * np.stack([np.sin(z[:, 0]), np.cos(z[:, 0])], -1)
        hinge = np.zeros_like(tip)
        canvas.rod(hinge, tip, 0.08 * length)
        canvas.disc(hinge, 0.08 * length, INK)
        canvas.disc(tip, 0.18 * length, colour(0))
