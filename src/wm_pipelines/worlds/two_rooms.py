"""A point in a square box that a wall divides into two rooms; a door in the wall is the only way across.

An action is a displacement. The point goes straight until it meets the wall or the box, and stops there for the rest of
the step: it does not slide. The wall has a thickness, its parts are closed rectangles beside an open door, and where
the segment from place to place enters them is computed exactly (slab by slab), so no step however long passes through.
There are no rewards: a goal is a place in the other room, and reaching it needs a detour that looks like going away.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import ControlledWorld, Float, WorldParameters
from wm_pipelines.worlds.parts.quantities import Length, Quantity
from wm_pipelines.worlds.parts.rendering import Canvas, colour, render_batched

Place = Annotated[float, Quantity("m")]
_LEG = 30  # steps for which the script keeps its way-point
_ASIDE = 0.6  # door widths: how far from the wall the script turns into the door
_UNSTEADY = 0.3  # standard deviation of what disturbs its actions


class TwoRoomsParameters(WorldParameters):
    """Parameters of `TwoRooms`; the centre of the box is the origin."""

    side: Length = 1.0
    wall: Place = Field(0.0, description="x of the wall's middle")
    thickness: Length = 0.04
    door: Place = Field(0.0, description="y of the door's middle")
    door_width: Length = 0.15
    stride: Length = Field(0.05, description="along each axis in a step, at an action of 1")
    radius: Length = Field(0.05, description="within which a goal counts as reached")

    @model_validator(mode="after")
    def _fit_together(self) -> TwoRoomsParameters:
        half = 0.5 * self.side
        if not abs(self.wall) + 0.5 * self.thickness < half:
            raise ValueError(f"wall: no room is left beside it; keep it within ±{half:g} m")
        if not abs(self.door) + 0.5 * self.door_width <= half:
            raise ValueError(f"door: it does not fit into the wall of ±{half:g} m; move it or lower `door_width`")
        return self


@register
class TwoRooms(ControlledWorld):
    """Plant state ``(x, y)`` in m. Two actions: displacement along x and y, in units of `stride`."""

    name = "two_rooms"
    Parameters = TwoRoomsParameters
    parameters: TwoRoomsParameters
    action_size = 2

    def __init__(self, parameters: TwoRoomsParameters) -> None:
        super().__init__(parameters)
        p, half = parameters, 0.5 * parameters.side
        self.half = half
        left, right = p.wall - 0.5 * p.thickness, p.wall + 0.5 * p.thickness
        # Beyond the box, so that its own sides are no way around.
        self.walls = np.array(
            [
                [[left, -2.0 * half], [right, p.door - 0.5 * p.door_width]],
                [[left, p.door + 0.5 * p.door_width], [right, 2.0 * half]],
            ]
        )
        """``[2, 2, 2]``: lower left and upper right corner of the wall's two parts."""

    # -- motion

    def advance(self, z: Float, action: Float, step: float) -> Float:
        """Straight on, as far as nothing is in the way; how many seconds that takes is no matter."""
        del step
        return self.go(z, self.parameters.stride * np.clip(action, -1.0, 1.0))

    def go(self, z: Float, by: Float) -> Float:
        """From places ``[..., 2]`` by displacements ``[..., 2]``, up to the first thing met."""
        z, by = np.broadcast_arrays(np.asarray(z, np.float64), np.asarray(by, np.float64))
        end = np.asarray(z + by)
        x, right = np.stack([z[..., 0], end[..., 0]]), self.walls[0, 1, 0]
        beside = (x.max(0) <= self.walls[0, 0, 0]) | (x.min(0) >= right)
        met = ~(beside & (np.abs(end) <= self.half).all(-1))  # few of a planner's many: the rest costs nothing
        end[met] = self._stopped(z[met], by[met])
        return end

    def _stopped(self, z: Float, by: Float) -> Float:
        """`go`, of places ``[N, 2]`` from where something may be met."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            share = np.where(by == 0.0, np.inf, (np.copysign(self.half, by) - z) / by).min(-1)
            for low, high in self.walls:
                share = np.minimum(share, _met(z, by, low, high))
        end = np.clip(z + np.clip(share, 0.0, 1.0)[..., None] * by, -self.half, self.half)
        for low, high in self.walls:
            end = _put_out(end, low, high)
        return end

    def in_sight(self, z: Float, place: Float) -> NDArray[np.bool_]:
        """Whether nothing is between two places, ``[...]``."""
        z, place = np.broadcast_arrays(np.asarray(z, np.float64), np.asarray(place, np.float64))
        (left, _), (right, below) = self.walls[0]
        above, by, close = self.walls[1, 0, 1], place - z, 1e-12 * self.half
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            one, other = (left - z[..., 0]) / by[..., 0], (right - z[..., 0]) / by[..., 0]
        # Shares of the way between which it is within the wall's thickness, and how high it is there.
        inside = np.where((z[..., 0] > left) & (z[..., 0] < right), 1.0, 0.0)
        still = by[..., 0] == 0.0
        enters = np.where(still, 0.0, np.clip(np.minimum(one, other), 0.0, 1.0))
        leaves = np.where(still, inside, np.clip(np.maximum(one, other), 0.0, 1.0))
        heights = z[..., 1] + np.stack([enters, leaves]) * by[..., 1]
        through = (heights.min(0) >= below - close) & (heights.max(0) <= above + close)
        return np.asarray(((leaves <= enters) | through) & (np.abs(place) <= self.half + close).all(-1))

    # -- starts and goals

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Anywhere in either room, both equally likely: ``[E, 2]``."""
        return self._in_rooms(rng, rng.random(episodes) < 0.5)

    def sample_goal(self, rng: np.random.Generator, starts: Float) -> Float:
        """Anywhere in the room where the start is not."""
        return self._in_rooms(rng, starts[..., 0] > self.parameters.wall)

    def _in_rooms(self, rng: np.random.Generator, left: NDArray[np.bool_]) -> Float:
        share, y = rng.random(left.shape), rng.uniform(-self.half, self.half, left.shape)
        begin = np.where(left, -self.half, self.walls[0, 1, 0])
        end = np.where(left, self.walls[0, 0, 0], self.half)
        return np.stack([begin + share * (end - begin), y], -1)

    def success(self, z: Float, goal: Float) -> NDArray[np.bool_]:
        """Within the radius of the goal and in sight of it: behind the wall is not there."""
        near = np.linalg.norm(np.asarray(z) - goal, axis=-1) <= self.parameters.radius
        return near & self.in_sight(z, goal)

    def distance(self, z: Float, goal: Float) -> Float:
        """Steps at full stride to the goal, around the wall: straight where it is in sight, else by way of the door."""
        z, goal = np.broadcast_arrays(np.asarray(z, np.float64), np.asarray(goal, np.float64))
        far, near = self._beside_the_door(goal)
        legs = [self._steps(z, goal), self._steps(z, far) + self._steps(far, goal)]
        legs.append(self._steps(z, near) + self._steps(near, far) + self._steps(far, goal))
        return np.asarray(np.where(self.in_sight(z, goal), legs[0], np.where(self.in_sight(z, far), legs[1], legs[2])))

    def _steps(self, a: Float, b: Float) -> Float:
        return np.asarray(np.abs(b - a).max(-1) / self.parameters.stride)

    def _beside_the_door(self, place: Float) -> tuple[Float, Float]:
        """Points before the door, on a place's side of the wall and on the other: each ``[..., 2]``."""
        p = self.parameters
        aside = min(0.5 * p.thickness + _ASIDE * p.door_width, self.half - abs(p.wall))
        side = np.sign(place[..., :1] - p.wall)
        far, near = (np.concatenate([p.wall + s * side * aside, np.full_like(side, p.door)], -1) for s in (1.0, -1.0))
        return far, near

    def reward(self, z: Float, action: Float) -> None:
        """None: there are goals."""

    # -- by hand

    def scripted(self, rng: np.random.Generator, z: Float, row: int) -> Float:
        """Goes to way-points anywhere, through the door where they are in the other room; disturbed.

        The way-points of a leg come from a stream of the leg's own, so that nothing need be remembered between rows.
        """
        seed = rng.bit_generator.seed_seq
        leg = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, row // _LEG))  # type: ignore[attr-defined]
        place = self.sample_initial_state(np.random.default_rng(leg), len(z))
        return self.towards(z, place) + _UNSTEADY * rng.standard_normal(z.shape)

    def towards(self, z: Float, place: Float) -> Float:
        """Actions ``[..., 2]`` straight to a place in sight, else to the door's far end, else to its near end."""
        p, (far, near) = self.parameters, self._beside_the_door(np.asarray(place))
        via = np.where(self.in_sight(z, far)[..., None], far, near)
        missing = np.where(self.in_sight(z, place)[..., None], place, via) - z
        return missing / np.maximum(np.abs(missing).max(-1, keepdims=True), p.stride)

    # -- laws and images

    def laws(self) -> Laws:
        """The world itself."""
        return Laws(plant=self)

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The box, the wall, the point; no goal."""
        return render_batched(z, size, self._draw, half_width=self.half + self.parameters.thickness)

    def _draw(self, canvas: Canvas, z: Float) -> None:
        p, at = self.parameters, np.ones((len(z), 1))
        edge = self.half + 0.5 * p.thickness
        for side in (1.0, -1.0):
            canvas.rod(at * [side * edge, -edge], at * [side * edge, edge], p.thickness)
            canvas.rod(at * [-edge, side * edge], at * [edge, side * edge], p.thickness)
            # A rod's ends are round: the half disc at the door belongs to it.
            door = p.door + side * 0.5 * (p.door_width + p.thickness)
            canvas.rod(at * [p.wall, side * edge], at * [p.wall, door], p.thickness)
        canvas.disc(z, 0.04 * p.side, colour(0))


def _met(z: Float, by: Float, low: Float, high: Float) -> Float:
    """Share of the displacement at which the open rectangle is entered, ``[...]``; infinite where it is not.

    Slab by slab: along each axis the point is between the sides from one share to another, and inside while both hold.
    Along a side of the rectangle it may go.
    """
    one, other = (low - z) / by, (high - z) / by
    between, still = (z > low) & (z < high), by == 0.0
    enters = np.where(still, np.where(between, -np.inf, np.inf), np.minimum(one, other)).max(-1)
    leaves = np.where(still, np.inf, np.maximum(one, other)).min(-1)
    return np.where((enters >= 0.0) & (enters < leaves), enters, np.inf)


def _put_out(z: Float, low: Float, high: Float) -> Float:
    """Places that rounding left inside an open rectangle, put onto its nearest side."""
    inside = ((z > low) & (z < high)).all(-1, keepdims=True)
    deep = np.minimum(z - low, high - z)
    side = np.where(z - low < high - z, low, high)
    return np.where(inside & (deep == deep.min(-1, keepdims=True)), side, z)
