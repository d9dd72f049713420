"""``N`` bodies, all pairs joined by springs or bonds, charged, or under gravity; in a plane or in space."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from wm_pipelines.mappings import Settings
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float, WorldParameters
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.initial import Given, Lattice, LatticeLaw, require_entries
from wm_pipelines.worlds.parts.pair_laws import InverseDistance, Morse, PairLaw, Springs, Yukawa
from wm_pipelines.worlds.parts.particles import FEW, ParticleWorld
from wm_pipelines.worlds.parts.quantities import Length, Mass, Quantity
from wm_pipelines.worlds.parts.simulation import simulate_separable

Charge = Annotated[float, Quantity("C")]


class MassRange(Settings):
    """Masses drawn once per world, uniform between ``low`` and ``high``; ``seed`` says which draw."""

    low: Mass
    high: Mass
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> MassRange:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g} kg) is above high ({self.high:g} kg); swap them")
        return self


def _form(value: Any) -> str:
    """Which way of giving masses was chosen, so that an error names it."""
    if isinstance(value, dict | MassRange):
        return "range"
    return "list" if isinstance(value, list | tuple) else "each"


class NBodyParameters(WorldParameters):
    """Parameters of `NBody`.

    Attributes:
        force: which pair law.
        bodies: how many, N.
        masses: one for all, a list of N, or a range to draw from.
        charges: a list of N, or one amount whose sign alternates from body to body.
        dimension: of space.
        stiffness: of the springs, N/m.
        rest_length: of the springs and of the bonds (morse), m.
        depth: of the bonds, J. steepness: of the bonds, 1/m.
        coulomb_constant: ``k`` in ``k e_i e_j / r``; natural units by default.
        screening_length: over which charges (yukawa) are screened, m.
        gravitational_constant: ``G``; natural units by default.
        softening: Plummer length, m.
        initial: start states.
    """

    force: Literal["springs", "charges", "gravity", "morse", "yukawa"] = "springs"
    bodies: int = Field(5, ge=1)
    masses: Annotated[
        Annotated[Mass, Tag("each")] | Annotated[list[Mass], Tag("list")] | Annotated[MassRange, Tag("range")],
        Discriminator(_form),
    ] = 1.0
    charges: Annotated[Annotated[Charge, Tag("each")] | Annotated[list[Charge], Tag("list")], Discriminator(_form)] = (
        1.0
    )
    dimension: Literal[2, 3] = 2
    stiffness: Annotated[float, Quantity("N/m"), Field(gt=0)] = 1.0
    rest_length: Annotated[float, Quantity("m"), Field(ge=0)] = 1.0
    depth: Annotated[float, Quantity("J"), Field(gt=0)] = 1.0
    steepness: Annotated[float, Quantity("1/m"), Field(gt=0)] = 1.5
    coulomb_constant: Annotated[float, Quantity("N*m^2/C^2"), Field(gt=0)] = 1.0
    screening_length: Length = 2.0
    gravitational_constant: Annotated[float, Quantity("m^3/(kg*s^2)"), Field(gt=0)] = 1.0
    softening: Annotated[float, Quantity("m"), Field(ge=0)] = 0.1
    initial: LatticeLaw = Lattice()

    @model_validator(mode="after")
    def _one_per_body(self) -> NBodyParameters:
        for name in ("masses", "charges"):
            values = getattr(self, name)
            if isinstance(values, list) and len(values) != self.bodies:
                raise ValueError(f"{name} lists {len(values)} numbers for {self.bodies} bodies; give one per body")
        return self

    def mass_list(self) -> Float:
        """The masses ``[N]`` in kg."""
        if isinstance(self.masses, MassRange):
            return np.random.default_rng(self.masses.seed).uniform(self.masses.low, self.masses.high, self.bodies)
        return np.array(self.masses) if isinstance(self.masses, list) else np.full(self.bodies, self.masses)

    def charge_list(self) -> Float:
        """The charges ``[N]`` in C."""
        if isinstance(self.charges, list):
            return np.array(self.charges)
        return np.where(np.arange(self.bodies) % 2 == 0, self.charges, -self.charges)


@register
class NBody(ParticleWorld):
    """State ``(q_1 … q_N, p_1 … p_N)``, each ``dimension`` long, in m and kg m/s; bodies exert forces in all pairs."""

    name = "n_body"
    Parameters = NBodyParameters

    def __init__(self, parameters: NBodyParameters) -> None:
        self.initial, self.kind, self.stiffness = parameters.initial, parameters.force, parameters.stiffness
        self.softening = parameters.softening
        charged = self.kind in ("charges", "yukawa")
        masses, charges = parameters.mass_list(), parameters.charge_list() if charged else None
        super().__init__(parameters, masses, _pair_law(parameters, masses), parameters.dimension, charges)

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """``[E, 2d] -> [E, steps + 1, 2d]``: explicit symplectic, sub-stepped; the singular laws adaptively."""
        if self.softening == 0.0:
            return super().simulate(z0, step, steps)
        return simulate_separable(
            self.entry,
            z0,
            step,
            steps,
            velocity=self.velocity,
            force=self.force,
            energy=self.energy,
            kinetic=self.kinetic,
            longest=0.3 / self._fastest(),
            tolerance=1e-9,
            chunk=max(1, 262_144 // self.bodies**2),
            size=self.size,
            # Not for few bodies: their trajectories are quick to compute, and stay those that were always stored.
            thrifty=self.bodies > FEW,
        )

    def _fastest(self) -> float:
        """Highest angular frequency to expect, 1/s: the lightest body among all others, or close to one of them."""
        return math.sqrt(max(self.law.curvature(self.bodies), 1e-12) / float(self.masses.min()))

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 2d]``: see `Lattice`. The centre of mass rests at the origin."""
        if isinstance(self.initial, Given):
            return require_entries(self.entry, self.initial.sample(rng, episodes), 2 * self.bodies * self.space)
        law = self.initial
        sites = _lattice(self.bodies, self.space)
        jitter = rng.uniform(-law.jitter, law.jitter, (episodes, self.bodies, self.space))
        rotation = _rotations(rng, episodes, self.space)
        q = law.spacing * (sites + jitter) @ rotation
        q = q - np.average(q, axis=1, weights=self.masses)[:, None]
        return np.concatenate([a.reshape(episodes, -1) for a in (q, self._momenta_at(q, rng, law))], axis=-1)

    def _momenta_at(self, q: Float, rng: np.random.Generator, law: Lattice) -> Float:
        """Momenta ``[E, N, space]``: ``spin`` of those of circular motion, and heat; their sum is zero."""
        episodes = q.shape[0]
        force = self.force(q.reshape(episodes, -1)).reshape(q.shape)
        across = np.zeros_like(q)
        across[..., 0], across[..., 1] = -q[..., 1], q[..., 0]
        # Circular motion: m v^2 / r is the inward pull.
        pull = np.maximum(-(force[..., :2] * q[..., :2]).sum(-1), 0.0)
        speed = np.sqrt(pull / self.masses) / np.maximum(np.linalg.norm(across, axis=-1), 1e-12)
        sense = rng.choice([-1.0, 1.0], (episodes, 1))
        circular = (law.spin * sense * speed * self.masses)[..., None] * across
        thermal = rng.standard_normal(q.shape) * np.sqrt(self.masses)[:, None]
        size = (0.5 * thermal**2 / self.masses[:, None]).sum(axis=(1, 2))
        potential = np.abs(self.potential(np.concatenate([q.reshape(episodes, -1)] * 2, axis=-1)))
        p = circular + np.sqrt(law.heat * potential / size)[:, None, None] * thermal
        return p - self.masses[:, None] * (p.sum(axis=1, keepdims=True) / self.masses.sum())

    def describe(self, z: Float) -> str:
        """How many, what joins them, their masses, how they turn."""
        bond = {
            "springs": f"joined by springs of {captions.number(self.stiffness, 'N/m')}",
            "charges": "attracting and repelling each other by their charges",
            "gravity": "held together by gravity",
            "morse": "joined by bonds that can break",
            "yukawa": "attracting and repelling each other by their screened charges",
        }[self.kind]
        number = captions.count(self.bodies, "bod") + ("y" if self.bodies == 1 else "")
        number = number.replace("bods", "bodies").capitalize()
        spin = float(self.angular_momentum(z[0])[-1])
        size = np.sqrt((self.positions(z) ** 2).sum(-1).mean(-1))
        turn = f", turn {captions.turning(spin)}" if self.bodies > 1 and spin != 0.0 else ""
        verb = (
            f"{turn} and spread over {captions.number(float(size.min()))} to {captions.number(float(size.max()), 'm')}"
        )
        return f"{number} of {captions.masses(tuple(self.masses))}, {bond}{verb}."


def _pair_law(p: NBodyParameters, masses: Float) -> PairLaw:
    """The law between two bodies that `NBodyParameters.force` names."""
    if p.force == "springs":
        return Springs(p.stiffness, p.rest_length, p.softening)
    if p.force == "morse":
        return Morse(p.depth, p.steepness, p.rest_length, p.softening)
    if p.force == "gravity":
        return InverseDistance(-p.gravitational_constant * np.outer(masses, masses), p.softening)
    coupling = p.coulomb_constant * np.outer(p.charge_list(), p.charge_list())
    if p.force == "charges":
        return InverseDistance(coupling, p.softening)
    return Yukawa(coupling, p.screening_length, p.softening)


def _lattice(bodies: int, space: int) -> Float:
    """Sites ``[N, space]`` nearest the centre; even and odd sites alternate from body to body, as in rock salt."""
    side = math.ceil(bodies ** (1.0 / space)) + 3
    axis = np.arange(side) - side // 2
    sites = np.stack(np.meshgrid(*[axis] * space, indexing="ij"), axis=-1).reshape(-1, space)
    # Sorted by distance, ties by coordinates, so that the order is the same everywhere.
    order = np.lexsort((*sites.T, (sites**2).sum(-1)))
    sites = sites[order]
    parity = sites.sum(-1) % 2
    chosen = np.empty((bodies, space))
    chosen[0::2] = sites[parity == 0][: (bodies + 1) // 2]
    chosen[1::2] = sites[parity == 1][: bodies // 2]
    return chosen


def _rotations(rng: np.random.Generator, episodes: int, space: int) -> Float:
    """Uniform random rotations ``[E, space, space]``: Q of a Gaussian matrix, its signs fixed (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((episodes, space, space)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    q[..., 0] *= np.linalg.det(q)[:, None]
    return q
