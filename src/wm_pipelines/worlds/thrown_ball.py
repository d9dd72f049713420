"""A ball thrown over a floor, in a vertical plane: `bouncing_ball` that also moves sideways, with nothing to stop it.

``H = (p_x^2 + p_h^2) / 2m + m g h`` for ``h >= 0``; an impact on the smooth floor turns ``p_h -> -e p_h`` and leaves
``p_x`` as it is. So all the laws of school mechanics can be told apart: the horizontal momentum is kept, the vertical
one falls by ``m g`` per second between impacts, energy is lost at impacts alone, and the floor is not passed.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld
from wm_pipelines.worlds.bouncing_ball import BallParameters, BouncingBall, BouncingBallParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Given, LengthRange, require_entries
from wm_pipelines.worlds.parts.quantities import Quantity
from wm_pipelines.worlds.parts.rendering import Canvas, colour, render_batched

_VERTICAL = (1, 3)  # entries of a state that are one of `BouncingBall`


Speed = Annotated[float, Quantity("m/s"), Field(ge=0)]


class ThrownSideways(Settings):
    """Heights and speeds uniform in intervals, all directions alike; the throw starts at x = 0."""

    law: Literal["thrown"] = "thrown"
    height: LengthRange = (0.5, 2.0)
    speed: tuple[Speed, Speed] = (0.0, 2.0)

    @model_validator(mode="after")
    def _ordered(self) -> ThrownSideways:
        if self.speed[0] > self.speed[1]:
            raise ValueError(f"speed: expected [slowest, fastest], got {list(self.speed)}; swap them")
        return self


class ThrownBallParameters(BallParameters):
    """Parameters of `ThrownBall`."""

    initial: Annotated[ThrownSideways | Given, Field(discriminator="law")] = ThrownSideways()


@register
class ThrownBall(SimulatedWorld):
    """State ``(x, h, p_x, p_h)``: place and height of the ball's lowest point in m, momenta in kg m/s."""

    name = "thrown_ball"
    Parameters = ThrownBallParameters

    def __init__(self, parameters: ThrownBallParameters) -> None:
        super().__init__(parameters)
        self.initial, self.mass, self.gravity = parameters.initial, parameters.mass, parameters.gravity
        self.restitution = parameters.restitution
        shared = parameters.model_dump(include={"mass", "gravity", "restitution"})
        self.vertical = BouncingBall(BouncingBallParameters(**shared))

    # -- laws

    def energy(self, z: Array) -> Array:
        """``H [...]`` in joules, zero at rest on the floor."""
        return z[..., 2] ** 2 / (2.0 * self.mass) + self.vertical.energy(z[..., _VERTICAL])

    def momentum(self, z: Array) -> Array:
        """``p_x [..., 1]`` in kg m/s: nothing acts along the floor."""
        return z[..., 2:3]

    def allowed(self, z: Float) -> NDArray[np.bool_]:
        """Whether the ball is above the floor, ``[...]``; rounding forgiven."""
        return np.asarray(np.isfinite(z).all(axis=-1) & self.vertical.allowed(z[..., _VERTICAL]))

    # -- start states

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 4]`` above the floor.

        Raises:
            UserError: a given one is below it.
        """
        law = self.initial
        if isinstance(law, Given):
            return require_entries(self.name, law.sample(rng, episodes), 4)
        height = rng.uniform(*law.height, episodes)
        angle = rng.uniform(0.0, 2.0 * np.pi, episodes)
        momentum = self.mass * rng.uniform(*law.speed, episodes) * np.stack([np.cos(angle), np.sin(angle)])
        return np.stack([np.zeros(episodes), height, *momentum], axis=-1)

    # -- the simulator

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """``[E, 4] -> [E, steps + 1, 4]``, exact to rounding.

        Raises:
            UserError: a start below the floor; a negative step where impacts lose energy, which cannot be undone.
        """
        h, p_h = np.moveaxis(self.vertical.simulate(z0[:, _VERTICAL], step, steps), -1, 0)
        p_x = np.broadcast_to(z0[:, 2:3], h.shape)
        return np.stack([z0[:, :1] + p_x / self.mass * step * np.arange(steps + 1), h, p_x, p_h], axis=-1)

    # -- what is told, what judges know

    def facts(self) -> dict[str, Any]:
        """What a family may be told of the flight and of impacts; energy is conserved by elastic impacts alone.

        ``contact`` says which coordinate is the height above the floor, and the coefficient of restitution.
        """
        kept = ["energy", "momentum"] if self.restitution == 1.0 else ["momentum"]
        return {
            "attributes": {"mass": [self.mass]}, "second_order": True, "conserved": kept,
            "energy": {"law": "energy"}, "gravity": self.gravity,
            "contact": {"height": 1, "restitution": self.restitution},
        }  # fmt: skip

    def laws(self) -> Laws:
        """Of flight and impact."""
        return Laws(energy=self.energy, momentum=self.momentum, simulate=self.simulate, allowed=self.allowed)

    # -- images and words

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The floor below, the ball above it, seen by a camera that follows it sideways."""
        top = self._reach
        return render_batched(z, size, self._draw, half_width=0.65 * top, centre=(0.0, 0.5 * top))

    @cached_property
    def _reach(self) -> float:
        """The greatest height that start states lead to, in metres."""
        z0 = self.sample_initial_state(np.random.default_rng(0), 1 if self.initial.law == "given" else 256)
        return float(self.vertical.energy(z0[:, _VERTICAL]).max()) / (self.mass * self.gravity) or 1.0

    def _draw(self, canvas: Canvas, z: Float) -> None:
        unit = self._reach

        def at(x: Float | float, y: Float | float) -> Float:
            return np.stack([np.broadcast_to(x, len(z)), np.broadcast_to(y, len(z))], axis=-1)

        canvas.rod(at(-0.6 * unit, -0.02 * unit), at(0.6 * unit, -0.02 * unit), 0.04 * unit)
        marks = -np.remainder(z[:, 0] / unit, 0.25) * unit
        for k in range(-1, 3):  # on the floor, so that it is seen to pass by
            canvas.disc(at(marks + 0.25 * k * unit, -0.02 * unit), 0.015 * unit, colour(1))
        canvas.disc(at(0.0, z[:, 1] + 0.08 * unit), 0.08 * unit, colour(0))

    def describe(self, z: Float) -> str:
        """Speed along the floor, height, and how often it is seen to turn upwards."""
        speed = captions.number(abs(float(z[0, 2])) / self.mass, "m/s")
        words = self.vertical.describe(z[:, _VERTICAL])
        return f"{words.removesuffix('.')}, while it moves sideways at {speed}."
