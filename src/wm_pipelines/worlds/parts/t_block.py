"""A T-shaped block, pushed by a disc between four walls: the constants and the contacts of gym-pusht, in pymunk.

Deviations from gym-pusht 0.1.8 (`gym_pusht.envs.pusht`, after Chi et al., *Diffusion Policy*, RSS 2023):

- A move of several control steps is cut between them: the solver's memory of contacts is not carried over, so that a
  state is all that the future depends on. It shows only where contacts are over-determined (walls).
- The block's last displacement is applied at the end of a control step instead of the beginning of the next. Between
  two rows the block is thus one step of 10 ms ahead of gym-pusht's; the course of the contacts is the same.

Lengths are in pixels of gym-pusht's window, 512 wide, y downwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.base import Float

WINDOW = 512.0
INNER_STEP = 0.01  # s
AGENT_RADIUS = 15.0
STIFFNESS, DAMPING = 100.0, 20.0  # of the agent's controller, 1/s^2 and 1/s: critically damped

BAR = np.array([(-60.0, 30.0), (60.0, 30.0), (60.0, 0.0), (-60.0, 0.0)])
STEM = np.array([(-15.0, 30.0), (-15.0, 120.0), (15.0, 120.0), (15.0, 30.0)])
OUTLINE = np.concatenate([BAR[[3, 2, 1]], STEM[[3, 2, 1, 0]], BAR[[0]]])
MIDDLE = np.array([0.0, 45.0])  # the mean of both parts' centres counts as the centre of gravity
BLOCK_RADIUS = float(np.hypot(*(OUTLINE - MIDDLE).T).max())  # about MIDDLE

_WALLS = (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506)))
_WALL_RADIUS = 2.0
FREE = (5.0 + _WALL_RADIUS, 506.0 - _WALL_RADIUS)  # between the walls, along either axis
_NEAR = 1.0  # px; bodies further apart than this are not in contact


def turned(points: Float, pose: Float) -> Float:
    """Points ``[V, 2]`` of the block where poses ``(x, y, angle) [..., 3]`` put them: ``[..., V, 2]``."""
    cosine, sine = np.cos(pose[..., 2, None]), np.sin(pose[..., 2, None])
    x, y = points[:, 0], points[:, 1]
    return pose[..., None, :2] + np.stack([cosine * x - sine * y, sine * x + cosine * y], -1)


def from_block(points: Float, pose: Float) -> Float:
    """Distances ``[...]`` of points ``[..., 2]`` from the block at poses ``[..., 3]``; negative inside."""
    cosine, sine = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    x, y = np.moveaxis(points - pose[..., :2], -1, 0)
    local = np.stack([cosine * x + sine * y, cosine * y - sine * x], -1)
    parts = []
    for corners in (BAR, STEM):
        low, high = corners.min(0), corners.max(0)
        over = np.abs(local - 0.5 * (low + high)) - 0.5 * (high - low)
        parts.append(np.hypot(*np.moveaxis(np.maximum(over, 0.0), -1, 0)) + np.minimum(over.max(-1), 0.0))
    return np.minimum(*parts)


def agent_path(position: Float, velocity: Float, target: Float, steps: int) -> tuple[Float, Float]:
    """Positions and velocities ``[E, steps, 2]`` on the way to a target ``[E, 2]``; nothing stops the agent."""
    positions, velocities = [], []
    for _ in range(steps):
        velocity = velocity + (STIFFNESS * (target - position) - DAMPING * velocity) * INNER_STEP
        position = position + velocity * INNER_STEP
        positions.append(position)
        velocities.append(velocity)
    return np.stack(positions, 1), np.stack(velocities, 1)


def untouched(positions: Float, pose: Float) -> Any:
    """Whether nothing touches blocks ``[E, 3]`` while agents go through ``positions [E, steps, 2]``: ``[E]``."""
    middle = turned(MIDDLE[None], pose)
    apart = np.hypot(*np.moveaxis(positions - middle, -1, 0)).min(-1) > BLOCK_RADIUS + AGENT_RADIUS + _NEAR
    corners = turned(OUTLINE, pose)
    return apart & (corners > FREE[0] + _NEAR).all((-2, -1)) & (corners < FREE[1] - _NEAR).all((-2, -1))


def load_pymunk() -> Any:
    """The physics engine.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pymunk
    except ImportError:
        raise UserError(
            "world 'push_t' needs the optional package 'pymunk': pip install 'wm_pipelines[pusht]'"
        ) from None
    return pymunk


class Table:
    """The bodies; each move has a space of its own, so that it does not depend on those before it.

    Without damping in time (gym-pusht's ``damping = 0``) the block keeps no speed from one inner step to the next: its
    pose is all there is to know of it.

    Raises:
        UserError: pymunk is not installed.
    """

    def __init__(self) -> None:
        self._pymunk = pymunk = load_pymunk()
        still = pymunk.Body(body_type=pymunk.Body.STATIC)
        self._agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        # gym-pusht gives the stem the bar's moment of inertia.
        self._block = pymunk.Body(1.0, 2.0 * pymunk.moment_for_poly(1.0, BAR.tolist()))
        self._block.center_of_gravity = tuple(MIDDLE.tolist())
        self._parts = (
            still,
            *(pymunk.Segment(still, a, b, _WALL_RADIUS) for a, b in _WALLS),
            self._agent,
            pymunk.Circle(self._agent, AGENT_RADIUS),
            self._block,
            pymunk.Poly(self._block, BAR.tolist()),
            pymunk.Poly(self._block, STEM.tolist()),
        )

    def pushed(self, pose: Float, position: Float, velocities: Float) -> tuple[float, float, float]:
        """The block's pose ``(x, y, angle)`` after an agent at ``position [2]`` moved with ``velocities [n, 2]``."""
        agent, block, space = self._agent, self._block, self._pymunk.Space()
        space.damping = 0.0
        agent.position, agent.velocity = tuple(position.tolist()), (0.0, 0.0)
        block.angle = float(pose[2])  # turns about the centre of gravity: before the position
        block.position = tuple(pose[:2].tolist())
        block.velocity, block.angular_velocity = (0.0, 0.0), 0.0
        space.add(*self._parts)
        for velocity in velocities.tolist():
            agent.velocity = tuple(velocity)
            space.step(INNER_STEP)
        # Takes along the correction of overlaps, which pymunk does not show and applies with the next displacement.
        self._pymunk.Body.update_position(block, INNER_STEP)
        (x, y), angle = block.position, block.angle
        space.remove(*self._parts)
        return x, y, angle
