"""Physics-informed networks: fields that fit their differential equation, its conditions and measurements.

Raissi, Perdikaris, Karniadakis, *Physics-informed neural networks* (2019): minimise ``|R[u]|² + lambda_c |u - g|² +
lambda_d |u - measured|²`` over the parameters of ``u``. Two ways to do so:

``collocation``: ``u`` is a sum of random ridge features (Dong & Li 2021; Chen et al. 2022, arXiv 2207.13380): a linear
equation is one least-squares problem, a nonlinear one takes a few Gauss-Newton steps. Long times are cut into slabs,
each started from the end of the one before.

``gradient``: ``u`` is a perceptron, trained by Adam with causal weights in time (Wang, Sankaran, Perdikaris 2022,
arXiv 2203.07404), weights of the terms balanced by their gradients' norms (Wang, Sankaran, Wang, Perdikaris 2023,
arXiv 2308.08468) and points that follow the residual (Wu et al. 2023, Comput. Methods Appl. Mech. Eng. 403), then
finished by a second-order method in float64.

Unknown coefficients are found from measurements: by ``collocation`` with Gauss-Newton on the coefficients alone, by
``gradient`` together with the network. Their covariance is the inverse of the Gauss-Newton matrix, with the noise
estimated from what is left (Seber & Wild, *Nonlinear Regression*, 1989, ch. 2). That holds only where what is left is
noise: where neighbouring measurements are missed alike (Moran 1950, Biometrika 37) the field has not been fitted, the
coefficient counts as not found and its interval is everything that was allowed.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.families import register
from wm_pipelines.families.protocol import Family, FamilyConfig, Prediction
from wm_pipelines.fields import Condition, Equation, FieldSystem, box
from wm_pipelines.nets.collocation import least_squares
from wm_pipelines.nets.ensemble import generators
from wm_pipelines.nets.field_network import FieldNetwork, Record
from wm_pipelines.nets.second_order import Linearised, levenberg_marquardt, minimise
from wm_pipelines.nets.slabs import Collocation, CollocationConfig

logger = logging.getLogger(__name__)

Data = Mapping[str, Tensor]
Unpack = Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]
_POINTS_AT_ONCE = 4096
_FINDING_STEPS = 20
_PIECES = 16  # of the time span, for causal weights
_MEMORY = 0.9  # of the running average of balanced weights
_CANDIDATES = 10  # points per adaptive point to choose from
_LAPLACE_POINTS = 2000
_ADAPT_AGAIN = 0.05  # change of an unknown coefficient, relative
_ALIKE = 3.5  # standard deviations of the correlation between neighbouring measurements that noise does not reach
_FEWEST_PAIRS = 8
_Z95 = 1.959964


class PINNConfig(FamilyConfig, CollocationConfig):
    """Configuration of both ways; what belongs to the other one is ignored."""

    method: Literal["collocation", "gradient"] = "collocation"
    hidden: tuple[int, ...] = Field((30, 30, 30), min_length=1, description="widths of the perceptron's layers")
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
class PINN(Family):
    """A field that fits its equation."""

    name: ClassVar[str] = "pinn"
    Config: ClassVar[type[FamilyConfig]] = PINNConfig
    config: PINNConfig
    system: FieldSystem

    log_unknown: nn.Parameter  # [S, P]
    covariance: Tensor  # [S, P, P] of log_unknown
    noise: Tensor  # [S, F], estimated standard deviation of the measurements
    alike: Tensor  # [S], how alike neighbouring measurements are missed, in standard deviations of pure noise
    balance: Tensor  # [S, terms]
    adaptive: Tensor  # [S, A, d], points that follow the residual
    # the data of a training by gradient, not part of the model
    _interior: Tensor
    _validation: Tensor  # judged at, never trained on
    _condition_points: Tensor
    _condition_values: Tensor
    _condition_index: Tensor
    _measurement_points: Tensor
    _measurement_values: Tensor
    _measurement_index: Tensor

    def __init__(self, config: PINNConfig, system: FieldSystem, seeds: Sequence[int]) -> None:
        super().__init__(config, system, seeds)
        bounds = [system.coefficients[name].bounds for name in system.unknown]
        middle = torch.tensor(bounds, dtype=torch.float64).reshape(-1, 2).log().mean(1)
        count = len(system.unknown)
        self.log_unknown = nn.Parameter(middle.repeat(len(seeds), 1), requires_grad=False)
        self.register_buffer("covariance", torch.zeros(len(seeds), count, count, dtype=torch.float64))
        self.register_buffer("noise", torch.zeros(len(seeds), len(system.fields), dtype=torch.float64))
        self.register_buffer("alike", torch.zeros(len(seeds), dtype=torch.float64))
        self.solution: Collocation | FieldNetwork
        if config.method == "collocation":
            self.solution = Collocation(config, system, seeds)
            return
        self.solution = FieldNetwork(config.hidden, config.fourier, config.fourier_scale, system, seeds)
        self.log_unknown.requires_grad_(count > 0)
        kinds = ["initial"] if any(system.time in c.at for c in system.conditions) else []
        self.terms = [*system.equations, *kinds, "boundary", "data"]
        self.register_buffer("balance", torch.ones(len(seeds), len(self.terms), dtype=torch.float64))
        self.register_buffer("adaptive", self._anywhere(config.adaptive_points, 0))

    @classmethod
    def unsuitable(cls, system: Any) -> str | None:
        """Only fields have a differential equation in space and time."""
        return None if isinstance(system, FieldSystem) else "it is not a field"

    # ------------------------------------------------------------ fitting

    @torch.no_grad()
    def fit(self, episodes: Data) -> Mapping[str, Tensor] | None:
        """Solve by collocation, for the steepness with the least residual between the collocation points."""
        if not isinstance(self.solution, Collocation):
            return None
        best = torch.inf
        for steepness in self.config.steepness:
            self.solution.draw(steepness)
            left = self.solution.solve(episodes, self.log_unknown.exp(), adapt=True)
            between = self.residual_rms(episodes["validation"])
            logger.info("pinn: slopes up to %g leave a residual of %.1e.", steepness, float(between.mean()))
            if not float(between.mean()) >= best:
                best, rms, kept = float(between.mean()), left, copy.deepcopy(self.solution)
        self.solution = kept
        if self.system.unknown:
            rms = self._find_unknown(episodes)
        return {"loss": rms, "residual": self.residual_rms(episodes["validation"])}

    def _find_unknown(self, data: Data) -> Tensor:
        """Gauss-Newton on the measurements; the solution and its sensitivity follow the unknown coefficients.

        Every step solves the equation for the present coefficients, so the field obeys it exactly and the measurements
        are explained by the coefficients alone. The logarithm keeps them positive.
        """
        low, high = (
            torch.tensor(
                [self.system.coefficients[n].bounds[i] for n in self.system.unknown], dtype=torch.float64
            ).log()
            for i in (0, 1)
        )
        adapted_at = self.log_unknown.clone()
        for _ in range(_FINDING_STEPS):
            # A layer's width may follow the unknown: once it has moved, the stretching is made anew.
            adapt = bool((self.log_unknown - adapted_at).abs().max() > _ADAPT_AGAIN)
            if adapt:
                adapted_at = self.log_unknown.clone()
            rms = self.collocation.solve(data, self.log_unknown.exp(), adapt)
            left, design = self._misfit(data)
            step = least_squares(design, left[..., None], 1e-12)[..., 0].clamp(-0.7, 0.7)
            before = self.log_unknown.clone()
            self.log_unknown.copy_((self.log_unknown + step).clamp(low, high))
            if (self.log_unknown - before).abs().max() < 1e-6:
                break
        self.covariance.copy_(torch.linalg.inv(design.mT @ design))
        self._check_fit(left, data["measurement_points"], data["measurement_index"])
        return rms

    def _check_fit(self, left: Tensor, points: Tensor, index: Tensor) -> None:
        """Whether what measurements leave unexplained ``[S, M]`` looks like noise; says so where it does not."""
        self.alike.copy_(alikeness(left, points, index))
        for seed in (self.alike > _ALIKE).nonzero()[:, 0].tolist():
            logger.warning(
                "pinn/%s on %s, seed %d: %s not found: neighbouring measurements are missed alike (%.0f standard "
                "deviations), so the field is not fitted yet; its interval is all that was allowed. %s",
                self.config.method,
                self.system.name,
                self.seeds[seed],
                ", ".join(self.system.unknown),
                float(self.alike[seed]),
                "Raise finish_steps." if self.config.method == "gradient" else "Raise features or slabs.",
            )

    def _misfit(self, data: Data) -> tuple[Tensor, Tensor]:
        """What measurements leave unexplained ``[S, M]``, and its derivative by ``log_unknown``, ``[S, M, P]``.

        Both in units of the noise, which is estimated for each field from its own residuals.
        """
        points, index = data["measurement_points"], data["measurement_index"]
        names = self.system.fields
        reached, slope = (
            self.collocation.values(points, names),
            self.collocation.values(points, names, self.collocation.sensitivity),
        )
        left = (
            data["measurement_values"]
            - torch.stack([reached[n] for n in names], -1)[:, torch.arange(len(index)), index]
        )
        design = torch.stack([slope[n] for n in names], -1)[:, torch.arange(len(index)), :, index].movedim(0, 1)
        for field in index.unique().tolist():
            mine = left[:, index == field]
            freedom = max(1, mine.shape[1] - len(self.system.unknown))
            self.noise[:, field] = (mine.square().sum(1) / freedom).sqrt()
        scale = self.noise[:, index].clamp_min(1e-300)
        return left / scale, design * self.log_unknown.exp()[:, None] / scale[..., None]

    # ------------------------------------------------------------ by gradient

    @property
    def collocation(self) -> Collocation:
        """The sum of features of a family fitted by collocation."""
        assert isinstance(self.solution, Collocation)
        return self.solution

    @property
    def network(self) -> FieldNetwork:
        """The perceptron of a family trained by gradient."""
        assert isinstance(self.solution, FieldNetwork)
        return self.solution

    def examples(self, episodes: Data) -> Data:
        """Interior points; conditions and measurements are few and all used in every step."""
        for name in ("condition_points", "condition_values", "condition_index", "interior", "validation"):
            self.register_buffer(f"_{name}", episodes[name], persistent=False)
        for name in ("measurement_points", "measurement_values", "measurement_index"):
            self.register_buffer(f"_{name}", episodes[name], persistent=False)
        return {"interior": episodes["interior"]}

    def loss(self, batch: Data, progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """``sum_i lambda_i L_i`` with balanced ``lambda``, the equations' mean squares weighted causally."""
        interior = torch.cat([batch["interior"], self.adaptive], 1)
        terms = self._mean_squares(interior, self.log_unknown, causal=True)
        return self._weighted(terms), {name: term.detach() for name, term in terms.items()}

    def _lambda(self, name: str) -> float:
        """The configured weight of a term."""
        data = self.config.data_weight or 1.0
        return {"initial": self.config.condition_weight, "boundary": self.config.condition_weight, "data": data}.get(
            name, 1.0
        )

    def _weighted(self, terms: Data) -> Tensor:
        """``sum_i lambda_i L_i``, ``[S]``, the configured weights times the balanced ones."""
        places = {name: self.terms.index(name) for name in terms}
        return torch.stack([self._lambda(n) * self.balance[:, i] * terms[n] for n, i in places.items()]).sum(0)

    def _kind(self, condition: Condition) -> str:
        """Which term a condition belongs to."""
        return "initial" if self.system.time in condition.at else "boundary"

    def _uses_measurements(self) -> bool:
        return bool(len(self._measurement_values) and (self.system.unknown or self.config.data_weight))

    def _mean_squares(
        self, interior: Tensor, log_unknown: Tensor, weights: Data | None = None, causal: bool = False
    ) -> dict[str, Tensor]:
        """Mean square of every term ``[S]``: equations at ``interior [S, N, d]``, conditions, measurements."""
        terms = {}
        residuals = self._residuals(interior, log_unknown, weights)
        share = self._causal_weights(interior, residuals) if causal else 1.0
        for name, residual in residuals.items():
            terms[name] = (share * residual.square()).mean(1)
        terms |= {name: left.square().mean(1) for name, left in self._misses(weights).items()}
        return terms

    def _residuals(self, points: Tensor, log_unknown: Tensor, weights: Data | None = None) -> dict[str, Tensor]:
        """Residuals at ``points [S, N, d]``: each ``[S, N]``."""
        symbols = sorted({s for read in self.system.symbols.values() for s in read})
        values = self.network.traced(points, symbols, weights)
        unknown = log_unknown.exp()[:, None].expand(-1, points.shape[1], -1)
        return {
            name: self.system.pointwise(equation, points, name)(values, unknown)
            for name, equation in self.system.equations.items()
        }

    def _misses(self, weights: Data | None = None) -> dict[str, Tensor]:
        """By how much conditions and measurements are missed, each ``[S, n]``; measurements in units of their RMS."""
        misses = self._condition_misses(self._traced(self._condition_points, self._condition_symbols, weights))
        if self._uses_measurements():
            misses["data"] = self._data_misses(self._traced(self._measurement_points, self.system.fields, weights))
        return misses

    @property
    def _condition_symbols(self) -> list[str]:
        return sorted({c.symbol for c in self.system.conditions})

    def _traced(
        self, points: Tensor, symbols: Sequence[str], weights: Data | None, record: Record | None = None
    ) -> dict[str, Tensor]:
        """Symbols at ``points [N, d]`` that all seeds share: each ``[S, N]``."""
        return self.network.traced(points.expand(len(self.seeds), -1, -1), symbols, weights, record)

    def _condition_rows(self) -> dict[str, Tensor]:
        """Which condition points belong to a term, in the order of its rows."""
        kinds: dict[str, list[Tensor]] = {}
        for number, condition in enumerate(self.system.conditions):
            kinds.setdefault(self._kind(condition), []).append((self._condition_index == number).nonzero()[:, 0])
        return {kind: torch.cat(parts) for kind, parts in kinds.items()}

    def _condition_misses(self, found: Data) -> dict[str, Tensor]:
        """Conditions from the symbols at all of their points."""
        missed: dict[str, list[Tensor]] = {}
        for number, condition in enumerate(self.system.conditions):
            mine = self._condition_index == number
            left = found[condition.symbol][:, mine] - self._condition_values[mine]
            missed.setdefault(self._kind(condition), []).append(left)
        return {kind: torch.cat(parts, 1) for kind, parts in missed.items()}

    def _data_misses(self, found: Data) -> Tensor:
        """Measurements from all fields at their points."""
        index, values = self._measurement_index, self._measurement_values
        reached = torch.stack([found[f] for f in self.system.fields], -1)[:, torch.arange(len(index)), index]
        return (reached - values) / values.square().mean().sqrt()

    def _causal_weights(self, points: Tensor, residuals: Data) -> Tensor | float:
        """``exp(-epsilon Σ mean squares of all earlier pieces of time)``, ``[S, N]``; no gradient passes."""
        if self.system.time is None or not self.config.causality:
            return 1.0
        axis = self.system.coordinates.index(self.system.time)
        low, high = self.system.domain[self.system.time]
        piece = ((points[..., axis] - low) / (high - low) * _PIECES).floor().clamp(0, _PIECES - 1).long()
        total = torch.stack([r.detach().square() for r in residuals.values()]).sum(0)
        sums = total.new_zeros(len(total), _PIECES).scatter_add_(1, piece, total)
        counts = total.new_zeros(len(total), _PIECES).scatter_add_(1, piece, torch.ones_like(total))
        means = sums / counts.clamp_min(1)
        return torch.exp(-self.config.causality * (means.cumsum(1) - means)).gather(1, piece)

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
        terms = self._mean_squares(interior, self.log_unknown.detach())
        norms = []
        for term in terms.values():
            slopes = torch.autograd.grad(term.sum(), weights, retain_graph=True, allow_unused=True)
            norms.append(torch.stack([g.flatten(1).square().sum(1) for g in slopes if g is not None]).sum(0).sqrt())
        norm = torch.stack(norms, 1)
        fresh = norm.sum(1, keepdim=True) / norm.clamp_min(1e-12 * norm.amax(1, keepdim=True).clamp_min(1e-300))
        for i, name in enumerate(terms):
            place = self.balance[:, self.terms.index(name)]
            place.mul_(_MEMORY).add_((1 - _MEMORY) * fresh[:, i])

    def _anywhere(self, count: int, step: int) -> Tensor:
        """Uniform points in the domain ``[S, count, d]``."""
        low, high = (torch.tensor(end) for end in box(self.system))
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
        on = self.adaptive
        with torch.no_grad():
            found = self._residuals(many.to(on), self.log_unknown)
        size = torch.stack([r.cpu().double().abs() for r in found.values()]).sum(0)
        odds = size / size.mean(1, keepdim=True).clamp_min(1e-300) + 1
        for seed, generator in enumerate(generators(self.seeds, 1_000_000 + step)):
            chosen = torch.multinomial(odds[seed], count, generator=generator)
            self.adaptive[seed] = many[seed, chosen].to(on)

    def finish(self) -> Mapping[str, Tensor]:
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
        if self.system.unknown and len(self._measurement_values):
            self._laplace(*self._flat())
        return {"loss": value, "residual": self.residual_rms(self._interior)}

    def _flat(self) -> tuple[Tensor, Unpack]:
        """All weights and unknown as one vector per seed ``[S, n]``, and the way back (also for one seed)."""
        named = {name: p.detach() for name, p in self.network.named_parameters()}
        parts = [self.log_unknown.detach(), *(p.flatten(1) for p in named.values())]
        sizes = [p.shape[1] for p in parts]

        def unpack(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            first, *rest = x.split(sizes, -1)
            shaped = {n: r.reshape(*x.shape[:-1], *p.shape[1:]) for (n, p), r in zip(named.items(), rest, strict=True)}
            return first, shaped

        return torch.cat(parts, 1), unpack

    @torch.no_grad()
    def _set(self, log_unknown: Tensor, weights: Data) -> None:
        self.log_unknown.copy_(log_unknown)
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
        network, count = self.network, len(self.system.unknown)
        log_unknown, weights = unpack(x.detach())
        record: Record = []
        symbols = sorted({s for read in self.system.symbols.values() for s in read})
        values = network.traced(interior, symbols, weights, record)
        unknown = self._spread(log_unknown, interior)
        blocks = {}
        for name, equation in self.system.equations.items():
            rows = self.system.pointwise(equation, interior, name)(values, unknown)
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
            found = self._traced(self._measurement_points, self.system.fields, weights, record)
            blocks["data"] = of_values([self._data_misses(found)], record)
        return blocks

    @torch.no_grad()
    def _laplace(self, x: Tensor, unpack: Unpack) -> None:
        """Covariance of the unknown by the Gauss-Newton matrix of all rows, each kind over its own root mean square.

        Equations and conditions are met far better than measurements, so they act as constraints and the noise of the
        measurements decides (the approximation of MacKay 1992, Neural Comput. 4).
        """
        count, index = len(self.system.unknown), self._measurement_index
        interior = self._interior[:_LAPLACE_POINTS].expand(len(x), -1, -1)
        left = self._residuals(interior, self.log_unknown) | self._misses()
        size = self._measurement_values.square().mean().sqrt()
        for field in index.unique().tolist():
            mine = left["data"][:, index == field]
            self.noise[:, field] = size * (mine.square().sum(1) / max(1, mine.shape[1] - count)).sqrt()
        scales = {name: r.square().mean(1).sqrt()[:, None].expand_as(r) for name, r in left.items()}
        scales["data"] = self.noise[:, index] / size
        blocks = self._jacobian(x, unpack, interior)
        rows = torch.cat([j / scales[name].clamp_min(1e-300)[..., None] for name, j in blocks.items()], 1)
        # The unknown stand last: what the triangular factor leaves of them when all weights are fitted, too.
        rows = torch.cat([rows[..., count:], rows[..., :count]], 2)
        ridge = 1e-12 * rows.norm(dim=(1, 2))[:, None, None] * torch.eye(rows.shape[2], dtype=rows.dtype)
        ridge[:, -count:] = 0
        corner = torch.linalg.qr(torch.cat([rows, ridge], 1), mode="r").R[:, -count:, -count:]
        self.covariance.copy_(torch.linalg.inv(corner.mT @ corner) + self._owed_to_the_equation())
        self._check_fit(left["data"], self._measurement_points, index)

    def _owed_to_the_equation(self) -> Tensor:
        """Covariance ``[S, P, P]`` for what the network leaves of the equation at points it was not fitted to.

        By how much the unknown would move if the residuals there had their way: their least squares on the slopes by
        the unknown, squared.
        """
        points = self._validation.expand(len(self.seeds), -1, -1)
        symbols = sorted({s for read in self.system.symbols.values() for s in read})
        values = self.network.traced(points, symbols)
        unknown = self._spread(self.log_unknown, points)
        left, design = [], []
        with torch.enable_grad():
            for name, equation in self.system.equations.items():
                left.append(self.system.pointwise(equation, points, name)(values, unknown))
                design.append(_by_log(left[-1], unknown))
        owed = least_squares(torch.cat(design, 1), torch.cat(left, 1).detach()[..., None], 1e-12)
        return owed @ owed.mT

    # ------------------------------------------------------------ what it says

    @torch.no_grad()
    def predict(
        self,
        context: Tensor,
        steps: int = 0,  # noqa: ARG002
        step: float | None = None,  # noqa: ARG002
        actions: Tensor | None = None,  # noqa: ARG002
    ) -> Prediction:
        """Fields at points: ``context [N, d]``, the result's ``fields [S, N, F]``."""
        values = self.derivatives(context, self.system.fields)
        return Prediction(fields=torch.stack([values[name] for name in self.system.fields], -1))

    def derivatives(self, points: Tensor, symbols: Sequence[str]) -> dict[str, Tensor]:
        """Fields and derivatives, e.g. ``u_xx``, at ``points [N, d]``: each ``[S, N]``."""
        if isinstance(self.solution, Collocation):
            return self.solution.values(points, symbols)
        parts = points.expand(len(self.seeds), -1, -1).split(_POINTS_AT_ONCE, dim=1)
        found = [self.solution.values(part, symbols) for part in parts]
        return {symbol: torch.cat([part[symbol] for part in found], 1) for symbol in symbols}

    @torch.no_grad()
    def evaluate(self, equation: Equation, points: Tensor, about: str = "equation") -> Tensor:
        """Any function of `Symbols` (a residual, a divergence, an energy density) at ``points [N, d]``: ``[S, N]``."""
        values = self.derivatives(points, self.system.symbols_of(equation, about))
        unknown = self.log_unknown.exp()[:, None].expand(-1, len(points), -1)
        return self.system.pointwise(equation, points, about)(values, unknown)

    def residuals(self, points: Tensor) -> dict[str, Tensor]:
        """Residual of every equation at ``points [N, d]``: each ``[S, N]``."""
        return {name: self.evaluate(equation, points, name) for name, equation in self.system.equations.items()}

    def residual_rms(self, points: Tensor) -> Tensor:
        """Root mean square of all residuals: ``[S]``."""
        return torch.stack([r.square().mean(1) for r in self.residuals(points).values()]).mean(0).sqrt()

    @property
    def identified(self) -> Tensor:
        """Whether measurements are explained up to noise, ``[S]``; else what was found is worth nothing."""
        return self.alike <= _ALIKE

    @torch.no_grad()
    def found(self) -> dict[str, dict[str, Tensor]]:
        """Unknown coefficients: ``value``, ends of the 95 % interval ``low`` and ``high``, each ``[S]``, by symbol.

        ``identified``: whether the field is fitted; where it is not, the interval is everything that was allowed.
        """
        deviation = self.covariance.diagonal(dim1=1, dim2=2).sqrt()
        entries = {}
        for i, name in enumerate(self.system.unknown):
            value, bounds = self.log_unknown[:, i], self.system.coefficients[name].bounds
            low, high = (
                torch.where(self.identified, (value + side * _Z95 * deviation[:, i]).exp(), bound)
                for side, bound in zip((-1, 1), bounds, strict=True)
            )
            entries[name] = {"value": value.exp(), "low": low, "high": high, "identified": self.identified}
        return entries

    def extra_summary(self) -> dict[str, Any]:
        """Coefficients found with their intervals, and the noise of the measurements."""
        found = {name: {k: v.tolist() for k, v in entry.items()} for name, entry in self.found().items()}
        return {"coefficients": found, "noise": self.noise.tolist()} if found else {}


def _by_log(rows: Tensor, unknown: Tensor) -> Tensor:
    """Slope of pointwise ``rows [S, N]`` by the logarithm of ``unknown [S, N, P]``: ``[S, N, P]``."""
    if not unknown.shape[-1]:
        return torch.zeros_like(unknown)
    (direct,) = torch.autograd.grad(rows.sum(), [unknown], allow_unused=True, retain_graph=True)
    return torch.zeros_like(unknown) if direct is None else direct * unknown.detach()


def alikeness(left: Tensor, points: Tensor, index: Tensor) -> Tensor:
    """How alike neighbours are missed: Moran's statistic over pairs of nearest measurements of a field.

    Args:
        left: what is missed ``[S, M]``. points: where ``[M, d]``. index: of which field ``[M]``.

    Returns:
        ``[S]``, about standard normal for noise, large where a model misses whole places; 0 for too few measurements.
    """
    first, second = [], []
    for field in index.unique().tolist():
        mine = (index == field).nonzero()[:, 0]
        if len(mine) < _FEWEST_PAIRS:
            continue
        size = (points[mine].amax(0) - points[mine].amin(0)).clamp_min(1e-300)
        apart = torch.cdist(points[mine] / size, points[mine] / size)
        near = apart.fill_diagonal_(torch.inf).argmin(1)
        pairs = torch.stack([torch.arange(len(mine)), near]).sort(0).values.unique(dim=1)
        first.append(mine[pairs[0]])
        second.append(mine[pairs[1]])
    if not first:
        return left.new_zeros(len(left))
    a, b = torch.cat(first), torch.cat(second)
    unit = torch.empty_like(left)
    for field in index.unique().tolist():
        mine = left[:, index == field]
        unit[:, index == field] = mine / mine.square().mean(1, keepdim=True).sqrt().clamp_min(1e-300)
    return (unit[:, a] * unit[:, b]).sum(1) / len(a) ** 0.5
