"""Dynamics with a conservation penalty: ``L = L_prediction + lambda L_conservation``, with E known or learned.

The world model is the black box of the `mlp` family, ``dz/dt = f_theta(z)``. What is added says that its own motion
keeps the energy, ``|E(z_{t+1}) - E(z_t)|^2 -> 0``, in one of two forms:

* ``rate``, the limit of a short step: ``dE/dt = grad E(z) . f_theta(z) = 0`` at the training states and, with
  ``visited``, at states that the model's own roll-outs reach.
* ``rollout``: ``E(z_hat_{t+k}) - E(z_t)`` along the model's own roll-outs, differentiated through them.

Both are divided by ``|sigma grad E|^2``, sigma the spread of the measured slopes. That makes them the squared error of
f_theta across the level sets of E, in the units of L_prediction, whatever the unit of E and however steep it is.

The known E is the world's. The learned ``E_psi`` is fitted at the same time to be constant along true episodes and not
across them: for two states ``z, z'`` of one episode it minimises ``mean (E(z) - E(z'))^2 / (2 var E)``, the share of
its variance that lies within episodes, and where slopes were measured ``mean (grad E . dz/dt)^2 / var E``. A constant
gains nothing by either. One minus that share says how far E_psi is a conserved quantity at all, and multiplies the
penalty. Of several invariants E_psi is one, or a mixture.

lambda is adaptive: it keeps the norm of the penalty's gradient at ``weight`` times that of the prediction's, as a
moving average; Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43 (2021), and Wang, Sankaran, Wang, Perdikaris, *An
expert's guide to training physics-informed neural networks* (2023). ``weight`` itself grows geometrically during
training: first learn to predict, then move within what predicts well to what conserves.

``projected`` is the penalty's limit lambda -> infinity: ``f = f_theta - grad E (grad E . f_theta) / |grad E|^2``, in
the metric of sigma. It keeps E by construction (in continuous time), so nothing is left to penalise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.ensemble import EnsembleMLP
from wm_pipelines.blocks.vector_field import StateFeatures, VectorField, cut, substeps_for
from wm_pipelines.families import register
from wm_pipelines.families.base import Prediction, TrainedConfig, Views
from wm_pipelines.families.parts.matching import MatchingConfig, MatchingFamily
from wm_pipelines.integrators import rollout_runge_kutta4
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

_ENERGY_SALT = 1  # the first weights of E_psi are not those of f_theta
_PARTNER_SEED = 20_190_604


class PhysicsInformedConfig(MatchingConfig):
    """Configuration of the conservation penalty and of the black box it acts on."""

    energy_hidden: tuple[Positive, ...] = Field((32, 32), min_length=1, description="the same of E_psi")
    energy: Literal["known", "learned"] = Field("known", description="known: needs a world with an energy formula")
    projected: bool = Field(False, description="the limit of an infinite penalty")
    penalty: Literal["rate", "rollout"] = "rate"
    visited: int = Field(0, ge=0, description="rate: steps of own roll-outs whose states are penalised as well")
    horizon: int = Field(4, ge=1, description="rollout: steps of own roll-outs, where derivatives are matched")
    one_in: int = Field(8, ge=1, description="one in so many examples starts an own roll-out")
    weight: float = Field(0.1, ge=0, description="at the start: gradient of the penalty over that of the prediction")
    final_weight: float = Field(10.0, ge=0, description="the same at the end; in between geometric")
    adaptive: bool = Field(True, description="False: lambda is the weight itself")
    adapt_every: int = Field(20, ge=1, description="optimiser steps between two updates of lambda")
    memory: float = Field(0.9, ge=0, lt=1, description="of lambda's moving average")


class EnergyNetwork(nn.Module):
    """``E_psi``: ``[S, ..., 2d] -> [S, ...]``, in no particular unit and up to a constant."""

    def __init__(self, config: PhysicsInformedConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__()
        self.features = StateFeatures(spec.state_size, spec.facts.get("angles", ()))
        sizes = [self.features.size, *config.energy_hidden, 1]
        self.net = EnsembleMLP(sizes, seeds, config.activation, _ENERGY_SALT, last_bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """E of states."""
        return self.net(self.features(z))[..., 0]


@register
class PhysicsInformed(MatchingFamily):
    """Black-box vector field, pulled towards conserving an energy."""

    name: ClassVar[str] = "physics_informed"
    Config: ClassVar[type[TrainedConfig]] = PhysicsInformedConfig
    config: PhysicsInformedConfig
    lam: Tensor
    calls: Tensor

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """Which coordinates are angles; with ``energy: known`` also the formula of the energy."""
        return frozenset({"angles", "energy"} if config.energy == "known" else {"angles"})

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """A known energy must be declared."""
        undeclared = config.energy == "known" and "energy" not in spec.facts
        return super().unsuitable(spec, config) or ("no energy is declared" if undeclared else None)

    def __init__(self, config: PhysicsInformedConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        angles = self.spec.facts.get("angles", ())
        self.f_theta = VectorField(spec.state_size, config.hidden, seeds, config.activation, angles)
        learned = config.energy == "learned"
        self.E_psi = EnergyNetwork(config, self.spec, seeds) if learned else None
        self._known_energy = None if learned else self.spec.facts["energy"]
        self.register_buffer("lam", torch.zeros(len(seeds), dtype=torch.float64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    # ------------------------------------------------------------ the model

    def energy(self, z: Tensor) -> Tensor:
        """E, the known or the learned: ``[S, ..., 2d] -> [S, ...]``."""
        if self.E_psi is not None:
            return self.E_psi(z)
        assert self._known_energy is not None
        return self._known_energy(z)

    def field(self, z: Tensor) -> Tensor:
        """``dz/dt`` of the model: f_theta, or its part along the level sets of E."""
        slope = self.f_theta(z)
        if not self.config.projected:
            return slope
        steepness = self.steepness(z)
        sigma = self.f_theta.slope_scale
        length = torch.linalg.vector_norm(steepness, dim=-1, keepdim=True)
        normal = steepness / torch.where(length > 0, length, 1.0)
        return slope - sigma * normal * (normal * slope / sigma).sum(-1, keepdim=True)

    def steepness(self, z: Tensor) -> Tensor:
        """``sigma grad E``: ``[S, ..., 2d] -> [S, ..., 2d]``; no graph."""
        return self.f_theta.slope_scale * self._gradient(z)[1].detach()

    def _gradient(self, z: Tensor, graph: bool = False) -> tuple[Tensor, Tensor]:
        """E and ``grad E``; with ``graph`` both can be differentiated by psi."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            energy = self.energy(z)
            (gradient,) = torch.autograd.grad(energy.sum(), z, create_graph=graph)
        return energy, gradient

    def rate(self, steepness: Tensor, slope: Tensor) -> Tensor:
        """``dE/dt / |sigma grad E|``, ``[S, B, ..., 2d] -> [S, B, ...]``: how fast slopes cross the level sets of E.

        |sigma grad E| has its own mean over the batch added, so that states near an equilibrium do not count double.
        """
        square = steepness.square().sum(-1)
        mean = workers.averaged(square.flatten(1).mean(1)).reshape(-1, *[1] * (square.ndim - 1))
        return (steepness * slope / self.f_theta.slope_scale).sum(-1) / (square + mean).sqrt()

    # ------------------------------------------------------------ training

    def examples(self, episodes: Views) -> Views:
        """Rows or windows, as for the black box; for a learned E also ``partner [N, 2d]``, of the same episode."""
        examples = cut(episodes, self.config.target, self.config.window)
        self.f_theta.fit_scales(examples)
        if self.E_psi is not None:
            self.E_psi.features.fit(examples["state"])
            examples["partner"] = partners(episodes["states"], len(examples["state"]))
        return examples

    def loss(self, batch: Views, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """``L_prediction + lambda L_conservation``, and the loss of E_psi, whose gradient reaches E_psi alone."""
        if "derivative" in batch:
            z = batch["state"]
            slope = self.field(z)
            prediction = _mean((slope - batch["derivative"]) / self.f_theta.slope_scale)
            rollout = None
        else:
            z = batch["state"][..., 0, :]
            unrolled = self.f_theta.unroll(batch, self.config.substeps, self.field)
            prediction = _mean(self.f_theta.window_error(batch, unrolled))
            slope, rollout = None, (unrolled, batch["step"].cumsum(-1))
        terms = {"prediction": prediction}
        trust, energy_loss, gradient = self._fit_energy(z, batch, terms)
        loss = prediction + energy_loss
        if not self.config.projected:
            if self.config.penalty == "rollout":
                conservation = self._drift(*(rollout or self._own_rollout(z)))
            else:
                conservation = self._crossing(z, self.field(z) if slope is None else slope, gradient)
            conservation = trust * conservation
            self._adapt(prediction, conservation, progress)
            terms |= {"conservation": conservation, "lambda": self.lam.clone()}
            loss = loss + self.lam * conservation
        return loss, {name: term.detach() for name, term in terms.items()}

    def _fit_energy(
        self, z: Tensor, batch: Views, terms: dict[str, Tensor]
    ) -> tuple[Tensor | float, Any, Tensor | None]:
        """How far E_psi is trusted, 0 … 1, its loss ``[S]``, its gradient if it was needed; full trust in a known E.

        ``within`` is the share of E_psi's variance within episodes; ``change``, where slopes were measured, is
        ``tau^2 mean (grad E_psi . dz/dt)^2 / var E_psi`` with tau the time scale of the data.
        """
        if self.E_psi is None:
            return 1.0, 0.0, None
        energy, gradient = self._gradient(z, graph=True) if "derivative" in batch else (self.E_psi(z), None)
        terms["within"] = within_share(energy, self.E_psi(batch["partner"]))
        loss = terms["within"]
        if gradient is not None:
            time = (self.E_psi.features.scale / self.f_theta.slope_scale).square().mean()
            change = _mean((gradient * batch["derivative"]).sum(-1))
            terms["change"] = time * change / workers.var_mean(energy, (1,))[0].clamp_min(1e-30)
            loss = loss + terms["change"]
        return (1 - terms["within"].detach()).clamp_min(0.0), loss, gradient

    def _crossing(self, z: Tensor, slope: Tensor, gradient: Tensor | None) -> Tensor:
        """Mean square of `rate` at states ``[S, B, 2d]``, and at those that own roll-outs visit: ``[S]``."""
        steepness = self.steepness(z) if gradient is None else self.f_theta.slope_scale * gradient.detach()
        crossing = _mean(self.rate(steepness, slope))
        if not self.config.visited:
            return crossing
        with torch.no_grad():
            own = self._own_rollout(z, self.config.visited)[0][..., 1:, :]
        return crossing + _mean(self.rate(self.steepness(own), self.field(own)))

    def _own_rollout(self, z: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Roll-outs from some of the states ``[S, B, 2d]`` and the time elapsed in them."""
        steps = self.config.horizon if steps is None else steps
        elapsed = self.spec.step * torch.arange(1, steps + 1, dtype=z.dtype, device=z.device)
        starts = workers.gathered(z, 1)[:, :: self.config.one_in]  # few: every worker rolls out all of them
        return rollout_runge_kutta4(starts, self.spec.step, steps, self.field), elapsed

    def _drift(self, unrolled: Tensor, elapsed: Tensor) -> Tensor:
        """Mean square of ``(E(z_hat_k) - E(z_0)) / (t_k |sigma grad E|)``, roll-outs ``[S, B, K + 1, 2d] -> [S]``."""
        steepness = self.steepness(unrolled[..., 0, :]).square().sum(-1)
        # Starts near an equilibrium must not outweigh all others.
        floor = 1e-3 * workers.averaged(steepness.mean(1, keepdim=True))
        energy = self._frozen_energy(unrolled)
        drift = (energy[..., 1:] - energy[..., :1]) / elapsed
        return _mean(drift / (steepness + floor).sqrt()[..., None])

    def _frozen_energy(self, z: Tensor) -> Tensor:
        """E with psi held fixed: the penalty teaches f_theta to conserve, not E_psi to be flat."""
        if self.E_psi is None:
            return self.energy(z)
        fixed = {name: p.detach() for name, p in self.E_psi.named_parameters()}
        return torch.func.functional_call(self.E_psi, fixed, (z,))

    def _adapt(self, prediction: Tensor, conservation: Tensor, progress: float) -> None:
        """Set lambda so that the two gradients keep the ratio asked for; every ``adapt_every`` calls."""
        config = self.config
        if not (self.training and torch.is_grad_enabled()):
            return
        start, end = max(config.weight, 1e-12), max(config.final_weight, 1e-12)
        weight = start * (end / start) ** progress if config.final_weight > 0 else 0.0
        first = int(self.calls) == 0
        if not config.adaptive:
            self.lam.fill_(weight)
        elif int(self.calls) % config.adapt_every == 0:
            norms = [self._gradient_norm(term) for term in (prediction, conservation)]
            target = torch.where(norms[1] > 0, weight * norms[0] / norms[1].clamp_min(1e-30), self.lam)
            self.lam.copy_(target if first else config.memory * self.lam + (1 - config.memory) * target)
        self.calls += 1

    def _gradient_norm(self, term: Tensor) -> Tensor:
        """Norm of d term / d theta, per seed ``[S]``."""
        parameters = tuple(self.f_theta.parameters())
        gradients = torch.autograd.grad(term.sum(), parameters, retain_graph=True)
        return torch.stack([workers.averaged(g).flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()

    # ------------------------------------------------------------ prediction

    @torch.no_grad()
    def predict(
        self,
        past: Views,
        steps: int,
        actions: Tensor | None = None,  # noqa: ARG002
        step: float | None = None,
    ) -> Prediction:
        """Roll out by Runge-Kutta 4 from the last state of the past."""
        step = self.spec.step if step is None else step
        substeps = substeps_for(step, self.spec.step, self.config.substeps)
        start = past["states"][:, -1].expand(len(self.seeds), -1, -1)
        return Prediction(states=rollout_runge_kutta4(start, step, steps, self.field, substeps))

    def extra_summary(self) -> dict[str, Any]:
        """Which energy was used, and lambda at the end of training."""
        return {"energy": "known" if self.E_psi is None else "learned", "lambda": self.lam.tolist()}


def partners(states: Tensor, examples: int) -> Tensor:
    """For every example another row of its episode, drawn once: ``states [E, T+1, 2d] -> [examples, 2d]``.

    Examples are counted episode by episode, equally many in each (`cut_rows`, `cut_windows`).
    """
    episodes, rows, size = states.shape
    generator = torch.Generator().manual_seed(_PARTNER_SEED)
    row = torch.rand(episodes, rows, generator=generator).argsort(dim=1)[:, : examples // episodes]
    return states.gather(1, row[..., None].expand(-1, -1, size).to(states.device)).flatten(0, 1)


def within_share(energy: Tensor, partner: Tensor) -> Tensor:
    """Share of E's variance that lies within episodes, from pairs of one episode: ``[S, B], [S, B] -> [S]``.

    0: constant along every episode. 1: as different within an episode as across them (also where there is one episode).
    """
    within = workers.averaged((energy - partner).square().mean(1)) / 2
    total = workers.var_mean(torch.cat([energy, partner], dim=1), (1,))[0]
    return within / total.clamp_min(1e-30)


def _mean(error: Tensor) -> Tensor:
    """Mean square over all axes but the seeds'."""
    return error.square().flatten(1).mean(1)
