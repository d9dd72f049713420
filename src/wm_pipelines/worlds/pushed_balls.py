"""Hard discs in a box, one of which is pushed: it shall bring another to its place by bumping into it.

At the start of a step ball 0 is given the momentum ``impulse * action``; then the discs fly and collide exactly as
those of `bouncing_balls`. The reward of a step is minus the distance of ball 1 from the `target` before it, in sides of
the box. There is no friction: what was pushed stays in motion until it is pushed back or held by bumps.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.bouncing_balls import BouncingBalls, BouncingBallsParameters, Scattered
from wm_pipelines.worlds.parts.kicked import Impulse, KickedWorld
from wm_pipelines.worlds.parts.quantities import Quantity

Place = Annotated[float, Quantity("m")]
_BRISK = 1.0  # sides of the box per second: how fast the script goes


class PushedBallsParameters(BouncingBallsParameters):
    """Parameters of `PushedBalls`: those of the balls, the push, and where ball 1 is wanted."""

    balls: int = Field(2, ge=2)
    initial: Scattered = Scattered(speed=(0.0, 0.5))
    impulse: Impulse = 0.3
    target: tuple[Place, Place] | None = Field(
        None, description="of the centre of ball 1; null: the upper right corner"
    )

    @model_validator(mode="after")
    def _target_fits(self) -> PushedBallsParameters:
        room = 0.5 * self.side - self.list_of("radii")[1]
        if self.target is not None and max(map(abs, self.target)) > room * (1.0 + 1e-9):
            raise ValueError(f"target: ball 1 does not fit there; give coordinates within ±{room:g} m")
        return self


@register
class PushedBalls(KickedWorld):
    """State ``(q_1 … q_N, p_1 … p_N)`` as of `bouncing_balls`. Two actions: push of ball 0 along x and y."""

    name = "pushed_balls"
    Parameters = PushedBallsParameters
    parameters: PushedBallsParameters

    def __init__(self, parameters: PushedBallsParameters) -> None:
        super().__init__(parameters, BouncingBalls(parameters), parameters.list_of("masses"))
        self.side, self.radii = parameters.side, parameters.list_of("radii")
        corner = 0.5 * parameters.side - self.radii[1]
        self.target = np.array([corner, corner] if parameters.target is None else parameters.target)

    def reward(self, z: Float, action: Float) -> Float:
        """Minus the distance of ball 1 from the target, in sides of the box."""
        del action
        return -np.linalg.norm(self.positions(z)[..., 1, :] - self.target, axis=-1) / self.side

    def wanted_velocity(self, z: Float) -> Float:
        """Towards a place behind ball 1 as seen from the target, and from there into it."""
        q = self.positions(z)
        way = self.target - q[..., 1, :]
        way = way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-9)
        behind = q[..., 1, :] - way * (self.radii[0] + self.radii[1]) - q[..., 0, :]
        is_there = np.linalg.norm(behind, axis=-1, keepdims=True) < 0.5 * self.radii[0]
        towards = np.where(is_there, way, behind)
        return _BRISK * self.side * towards / np.maximum(np.linalg.norm(towards, axis=-1, keepdims=True), 1e-9)
