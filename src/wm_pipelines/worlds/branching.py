"""A ball that rolls on to a wedge and leaves it to the right or to the left: one state, two futures.

The wedge is at ``y = 0``. On its way there nothing acts; on the wedge the ball goes right with probability
``w = 1 / (1 + exp(-(x + r a) / b))`` (where it hits, and how an action tilts the wedge), else left, and keeps rolling.
Which way is decided by a number of the plant state that no view shows, drawn once per episode: the world itself is
deterministic, and to whoever sees the view ``states`` it is not.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import ControlledWorld, Float, WorldParameters
from wm_pipelines.worlds.parts.quantities import Length, Quantity
from wm_pipelines.worlds.parts.rendering import INK, Canvas, colour, render_batched

_NEAREST = 0.15  # share of the run-up that is left at least when an episode starts

Speed = Annotated[float, Quantity("m/s"), Field(gt=0)]


class BranchingParameters(WorldParameters):
    """Parameters of `Branching`."""

    width: Length = 0.5  # the ball starts at |x| up to this
    run_up: Length = 0.35  # it starts up to this far in front of the wedge
    speed: Speed = 1.0  # towards the wedge, and on from it
    side_speed: Speed = 1.0  # to one side, after it
    blur: Length = 0.4  # b, over which right becomes left
    tilt: Length = 0.4  # r, by which a full action moves the edge


@register
class Branching(ControlledWorld):
    """Plant state ``(x, y, v_x, v_y, luck)`` in m and m/s, luck in [0, 1); shown are the first four.

    One action: tilt of the wedge. There is nothing to be gained: the world is there to be predicted.
    """

    name = "branching"
    Parameters = BranchingParameters
    parameters: BranchingParameters
    action_size = 1

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Anywhere in front of the wedge, rolling towards it: ``[E, 5]``."""
        p = self.parameters
        x = rng.uniform(-p.width, p.width, episodes)
        y = -p.run_up * rng.uniform(_NEAREST, 1.0, episodes)
        return np.stack([x, y, np.zeros(episodes), np.full(episodes, p.speed), rng.random(episodes)], -1)

    def chance(self, z: Float, action: Float) -> Float:
        """``w``, probability of going right if the wedge is hit now: ``[...]``."""
        p = self.parameters
        return 1.0 / (1.0 + np.exp(-(z[..., 0] + p.tilt * np.clip(action[..., 0], -1.0, 1.0)) / p.blur))

    def hits(self, z: Float, step: float) -> NDArray[np.bool_]:
        """Whether the ball comes on to the wedge within the step: ``[...]``."""
        return np.asarray((z[..., 1] < 0.0) & (z[..., 1] + step * z[..., 3] >= 0.0))

    def advance(self, z: Float, action: Float, step: float) -> Float:
        """Straight on, but for the wedge, within the step where need be."""
        x, y, across, along, luck = np.moveaxis(z, -1, 0)
        hit = self.hits(z, step)
        side = np.where(luck < self.chance(z, action), 1.0, -1.0) * self.parameters.side_speed
        after = np.where(hit, y / along + step, 0.0)  # seconds of the step that are left behind the wedge
        moved = x + across * (step - after) + side * after
        return np.stack([moved, y + step * along, np.where(hit, side, across), along, luck], -1)

    def futures(self, z: Float, actions: Float, step: float) -> tuple[Float, Float]:
        """Both futures of plant states, whatever their luck.

        Args:
            z: ``[E, 5]``. actions: ``[E, H, 1]``. step: s.

        Returns:
            What is shown if the ball goes right and if it goes left, ``[2, E, H, 4]``; the probability of the first,
            ``[E]``, NaN where the wedge is not reached.
        """
        ways, chance = [], np.full(len(z), np.nan)
        for luck in (0.0, 1.0):
            now, seen = np.concatenate([z[:, :4], np.full((len(z), 1), luck)], -1), []
            for action in np.moveaxis(actions, 1, 0):
                chance = np.where(self.hits(now, step), self.chance(now, action), chance)
                now = self.advance(now, action, step)
                seen.append(self.observe(now))
            ways.append(np.stack(seen, 1))
        return np.stack(ways), chance

    def reward(self, z: Float, action: Float) -> None:
        """None: see the class."""
        del z, action

    def observe(self, z: Float) -> Float:
        """Position and velocity."""
        return z[..., :4]

    def laws(self) -> Laws:
        """Itself."""
        return Laws(plant=self)

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """Seen from above, the wedge in the middle."""
        p = self.parameters
        return render_batched(z, size, self._draw, half_width=2.0 * (p.width + p.run_up))

    def _draw(self, canvas: Canvas, z: Float) -> None:
        p = self.parameters
        ends = np.zeros((2, len(z), 2))
        ends[:, :, 0] = [[-p.width], [p.width]]
        canvas.rod(ends[0], ends[1], 0.05 * p.width, INK)
        canvas.disc(z[:, :2], 0.2 * p.width, colour(0))
