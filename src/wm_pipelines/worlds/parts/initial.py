"""Laws of start states, chosen by ``initial: {law: …}`` in a world's parameters."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.quantities import Length, Quantity


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if not pair[0] <= pair[1]:
        raise ValueError(f"expected [smallest, largest], got [{pair[0]:g}, {pair[1]:g}]; swap them")
    return pair


Range = Annotated[
    tuple[Annotated[float, Quantity("1"), Field(ge=0)], Annotated[float, Quantity("1")]], AfterValidator(_ordered)
]
LengthRange = Annotated[tuple[Length, Annotated[float, Quantity("m")]], AfterValidator(_ordered)]


class Annulus(Settings):
    """(q, p) at a radius uniform in an interval; for one degree of freedom.

    The direction is that of a point uniform in a square (as in Greydanus et al. 2019, who normalise such a point) or in
    a disc, that is, a uniform angle.
    """

    law: Literal["annulus"]
    radius: Range
    direction: Literal["circle", "square"] = "circle"

    def sample(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 2]``."""
        return directions(rng, episodes, self.direction) * rng.uniform(*self.radius, (episodes, 1))


class Quadrants(Settings):
    """Every entry of the state uniform in ``±(inner, outer)``: a square without the cross around its axes."""

    law: Literal["quadrants"]
    size: Range

    def sample(self, rng: np.random.Generator, episodes: int, entries: int = 2) -> Float:
        """Start states ``[E, entries]``."""
        sign = rng.choice([-1.0, 1.0], (episodes, entries))
        return sign * rng.uniform(*self.size, (episodes, entries))


class Box(Settings):
    """Coordinates uniform in ``±q``, momenta uniform in ``±p``, each entry alone."""

    law: Literal["box"]
    q: list[Annotated[float, Field(ge=0)]]
    p: list[Annotated[float, Field(ge=0)]]

    @model_validator(mode="after")
    def _same_length(self) -> Box:
        if len(self.q) != len(self.p):
            raise ValueError(
                f"q has {len(self.q)} entries and p has {len(self.p)}; give one of each per degree of freedom"
            )
        return self

    def sample(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 2d]``."""
        half = np.array([*self.q, *self.p])
        return rng.uniform(-half, half, (episodes, half.size))


class Given(Settings):
    """Listed start states; the first episodes of the list are taken."""

    law: Literal["given"]
    states: list[list[float]] = Field(min_length=1)

    @model_validator(mode="after")
    def _rectangular(self) -> Given:
        if len({len(row) for row in self.states}) > 1:
            raise ValueError("states differ in length; give every start state the same number of entries")
        return self

    def sample(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 2d]``.

        Raises:
            UserError: more episodes than listed states.
        """
        del rng
        if episodes > len(self.states):
            raise UserError(f"initial.states lists {len(self.states)} start states, {episodes} episodes ask for more")
        return np.array(self.states[:episodes], dtype=np.float64)


class NearCircular(Settings):
    """Bodies on circles around their centre of mass, their velocities disturbed by ``noise`` (relative).

    Attributes:
        radius: distance of a body from the centre, uniform in this interval, in metres. With ``positions: square`` (two
            bodies, Greydanus et al. 2019) *each coordinate* of the first body is uniform in it instead.
        noise: size of the relative disturbance; its law is the world's.
        positions: ``circle``: any direction, uniform; ``square``: that of a point uniform in a square.
    """

    law: Literal["near_circular"] = "near_circular"
    radius: LengthRange = (0.5, 1.5)
    noise: float = Field(0.05, ge=0, lt=1)
    positions: Literal["circle", "square"] = "circle"


class Lattice(Settings):
    """Bodies on the sites of a square (cubic) lattice nearest its centre, displaced at random, rotated, and set moving.

    Attributes:
        law: ``lattice``.
        spacing: of the lattice, in metres.
        jitter: largest displacement per axis, in spacings; below 1/2, so that no two bodies meet.
        spin: common rotation, as a share of each body's speed on a circle about the centre; 1: all on circles.
        heat: energy of the random motion on top, as a share of the potential energy's size.
    """

    law: Literal["lattice"] = "lattice"
    spacing: Length = 1.0
    jitter: Annotated[float, Field(ge=0, lt=0.5)] = 0.25
    spin: Annotated[float, Field(ge=0, le=1)] = 0.5
    heat: Annotated[float, Field(ge=0)] = 0.1


def _without_leftovers(*laws: type[Settings]) -> BeforeValidator:
    """Drop what another law left behind: an overlay that chooses a law is merged key by key into the law underneath."""
    fields = {law.model_fields["law"].annotation.__args__[0]: set(law.model_fields) for law in laws}  # type: ignore[union-attr]
    known = set().union(*fields.values())

    def drop(data: Any) -> Any:
        if not isinstance(data, dict) or data.get("law") not in fields:
            return data
        own = fields[data["law"]]
        return {key: value for key, value in data.items() if key in own or key not in known}

    return BeforeValidator(drop)


PlaneLaw = Annotated[
    Annulus | Quadrants | Box | Given,
    Field(discriminator="law"),
    _without_leftovers(Annulus, Quadrants, Box, Given),
]
BodiesLaw = Annotated[NearCircular | Given, Field(discriminator="law"), _without_leftovers(NearCircular, Given)]
LatticeLaw = Annotated[Lattice | Given, Field(discriminator="law"), _without_leftovers(Lattice, Given)]


def directions(rng: np.random.Generator, episodes: int, law: Literal["circle", "square"]) -> Float:
    """Unit vectors ``[E, 2]``: uniform in angle, or the directions of points uniform in a square."""
    if law == "circle":
        angle = rng.uniform(0.0, 2.0 * math.pi, episodes)
        return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    point = rng.uniform(-1.0, 1.0, (episodes, 2))
    return point / np.linalg.norm(point, axis=-1, keepdims=True)


def require_entries(world: str, z0: Float, entries: int) -> Float:
    """Return ``z0`` where its rows have the length of the world's states.

    Raises:
        UserError: they have not.
    """
    if z0.shape[-1] != entries:
        raise UserError(f"{world}: initial gives states of {z0.shape[-1]} entries, this world's states have {entries}")
    return z0
