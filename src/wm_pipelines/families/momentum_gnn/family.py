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

What networks see of a pair beside its motion (edge_inputs.py):

``inputs: distance``
    the standardised ``|r|``, and of the attributes ``a`` (mass, charge) a learned embedding ``h(a_i) + h(a_j)``, as in
    the paper. No law is assumed. In closed form, random features of these and one least squares.

``inputs: laws``
    ``log rho, 1/rho, rho, rho^2`` and a linear combination of them, ``phi = sum_c kappa_c(a_i, a_j) phi_c(|r|)`` with
    ``kappa`` from 1, ``a_i a_j``, ``a_i + a_j``: a dictionary of the common laws, declared as ``law_dictionary``. The
    closed form fits it first; couplings that the training pairs cannot tell apart are left out, simplest kept.

Either way the number of particles and their attributes are free at test time.

What is *not* claimed: that the ``dynamical`` form conserves energy, that spins unseen in the data are measured (they
start at zero), or that a law is right at distances, or for attributes, never seen in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import Family, Prediction, Schedule, TrainedConfig, Views, with_derivatives
from wm_pipelines.families.momentum_gnn.calibration import calibrate
from wm_pipelines.families.momentum_gnn.closed_form import fit_closed_form
from wm_pipelines.families.momentum_gnn.edge_inputs import DistanceInputs, LawInputs
from wm_pipelines.families.momentum_gnn.edge_networks import FeatureModel, NetworkModel, per_row
from wm_pipelines.families.momentum_gnn.graphs import NeighbourList, PairGraph, complete_graph
from wm_pipelines.families.momentum_gnn.pair_laws import MOTION, Edges, envelope, only_real
from wm_pipelines.families.momentum_gnn.particle_motion import Bodies, midpoint_kick, symplectic_step, trajectory
from wm_pipelines.families.momentum_gnn.particles import (
    cross,
    observations,
    split_particles,
    turn,
)
from wm_pipelines.integrators import SPLITTINGS
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec


class MomentumGNNConfig(TrainedConfig):
    """Configuration of the momentum-conserving graph network."""

    schedule: Schedule = Schedule(steps=600, batch_size=64, learning_rate=1e-2)
    form: Literal["conservative", "dynamical"] = "conservative"
    inputs: Literal["laws", "distance"] = Field(
        "laws", description="what is seen of a pair: a dictionary of laws of |r| and couplings, or |r| alone"
    )
    embedding: int = Field(8, ge=1, description="distance, gradient: channels of the learned embedding of attributes")
    spin: bool = Field(False, description="dynamical: tangential forces, their torque kept as the particles' spin")
    training: Literal["closed_form", "gradient"] = Field(
        "closed_form", description="least squares on random features, or a network trained by gradient"
    )
    integrator_share: float = Field(
        1.0, gt=0, le=1, description="gradient: share of the steps done where they go through the integrator"
    )
    features: int = Field(64, ge=1, description="closed form: random tanh features, per coupling")
    steepness: float = Field(1.0, gt=0, description="closed form: slope of the features over the data's spread")
    ridge: float = Field(
        1e-10, gt=0, description="closed form: relative accuracy below which directions are left alone"
    )
    equations: int = Field(12_000, ge=1, description="closed form: force components in the least squares, at most")
    hidden: tuple[Positive, ...] = Field((32, 32), min_length=1, description="gradient: widths of the hidden layers")
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


@register
class MomentumGNN(Family):
    """Graph network with antisymmetric edge forces; see the module's text for the method and its limits."""

    name: ClassVar[str] = "momentum_gnn"
    Config: ClassVar[type[TrainedConfig]] = MomentumGNNConfig
    config: MomentumGNNConfig
    mass: Tensor
    attributes: Tensor
    motion_mean: Tensor
    motion_scale: Tensor
    force_scale: Tensor
    speed_scale: Tensor

    @classmethod
    def observed(cls, spec: Spec, config: Any) -> tuple[str, ...]:
        """States, and their derivatives where episodes carry them."""
        del config
        return with_derivatives(cls.shown(spec), spec)

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """Which coordinates belong to which particle, their masses and charges, that their momentum is conserved.

        Its form contains forces between pairs, and with ``inputs: laws`` a dictionary of the common ones.
        """
        form = {"pair_forces"} | ({"law_dictionary"} if config.inputs == "laws" else set())
        return frozenset({"particles", "space", "attributes", "conserved"} | form)

    def __init__(self, config: MomentumGNNConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        facts = self.spec.facts
        reason = self.unsuitable(self.spec, config)
        if reason:
            raise UserError(f"momentum_gnn cannot model '{spec.name}': {reason}")
        if config.spin and facts["space"] == 1:
            raise UserError("momentum_gnn: spin: true needs particles in two or three dimensions, these move on a line")
        self._known: tuple[PairGraph, Tensor, Tensor | None] | None = None  # the latest graph: couplings, embedding
        self.particles, self.space = int(facts["particles"]), int(facts["space"])
        names = sorted(set(facts["attributes"]) - {"inertia"})
        self.register_buffer("mass", _masses(self.spec), persistent=False)
        values = torch.tensor([facts["attributes"][name] for name in names], dtype=torch.float64)
        self.register_buffer("attributes", values.reshape(len(names), self.particles), persistent=False)

        self.pairs = _inputs(config, len(names), seeds)
        count, seen = len(self.pairs.coupling_scale), self.pairs.size
        self.potential = self._model(seen, count, salt=1)
        if config.form == "dynamical":
            self.motion = self._model(seen + MOTION + config.messages, count * (2 if config.spin else 1), salt=3)
        if config.messages:
            self.message = self._model(seen + MOTION, count * config.messages, salt=5)
        if config.spin and config.training == "gradient":
            self.log_gyration = nn.Parameter(torch.zeros(len(seeds), 1, 1, 1, dtype=torch.float64))

        self.register_buffer("motion_mean", torch.zeros(MOTION, dtype=torch.float64))
        self.register_buffer("motion_scale", torch.ones(MOTION, dtype=torch.float64))
        self.register_buffer("force_scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("speed_scale", torch.ones((), dtype=torch.float64))

    def _model(self, inputs: int, outputs: int, salt: int) -> FeatureModel | NetworkModel:
        config, tail = self.config, self.pairs.tail
        if config.training == "closed_form":
            return FeatureModel(inputs, outputs, config.features, self.seeds, salt, tail)
        return NetworkModel(inputs, outputs, config.hidden, self.seeds, salt, tail)

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Why not: generalised coordinates have no pairs of particles, one particle has no partner."""
        if (missing := super().unsuitable(spec, config)) is not None:
            return missing
        if "particles" not in spec.facts or "space" not in spec.facts:
            return "it is written in generalised coordinates; a graph needs particles with positions in space"
        if spec.facts["particles"] < 2:
            return "a graph of pair forces needs two particles or more"
        conserved = spec.facts.get("conserved", ())
        if "energy" in conserved and "momentum" not in conserved:
            return (
                "its total momentum is not conserved, or not declared so (structure: [pairwise]); pair forces keep it"
            )
        return None

    def transferred(self, spec: Spec) -> MomentumGNN:
        """The same trained law for another set of particles: any number, any masses and charges.

        Raises:
            UserError: the other particles have other attributes than those trained on.
        """
        theirs, ours = set(spec.facts["attributes"]), set(self.spec.facts["attributes"])
        if theirs - {"inertia"} != ours - {"inertia"}:
            raise UserError(
                f"momentum_gnn was trained on particles with {sorted(ours)}, "
                f"those of '{spec.name}' have {sorted(theirs)}; give the same attributes"
            )
        other = MomentumGNN(self.config, spec, self.seeds)
        other.load_state_dict(self.state_dict())
        return other

    # ------------------------------------------------------------ forces

    def forces(self, q: Tensor, p: Tensor, spin: Tensor | None = None, graph: PairGraph | None = None) -> Tensor:
        """Force on every particle: ``q, p [S, E, D, N] -> [S, E, D, N]``."""
        edges = self.edges(q, complete_graph(q) if graph is None else graph)
        f = self.central_force(edges)
        if self.config.form == "dynamical":
            f = f + self.moving_force(edges, p, spin)[0]
        return edges.graph.antisymmetric(f)

    def central_force(self, edges: Edges) -> Tensor:
        """``-phi'(|r|) n`` on every edge: ``[S, X, D, M]``; ``phi`` is faded by the envelope at the cutoff."""
        x, dx = self.pairs.radial(edges)
        slope = per_row(self.potential.slope, x, dx)
        if self.config.cutoff is not None:
            fade, fade_slope = envelope(edges.distance, self.config.cutoff)
            slope = fade[..., None] * slope + (fade_slope * self.length)[..., None] * per_row(self.potential, x)
        strength = (edges.coupling * slope).sum(dim=-1) * (-self.force_scale / edges.distance)
        return only_real(strength, edges.graph)[..., None, :] * edges.r

    def moving_force(self, edges: Edges, p: Tensor, spin: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``f = g_n n + g_t u`` on every edge and its torque ``-r x f / 2`` on either spin: two of ``[S, X, ., M]``."""
        normal, slip, x = self.frame(edges, p, spin)
        if self.config.messages:
            x = torch.cat([x, self._messages(edges, x)], dim=-1)
        g = per_row(self.motion, x)
        g = g.unflatten(-1, (-1, edges.coupling.shape[-1])) * edges.coupling[..., None, :]
        g = self.fade(edges)[..., None] * g.sum(dim=-1) * self.force_scale  # [S, X, M, 1 | 2]
        f = g[..., None, :, 0] * normal
        if spin is None:
            return f, None
        f = f + g[..., None, :, 1] * slip
        return f, -0.5 * cross(edges.r, f)

    def frame(self, edges: Edges, p: Tensor, spin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Normal ``n``, slip ``u / v_0``, both ``[S, X, D, M]``, and the network's inputs ``[S, X, M, 5]``."""
        normal = edges.r / edges.distance[..., None, :]
        v = edges.graph.difference(p / self.mass) / self.speed_scale
        approach = (v * normal).sum(dim=-2)
        slip = v - approach[..., None, :] * normal
        if spin is not None:
            rotation = edges.graph.total(spin / self._inertia()) / self.speed_scale
            slip = slip - 0.5 * turn(rotation, edges.r)
        motion = torch.stack([approach, slip.square().sum(dim=-2)], dim=-1)
        motion = (motion - self.motion_mean) / self.motion_scale
        return normal, slip, torch.cat([self.pairs.radial(edges)[0], motion], dim=-1)

    def _messages(self, edges: Edges, x: Tensor) -> Tensor:
        """One round: ``h_i = tanh(sum_j m(x_ij))``, and back on the edge ``h_i + h_j``: ``[S, X, M, H]``."""
        m = per_row(self.message, x).unflatten(-1, (-1, edges.coupling.shape[-1])) * edges.coupling[..., None, :]
        m = self.fade(edges)[..., None] * m.sum(dim=-1)
        return edges.graph.total(torch.tanh(edges.graph.symmetric(m.mT.contiguous()))).mT

    def edges(self, q: Tensor, graph: PairGraph) -> Edges:
        """Differences, distances and couplings of the pairs of a graph at ``q [S, E, D, N]``."""
        r = graph.difference(q)
        square = r.square().sum(dim=-2)
        real = graph.mask()
        distance = (square if real is None else torch.where(real, square, 1.0)).sqrt()
        return Edges(graph, r, distance, *self._of_pairs(graph))

    def _of_pairs(self, graph: PairGraph) -> tuple[Tensor, Tensor | None]:
        """Couplings and embedding of every edge; those of the latest graph are kept where they are not learning."""
        if self.pairs.learned and torch.is_grad_enabled():
            return self.pairs.of_pairs(self.attributes, graph)
        if self._known is None or self._known[0] is not graph:
            self._known = (graph, *self.pairs.of_pairs(self.attributes, graph))
        return self._known[1:]

    @property
    def length(self) -> Tensor:
        """Spread of the distances in training, the unit of radial slopes."""
        return self.pairs.length

    def _inertia(self) -> Tensor:
        """Moments of inertia, of the world where it knows them: ``[N]``, else ``m l^2`` with ``l`` learned."""
        known = self.spec.facts["attributes"].get("inertia")
        if known is not None:
            return torch.as_tensor(known, dtype=self.mass.dtype, device=self.mass.device)
        gyration = torch.exp(self.log_gyration) if hasattr(self, "log_gyration") else torch.ones_like(self.length)
        return self.mass * (0.5 * gyration * self.length) ** 2

    def fade(self, edges: Edges) -> Tensor:
        """The envelope at the cutoff, ``[S, X, M]``; ones without a cutoff."""
        if self.config.cutoff is None:
            return torch.ones_like(edges.distance)
        return only_real(envelope(edges.distance, self.config.cutoff)[0], edges.graph)

    def energy(self, z: Tensor) -> Tensor:
        """Learned energy ``sum p^2 / 2m + sum phi``, up to a constant: ``[S, E, 2d] -> [S, E]``.

        Raises:
            UserError: the form is ``dynamical``, which has no energy.
        """
        if self.config.form != "conservative":
            raise UserError("momentum_gnn: form: dynamical has no energy; use form: conservative")
        q, p = split_particles(z, self.particles)
        edges = self.edges(q, complete_graph(q))
        phi = (edges.coupling * per_row(self.potential, self.pairs.radial(edges)[0])).sum(dim=-1)
        potential = (phi * self.fade(edges)).reshape(*z.shape[:2], -1).sum(dim=-1)
        return (p.square() / (2 * self.mass)).sum(dim=(-1, -2)) + self.force_scale * self.length * potential

    # ------------------------------------------------------------ motion

    def _advance(self, bodies: Bodies, step: Tensor | float, substeps: int, neighbours: NeighbourList) -> None:
        """One step, in place: drift, kick, drift … as the scheme says. Positions rest throughout a kick.

        Forces that depend on the motion act in half steps before and after (Strang 1968): second order in them alone.
        """
        scheme = SPLITTINGS[self.config.integrator]

        def central(q: Tensor) -> Tensor:
            edges = self.edges(q, neighbours.graph(q))
            return edges.graph.antisymmetric(self.central_force(edges))

        if self.config.form == "conservative":
            symplectic_step(bodies, step, scheme.repeated(substeps), self.mass, central)
            return
        step = step / substeps
        for _ in range(substeps):
            self._slow(bodies, 0.5 * step, neighbours)
            symplectic_step(bodies, step, scheme, self.mass, central)
            self._slow(bodies, 0.5 * step, neighbours)

    def _slow(self, bodies: Bodies, step: Tensor | float, neighbours: NeighbourList) -> None:
        """Momenta and spins under the forces that depend on them, positions at rest."""
        edges = self.edges(bodies.q.value, neighbours.graph(bodies.q.value))

        def rates(p: Tensor, spin: Tensor | None) -> tuple[Tensor, Tensor | None]:
            f, torque = self.moving_force(edges, p, spin)
            return edges.graph.antisymmetric(f), None if torque is None else edges.graph.symmetric(torque)

        midpoint_kick(bodies, step, rates)

    def _bodies(self, z: Tensor, compensated: bool) -> Bodies:
        spin = self.no_spin(split_particles(z, self.particles)[1])
        return Bodies.at(z, self.particles, spin, compensated)

    def no_spin(self, p: Tensor) -> Tensor | None:
        """Particles that do not turn, where particles have a spin."""
        if not self.config.spin:
            return None
        return p.new_zeros(*p.shape[:-2], 1 if self.space == 2 else 3, self.particles)

    @torch.no_grad()
    def predict(
        self,
        past: Views,
        steps: int,
        actions: Tensor | None = None,  # noqa: ARG002 - particles left to themselves
        step: float | None = None,
    ) -> Prediction:
        """Roll out. Spins, where there are any, start at zero and are returned as latents ``[S, E, K, A N]``.

        An episode that diverges is NaN from there on; once all have, the rest is not computed.
        """
        step, states = self.spec.step if step is None else step, past["states"]
        substeps = max(1, math.ceil(self.config.substeps * abs(step) / self.spec.step - 1e-9))
        if states.shape[-1] != self.spec.state_size:
            raise UserError(
                f"momentum_gnn: states have {states.shape[-1]} entries, '{self.spec.name}' has "
                f"{self.spec.state_size}; build the family for that world (transferred)"
            )
        start = states[:, -1].to(self.mass).expand(len(self.seeds), -1, -1)
        bodies = self._bodies(start, compensated=True)
        neighbours = NeighbourList(self.config.cutoff, self.config.skin)
        states, spins = trajectory(bodies, steps, lambda: self._advance(bodies, step, substeps, neighbours))
        return Prediction(states=states) if spins is None else Prediction(states=states, latents=spins)

    # ------------------------------------------------------------ training

    @property
    def schedule(self) -> Schedule:
        """As configured; where forces are not recorded, and steps go through the integrator, a share of the steps."""
        c = self.config
        return c.schedule if "derivatives" in self.spec.views else c.schedule.shortened(c.integrator_share)

    def examples(self, episodes: Views) -> Views:
        """Rows with forces where the episodes carry derivatives, else pairs of rows and the time between them."""
        rows = observations(episodes, self.mass)
        calibrate(self, rows)
        state, dim = episodes["states"], episodes["states"].shape[-1]
        if episodes.get("derivatives") is not None:
            return {"state": state.reshape(-1, dim), "derivative": episodes["derivatives"].reshape(-1, dim)}
        return {
            "state": state[:, :-1].reshape(-1, dim),
            "next": state[:, 1:].reshape(-1, dim),
            "interval": episodes["times"].diff(dim=1).reshape(-1),
        }

    def loss(self, batch: Views, progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """Mean squared error of the force, or of the state one step of the integrator later; in their own units."""
        if "derivative" in batch:
            q, p = split_particles(batch["state"], self.particles)
            truth = split_particles(batch["derivative"], self.particles)[1]
            error = (self.forces(q, p, self.no_spin(p)) - truth) / self.force_scale
        else:
            error = self._step_error(batch)
        loss = error.square().flatten(1).mean(dim=1)
        return loss, {"prediction": loss.detach()}

    def _step_error(self, batch: Views) -> Tensor:
        """Error of one step over its length, in units of speeds and forces: ``[S, B, 2, D, N]``."""
        step = batch["interval"][..., None, None]
        bodies = self._bodies(batch["state"], compensated=False)
        neighbours = NeighbourList(self.config.cutoff, self.config.skin)
        self._advance(bodies, step, self.config.substeps, neighbours)
        q, p = split_particles(batch["next"], self.particles)
        position = (bodies.q.value - q) / (step * self.speed_scale)
        return torch.stack([position, (bodies.p.value - p) / (step * self.force_scale)], dim=-3)

    def fit(self, episodes: Views) -> Views | None:
        """In closed form, unless it is trained by gradient."""
        return fit_closed_form(self, episodes) if self.config.training == "closed_form" else None


def _inputs(config: MomentumGNNConfig, attributes: int, seeds: Sequence[int]) -> LawInputs | DistanceInputs:
    if config.inputs == "laws":
        return LawInputs(attributes)
    channels = config.embedding if config.training == "gradient" else 0
    return DistanceInputs(attributes, channels, seeds)


def _masses(spec: Spec) -> Tensor:
    particles = spec.facts["particles"]
    mass = torch.tensor(spec.facts["attributes"].get("mass", ()), dtype=torch.float64)
    if len(mass) != particles or not bool((mass > 0).all()):
        raise UserError(
            f"momentum_gnn: '{spec.name}' has {particles} particles and masses {mass.tolist()[:5]}; "
            "give one positive mass per particle"
        )
    return mass
