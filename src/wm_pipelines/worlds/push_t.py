"""Push-T: a disc pushes a T-shaped block to where it is wanted, with the physics of gym-pusht.

Chi et al., *Diffusion Policy: Visuomotor Policy Learning via Action Diffusion* (RSS 2023); contacts, constants and how
they differ from the package `gym_pusht` are in `parts.t_block`. Ten control steps a second, each ten steps of the
physics: the agent is drawn to a target by a critically damped spring, the block slides without friction at the rim and
stops at once where nothing pushes it. Actions move the target relative to the agent, or set it as in gym-pusht.

Needs the optional package pymunk (``pip install 'wm_pipelines[pusht]'``) wherever it moves.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import ControlledWorld, Float, WorldParameters
from wm_pipelines.worlds.parts.rendering import Canvas, Colour, colour, render_batched
from wm_pipelines.worlds.parts.t_block import (
    AGENT_RADIUS,
    BLOCK_RADIUS,
    FREE,
    INNER_STEP,
    MIDDLE,
    OUTLINE,
    WINDOW,
    Table,
    agent_path,
    from_block,
    load_pymunk,
    turned,
    untouched,
)

CONTROL_STEP = 0.1  # s
STANDARD_GOAL = np.array([256.0, 256.0, np.pi / 4])
_MODERATE, _STRICT = (20.0, 20.0), (10.0, 10.0)  # px and degrees from the goal
_REDRAWS = 4
_GOAL_COLOUR: Colour = (0.56, 0.93, 0.56)

# The scripted pusher: `_APPROACH` rows towards a point behind the block, then `_PUSH` rows through it.
_APPROACH, _PUSH = 6, 10
_BEHIND = BLOCK_RADIUS + AGENT_RADIUS + 10.0  # px from the block's middle
_ASIDE = 50.0  # px, largest distance of a push's line from the block's middle
_STRIDE = 50.0  # px that the target is ahead while pushing
_MARGIN = 70.0  # px from the block's middle to the walls, kept
_CARRIED = 120.0  # px, about how far a push takes the block


class PushTParameters(WorldParameters):
    """Parameters of `PushT`; lengths in pixels of a window 512 wide."""

    actions: Literal["relative", "absolute"] = Field("relative", description="to the agent, or in the window")
    reach: float = Field(
        100.0, gt=0, le=WINDOW, description="px of a relative action of 1; a step goes 0.26 to 0.41 of it"
    )
    goal: Literal["ahead", "standard"] = Field("ahead", description="what the script reaches, or gym-pusht's pose")
    goal_steps: int = Field(25, ge=1, description="control steps of 0.1 s to a goal ahead")
    show_goal: bool = Field(False, description="draw gym-pusht's goal pose into the frames")


@register
class PushT(ControlledWorld):
    """Plant state ``(agent x, y, its velocity, block x, y, angle)``: px, px/s, rad (not wrapped); y points down.

    The block's position is that of the middle of the bar's outer edge. Its velocity is no part of the state: it does
    not outlast an inner step. Two actions: the agent's target. Shown are the first six entries and
    ``(cos angle, sin angle)``.
    """

    name = "push_t"
    Parameters = PushTParameters
    parameters: PushTParameters
    action_size = 2
    velocity_entries = (2, 3)
    _table: Table | None = None

    def check(self) -> None:
        """Raises UserError where pymunk is not installed."""
        load_pymunk()

    # ------------------------------------------------------------ starts and goals

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Drawn as in gym-pusht, but where nothing touches; at rest."""
        pose = _poses(rng, episodes)
        while (outside := ~_inside(pose)).any():
            pose[outside] = _poses(rng, int(outside.sum()))
        return np.concatenate([_beside(rng, pose), np.zeros((episodes, 2)), pose], -1)

    def sample_goal(self, rng: np.random.Generator, starts: Float) -> Float:
        """At rest: what the scripted pusher reaches from ``starts``, or gym-pusht's pose with the agent anywhere.

        A goal ahead whose block has hardly moved is drawn again, some times.
        """
        if self.parameters.goal == "standard":
            pose = np.tile(STANDARD_GOAL, (len(starts), 1))
            return np.concatenate([_beside(rng, pose), np.zeros((len(starts), 2)), pose], -1)
        goal = self._ahead(rng, starts)
        for _ in range(_REDRAWS):
            if not (idle := _near(starts, goal, *_MODERATE)).any():
                break
            goal[idle] = self._ahead(rng, starts[idle])
        return goal

    def _ahead(self, rng: np.random.Generator, starts: Float) -> Float:
        z = starts
        for row in range(self.parameters.goal_steps):
            z = self.advance(z, np.clip(self.scripted(rng, z, row), -1.0, 1.0), CONTROL_STEP)
        return np.concatenate([z[:, :2], np.zeros((len(z), 2)), z[:, 4:]], -1)

    def success(self, z: Float, goal: Float) -> NDArray[np.bool_]:
        """Agent and block within 20 px of the goal's, the block turned by less than 20 degrees.

        Where the goal is gym-pusht's pose, the block alone.
        """
        near = _near(z, goal, *_MODERATE)
        if self.parameters.goal == "standard":
            return near
        return near & (np.hypot(*np.moveaxis(z[..., :2] - goal[..., :2], -1, 0)) <= 20.0)

    def strict_success(self, z: Float, goal: Float) -> NDArray[np.bool_]:
        """Block within 10 px and 10 degrees for three rows on end: ``[..., T, n]``, goals ``[..., n]`` -> ``[...]``."""
        near = _near(z, goal[..., None, :], *_STRICT)
        return np.asarray((near[..., :-2] & near[..., 1:-1] & near[..., 2:]).any(-1))

    # ------------------------------------------------------------ motion

    def advance(self, z: Float, action: Float, step: float) -> Float:
        """One control step, with the target where the action puts it at its beginning.

        Raises:
            UserError: pymunk is not installed. ValueError: ``step`` is no multiple of 0.01 s.
        """
        inner = round(step / INNER_STEP)
        if inner < 1 or abs(inner * INNER_STEP - step) > 1e-9:
            raise ValueError(f"a step of {step:g} s is no multiple of {INNER_STEP:g} s, the step of the physics")
        flat = np.asarray(z, np.float64).reshape(-1, z.shape[-1])
        target = self._target(flat[:, :2], np.asarray(action, np.float64).reshape(-1, self.action_size))
        positions, velocities = agent_path(flat[:, :2], flat[:, 2:4], target, inner)
        pose = flat[:, 4:].copy()
        moved = np.flatnonzero(~untouched(positions, pose))
        if moved.size and self._table is None:
            self._table = Table()
        for e in moved:
            pose[e] = self._table.pushed(pose[e], flat[e, :2], velocities[e])  # type: ignore[union-attr]
        return np.concatenate([positions[:, -1], velocities[:, -1], pose], -1).reshape(z.shape)

    def _target(self, agent: Float, action: Float) -> Float:
        action = np.clip(action, -1.0, 1.0)
        if self.parameters.actions == "absolute":
            return 0.5 * WINDOW * (1.0 + action)
        return np.clip(agent + self.parameters.reach * action, 0.0, WINDOW)

    def _action(self, agent: Float, target: Float) -> Float:
        """The action that comes nearest to a target ``[E, 2]``."""
        if self.parameters.actions == "absolute":
            return np.clip(2.0 * target / WINDOW - 1.0, -1.0, 1.0)
        ahead = (target - agent) / self.parameters.reach
        return ahead / np.maximum(np.abs(ahead).max(-1, keepdims=True), 1.0)

    def reward(self, z: Float, action: Float) -> None:
        """There are goals instead."""
        del z, action

    # ------------------------------------------------------------ data

    def scripted(self, rng: np.random.Generator, z: Float, row: int) -> Float:
        """Goes behind the block on a side of its choice, then pushes through beside its middle; sides change."""
        phase = (row + 4 * np.arange(len(z))) % (_APPROACH + _PUSH)
        agent, speed = z[:, :2], np.hypot(z[:, 2], z[:, 3])
        middle = turned(MIDDLE[None], z[:, 4:])[:, 0]
        beside = middle - agent
        across = np.stack([-beside[:, 1], beside[:, 0]], -1) / np.maximum(np.hypot(*beside.T), 1e-9)[:, None]
        aimed = beside + rng.uniform(-_ASIDE, _ASIDE, (len(z), 1)) * across
        # A push keeps its line: the agent's velocity remembers it.
        line = np.where(((phase > _APPROACH) & (speed > 50.0))[:, None], z[:, 2:4], aimed)
        line = line / np.maximum(np.hypot(*line.T), 1e-9)[:, None]
        # It slows down at the block, and ends where it would take the block into a wall.
        stride = np.where(from_block(agent, z[:, 4:]) > 2.0 * AGENT_RADIUS, 2.0 * _STRIDE, _STRIDE)
        ahead = middle + 0.5 * _MARGIN * line
        stride[((ahead < _MARGIN) | (ahead > WINDOW - _MARGIN)).any(-1)] = -_STRIDE
        around = _around(agent, middle, _behind(z[:, 4:], middle))
        way = np.where((phase < _APPROACH)[:, None], around, stride[:, None] * line)
        return self._action(agent, agent + way + 0.2 * _STRIDE * rng.standard_normal(way.shape))

    # ------------------------------------------------------------ what is seen

    def observe(self, z: Float) -> Float:
        """Agent, its velocity, block, and cosine and sine of its angle: ``[..., 8]``."""
        return np.concatenate([z[..., :6], np.cos(z[..., 6:]), np.sin(z[..., 6:])], -1)

    def plant_state(self, seen: Float) -> Float:
        """The inverse of `observe`."""
        return np.concatenate([seen[..., :6], np.arctan2(seen[..., 7:], seen[..., 6:7])], -1)

    def facts(self) -> dict[str, Any]:
        """What the entries shown are."""
        place, speed = ["position"] * 2, ["speed"] * 2
        return {"observed": [*place, *speed, *place, "cosine", "sine"]}

    def laws(self) -> Laws:
        """Itself."""
        return Laws(plant=self)

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The window from above: block, agent, and the goal where it is to be shown."""
        half = 0.5 * WINDOW
        return render_batched(z, size, self._draw, half_width=half, centre=(half, -half))

    def _draw(self, canvas: Canvas, z: Float) -> None:
        up = np.array([1.0, -1.0])
        if self.parameters.show_goal:
            canvas.polygon(up * turned(OUTLINE, np.tile(STANDARD_GOAL, (len(z), 1))), _GOAL_COLOUR)
        canvas.polygon(up * turned(OUTLINE, z[:, 4:]), colour(7))
        canvas.disc(up * z[:, :2], AGENT_RADIUS, colour(1))


def _near(z: Float, goal: Float, distance: float, degrees: float) -> NDArray[np.bool_]:
    """Whether blocks are within so many px and degrees of the goal's."""
    x, y, turn = np.moveaxis(z[..., 4:] - goal[..., 4:], -1, 0)
    turn = (turn + np.pi) % (2.0 * np.pi) - np.pi
    return (np.hypot(x, y) <= distance) & (np.abs(turn) < np.radians(degrees))


def _poses(rng: np.random.Generator, count: int) -> Float:
    return rng.uniform([100.0, 100.0, -np.pi], [400.0, 400.0, np.pi], (count, 3))


def _inside(pose: Float) -> NDArray[np.bool_]:
    """Whether blocks ``[E, 3]`` are clear of the walls."""
    corners = turned(OUTLINE, pose)
    return np.asarray(((corners > FREE[0] + 1.0) & (corners < FREE[1] - 1.0)).all((-2, -1)))


def _beside(rng: np.random.Generator, pose: Float) -> Float:
    """Places ``[E, 2]`` for the agent that do not touch blocks at ``pose [E, 3]``."""
    agent = rng.uniform(50.0, 450.0, (len(pose), 2))
    while (touching := from_block(agent, pose) < AGENT_RADIUS + 1.0).any():
        agent[touching] = rng.uniform(50.0, 450.0, (int(touching.sum()), 2))
    return agent


def _behind(pose: Float, middle: Float) -> Float:
    """Where pushes begin, ``[E, 2]``: two sides drawn, that one taken from which the block goes nearer to the centre.

    The draws belong to where the block lies: while it does not move, an approach keeps its aim.
    """
    keys = np.round(1e3 * pose).astype(np.int64).view(np.uint64)
    sides = np.array([np.random.default_rng(key).uniform(-np.pi, np.pi, 2) for key in keys]).reshape(-1, 2)
    out = np.stack([np.cos(sides), np.sin(sides)], -1)  # [E, 2, 2]
    off = np.hypot(*np.moveaxis(middle[:, None] - _CARRIED * out - 0.5 * WINDOW, -1, 0))
    return middle + _BEHIND * out[np.arange(len(out)), off.argmin(1)]


def _around(agent: Float, middle: Float, goal: Float) -> Float:
    """The way ``[E, 2]`` to a goal on the circle of radius `_BEHIND` about the block: straight, or along the circle."""
    here, there = agent - middle, goal - middle
    way = goal - agent
    # Nearest point of the straight way to the block's middle.
    share = np.clip(-(here * way).sum(-1) / np.maximum((way * way).sum(-1), 1e-9), 0.0, 1.0)
    clear = np.hypot(*(here + share[:, None] * way).T) > 0.85 * _BEHIND
    angle = np.arctan2(here[:, 1], here[:, 0])
    turn = (np.arctan2(there[:, 1], there[:, 0]) - angle + np.pi) % (2.0 * np.pi) - np.pi
    angle = angle + np.clip(turn, -0.9, 0.9)
    rim = 1.15 * _BEHIND * np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.where(clear[:, None], way, middle + rim - agent)
