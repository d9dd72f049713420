"""A graph network of particles that conserves linear and angular momentum, to rounding.

After Sharma & Fink, *Dynami-CAL GraphNet* (Nat. Commun. 2025, arXiv 2501.07373): particles are nodes, pairs are edges,
and a network sees of an edge only scalars that neither a rotation nor an exchange of its ends can change. What it
returns are components in a frame of the edge that turns round with the exchange, ``e_ij = -e_ji``, so that
``f_ij = -f_ji`` on every edge (Newton's third law) and ``sum_i p_i`` is constant. Momentum is ``p_i = m_i v_i`` with
one mass per node; a step alternates drifts ``q_i += c h p_i / m_i`` and kicks ``p_i += d h sum_j f_ij``.

Pairs are ``r = q_i - q_j``, ``n = r / |r|``, ``v = v_i - v_j``. Two forms of the force on ``i``:

``conservative``
    an energy per edge, ``phi_theta(|r|, a_i, a_j)``, and ``f = -phi'(|r|) n``. The torque ``r x f`` of a central force
    vanishes, so angular momentum is exact; the force has the potential ``sum phi``, so under a symplectic integrator
    the learned energy shows no drift.

``dynamical``
    to the central force it adds components that depend on the velocities and may dissipate: ``g_n n + g_t u``, with
    the slip ``u = v - (v . n) n - (w_i + w_j) x r / 2`` and ``g`` functions of ``|r|``, ``v . n``, ``|u|^2``. A
    tangential direction of unit length would be undefined for particles that move along their line; here ``u`` itself
    spans it, continuous as it goes to 0. A tangential pair of forces has a torque, which must go somewhere: with
    ``spin: true`` each particle carries a spin ``s_i`` (``w_i = s_i / I_i``), the forces act at the middle of the edge
    and both spins take ``-r x f / 2``: orbital *plus* spin angular momentum is exact, orbital alone is not. With
    ``spin: false``, for point particles whose state has no spin, ``g_t = 0``: what is left has no torque, and orbital
    angular momentum is exact.

Dependence on node attributes ``a`` (mass, charge) is a sum over symmetric couplings, ``phi = sum_c kappa_c(a_i, a_j)
phi_c(|r|)``, with ``kappa`` from 1, ``a_i a_j``, ``a_i + a_j``; couplings that the training pairs cannot tell apart are
left out, simplest kept. So the number of particles and their attributes are free at test time.

What is *not* claimed: that the ``dynamical`` form conserves energy, that spins unseen in the data are measured (they
start at zero), or that a law is right at distances, or for attributes, never seen in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.protocol import Family, FamilyConfig, Prediction, Schedule
from wm_pipelines.integrators import SPLITTINGS, Splitting
from wm_pipelines.nets.ensemble import EnsembleLinear, EnsembleMLP, generators
from wm_pipelines.nets.features import LeastSquares, RandomFeatures
from wm_pipelines.nets.graphs import NeighbourList, PairGraph, complete_graph
from wm_pipelines.system import System

_RADIAL = 4  # inputs log rho, 1/rho, rho, rho^2
_LENGTH = 2  # which of them is rho itself
_MOTION = 2  # inputs v.n, |u|^2
_CHUNK_NUMBERS = 4_000_000  # entries of the largest array while equations are assembled
_CALIBRATION_PAIRS = 400_000
_INNER_EQUATIONS = 3_000
_PLACES = 10_000  # pairs among which random features are placed
_DISTINCT = 1e-6  # a coupling closer than this to a combination of others is one of them


class MomentumGNNConfig(FamilyConfig):
    """Configuration of the momentum-conserving graph network."""

    schedule: Schedule = Schedule(steps=600, batch_size=64, learning_rate=1e-2)
    form: Literal["conservative", "dynamical"] = "conservative"
    spin: bool = Field(False, description="dynamical: tangential forces, their torque kept as the particles' spin")
    training: Literal["closed_form", "gradient"] = Field(
        "closed_form", description="least squares on random features, or a network trained by gradient"
    )
    features: int = Field(64, ge=1, description="closed form: random tanh features per coupling")
    steepness: float = Field(1.0, gt=0, description="closed form: slope of the features over the data's spread")
    ridge: float = Field(
        1e-10, gt=0, description="closed form: relative accuracy below which directions are left alone"
    )
    equations: int = Field(12_000, ge=1, description="closed form: force components in the least squares, at most")
    hidden: tuple[int, ...] = Field((32, 32), min_length=1, description="gradient: widths of the hidden layers")
    messages: int = Field(0, ge=0, description="dynamical, gradient: channels of one round of message passing")
    cutoff: float | None = Field(None, gt=0, description="distance in metres at which forces have faded to zero")
    skin: float = Field(0.3, gt=0, description="extra reach of the neighbour list, as a share of the cutoff")
    integrator: Literal["leapfrog", "yoshida4", "blanes_moan6", "kahan_li6", "kahan_li8"] = "blanes_moan6"
    substeps: int = Field(1, ge=1, description="steps of the integrator per row of an episode")

    @model_validator(mode="after")
    def _consistent(self) -> MomentumGNNConfig:
        if self.form == "conservative" and (self.spin or self.messages):
            raise ValueError("spin and messages belong to form: dynamical; a conservative pair energy has neither")
        if self.training == "closed_form" and self.messages:
            raise ValueError("messages need training: gradient; a closed form is linear in its weights")
        return self


# ---------------------------------------------------------------- scalar functions on edges


class FeatureModel(nn.Module):
    """``g(x) = sum_k W_k phi_k(x)`` with frozen random ``phi``: fitted by least squares.

    ``phi`` are tanh features and the inputs themselves: that tail holds the common pair laws, and extrapolates where
    tanh saturates.
    """

    coefficients: Tensor  # [S, K, C]

    def __init__(self, inputs: int, outputs: int, config: MomentumGNNConfig, seeds: Sequence[int], salt: int) -> None:
        super().__init__()
        self.features = RandomFeatures(inputs, {"tanh": config.features, "linear": inputs}, seeds, salt)
        shape = (len(seeds), self.features.size, outputs)
        self.register_buffer("coefficients", torch.zeros(shape, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """``g``: ``[S, R, n] -> [S, R, C]``."""
        return self.features(x) @ self.coefficients

    def slope(self, x: Tensor, dx: Tensor) -> Tensor:
        """``dg/dx . dx``: ``[S, R, n], [S, R, n] -> [S, R, C]``; the innermost product of a roll-out.

        The same as ``basis_slope(x, dx) @ coefficients``, weights and coefficients multiplied first: that leaves one
        array of the features' size to read instead of three.
        """
        tanh = self.features.counts["tanh"]
        weight, coefficients = self.features.weight[..., :tanh], self.coefficients
        both = (weight.mT[..., :, None] * coefficients[:, :tanh, None, :]).flatten(2)  # [S, K, n C]
        y = torch.tanh(torch.baddbmm(self.features.bias[..., :tanh], x, weight))
        gradient = both.sum(dim=1, keepdim=True) - (y * y) @ both + coefficients[:, None, tanh:].flatten(2)
        return (dx[..., None] * gradient.unflatten(-1, (x.shape[-1], -1))).sum(dim=-2)

    def basis_slope(self, x: Tensor, dx: Tensor) -> Tensor:
        """``dphi/dx . dx``: ``[S, R, n], [S, R, n] -> [S, R, K]``."""
        return self.features.slopes(x) * (dx @ self.features.weight)


class NetworkModel(nn.Module):
    """``g(x) = A x + MLP(x)``, tanh, with its derivative along a direction in closed form."""

    def __init__(self, inputs: int, outputs: int, config: MomentumGNNConfig, seeds: Sequence[int], salt: int) -> None:
        super().__init__()
        self.mlp = EnsembleMLP([inputs, *config.hidden, outputs], seeds, "tanh", salt, last_gain=0.3)
        self.linear = EnsembleLinear(inputs, outputs, generators(seeds, salt + 1), gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        """``g``: ``[S, R, n] -> [S, R, C]``."""
        return self.linear(x) + self.mlp(x)

    def slope(self, x: Tensor, dx: Tensor) -> Tensor:
        """``dg/dx . dx``: the chain rule, layer by layer: ``[S, R, n], [S, R, n] -> [S, R, C]``."""
        y, dy = x, dx
        *hidden, last = (cast("EnsembleLinear", layer) for layer in self.mlp.layers)
        for layer in hidden:
            y = torch.tanh(layer(y))
            dy = (1 - y * y) * (dy @ layer.weight)
        return dx @ self.linear.weight + dy @ last.weight


def _model(
    inputs: int, outputs: int, config: MomentumGNNConfig, seeds: Sequence[int], salt: int
) -> FeatureModel | NetworkModel:
    kind = FeatureModel if config.training == "closed_form" else NetworkModel
    return kind(inputs, outputs, config, seeds, salt)


# ---------------------------------------------------------------- particles


@dataclass
class Sum:
    """A running sum that remembers what rounding took from it (Kahan 1965), where ``lost`` is given.

    Over ``10^5`` kicks plain sums lose some ``10^-14`` of a conserved momentum; this one stays at one rounding.
    """

    value: Tensor
    lost: Tensor | None = None

    def add(self, change: Tensor) -> None:
        """``value += change``."""
        if self.lost is None:
            self.value = self.value + change
            return
        change = change + self.lost
        total = self.value + change
        self.lost = change - (total - self.value)
        self.value = total


@dataclass
class Bodies:
    """Positions and momenta ``[S, E, D, N]`` and spins ``[S, E, A, N]`` (A = 1 in the plane, 3 in space) or None."""

    q: Sum
    p: Sum
    spin: Sum | None


@dataclass(frozen=True)
class Edges:
    """What a force needs of the pairs: ``r [S, X, D, M]``, ``|r| [S, X, M]``, couplings ``[.., M, C]``."""

    graph: PairGraph
    r: Tensor
    distance: Tensor
    coupling: Tensor


def split_particles(z: Tensor, particles: int) -> tuple[Tensor, Tensor]:
    """States ``[..., 2d]`` to positions and momenta ``[..., D, N]``, particles last."""
    q, p = z.reshape(*z.shape[:-1], 2, particles, -1).mT.unbind(-3)
    return q, p


def join_particles(q: Tensor, p: Tensor) -> Tensor:
    """Inverse of `split_particles`."""
    return torch.stack([q, p], dim=-3).mT.flatten(-3)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """``a x b`` along the last but one axis: ``[..., 2 | 3, M] -> [..., 1 | 3, M]``."""
    if a.shape[-2] == 2:
        return (a[..., 0, :] * b[..., 1, :] - a[..., 1, :] * b[..., 0, :])[..., None, :]
    return torch.linalg.cross(a, b, dim=-2)


def turn(w: Tensor, r: Tensor) -> Tensor:
    """``w x r`` for an angular velocity ``w [..., 1 | 3, M]``: ``[..., 2 | 3, M]``."""
    if r.shape[-2] == 2:
        return torch.cat([-w * r[..., 1:, :], w * r[..., :1, :]], dim=-2)
    return torch.linalg.cross(w, r, dim=-2)


# ---------------------------------------------------------------- the family


@register
class MomentumGNN(Family):
    """Graph network with antisymmetric edge forces; see the module's text for the method and its limits."""

    name: ClassVar[str] = "momentum_gnn"
    Config: ClassVar[type[FamilyConfig]] = MomentumGNNConfig
    config: MomentumGNNConfig
    mass: Tensor
    attributes: Tensor
    inner: Tensor
    input_mean: Tensor
    input_scale: Tensor
    coupling_scale: Tensor
    force_scale: Tensor
    speed_scale: Tensor

    def __init__(self, config: MomentumGNNConfig, system: System, seeds: Sequence[int]) -> None:
        super().__init__(config, system, seeds)
        reason = self.unsuitable(system)
        if reason:
            raise UserError(f"momentum_gnn cannot model '{system.name}': {reason}")
        if config.spin and system.space == 1:
            raise UserError("momentum_gnn: spin: true needs particles in two or three dimensions, these move on a line")
        self._known: tuple[PairGraph, Tensor] | None = None  # the latest graph and its couplings
        self.particles, self.space = int(system.particles or 0), int(system.space or 0)
        names = sorted(set(system.attributes) - {"inertia"})
        self.register_buffer("mass", _masses(system), persistent=False)
        values = torch.tensor([system.attributes[name] for name in names], dtype=torch.float64)
        self.register_buffer("attributes", values.reshape(len(names), self.particles), persistent=False)

        couplings = 1 + 2 * len(names)
        inputs = _RADIAL + _MOTION
        self.potential = _model(_RADIAL, couplings, config, seeds, salt=1)
        if config.form == "dynamical":
            outputs = couplings * (2 if config.spin else 1)
            self.motion = _model(inputs + config.messages, outputs, config, seeds, salt=3)
        if config.messages:
            self.message = NetworkModel(inputs, couplings * config.messages, config, seeds, salt=5)
        if config.spin and config.training == "gradient":
            self.log_gyration = nn.Parameter(torch.zeros(len(seeds), 1, 1, 1, dtype=torch.float64))

        self.register_buffer("input_mean", torch.zeros(inputs, dtype=torch.float64))
        self.register_buffer("input_scale", torch.ones(inputs, dtype=torch.float64))
        self.register_buffer("inner", torch.zeros((), dtype=torch.float64))
        self.register_buffer("coupling_scale", torch.zeros(couplings, dtype=torch.float64))
        self.register_buffer("force_scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("speed_scale", torch.ones((), dtype=torch.float64))

    @classmethod
    def unsuitable(cls, system: System) -> str | None:
        """Why not: generalised coordinates have no pairs of particles, one particle has no partner."""
        if system.particles is None or system.space is None:
            return "it is written in generalised coordinates; a graph needs particles with positions in space"
        if system.particles < 2:
            return "a graph of pair forces needs two particles or more"
        if system.momentum is None and system.energy is not None:
            return (
                "its total momentum is not conserved, or not declared so (structure: [pairwise]); pair forces keep it"
            )
        return None

    def transferred(self, system: System) -> MomentumGNN:
        """The same trained law for another set of particles: any number, any masses and charges.

        Raises:
            UserError: the other particles have other attributes than those trained on.
        """
        if set(system.attributes) - {"inertia"} != set(self.system.attributes) - {"inertia"}:
            raise UserError(
                f"momentum_gnn was trained on particles with {sorted(self.system.attributes)}, "
                f"those of '{system.name}' have {sorted(system.attributes)}; give the same attributes"
            )
        other = MomentumGNN(self.config, system, self.seeds)
        other.load_state_dict(self.state_dict())
        return other

    # ------------------------------------------------------------ forces

    def forces(self, q: Tensor, p: Tensor, spin: Tensor | None = None, graph: PairGraph | None = None) -> Tensor:
        """Force on every particle: ``q, p [S, E, D, N] -> [S, E, D, N]``."""
        edges = self._edges(q, complete_graph(q) if graph is None else graph)
        f = self.central_force(edges)
        if self.config.form == "dynamical":
            f = f + self.moving_force(edges, p, spin)[0]
        return edges.graph.antisymmetric(f)

    def central_force(self, edges: Edges) -> Tensor:
        """``-phi'(|r|) n`` on every edge: ``[S, X, D, M]``; ``phi`` is faded by the envelope at the cutoff."""
        x, dx = self._radial_inputs(edges.distance)
        slope = _per_row(self.potential.slope, x, dx)
        if self.config.cutoff is not None:
            fade, fade_slope = _envelope(edges.distance, self.config.cutoff)
            slope = fade[..., None] * slope + (fade_slope * self._length)[..., None] * _per_row(self.potential, x)
        strength = (edges.coupling * slope).sum(dim=-1) * (-self.force_scale / edges.distance)
        return _only_real(strength, edges.graph)[..., None, :] * edges.r

    def moving_force(self, edges: Edges, p: Tensor, spin: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``f = g_n n + g_t u`` on every edge and its torque ``-r x f / 2`` on either spin: two of ``[S, X, ., M]``."""
        normal, slip, x = self._frame(edges, p, spin)
        if self.config.messages:
            x = torch.cat([x, self._messages(edges, x)], dim=-1)
        g = _per_row(self.motion, x)
        g = g.unflatten(-1, (-1, edges.coupling.shape[-1])) * edges.coupling[..., None, :]
        g = self._fade(edges)[..., None] * g.sum(dim=-1) * self.force_scale  # [S, X, M, 1 | 2]
        f = g[..., None, :, 0] * normal
        if spin is None:
            return f, None
        f = f + g[..., None, :, 1] * slip
        return f, -0.5 * cross(edges.r, f)

    def _frame(self, edges: Edges, p: Tensor, spin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Normal ``n``, slip ``u / v_0``, both ``[S, X, D, M]``, and the network's inputs ``[S, X, M, 5]``."""
        normal = edges.r / edges.distance[..., None, :]
        v = edges.graph.difference(p / self.mass) / self.speed_scale
        approach = (v * normal).sum(dim=-2)
        slip = v - approach[..., None, :] * normal
        if spin is not None:
            rotation = edges.graph.total(spin / self._inertia()) / self.speed_scale
            slip = slip - 0.5 * turn(rotation, edges.r)
        motion = torch.stack([approach, slip.square().sum(dim=-2)], dim=-1)
        radial, _ = self._radial_inputs(edges.distance)
        motion = (motion - self.input_mean[_RADIAL:]) / self.input_scale[_RADIAL:]
        return normal, slip, torch.cat([radial, motion], dim=-1)

    def _messages(self, edges: Edges, x: Tensor) -> Tensor:
        """One round: ``h_i = tanh(sum_j m(x_ij))``, and back on the edge ``h_i + h_j``: ``[S, X, M, H]``."""
        m = _per_row(self.message, x).unflatten(-1, (-1, edges.coupling.shape[-1])) * edges.coupling[..., None, :]
        m = self._fade(edges)[..., None] * m.sum(dim=-1)
        return edges.graph.total(torch.tanh(edges.graph.symmetric(m.mT.contiguous()))).mT

    def _edges(self, q: Tensor, graph: PairGraph) -> Edges:
        r = graph.difference(q)
        square = r.square().sum(dim=-2)
        real = graph.mask()
        distance = (square if real is None else torch.where(real, square, 1.0)).sqrt()
        return Edges(graph, r, distance, self._coupling(graph))

    def _coupling(self, graph: PairGraph) -> Tensor:
        """``kappa_c`` of every edge in units of its size in training; 0 for those left out: ``[.., M, C]``."""
        if self._known is None or self._known[0] is not graph:
            self._known = (graph, couplings(self.attributes, graph) * self.coupling_scale)
        return self._known[1]

    def _radial_inputs(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised radial inputs and their derivative in units of the distances' spread: ``[S, X, M, 4]``."""
        u, slope = pair_laws(distance, self.inner)
        scale = self.input_scale[:_RADIAL]
        return (u - self.input_mean[:_RADIAL]) / scale, slope * (self._length / scale)

    @property
    def _length(self) -> Tensor:
        return self.input_scale[_LENGTH]

    def _inertia(self) -> Tensor:
        """Moments of inertia, of the system where it knows them: ``[N]``, else ``m l^2`` with ``l`` learned."""
        if "inertia" in self.system.attributes:
            return torch.as_tensor(self.system.attributes["inertia"], dtype=self.mass.dtype, device=self.mass.device)
        gyration = torch.exp(self.log_gyration) if hasattr(self, "log_gyration") else torch.ones_like(self._length)
        return self.mass * (0.5 * gyration * self._length) ** 2

    def _fade(self, edges: Edges) -> Tensor:
        if self.config.cutoff is None:
            return torch.ones_like(edges.distance)
        return _only_real(_envelope(edges.distance, self.config.cutoff)[0], edges.graph)

    def energy(self, z: Tensor) -> Tensor:
        """Learned energy ``sum p^2 / 2m + sum phi``, up to a constant: ``[S, E, 2d] -> [S, E]``.

        Raises:
            UserError: the form is ``dynamical``, which has no energy.
        """
        if self.config.form != "conservative":
            raise UserError("momentum_gnn: form: dynamical has no energy; use form: conservative")
        q, p = split_particles(z, self.particles)
        edges = self._edges(q, complete_graph(q))
        phi = (edges.coupling * _per_row(self.potential, self._radial_inputs(edges.distance)[0])).sum(dim=-1)
        potential = (phi * self._fade(edges)).reshape(*z.shape[:2], -1).sum(dim=-1)
        return (p.square() / (2 * self.mass)).sum(dim=(-1, -2)) + self.force_scale * self._length * potential

    # ------------------------------------------------------------ motion

    def _advance(self, bodies: Bodies, step: Tensor | float, substeps: int, neighbours: NeighbourList) -> None:
        """One step, in place: drift, kick, drift … as the scheme says. Positions rest throughout a kick.

        Forces that depend on the motion act in half steps before and after (Strang 1968): second order in them alone.
        """
        scheme = SPLITTINGS[self.config.integrator]
        if self.config.form == "conservative":
            self._conserve(bodies, step, scheme.repeated(substeps), neighbours)
            return
        step = step / substeps
        for _ in range(substeps):
            self._slow(bodies, 0.5 * step, neighbours)
            self._conserve(bodies, step, scheme, neighbours)
            self._slow(bodies, 0.5 * step, neighbours)

    def _conserve(self, bodies: Bodies, step: Tensor | float, scheme: Splitting, neighbours: NeighbourList) -> None:
        """Motion under the central forces: symplectic."""
        for c, d in zip(scheme.drifts, scheme.kicks, strict=False):
            self._drift(bodies, c, step)
            edges = self._edges(bodies.q.value, neighbours.graph(bodies.q.value))
            bodies.p.add((d * step) * edges.graph.antisymmetric(self.central_force(edges)))
        self._drift(bodies, scheme.drifts[-1], step)

    def _drift(self, bodies: Bodies, share: float, step: Tensor | float) -> None:
        if share:
            bodies.q.add(bodies.p.value * (share * step / self.mass))

    def _slow(self, bodies: Bodies, step: Tensor | float, neighbours: NeighbourList) -> None:
        """Momenta and spins under the forces that depend on them, positions at rest: the explicit midpoint rule."""
        edges = self._edges(bodies.q.value, neighbours.graph(bodies.q.value))

        def rates(p: Tensor, spin: Tensor | None) -> tuple[Tensor, Tensor | None]:
            f, torque = self.moving_force(edges, p, spin)
            return edges.graph.antisymmetric(f), None if torque is None else edges.graph.symmetric(torque)

        p, spin = bodies.p.value, None if bodies.spin is None else bodies.spin.value
        f, torque = rates(p, spin)
        middle = None if spin is None or torque is None else spin + (0.5 * step) * torque
        f, torque = rates(p + (0.5 * step) * f, middle)
        bodies.p.add(step * f)
        if bodies.spin is not None and torque is not None:
            bodies.spin.add(step * torque)

    def _bodies(self, z: Tensor, compensated: bool) -> Bodies:
        q, p = split_particles(z, self.particles)
        spin = self._no_spin(p)
        sums = [None if x is None else Sum(x, torch.zeros_like(x) if compensated else None) for x in (q, p, spin)]
        return Bodies(*sums)  # type: ignore[arg-type]

    def _no_spin(self, p: Tensor) -> Tensor | None:
        """Particles that do not turn, where particles have a spin."""
        if not self.config.spin:
            return None
        return p.new_zeros(*p.shape[:-2], 1 if self.space == 2 else 3, self.particles)

    @torch.no_grad()
    def predict(
        self,
        context: Tensor,
        steps: int,
        step: float | None = None,
        actions: Tensor | None = None,  # noqa: ARG002 - particles left to themselves
    ) -> Prediction:
        """Roll out. Spins, where there are any, start at zero and are returned as latents ``[S, E, K, A N]``.

        An episode that diverges is NaN from there on; once all have, the rest is not computed.
        """
        step = self.system.step if step is None else step
        substeps = max(1, math.ceil(self.config.substeps * abs(step) / self.system.step - 1e-9))
        if context.shape[-1] != self.system.state_size:
            raise UserError(
                f"momentum_gnn: states have {context.shape[-1]} entries, '{self.system.name}' has "
                f"{self.system.state_size}; build the family for that system (transferred)"
            )
        start = context[:, -1].to(self.mass).expand(len(self.seeds), -1, -1)
        bodies = self._bodies(start, compensated=True)
        neighbours = NeighbourList(self.config.cutoff, self.config.skin)
        states = start.new_full((*start.shape[:2], steps + 1, start.shape[-1]), math.nan)
        spins = None if bodies.spin is None else states.new_zeros(*states.shape[:3], bodies.spin.value[0, 0].numel())
        states[:, :, 0] = start
        for k in range(1, steps + 1):
            self._advance(bodies, step, substeps, neighbours)
            states[:, :, k] = join_particles(bodies.q.value, bodies.p.value)
            if spins is not None and bodies.spin is not None:
                spins[:, :, k] = bodies.spin.value.flatten(2)
            if k % 64 == 0 and not bool(states[:, :, k].isfinite().all(dim=-1).any()):
                break
        broken = (~states.isfinite().all(dim=-1)).cummax(dim=-1).values
        spins = None if spins is None else spins.masked_fill(broken[..., None], math.nan)
        return Prediction(states=states.masked_fill(broken[..., None], math.nan), latents=spins)

    # ------------------------------------------------------------ training

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Rows with forces where the episodes carry derivatives, else pairs of rows and the time between them."""
        rows = observations(episodes, self.mass)
        self._calibrate(rows)
        state, dim = episodes["state"], episodes["state"].shape[-1]
        if episodes.get("derivative") is not None:
            return {"state": state.reshape(-1, dim), "derivative": episodes["derivative"].reshape(-1, dim)}
        return {
            "state": state[:, :-1].reshape(-1, dim),
            "next": state[:, 1:].reshape(-1, dim),
            "interval": episodes["time"].diff(dim=1).reshape(-1),
        }

    def loss(self, batch: Mapping[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """Mean squared error of the force, or of the state one step of the integrator later; in their own units."""
        if "derivative" in batch:
            q, p = split_particles(batch["state"], self.particles)
            truth = split_particles(batch["derivative"], self.particles)[1]
            error = (self.forces(q, p, self._no_spin(p)) - truth) / self.force_scale
        else:
            error = self._step_error(batch)
        loss = error.square().flatten(1).mean(dim=1)
        return loss, {"prediction": loss.detach()}

    def _step_error(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Error of one step over its length, in units of speeds and forces: ``[S, B, 2, D, N]``."""
        step = batch["interval"][..., None, None]
        bodies = self._bodies(batch["state"], compensated=False)
        neighbours = NeighbourList(self.config.cutoff, self.config.skin)
        self._advance(bodies, step, self.config.substeps, neighbours)
        q, p = split_particles(batch["next"], self.particles)
        position = (bodies.q.value - q) / (step * self.speed_scale)
        return torch.stack([position, (bodies.p.value - p) / (step * self.force_scale)], dim=-3)

    def fit(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """Closed form: ``dp/dt = sum_j f_ij`` is linear in the weights; one least squares per seed, in float64."""
        if self.config.training != "closed_form":
            return None
        rows = observations(episodes, self.mass)
        self._calibrate(rows)
        state, target = self._draw(rows)
        equations = LeastSquares()
        for chunk, slope in zip(state.split(self._chunk, dim=1), target.split(self._chunk, dim=1), strict=True):
            equations.add(self._design(chunk, rows.weight), (slope / self.force_scale).flatten(1))
        solution = self._solve(equations)
        self._store(solution)
        return {"force": equations.residual(solution)}

    def _calibrate(self, rows: Observations) -> None:
        """Units of inputs, speeds and forces, and which couplings the pairs can tell apart: from training rows."""
        pairs = self.particles * (self.particles - 1) // 2
        few = rows.state[:: max(1, math.ceil(len(rows.state) * pairs / _CALIBRATION_PAIRS)), 0]
        q, p = split_particles(few[None], self.particles)
        graph = complete_graph(q)
        r, v = graph.difference(q), graph.difference(p / self.mass)
        distance = r.square().sum(dim=-2).sqrt()
        self.speed_scale.copy_(_size(v))
        self.force_scale.copy_(_size(rows.target))
        if float(distance.min()) == 0.0:
            raise UserError(
                f"momentum_gnn: two bodies of '{self.system.name}' coincide in the training data; remove the row"
            )
        near = distance if self.config.cutoff is None else distance[distance < self.config.cutoff]
        if near.numel() == 0:
            raise UserError(
                f"momentum_gnn: no pair of '{self.system.name}' is closer than cutoff {self.config.cutoff} m"
            )
        table = couplings(self.attributes, complete_graph(q[:, :1]))
        self.coupling_scale.copy_(_independent(table.reshape(-1, table.shape[-1])))
        self.inner.copy_(self._inner_length(rows))
        approach = (v * r).sum(dim=-2) / (distance * self.speed_scale)
        slip = v.square().sum(dim=-2) / self.speed_scale**2 - approach.square()
        inputs = [*pair_laws(near, self.inner)[0].unbind(-1), approach, slip]
        for k, x in enumerate(inputs):
            self.input_mean[k] = x.mean()
            self.input_scale[k] = torch.maximum(x.std(correction=0), 0.05 * x.abs().mean()).clamp_min(1e-6)

    def _inner_length(self, rows: Observations) -> Tensor:
        """The length that softens the pair laws: the one with which they alone, without tanh, fit the forces best.

        Softened laws are functions of ``rho``; and inputs singular at ``r = 0`` would let a model err without bound
        where bodies come closer than in training.
        """
        few = slice(None, None, max(1, len(rows.state) * self.particles * self.space // _INNER_EQUATIONS))
        state, target = rows.state[few], rows.target[few].flatten()
        q, _ = split_particles(state.flatten(0, 1)[None], self.particles)
        edges = self._edges(q, NeighbourList(self.config.cutoff).graph(q))
        kept, fade = edges.coupling[..., self.coupling_scale > 0], self._fade(edges)
        direction = (fade / edges.distance)[..., None, :] * edges.r

        def misfit(inner: float) -> float:
            slope = pair_laws(edges.distance, edges.distance.new_tensor(inner))[1]
            laws = (kept[..., :, None] * slope[..., None, :]).flatten(-2)
            laws = laws / laws.square().mean(dim=(0, 1, 2)).sqrt()
            columns = (laws.mT[..., None, :] * direction[..., None, :, :]).flatten(2, 3)
            f = edges.graph.antisymmetric(columns).unflatten(2, (-1, self.space)).unflatten(1, state.shape[:2])[0]
            design = torch.einsum("bqwdn,q->bdnw", f, rows.weight).flatten(0, 2)
            return float(torch.linalg.qr(torch.cat([design, target[:, None]], dim=1), mode="r").R[-1, -1].abs())

        reach = float(edges.distance.median())
        grid = [0.0, *(reach * 2.0 ** (k / 2) for k in range(-16, 1))]
        values = [misfit(inner) for inner in grid]
        best = min(range(len(grid)), key=values.__getitem__)
        refined = _golden_section(misfit, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
        return self.inner.new_tensor(refined if misfit(refined) < values[best] else grid[best])

    def _draw(self, rows: Observations) -> tuple[Tensor, Tensor]:
        """Every seed's own rows ``[S, R, Q, 2d]``, their targets, and its random features placed among them."""
        pairs = self.particles * (self.particles - 1) // 2
        count = min(len(rows.state), max(1, self.config.equations // (self.particles * self.space)))
        chosen = torch.stack(
            [torch.randperm(len(rows.state), generator=g)[:count] for g in generators(self.seeds, salt=9)]
        )
        state = rows.state[chosen]
        q, p = split_particles(state[:, : max(1, _PLACES // pairs), 0], self.particles)
        edges = self._edges(q, NeighbourList(self.config.cutoff).graph(q))
        steepness = [self.config.steepness] * len(self.seeds)
        radial = self._radial_inputs(edges.distance)[0]
        self._linear("potential").features.draw(radial.flatten(1, 2), steepness)
        if self.config.form == "dynamical":
            self._linear("motion").features.draw(self._frame(edges, p, None)[2].flatten(1, 2), steepness)
        return state, rows.target[chosen]

    def _design(self, state: Tensor, weight: Tensor) -> Tensor:
        """Force components that each weight alone would make: ``[S, B, Q, 2d] -> [S, B D N, weights]``."""
        q, p = split_particles(state.flatten(1, 2), self.particles)
        edges = self._edges(q, NeighbourList(self.config.cutoff).graph(q))
        kept = edges.coupling[..., self.coupling_scale > 0]
        columns = []
        for basis, direction in self._basis(edges, p):
            column = (kept[..., :, None] * basis[..., None, :]).flatten(-2).mT[..., None, :] * direction[
                ..., None, :, :
            ]
            f = edges.graph.antisymmetric(column.flatten(2, 3)).unflatten(2, (-1, self.space))
            f = f.unflatten(1, state.shape[1:3])  # [S, B, Q, weights, D, N]
            columns.append(torch.einsum("sbqwdn,q->sbdnw", f, weight).flatten(1, 3))
        return torch.cat(columns, dim=-1)

    def _basis(self, edges: Edges, p: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Scalars ``[S, X, M, K]`` that the models combine, each kind with its direction ``[S, X, D, M]``."""
        potential, fade = self._linear("potential"), self._fade(edges)[..., None]
        x, dx = self._radial_inputs(edges.distance)
        basis = fade * _per_row(potential.basis_slope, x, dx)
        if self.config.cutoff is not None:
            fade_slope = _only_real(_envelope(edges.distance, self.config.cutoff)[1], edges.graph)
            basis = basis + (fade_slope * self._length)[..., None] * _per_row(potential.features, x)
        central = (-basis, edges.r / edges.distance[..., None, :])
        if self.config.form == "conservative":
            return [central]
        normal, slip, x = self._frame(edges, p, self._no_spin(p))
        basis = fade * _per_row(self._linear("motion").features, x)
        return [central, (basis, normal), (basis, slip)] if self.config.spin else [central, (basis, normal)]

    def _solve(self, equations: LeastSquares) -> Tensor:
        """Weights ``[S, P]``: first the pair laws alone, then all features on what those leave.

        A law that the tail holds is left to it, and is right at distances never seen; tanh features only get what
        is missing, and say nothing where nothing is.
        """
        factor = equations.factor
        if factor is None:
            raise UserError(f"momentum_gnn: no training rows of '{self.system.name}'")
        features, kept = self._linear("potential").features, int((self.coupling_scale > 0).sum())
        tail = torch.arange(factor.shape[-1] - 1, device=factor.device) < features.size * kept
        tail &= torch.arange(len(tail), device=factor.device) % features.size >= features.counts["tanh"]
        laws, rest = LeastSquares(), LeastSquares()
        laws.factor = torch.cat([factor[..., :-1][..., tail], factor[..., -1:]], dim=-1)
        solution = torch.zeros_like(factor[:, 0, :-1])
        solution[:, tail] = laws.solve([self.config.ridge])[0]
        left = factor[..., -1] - (factor[..., :-1] @ solution[..., None])[..., 0]
        rest.factor = torch.cat([factor[..., :-1], left[..., None]], dim=-1)
        return solution + rest.solve([self.config.ridge])[0]

    def _store(self, solution: Tensor) -> None:
        """Weights in the order of `_design` to the models, zero for couplings left out."""
        kept = self.coupling_scale > 0
        models = [self._linear("potential")] + ([self._linear("motion")] if self.config.form == "dynamical" else [])
        for model in models:
            size, outputs = model.features.size, model.coefficients.shape[-1]
            count = size * int(kept.sum()) * (outputs // len(kept))
            weights, solution = solution.split([count, solution.shape[1] - count], dim=1)
            weights = weights.reshape(len(self.seeds), outputs // len(kept), -1, size)
            full = weights.new_zeros(*weights.shape[:2], len(kept), size)
            full[:, :, kept] = weights
            model.coefficients.copy_(full.flatten(1, 2).mT)

    def _linear(self, name: str) -> FeatureModel:
        """A model that is linear in its weights."""
        return cast("FeatureModel", getattr(self, name))

    @property
    def _chunk(self) -> int:
        """States whose equations are assembled at once: some tens of megabytes."""
        pairs = self.particles * (self.particles - 1) // 2
        weights = (1 + 2 * len(self.attributes)) * (self.config.features + _RADIAL + _MOTION)
        return max(1, _CHUNK_NUMBERS // (len(self.seeds) * pairs * self.space * weights))


# ---------------------------------------------------------------- what training sees


@dataclass(frozen=True)
class Observations:
    """Mean forces over short spans and where the particles were: ``target = sum_q weight_q F(state_q)``.

    Attributes:
        state: ``[R, Q, 2d]``; one point where forces were recorded, else quadrature points between two rows.
        weight: ``[Q]``, sum 1. target: ``[R, D, N]`` newtons.
    """

    state: Tensor
    weight: Tensor
    target: Tensor


_GAUSS_POINTS = (0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15))
_GAUSS_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


def observations(episodes: Mapping[str, Tensor], mass: Tensor) -> Observations:
    """Recorded forces, or mean forces ``(p_{t+1} - p_t) / dt`` seen along a cubic (Hermite) path between two rows.

    Between rows the path is known from positions and velocities to ``O(dt^4)``; three Gauss points integrate along it.

    Args:
        episodes: ``state [E, T+1, 2d]``, ``time [E, T+1]``, perhaps ``derivative [E, T+1, 2d]``.
        mass: ``[N]`` kilograms.
    """
    state, particles = episodes["state"], len(mass)
    dim = state.shape[-1]
    if episodes.get("derivative") is not None:
        target = split_particles(episodes["derivative"].reshape(-1, dim), particles)[1]
        return Observations(state.reshape(-1, 1, dim), state.new_ones(1), target)
    q, p = split_particles(state, particles)
    v, dt = p / mass, episodes["time"].diff(dim=1)[..., None, None]
    nodes = [_hermite(q[:, :-1], v[:, :-1] * dt, q[:, 1:], v[:, 1:] * dt, s) for s in _GAUSS_POINTS]
    path = torch.stack([join_particles(x, mass * dx / dt) for x, dx in nodes], dim=2).flatten(0, 1)
    target = (p.diff(dim=1) / dt).flatten(0, 1)
    return Observations(path, torch.tensor(_GAUSS_WEIGHTS, dtype=state.dtype, device=state.device), target)


def _hermite(x0: Tensor, d0: Tensor, x1: Tensor, d1: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """Cubic through ``x0, x1`` with slopes ``d0, d1``, at ``0 <= s <= 1``: value and slope."""
    gap = x1 - x0
    a, b = 3 * gap - 2 * d0 - d1, d0 + d1 - 2 * gap
    return x0 + s * (d0 + s * (a + s * b)), d0 + s * (2 * a + 3 * s * b)


def pair_laws(distance: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """``log rho, 1/rho, rho, rho^2``, ``rho^2 = r^2 + inner^2``, and their derivatives by ``r``: two ``[..., 4]``."""
    rho = torch.hypot(distance, inner)
    inverse = 1.0 / rho
    tilt = distance * inverse  # d rho / d r
    u = torch.stack([torch.log(rho), inverse, rho, rho * rho], dim=-1)
    return u, torch.stack([tilt * inverse, -tilt * inverse * inverse, tilt, 2.0 * distance], dim=-1)


def couplings(attributes: Tensor, graph: PairGraph) -> Tensor:
    """Symmetric ``kappa(a_i, a_j)`` of every edge: 1, then products, then sums: ``[A, N] -> [.., M, 1 + 2 A]``."""
    ends = [graph.ends(a) for a in attributes]
    products, sums = [a * b for a, b in ends], [a + b for a, b in ends]
    return torch.stack([torch.ones_like(products[0]), *products, *sums], dim=-1)


def _independent(table: Tensor) -> Tensor:
    """Scales (1 / size) of columns that are no combination of earlier ones, 0 for the others: ``[M, C] -> [C]``."""
    scales = table.new_zeros(table.shape[1])
    kept: list[Tensor] = []
    for c, column in enumerate(table.T):
        size = _size(column)
        rest = column / size
        for direction in kept + kept:  # twice: once leaves rounding
            rest = rest - (rest @ direction) * direction
        if float(rest.square().mean().sqrt()) > _DISTINCT:
            kept.append(rest / rest.norm())
            scales[c] = 1 / size
    return scales


def _size(x: Tensor) -> Tensor:
    """Root mean square, 1 where all is zero."""
    size = x.square().mean().sqrt()
    return torch.where(size > 0, size, torch.ones_like(size))


def _golden_section(f: Callable[[float], float], low: float, high: float, iterations: int = 40) -> float:
    """Minimum of a function with one valley between ``low`` and ``high``."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    for _ in range(iterations):
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
    return 0.5 * (low + high)


def _masses(system: System) -> Tensor:
    mass = torch.tensor(system.attributes.get("mass", ()), dtype=torch.float64)
    if len(mass) != system.particles or not bool((mass > 0).all()):
        raise UserError(
            f"momentum_gnn: '{system.name}' has {system.particles} particles and masses {mass.tolist()[:5]}; "
            "give one positive mass per particle"
        )
    return mass


def _envelope(distance: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """Fades from 1 to 0 at the cutoff with two continuous derivatives: value and slope, zero beyond, exactly."""
    x = (distance / cutoff).clamp_max(1.0)
    rest = 1 - x
    return rest**3 * (1 + 3 * x + 6 * x * x), -30.0 * (x * rest) ** 2 / cutoff


def _only_real(x: Tensor, graph: PairGraph) -> Tensor:
    real = graph.mask()
    return x if real is None else x * real


def _per_row(function: Callable[..., Tensor], *x: Tensor) -> Tensor:
    """Apply a model of rows ``[S, R, n]`` to edges ``[S, X, M, n]``."""
    return function(*(a.flatten(1, 2) for a in x)).unflatten(1, x[0].shape[1:3])
