"""Physics-informed networks: fields that fit their differential equation, its conditions and measurements.

Raissi, Perdikaris, Karniadakis, *Physics-informed neural networks* (2019): minimise ``|R[u]|² + lambda_c |u - g|² +
lambda_d |u - measured|²`` over the parameters of the perceptron ``u`` and over unknown coefficients.

Where this departs from the paper: causal weights in time (Wang, Sankaran, Perdikaris 2022, arXiv 2203.07404), weights
of the terms balanced by their gradients' norms (Wang, Sankaran, Wang, Perdikaris 2023, arXiv 2308.08468), points that
follow the residual (Wu et al. 2023, Comput. Methods Appl. Mech. Eng. 403); after Adam a second-order finish in float64
other than L-BFGS (see `second_order`); unknown coefficients come with an interval (see `blocks.unknown_coefficients`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.ensemble import generators
from wm_pipelines.blocks.field_solution import FieldSolution, only_episode
from wm_pipelines.blocks.least_squares import least_squares
from wm_pipelines.blocks.unknown_coefficients import UnknownCoefficients
from wm_pipelines.equations import FACTS, Condition, Problem, box
from wm_pipelines.families import register
from wm_pipelines.families.base import Family, FamilyConfig, TrainedConfig, Views
from wm_pipelines.families.pinn.field_network import FieldNetwork, Record
from wm_pipelines.families.pinn.second_order import Linearised, levenberg_marquardt, minimise
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

Unpack = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
_POINTS_AT_ONCE = 4096
_PIECES = 16  # of the time span, for causal weights
_MEMORY = 0.9  # of the running average of balanced weights
_CANDIDATES = 10  # points per adaptive point to choose from
_LAPLACE_POINTS = 2000
_HIDDEN = 0.5  # residual, as a share of what an unknown coefficient changes, that leaves nothing to be known of it


class PINNConfig(TrainedConfig):
    """The loss, the perceptron, and what follows the gradient steps."""

    condition_weight: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="lambda of initial and boundary values"
    )
    data_weight: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="lambda of measurements; 0: 1 if coefficients are unknown, else none",
    )
    hidden: tuple[Positive, ...] = Field((30, 30, 30), min_length=1, description="widths of the perceptron's layers")
    fourier: int = Field(0, ge=0, description="random Fourier features at the input")
    fourier_scale: float = Field(1.0, gt=0, description="standard deviation of their wave numbers, per half width")
    causality: float = Field(1.0, ge=0, description="epsilon of the causal weights; 0: every time weighs the same")
    balance_every: int = Field(100, ge=1, description="steps between two balancings of the terms")
    adaptive_points: int = Field(200, ge=0, description="points moved to where the residual is large")
    refresh_every: int = Field(200, ge=1, description="steps between two moves of these points")
    finish: Literal["levenberg_marquardt", "bfgs"] = Field(
        "levenberg_marquardt", description="second-order method after the last gradient step"
    )
    finish_steps: int = Field(60, ge=0, description="its iterations")
    finish_points: int = Field(500, ge=16, description="interior points of one piece of the finish, at most")
    finish_rounds: int = Field(2, ge=1, description="pieces of the finish; the adaptive points move in between")


@register
class PINN(FieldSolution, Family):
    """A perceptron that fits its equation."""

    name: ClassVar[str] = "pinn"
    Config: ClassVar[type[FamilyConfig]] = PINNConfig
    needs: ClassVar[tuple[str, ...]] = ("interior",)
    config: PINNConfig

    balance: Tensor  # [S, terms]
    adaptive: Tensor  # [S, A, d], points that follow the residual
    # the training data, not part of the model
    _interior: Tensor
    _validation: Tensor  # judged at, never trained on
    _condition_points: Tensor
    _condition_values: Tensor
    _condition_index: Tensor
    _measurement_points: Tensor
    _measurement_values: Tensor
    _measurement_index: Tensor

    def __init__(self, config: PINNConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        self.problem = problem = Problem.from_facts(self.spec.facts, spec.name)
        self.unknown = UnknownCoefficients(problem, seeds)
        self.unknown.log.requires_grad_(len(self.unknown) > 0)
        self.network = FieldNetwork(config.hidden, config.fourier, config.fourier_scale, problem, seeds)
        initial = ["initial"] if any(problem.time in c.at for c in problem.conditions) else []
        self.terms = [*problem.equations, *initial, "boundary", "data"]
        self.register_buffer("balance", torch.ones(len(seeds), len(self.terms), dtype=torch.float64))
        self.register_buffer("adaptive", self._anywhere(config.adaptive_points, 0))

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """The equation and everything that is given about it."""
        del config
        return FACTS

    # ------------------------------------------------------------ the loss

    def examples(self, episodes: Views) -> Views:
        """Interior points; conditions and measurements are few and all used in every step."""
        for name, view in only_episode(episodes).items():
            self.register_buffer(f"_{name}", view, persistent=False)
        return {"interior": self._interior}

    def loss(self, batch: Views, progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """``sum_i lambda_i L_i`` with balanced ``lambda``, the equations' mean squares weighted causally."""
        points = workers.gathered(batch["interior"], 1)  # few: every worker takes all of them
        interior = torch.cat([points, self.adaptive], 1)
        terms = self._mean_squares(interior, self.unknown.log, causal=True)
        return self._weighted(terms), {name: term.detach() for name, term in terms.items()}

    def _lambda(self, name: str) -> float:
        """The configured weight of a term."""
        data = self.config.data_weight or 1.0
        return {"initial": self.config.condition_weight, "boundary": self.config.condition_weight, "data": data}.get(
            name, 1.0
        )

    def _weighted(self, terms: Views) -> Tensor:
        """``sum_i lambda_i L_i``, ``[S]``, the configured weights times the balanced ones."""
        weighted = [self._lambda(n) * self.balance[:, self.terms.index(n)] * term for n, term in terms.items()]
        return torch.stack(weighted).sum(0)

    def _kind(self, condition: Condition) -> str:
        """Which term a condition belongs to."""
        return "initial" if self.problem.time in condition.at else "boundary"

    def _uses_measurements(self) -> bool:
        return bool(len(self._measurement_values) and (len(self.unknown) or self.config.data_weight))

    def _mean_squares(
        self, interior: Tensor, log_unknown: Tensor, weights: Views | None = None, causal: bool = False
    ) -> dict[str, Tensor]:
        """Mean square of every term ``[S]``: equations at ``interior [S, N, d]``, conditions, measurements."""
        terms = {}
        residuals = self._residuals(interior, log_unknown, weights)
        share = self._causal_weights(interior, residuals) if causal else 1.0
        for name, residual in residuals.items():
            terms[name] = (share * residual.square()).mean(1)
        terms |= {name: left.square().mean(1) for name, left in self._misses(weights).items()}
        return terms

    def _residuals(self, points: Tensor, log_unknown: Tensor, weights: Views | None = None) -> dict[str, Tensor]:
        """Residuals at ``points [S, N, d]``: each ``[S, N]``."""
        values = self.network.traced(points, self.problem.read, weights)
        unknown = log_unknown.exp()[:, None].expand(-1, points.shape[1], -1)
        return {
            name: self.problem.pointwise(equation, points, name)(values, unknown)
            for name, equation in self.problem.equations.items()
        }

    def _misses(self, weights: Views | None = None) -> dict[str, Tensor]:
        """By how much conditions and measurements are missed, each ``[S, n]``; measurements in units of their RMS."""
        misses = self._condition_misses(self._traced(self._condition_points, self._condition_symbols, weights))
        if self._uses_measurements():
            misses["data"] = self._data_misses(self._traced(self._measurement_points, self.problem.fields, weights))
        return misses

    @property
    def _condition_symbols(self) -> list[str]:
        return sorted({c.symbol for c in self.problem.conditions})

    def _traced(
        self, points: Tensor, symbols: Sequence[str], weights: Views | None, record: Record | None = None
    ) -> dict[str, Tensor]:
        """Symbols at ``points [N, d]`` that all seeds share: each ``[S, N]``."""
        return self.network.traced(points.expand(len(self.seeds), -1, -1), symbols, weights, record)

    def _condition_rows(self) -> dict[str, Tensor]:
        """Which condition points belong to a term, in the order of its rows."""
        kinds: dict[str, list[Tensor]] = {}
        for number, condition in enumerate(self.problem.conditions):
            kinds.setdefault(self._kind(condition), []).append((self._condition_index == number).nonzero()[:, 0])
        return {kind: torch.cat(parts) for kind, parts in kinds.items()}

    def _condition_misses(self, found: Views) -> dict[str, Tensor]:
        """Conditions from the symbols at all of their points."""
        missed: dict[str, list[Tensor]] = {}
        for number, condition in enumerate(self.problem.conditions):
            mine = self._condition_index == number
            left = found[condition.symbol][:, mine] - self._condition_values[mine]
            missed.setdefault(self._kind(condition), []).append(left)
        return {kind: torch.cat(parts, 1) for kind, parts in missed.items()}

    def _data_misses(self, found: Views) -> Tensor:
        """Measurements from all fields at their points."""
        index, values = self._measurement_index, self._measurement_values
        reached = torch.stack([found[f] for f in self.problem.fields], -1)[:, torch.arange(len(index)), index]
        return (reached - values) / self._measured_size

    @property
    def _measured_size(self) -> Tensor:
        """Root mean square of the measurements; 1 where all are zero."""
        size = self._measurement_values.square().mean().sqrt()
        return torch.where(size > 0, size, 1.0)

    def _causal_weights(self, points: Tensor, residuals: Views) -> Tensor | float:
        """``exp(-epsilon Σ mean squares of all earlier pieces of time)``, ``[S, N]``; no gradient passes."""
        if self.problem.time is None or not self.config.causality:
            return 1.0
        axis = self.problem.coordinates.index(self.problem.time)
        low, high = self.problem.domain[self.problem.time]
        piece = ((points[..., axis] - low) / (high - low) * _PIECES).floor().clamp(0, _PIECES - 1).long()
        total = torch.stack([r.detach().square() for r in residuals.values()]).sum(0)
        sums = total.new_zeros(len(total), _PIECES).scatter_add_(1, piece, total)
        counts = total.new_zeros(len(total), _PIECES).scatter_add_(1, piece, torch.ones_like(total))
        means = sums / counts.clamp_min(1)
        return torch.exp(-self.config.causality * (means.cumsum(1) - means)).gather(1, piece)

    # ------------------------------------------------------------ between the gradient steps

    def after_step(self, progress: float) -> None:
        """Balance the terms; move the adaptive points."""
        step = round(progress * self.config.schedule.steps)
        if step % self.config.balance_every == 0:
            self._rebalance()
        if step % self.config.refresh_every == 0:
            self._refresh(step)

    def _rebalance(self) -> None:
        """``lambda_i = sum_j |grad L_j| / |grad L_i|``, averaged over time."""
        weights = [p for p in self.network.parameters() if p.requires_grad]
        interior = torch.cat([self._interior.expand(len(self.seeds), -1, -1), self.adaptive], 1)
        terms = self._mean_squares(interior, self.unknown.log.detach())
        norms = []
        for term in terms.values():
            slopes = torch.autograd.grad(term.sum(), weights, retain_graph=True, allow_unused=True)
            norms.append(torch.stack([g.flatten(1).square().sum(1) for g in slopes if g is not None]).sum(0).sqrt())
        norm = torch.stack(norms, 1)
        fresh = norm.sum(1, keepdim=True) / norm.clamp_min(1e-12 * norm.amax(1, keepdim=True).clamp_min(1e-300))
        for i, name in enumerate(terms):
            self.balance[:, self.terms.index(name)].mul_(_MEMORY).add_((1 - _MEMORY) * fresh[:, i])

    def _anywhere(self, count: int, step: int) -> Tensor:
        """Uniform points in the domain ``[S, count, d]``."""
        low, high = (torch.tensor(end) for end in box(self.problem))
        draws = [
            torch.rand(count, len(low), generator=g, dtype=torch.float64) for g in generators(self.seeds, 2 + step)
        ]
        return low + (high - low) * torch.stack(draws)

    def _refresh(self, step: int) -> None:
        """Move the adaptive points: drawn from many with a probability that grows with the residual."""
        count = self.config.adaptive_points
        if not count:
            return
        many = self._anywhere(_CANDIDATES * count, step)
        with torch.no_grad():
            found = self._residuals(many.to(self.adaptive), self.unknown.log)
        size = torch.stack([r.cpu().double().abs() for r in found.values()]).sum(0)
        odds = size / size.mean(1, keepdim=True).clamp_min(1e-300) + 1
        for seed, generator in enumerate(generators(self.seeds, 1_000_000 + step)):
            chosen = torch.multinomial(odds[seed], count, generator=generator)
            self.adaptive[seed] = many[seed, chosen].to(self.adaptive)

    # ------------------------------------------------------------ the second-order finish

    def finish(self) -> Views:
        """A second-order method on all points, then the uncertainty of what was unknown."""
        x, unpack = self._flat()
        value = torch.full((len(x),), torch.nan, dtype=x.dtype)
        inverse, damping = None, None
        for number in range(self.config.finish_rounds if self.config.finish_steps else 0):
            self._refresh(self.config.schedule.steps + 1 + number)
            points = self._interior.roll(-number * self.config.finish_points, 0)[: self.config.finish_points]
            interior = torch.cat([points.expand(len(x), -1, -1), self.adaptive], 1)
            steps = -(-self.config.finish_steps // self.config.finish_rounds)
            if self.config.finish == "bfgs":
                x, value, inverse = minimise(self._objective(interior, unpack), x, steps, inverse)
            else:
                x, value, damping = levenberg_marquardt(*self._rows(interior, unpack), x, steps, damping)
            self._set(*unpack(x))
        if len(self.unknown) and len(self._measurement_values):
            self._laplace(*self._flat())
        return {"loss": value, "residual": self.residual_rms(self._interior)}

    def _flat(self) -> tuple[Tensor, Unpack]:
        """All weights and unknown as one vector per seed ``[S, n]``, and the way back (also for one seed)."""
        named = {name: p.detach() for name, p in self.network.named_parameters()}
        parts = [self.unknown.log.detach(), *(p.flatten(1) for p in named.values())]
        sizes = [p.shape[1] for p in parts]

        def unpack(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            first, *rest = x.split(sizes, -1)
            shaped = {n: r.reshape(*x.shape[:-1], *p.shape[1:]) for (n, p), r in zip(named.items(), rest, strict=True)}
            return first, shaped

        return torch.cat(parts, 1), unpack

    @torch.no_grad()
    def _set(self, log_unknown: Tensor, weights: Views) -> None:
        self.unknown.log.copy_(log_unknown)
        for name, parameter in self.network.named_parameters():
            parameter.copy_(weights[name])

    def _objective(self, interior: Tensor, unpack: Unpack) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Loss and gradient by the vector of all weights, for `minimise`."""

        def objective(x: Tensor) -> tuple[Tensor, Tensor]:
            x = x.detach().requires_grad_()
            log_unknown, weights = unpack(x)
            loss = self._weighted(self._mean_squares(interior, log_unknown, weights))
            return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]

        return objective

    def _rows(self, interior: Tensor, unpack: Unpack) -> tuple[Callable[[Tensor], Tensor], Linearised]:
        """Rows whose sum of squares is the loss, alone and with their Jacobian, for `levenberg_marquardt`.

        With the configured weights alone: balanced ones even out gradients, which Gauss-Newton steps do not need.
        """

        def scale(name: str, count: int) -> float:
            return math.sqrt(self._lambda(name) / count)

        @torch.no_grad()
        def rows(x: Tensor) -> Tensor:
            log_unknown, weights = unpack(x)
            found = self._residuals(interior, log_unknown, weights) | self._misses(weights)
            return torch.cat([scale(name, r.shape[1]) * r for name, r in found.items()], 1)

        @torch.no_grad()
        def linearised(x: Tensor) -> tuple[Tensor, Tensor]:
            blocks = self._jacobian(x, unpack, interior)
            return rows(x), torch.cat([scale(name, j.shape[1]) * j for name, j in blocks.items()], 1)

        return rows, linearised

    @staticmethod
    def _spread(log_unknown: Tensor, points: Tensor) -> Tensor:
        """Values of the unknown, one copy for every point to differentiate by: ``[S, N, P]``."""
        return log_unknown.detach().exp()[:, None].expand(-1, points.shape[1], -1).clone().requires_grad_()

    @torch.enable_grad()
    def _jacobian(self, x: Tensor, unpack: Unpack, interior: Tensor) -> dict[str, Tensor]:
        """Jacobian of every term's rows by all weights ``[S, R, n]``, in the order of `_residuals` and `_misses`.

        A row depends on one point alone: one backward pass gives every row's own gradient (see `jets`).
        """
        network, count = self.network, len(self.unknown)
        log_unknown, weights = unpack(x.detach())
        record: Record = []
        values = network.traced(interior, self.problem.read, weights, record)
        unknown = self._spread(log_unknown, interior)
        blocks = {}
        for name, equation in self.problem.equations.items():
            rows = self.problem.pointwise(equation, interior, name)(values, unknown)
            blocks[name] = torch.cat([_by_log(rows, unknown), network.slopes(rows, record)], 2)

        def of_values(misses: Sequence[Tensor], record: Record) -> Tensor:
            slopes = network.slopes(torch.cat(list(misses), 1), record)
            return torch.cat([slopes.new_zeros(*slopes.shape[:2], count), slopes], 2)

        record = []
        misses = self._condition_misses(self._traced(self._condition_points, self._condition_symbols, weights, record))
        slopes = of_values(list(misses.values()), record)
        blocks |= {kind: slopes[:, rows] for kind, rows in self._condition_rows().items()}
        if self._uses_measurements():
            record = []
            found = self._traced(self._measurement_points, self.problem.fields, weights, record)
            blocks["data"] = of_values([self._data_misses(found)], record)
        return blocks

    @torch.no_grad()
    def _laplace(self, x: Tensor, unpack: Unpack) -> None:
        """Covariance of the unknown by the Gauss-Newton matrix of all rows, each kind over its own root mean square.

        Equations and conditions are met far better than measurements, so they act as constraints and the noise of the
        measurements decides (the approximation of MacKay 1992, Neural Comput. 4).
        """
        count, index = len(self.unknown), self._measurement_index
        interior = self._interior[:_LAPLACE_POINTS].expand(len(x), -1, -1)
        left = self._residuals(interior, self.unknown.log) | self._misses()
        self.unknown.estimate_noise(left["data"], index, self._measured_size)
        scales = {name: r.square().mean(1).sqrt()[:, None].expand_as(r) for name, r in left.items()}
        scales["data"] = self.unknown.noise[:, index] / self._measured_size
        blocks = self._jacobian(x, unpack, interior)
        rows = torch.cat([j / scales[name].clamp_min(1e-300)[..., None] for name, j in blocks.items()], 1)
        # The unknown stand last: what the triangular factor leaves of them when all weights are fitted, too.
        rows = torch.cat([rows[..., count:], rows[..., :count]], 2)
        ridge = 1e-12 * rows.norm(dim=(1, 2))[:, None, None] * torch.eye(rows.shape[2], dtype=rows.dtype)
        ridge[:, -count:] = 0
        corner = torch.linalg.qr(torch.cat([rows, ridge], 1), mode="r").R[:, -count:, -count:]
        self.unknown.determine(corner.mT @ corner, self._owed_to_the_equation())
        called, remedy = f"{self.name} on {self.spec.name}", "Raise finish_steps."
        self.unknown.check(left["data"], self._measurement_points, index, called, remedy)

    def _owed_to_the_equation(self) -> Tensor:
        """Covariance ``[S, P, P]`` for what the network leaves of the equation at points it was not fitted to.

        By how much the unknown would move if the residuals there had their way: their least squares on the slopes by
        the unknown, squared. Infinite for an unknown that changes no more than the residuals are: such a network says
        nothing about it.
        """
        points = self._validation.expand(len(self.seeds), -1, -1)
        values = self.network.traced(points, self.problem.read)
        unknown = self._spread(self.unknown.log, points)
        left, design = [], []
        with torch.enable_grad():
            for name, equation in self.problem.equations.items():
                left.append(self.problem.pointwise(equation, points, name)(values, unknown))
                design.append(_by_log(left[-1], unknown))
        residual, slope = torch.cat(left, 1).detach(), torch.cat(design, 1)
        owed = least_squares(slope, residual[..., None], 1e-12)
        hidden = residual.norm(dim=1)[:, None] > _HIDDEN * slope.norm(dim=1)
        return owed @ owed.mT + torch.diag_embed(torch.where(hidden, torch.inf, 0.0))

    # ------------------------------------------------------------ the solution

    def derivatives(self, points: Tensor, symbols: Sequence[str]) -> dict[str, Tensor]:
        """Fields and derivatives, e.g. ``u_xx``, at ``points [N, d]``: each ``[S, N]``."""
        parts = points.expand(len(self.seeds), -1, -1).split(_POINTS_AT_ONCE, dim=1)
        found = [self.network.values(part, symbols) for part in parts]
        return {symbol: torch.cat([part[symbol] for part in found], 1) for symbol in symbols}


def _by_log(rows: Tensor, unknown: Tensor) -> Tensor:
    """Slope of pointwise ``rows [S, N]`` by the logarithm of ``unknown [S, N, P]``: ``[S, N, P]``."""
    if not unknown.shape[-1]:
        return torch.zeros_like(unknown)
    (direct,) = torch.autograd.grad(rows.sum(), [unknown], allow_unused=True, retain_graph=True)
    return torch.zeros_like(unknown) if direct is None else direct * unknown.detach()
