"""Hamiltonian neural networks: learn ``H(q, p)``, move by ``dq/dt = dH/dp, dp/dt = -dH/dq``.

``H`` is a sum of terms ``sum_m w_m psi(u_m(z))``. A term's inputs ``u_m`` say what is declared about ``H`` (nothing,
separable, even, pairwise); ``psi`` is a linear combination of random features, fitted by one least squares
(`method: closed_form`), or a perceptron, fitted by gradient to derivatives (`derivative`) or to pairs of states
``(z_t, z_{t + dt})`` through a symplectic step (`pairs`).

Noisy states with clean derivatives (the data of the paper) are not a regression: the integral of the clean derivative
gives each trajectory's shape exactly, its place only up to one constant. These offsets are estimated along with ``H``.

The terms are in `nets.hamiltonian_terms`, the closed form and the offsets in `nets.closed_form`, symmetries found in
the data in `nets.symmetry`, noise on the states in `nets.input_noise`.

Sources: Greydanus, Dzamba, Yosinski, NeurIPS 2019, eq. 3 (derivatives); Chen, Zhang, Arjovsky, Bottou, ICLR 2020
(through a symplectic step); Rahma, Datar, Dietrich 2024, arXiv 2411.17511 (random features and least squares);
Golub & Pereyra 1973 (variable projection, for the offsets).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.protocol import Family, FamilyConfig, Prediction
from wm_pipelines.integrators import (
    IntegrationError,
    gauss_legendre_step,
    hamiltonian_field,
    rollout_separable,
    splitting_step,
)
from wm_pipelines.nets.closed_form import ClosedForm
from wm_pipelines.nets.ensemble import EnsembleMLP
from wm_pipelines.nets.features import RandomFeatures
from wm_pipelines.nets.hamiltonian_terms import (
    Coordinates,
    Distances,
    Forms,
    QuadraticTerm,
    Speeds,
    Term,
    hypotheses,
    pair_couplings,
)
from wm_pipelines.nets.implicit_stages import WatchedField, stages_last
from wm_pipelines.nets.input_noise import input_noise, integral_form, interpolating_splines
from wm_pipelines.system import System

Method = Literal["closed_form", "derivative", "pairs"]
Structure = Literal["separable", "even", "periodic", "pairwise"]

_SPLITTING_OF_ORDER = {2: "leapfrog", 4: "yoshida4", 6: "kahan_li6", 8: "kahan_li8"}
_DRIFT = 100  # largest drift of the learned energy over a roll-out, in units of the tolerance of a step
_CORES = (0.5, 0.15, 0.0)  # shares of the typical distance below which forces are smooth, tried in this order
_LARGEST_MECHANISM = 3  # degrees of freedom up to which a kinetic energy p A(q) p is offered
_FINE = 1e-7  # tolerance below which the roll-out pays for order 8


@register
class HNN(ClosedForm, Family):
    """A learned Hamiltonian and its symplectic flow."""

    name = "hnn"

    class Config(FamilyConfig):
        """Defaults in ``conf/base/parameters_hnn.yml``."""

        method: Method = Field("closed_form", description="how H is fitted")
        structure: Literal["none", "declared"] | tuple[Structure, ...] = Field(
            "none", description="what is known of H: none, what the world declares, or a list"
        )
        features: int = Field(200, ge=1, description="tanh features per term (closed form)")
        steepness: tuple[float, ...] = Field((0.12, 0.5), min_length=1, description="slopes tried on held-out episodes")
        ridges: tuple[float, ...] = Field((1e-12, 1e-10, 1e-8, 1e-6), min_length=1, description="ridges tried likewise")
        tail: Literal[0, 1, 2] = Field(1, description="degree of a polynomial added to the features")
        rows: int = Field(2000, ge=10, description="states used by the closed form, spread evenly over the data")
        use_derivative: bool = Field(True, description="False: see states only, even where derivatives are given")
        noise: Literal["auto", "none"] | float = Field(
            "auto", description="noise on the states: detect it, assume none, or its standard deviation"
        )
        hidden: tuple[int, ...] = Field((64, 64), description="layers of the perceptron (gradient methods)")
        activation: Literal["tanh", "silu", "softplus", "gelu"] = "silu"
        order: Literal[2, 4, 6, 8] = Field(6, description="order of the symplectic step that pairs are trained through")
        pair_substeps: int = Field(1, ge=1, description="steps of that scheme between two rows")
        tolerance: float = Field(1e-6, gt=0, description="relative error of one roll-out step, sets the sub-steps")
        max_substeps: int = Field(8, ge=1, description="largest number of sub-steps between two rows")

    config: Config
    amplitude: Tensor  # [1], unit of a perceptron's output
    rates: Tensor  # [2d], unit of dz/dt
    active: Tensor  # [terms], which of them H consists of
    noise_level: Tensor  # [2d], standard deviation of noise on the states
    chosen: Tensor  # [S, 2], steepness and ridge

    def __init__(self, config: Config, system: System, seeds: Sequence[int]) -> None:
        super().__init__(config, system, seeds)
        self.structure = self._structure()
        self.terms = self._terms()
        self.parts = nn.ModuleList(self.terms)  # the same terms, where torch looks for parameters
        self.hypotheses = hypotheses(self.terms)
        self.register_buffer("active", torch.tensor([k in self.hypotheses[0] for k in range(len(self.terms))]))
        self.register_buffer("amplitude", torch.ones(1, dtype=torch.float64))
        self.register_buffer("rates", torch.ones(system.state_size, dtype=torch.float64))
        self.register_buffer("noise_level", torch.zeros(system.state_size, dtype=torch.float64))
        self.register_buffer("chosen", torch.zeros(len(self.seeds), 2, dtype=torch.float64))
        if config.order == 8 and not self.separable and config.method == "pairs":
            raise UserError(
                "hnn: order 8 needs a separable H; set order to 6 or less, or declare structure: [separable]"
            )

    # ------------------------------------------------ H

    @property
    def separable(self) -> bool:
        """Whether ``H = T(p) + V(q)``, declared or found."""
        return all(term.part != "z" for term in self.live)

    def _structure(self) -> frozenset[str]:
        """What is known of H, as a set of words."""
        asked, system = self.config.structure, self.system
        if asked == "none":
            return frozenset()
        known = (
            set(system.structure) | ({"periodic"} if system.angles else set()) if asked == "declared" else set(asked)
        )
        if "pairwise" in known and (system.particles is None or "mass" not in system.attributes):
            raise UserError(f"hnn: structure 'pairwise' needs particles with masses; world '{system.name}' has none")
        return frozenset(known)

    def _terms(self) -> list[Term]:
        """The terms of H that the structure allows."""
        system, d, seeds = self.system, self.system.dof, len(self.seeds)
        if "pairwise" in self.structure:
            assert system.particles is not None
            assert system.space is not None
            kinetic = Speeds(system.attributes["mass"], system.space, seeds)
            terms = [self._term("p", kinetic, 0, {"linear": 1, "tanh": self.config.features})]
            counts = {"power": self.config.features // 2, "tanh": (self.config.features + 1) // 2}
            for share in _CORES if self.config.method == "closed_form" else _CORES[:1]:
                inputs = Distances(
                    pair_couplings(system.particles, system.attributes), system.particles, system.space, seeds, share
                )
                terms.append(self._term("q", inputs, 1, counts))
            return terms
        angles = system.angles if "periodic" in self.structure else ()
        even = "even" in self.structure
        if "separable" in self.structure:
            mirror = [range(d)] if even else []
            return [
                self._term("p", Coordinates(d, (), mirror, seeds), 0),
                self._term("q", Coordinates(d, angles, mirror, seeds), 1),
            ]
        mirrors = [range(d), range(d, 2 * d)] if even else []
        whole = Forms(2 * d, seeds) if not even and not angles else Coordinates(2 * d, angles, mirrors, seeds)
        terms = [self._term("z", whole, 0)]
        if self.config.method != "closed_form":
            return terms
        # Simpler forms of H that held-out data may prefer: nothing is assumed by offering them.
        pose = Forms(d, seeds) if not even and not angles else Coordinates(d, angles, mirrors[:1], seeds)
        momentum = Forms(d, seeds) if not even else Coordinates(d, (), mirrors[:1], seeds)
        terms += [self._term("p", momentum, 1), self._term("q", pose, 2)]
        if d <= _LARGEST_MECHANISM:
            inertia = Coordinates(d, angles, mirrors[:1], seeds)
            counts = {"constant": 1, "tanh": self.config.features // 2}
            features = RandomFeatures(inertia.inputs, counts, self.seeds, salt=3)
            terms.append(QuadraticTerm(inertia, features, d, seeds))
        return terms

    def _term(
        self, part: Literal["z", "q", "p"], inputs: Any, salt: int, counts: Mapping[str, int] | None = None
    ) -> Term:
        n, config = inputs.inputs, self.config
        if config.method != "closed_form":
            return Term(
                part,
                inputs,
                EnsembleMLP((n, *config.hidden, len(inputs.weights)), self.seeds, config.activation, salt),
                len(self.seeds),
            )
        if counts is None:
            tail = {"linear": n if config.tail >= 1 else 0, "square": n * (n + 1) // 2 if config.tail >= 2 else 0}
            # Functions of one part are simpler than functions of the whole state.
            alone = part != "z" and "separable" not in self.structure
            counts = {**tail, "tanh": config.features // 2 if alone else config.features}
        return Term(part, inputs, RandomFeatures(n, counts, self.seeds, salt), len(self.seeds))

    def hamiltonian(self, z: Tensor) -> Tensor:
        """The learned energy, up to a constant: ``[S, ..., 2d] -> [S, ...]``."""
        flat = z.reshape(z.shape[0], -1, z.shape[-1])
        return (self.amplitude * sum(term(term.of(flat)) for term in self.live)).reshape(z.shape[:-1])

    def gradient(self, z: Tensor) -> Tensor:
        """``dH/dz``: ``[S, ..., 2d] -> [S, ..., 2d]``."""
        flat = z.reshape(z.shape[0], -1, z.shape[-1])
        total = sum(term.embed(term.gradient(term.of(flat))[..., None])[..., 0] for term in self.live)
        return (self.amplitude * total).reshape(z.shape)

    def _part_gradient(self, part: str) -> Callable[[Tensor], Tensor]:
        """``dH/dp`` as a function of ``p``, or ``dH/dq`` of ``q``, of a separable H."""

        def gradient(x: Tensor) -> Tensor:
            flat = x.reshape(x.shape[0], -1, x.shape[-1])
            terms = [term.gradient(flat) for term in self.live if term.part == part]
            return (self.amplitude * sum(terms)).reshape(x.shape)

        return gradient

    def _force(self, q: Tensor) -> Tensor:
        return -self._part_gradient("q")(q)

    def field(self, z: Tensor) -> Tensor:
        """Hamilton's equations ``(dH/dp, -dH/dq)``: ``[S, ..., 2d] -> [S, ..., 2d]``."""
        return hamiltonian_field(self.gradient)(z)

    # ------------------------------------------------ closed form

    def fit(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """Random features and one least squares; with noise on the states, jointly with the trajectories' offsets.

        Returns:
            ``residual [S]``: root mean square of the equation error in units of the derivatives'; None: by gradient.

        Raises:
            UserError: fewer than two rows per episode.
        """
        if self.config.method != "closed_form":
            return None
        with torch.no_grad():
            return {"residual": self._fit_closed_form(episodes)[0]}

    def _fit_closed_form(self, episodes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Residual ``[S]`` and the states ``[S, E, T, 2d]`` cleared of noise, of the rows that were used."""
        time, state, derivative = self._thin(*self._columns(episodes))
        if derivative is None:
            return self._fit_equations(*integral_form(time, state))
        self._set_noise(time, state, derivative)
        if bool((self.noise_level > 0).any()):
            return self._fit_with_offsets(time, state, derivative)
        # Without noise a row needs no neighbours: rather a few rows of many episodes than whole ones.
        _, state, derivative = self._thin(*self._columns(episodes), whole=False)
        assert derivative is not None
        return self._fit_equations(state[:, :, None], torch.ones(1, dtype=torch.float64), derivative)

    def _columns(self, episodes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Time, state and, where given and wanted, derivative."""
        if episodes["state"].shape[1] < 2:
            raise UserError(f"hnn: episodes of world '{self.system.name}' have one row; at least 2 are needed to learn")
        derivative = episodes.get("derivative") if self.config.use_derivative else None
        return episodes["time"], episodes["state"], derivative

    def _set_noise(self, time: Tensor, state: Tensor, derivative: Tensor | None) -> None:
        setting = self.config.noise
        if derivative is None or setting == "none":
            self.noise_level.zero_()
        elif setting == "auto":
            found = input_noise(time, state, derivative)
            self.noise_level.copy_(torch.zeros_like(self.noise_level) if found is None else found)
        else:
            self.noise_level.fill_(float(setting))

    # ------------------------------------------------ gradient methods

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """States and derivatives, or pairs of states; noise is removed first, as in the closed form."""
        if self.config.method == "closed_form":
            return {}
        time, state, derivative = self._columns(episodes)
        with torch.no_grad():
            state = self._denoise(time, state, derivative)
            spacing = (time[:, 1:] - time[:, :-1])[..., None]
            difference = (state[:, 1:] - state[:, :-1]) / spacing
            self._set_rates(difference if derivative is None else derivative)
            self._calibrate(state[None, :, :, None].expand(len(self.seeds), -1, -1, -1, -1))
            spread = _spread(state)
            self.amplitude.fill_(float((self.rates * spread.roll(self.system.dof)).mean()))
        if self.config.method == "pairs":
            return {
                "state": state[:, :-1].flatten(0, 1),
                "next_state": state[:, 1:].flatten(0, 1),
                "step": spacing.flatten(0, 1),
            }
        if derivative is None:
            splines = interpolating_splines(time, state, 5)
            slopes = [torch.from_numpy(f.derivative()(t)) for f, t in zip(splines, time.numpy(), strict=True)]
            derivative = torch.stack(slopes)
        return {"state": state.flatten(0, 1), "derivative": derivative.flatten(0, 1)}

    def _denoise(self, time: Tensor, state: Tensor, derivative: Tensor | None) -> Tensor:
        """Clear the states of noise by a closed-form fit of its own (first seed), where there is noise."""
        self._set_noise(time, state, derivative)
        if derivative is None or not bool((self.noise_level > 0).any()):
            return state
        settings = {"method": "closed_form", "rows": state.shape[0] * state.shape[1]}
        helper = HNN(self.config.model_copy(update=settings), self.system, self.seeds[:1])
        _, states = helper._fit_closed_form({"time": time, "state": state, "derivative": derivative})
        return states[0]

    def loss(self, batch: Mapping[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """``|J grad H - dz/dt|^2`` (paper, eq. 3), or ``|Phi_dt(z_t) - z_{t+dt}|^2 / dt^2``, in units of the rates."""
        if self.config.method == "derivative":
            error, name = self.field(batch["state"]) - batch["derivative"], "derivative"
        else:
            step = batch["step"]
            error, name = (self.flow(batch["state"], step) - batch["next_state"]) / step, "pairs"
        value = (error / self.rates).square().mean(dim=(1, 2))
        return value, {name: value.detach()}

    def flow(self, z: Tensor, step: Tensor) -> Tensor:
        """One differentiable symplectic step: ``[S, B, 2d]``, step sizes ``[S, B, 1] -> [S, B, 2d]``."""
        part = step / self.config.pair_substeps
        for _ in range(self.config.pair_substeps):
            z = self._explicit_step(z, part) if self.separable else self._implicit_step(z, part)
        return z

    def _explicit_step(self, z: Tensor, step: Any) -> Tensor:
        q, p = z.chunk(2, dim=-1)
        scheme = _SPLITTING_OF_ORDER[self.config.order]
        q, p = splitting_step(q, p, step, self._part_gradient("p"), self._force, scheme)
        return torch.cat([q, p], dim=-1)

    def _implicit_step(self, z: Tensor, step: Tensor) -> Tensor:
        def field(x: Tensor) -> Tensor:  # time in units of each pair's own step
            return step * stages_last(self.field, x)

        try:
            return gauss_legendre_step(z, 1.0, field, stages=self.config.order // 2, tolerance=1e-11)
        except IntegrationError:
            return z * math.nan  # the training loop stops on a loss that is not a number, and says so

    # ------------------------------------------------ roll-out

    def predict(
        self,
        context: Tensor,
        steps: int,
        step: float | None = None,
        actions: Tensor | None = None,  # noqa: ARG002
    ) -> Prediction:
        """Symplectic roll-out of the learned H.

        Kahan-Li of order 6 (8 for fine tolerances) if H is separable, Gauss-Legendre of order 6 if not. The sub-steps
        are chosen by the local error at the starts and shortened where the learned energy drifts. Episodes that diverge
        are NaN from there on.
        """
        step = self.system.step if step is None else step
        start = context[:, -1].to(torch.float64).expand(len(self.seeds), -1, -1)
        with torch.no_grad():
            substeps = self._substeps(start, step)
            states = self._roll(start, step, steps, substeps)
            drift = self._energy_drift(states)
            limit = _DRIFT * self.config.tolerance
            while substeps < self.config.max_substeps and bool((drift > limit).any()):
                bad = drift > limit
                # By the order of the scheme, the error asks for so many times smaller steps.
                wanted = substeps * float(drift.max() / limit) ** (1 / 6)
                substeps = min(self.config.max_substeps, max(2 * substeps, math.ceil(wanted)))
                states[:, bad] = self._roll(start[:, bad], step, steps, substeps)
                before, drift = drift, self._energy_drift(states)
                drift = torch.where(drift < before / 4, drift, 0.0)  # the rest is rounding: finer steps would only cost
        states = torch.where(torch.isfinite(states), states, math.nan)
        return Prediction(states=states)

    def _substeps(self, start: Tensor, step: float) -> int:
        """Smallest power of two whose first step agrees with the next finer one to the tolerance, at all starts."""
        scale = _spread(start[0][None]) + start.abs().mean()
        substeps = 1
        coarse = self._roll(start, step, 1, substeps)[:, :, 1]
        while substeps < self.config.max_substeps:
            fine = self._roll(start, step, 1, 2 * substeps)[:, :, 1]
            error = ((fine - coarse).abs() / scale).amax(dim=(0, 2))
            error = error[torch.isfinite(error)]  # a start that is beyond help does not set the pace of the others
            if len(error) == 0 or float(error.max()) <= self.config.tolerance:
                break
            coarse, substeps = fine, 2 * substeps
        return substeps

    def _energy_drift(self, states: Tensor) -> Tensor:
        """Largest relative drift of the learned energy, of all seeds: ``[S, E, K, 2d] -> [E]``; 0 where diverged."""
        energy = self.hamiltonian(states)
        start = states[:, :, 0]
        unit = (start * self.gradient(start)).abs().sum(-1).nanmean(dim=1)
        drift = (energy - energy[:, :, :1]).abs().amax(dim=-1) / unit[:, None]
        return torch.where(torch.isfinite(drift), drift, 0.0).amax(dim=0)

    def _roll(self, start: Tensor, step: float, steps: int, substeps: int) -> Tensor:
        """``[S, E, 2d] -> [S, E, steps + 1, 2d]``."""
        if self.separable:
            velocity = self._part_gradient("p")
            scheme = "kahan_li8" if self.config.tolerance < _FINE else "kahan_li6"
            return rollout_separable(start, step, steps, velocity, self._force, scheme, substeps)
        return self._roll_implicit(start, step, steps, substeps)

    def _roll_implicit(self, start: Tensor, step: float, steps: int, substeps: int) -> Tensor:
        """Gauss-Legendre; an episode whose stage equations have no solution rests, and is NaN from then on."""
        alive = torch.isfinite(start).all(-1, keepdim=True)
        z = torch.where(alive, start, 0.0)
        output = [torch.where(alive, z, math.nan)]
        for _ in range(steps):
            for _ in range(substeps):
                z, alive = self._step_or_rest(z, step / substeps, alive)
            output.append(torch.where(alive, z, math.nan))
        return torch.stack(output, dim=2)

    @property
    def _solver_tolerance(self) -> float:
        """For the stage equations: far below the error of a step, above the rounding of a sum of large coefficients."""
        return min(1e-10, 1e-2 * self.config.tolerance)

    def _step_or_rest(self, z: Tensor, step: float, alive: Tensor) -> tuple[Tensor, Tensor]:
        """One step; rows whose stage equations did not contract are told by their last change, and taken out."""
        while bool(alive.any()):
            field = WatchedField(self.field, z, alive)
            try:
                return gauss_legendre_step(z, step, field, stages=3, tolerance=self._solver_tolerance), alive
            except IntegrationError:
                solved = abs(step) * field.change <= 100 * self._solver_tolerance * (1 + z.abs().amax())
                alive = alive & solved if bool((alive & ~solved).any()) else torch.zeros_like(alive)
        return z, alive

    def extra_summary(self) -> dict[str, Any]:
        """Noise found on the states; steepness and ridge chosen per seed."""
        summary: dict[str, Any] = {"structure": sorted(self.structure), "noise": self.noise_level.tolist()}
        if self.config.method == "closed_form":
            summary |= {"steepness": self.chosen[:, 0].tolist(), "ridge": self.chosen[:, 1].tolist()}
        return summary


def _spread(state: Tensor) -> Tensor:
    """Standard deviation of each coordinate over all rows, never zero: ``[..., 2d] -> [2d]``."""
    spread = state.flatten(0, -2).std(dim=0, unbiased=False)
    return torch.maximum(spread, 1e-3 * spread.max().clamp_min(1e-9))
