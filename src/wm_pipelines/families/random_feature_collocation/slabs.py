"""Fields as sums of random ridge features, solved by Gauss-Newton on all rows, one slab of time after the other.

Dong & Li 2021, Comput. Methods Appl. Mech. Eng. 387 (random features, block time marching); Chen et al. 2022,
arXiv 2207.13380. What is added: coordinates that stretch to the field, and the derivative of the solution by unknown
coefficients, carried from slab to slab.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.blocks.least_squares import least_squares
from wm_pipelines.equations import Problem, box
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.random_feature_collocation.gauss_newton import Rows, gauss_newton, linearise
from wm_pipelines.families.random_feature_collocation.ridge import RidgeFeatures

Data = Mapping[str, Tensor]
_POINTS_AT_ONCE = 4096
_NAMED = "random_feature_collocation on "  # what messages begin with, before the world's name


class CollocationConfig(FamilyConfig):
    """How a field is solved by collocation."""

    condition_weight: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="lambda of initial and boundary values"
    )
    data_weight: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="lambda of the measurements while the field is solved for"
    )
    features: int = Field(300, ge=4, description="random features per field and slab")
    activation: Literal["tanh", "sin"] = "tanh"
    steepness: tuple[float, ...] = Field(
        (2.0, 4.0, 8.0), min_length=1, description="largest slopes tried, per half width; the least residual wins"
    )
    aspect: dict[str, float] = Field(default_factory=dict, description="factor on the slopes along a coordinate")
    slabs: int = Field(1, ge=1, description="pieces of the time span, solved one after the other")
    stretch: tuple[str, ...] = Field((), description="coordinates that stretch where the field is steep")
    grading: float = Field(2.5, gt=0, description="growth of the spacing away from a steep place")
    smoothing: float = Field(4.0, gt=0, description="smoothness of the stretching")
    ridge: float = Field(1e-15, ge=0, description="relative accuracy of the least squares")
    iterations: int = Field(12, ge=1, description="Gauss-Newton steps per slab, at most")


class UnitCoordinates:
    """Coordinates in [-1, 1] of every slab of a domain."""

    def __init__(self, problem: Problem, slabs: int) -> None:
        if slabs > 1 and problem.time is None:
            raise UserError(f"{_NAMED}{problem.name}: the field is steady and has no time to cut; set slabs to 1")
        self.problem, self.slabs = problem, slabs
        low, high = box(problem)
        self.low, self.size = torch.tensor(low), torch.tensor(high - low)
        self.time = None if problem.time is None else problem.coordinates.index(problem.time)
        if self.time is not None:
            self.size[self.time] /= slabs

    def corner(self, slab: int) -> Tensor:
        """Lower corner of a slab ``[d]``."""
        corner = self.low.clone()
        if self.time is not None:
            corner[self.time] += slab * self.size[self.time]
        return corner

    def of(self, points: Tensor, slab: int) -> Tensor:
        """Unit coordinates of points in a slab ``[..., d]``."""
        return 2 * (points - self.corner(slab)) / self.size - 1

    def physical(self, unit: Tensor, slab: int) -> Tensor:
        """Inverse of `of`."""
        return self.corner(slab) + (unit + 1) / 2 * self.size

    def whole(self, points: Tensor) -> Tensor:
        """Unit coordinates of the whole domain."""
        size = self.size.clone()
        if self.time is not None:
            size[self.time] *= self.slabs
        return 2 * (points - self.low) / size - 1

    def scale(self, orders: Sequence[int]) -> float:
        """Factor from a derivative by unit coordinates to one by physical coordinates."""
        return float(torch.prod((2 / self.size) ** torch.tensor(orders)))

    def slab_of(self, points: Tensor) -> Tensor:
        """Number of the slab that each point is in."""
        if self.time is None:
            return torch.zeros(points.shape[:-1], dtype=torch.long)
        passed = (points[..., self.time] - self.low[self.time]) / self.size[self.time]
        return passed.floor().long().clamp(0, self.slabs - 1)


class Collocation(nn.Module):
    """Fields as sums of random features, solved slab after slab.

    Tensors: ``S`` seeds, ``F`` fields, ``K`` features, ``P`` unknown coefficients.
    """

    coefficients: Tensor  # [S, slabs, F, K]
    sensitivity: Tensor  # [S, slabs, F, K, P], derivative of the coefficients by the unknown

    def __init__(self, config: CollocationConfig, problem: Problem, seeds: Sequence[int]) -> None:
        super().__init__()
        self.config, self.problem, self.seeds = config, problem, tuple(seeds)
        self.unit = UnitCoordinates(problem, config.slabs)
        for name in (*config.stretch, *config.aspect):
            if name not in problem.coordinates:
                raise UserError(f"{_NAMED}{problem.name}: no coordinate '{name}' (stretch, aspect)")
        lead = (len(seeds), config.slabs)
        self.features = RidgeFeatures(len(problem.coordinates), config.features, lead, config.activation)
        shape = (*lead, len(problem.fields), config.features)
        self.coefficients = nn.Parameter(torch.zeros(shape, dtype=torch.float64), requires_grad=False)
        self.register_buffer(
            "sensitivity", torch.zeros(*shape, len(problem.unknown), dtype=torch.float64), persistent=False
        )

    # ------------------------------------------------------------ evaluation

    def _models(self, slab: int) -> list[tuple[int, ...]]:
        return [(s, slab) for s in range(len(self.seeds))]

    def _basis(self, unit: Tensor, slab: int, symbols: Iterable[str]) -> dict[str, Tensor]:
        """``Phi`` of every symbol at unit points ``[S, N, d]``: ``[S, N, K]``."""
        orders = {symbol: self.problem.derivative(symbol)[1] for symbol in symbols}
        found = self.features.derivatives(unit, self._models(slab), orders.values())
        return {symbol: self.unit.scale(order) * found[order] for symbol, order in orders.items()}

    def _values(self, unit: Tensor, slab: int, symbols: Iterable[str], of: Tensor) -> dict[str, Tensor]:
        """Symbols at unit points ``[S, N, d]`` of one slab, from ``of [S, slabs, F, K, …]``: ``[S, N, …]``."""
        basis = self._basis(unit, slab, symbols)
        return {
            symbol: torch.einsum("snk,sk...->sn...", phi, of[:, slab, self.problem.derivative(symbol)[0]])
            for symbol, phi in basis.items()
        }

    def values(self, points: Tensor, symbols: Sequence[str], of: Tensor | None = None) -> dict[str, Tensor]:
        """Fields and derivatives at ``points [N, d]``: each ``[S, N]`` (``[S, N, P]`` of the sensitivity)."""
        of = self.coefficients if of is None else of
        slabs = self.unit.slab_of(points)
        found = {symbol: of.new_zeros(len(self.seeds), len(points), *of.shape[4:]) for symbol in symbols}
        for slab in range(self.unit.slabs):
            for rows in (slabs == slab).nonzero()[:, 0].split(_POINTS_AT_ONCE):
                unit = self.unit.of(points[rows], slab).expand(len(self.seeds), -1, -1)
                for symbol, value in self._values(unit, slab, symbols, of).items():
                    found[symbol][:, rows] = value
        return found

    # ------------------------------------------------------------ the march through the slabs

    def draw(self, steepness: float) -> None:
        """Draw the features and forget everything else."""
        aspect = [self.config.aspect.get(c, 1.0) for c in self.problem.coordinates]
        self.features.draw(self.seeds, steepness * torch.tensor(aspect, dtype=torch.float64))
        self.features.stretch.reset()
        self.coefficients.zero_()

    def solve(self, data: Data, unknown: Tensor, adapt: bool) -> Tensor:
        """Solve all slabs for given coefficients of the equation ``[S, P]``; returns the rms of all rows ``[S]``.

        Args:
            data: field data. unknown: values of the unknown coefficients.
            adapt: start afresh and stretch the coordinates to the field; else go on from the solution that is there.
        """
        mean_square = torch.zeros(len(self.seeds), dtype=torch.float64)
        for slab in range(self.unit.slabs):
            if adapt and slab:
                before = self._frozen(slab - 1, stays=True)
                self._stretch(slab, slab - 1, [1.0])
                self._imitate(slab, before, data)
            rms = self._solve_slab(slab, data, unknown)
            if adapt and self.config.stretch:
                before = self._frozen(slab)
                self._stretch(slab, slab, [-1.0, -0.5, 0.0, 0.5, 1.0])
                self._imitate(slab, before, data)
                rms = self._solve_slab(slab, data, unknown)
            mean_square += rms.square() / self.unit.slabs
        return mean_square.sqrt()

    def _solve_slab(self, slab: int, data: Data, unknown: Tensor) -> Tensor:
        """Gauss-Newton on all rows of one slab; returns their rms ``[S]``."""
        interior = self._interior(slab, data)
        physical = self.unit.physical(interior, slab)
        basis = self._basis(interior, slab, self.problem.read)
        given = self._given(slab, data, unknown)
        needed = self.coefficients[0, 0].numel()
        rows = len(self.problem.equations) * interior.shape[1] + given.residual.shape[1]
        if rows < needed:
            raise UserError(
                f"{_NAMED}{self.problem.name}: {rows} rows for {needed} unknowns in a slab; give more points "
                "(points.interior) or fewer features"
            )

        def rows_at(coefficients: Tensor) -> Rows:
            parts = []
            for name, equation in self.problem.equations.items():
                read = self.problem.symbols[name]
                pointwise = self.problem.pointwise(equation, physical, name)
                field_of = {s: self.problem.derivative(s)[0] for s in read}
                rows = linearise(pointwise, {s: basis[s] for s in read}, field_of, coefficients, unknown)
                parts.append(rows.equilibrated())
            reached = (given.jacobian @ coefficients.flatten(1)[..., None])[..., 0]
            parts.append(Rows(reached + given.residual, given.jacobian, given.by_parameter))
            return Rows.stacked(parts)

        solution, sensitivity, rms = gauss_newton(
            rows_at, self.coefficients[:, slab], self.config.ridge, self.config.iterations
        )
        self.coefficients[:, slab], self.sensitivity[:, slab] = solution, sensitivity
        return rms

    def _interior(self, slab: int, data: Data) -> Tensor:
        """Unit points ``[S, N, d]``: every slab is solved on all points, dense where its coordinates are stretched."""
        points = self.unit.whole(data["interior"]).expand(len(self.seeds), -1, -1)
        return self.features.stretch.inverse(points, self._models(slab))

    def _given(self, slab: int, data: Data, unknown: Tensor) -> Rows:
        """Rows of conditions and measurements, weighted; their residual at zero coefficients."""
        inside = self.unit.slab_of(data["condition_points"]) == slab
        parts = []
        for number, condition in enumerate(self.problem.conditions):
            mine = data["condition_index"] == number
            points, values = data["condition_points"][mine], data["condition_values"][mine]
            if self.problem.time in condition.at:
                if slab:
                    parts.append(self._handed_over(slab, condition.symbol, points))
                    continue
            elif len(condition.at) < len(self.problem.coordinates):
                points, values = points[inside[mine]], values[inside[mine]]
                if not len(points):
                    raise UserError(
                        f"{_NAMED}{self.problem.name}: no point of condition '{condition.name}' in slab {slab + 1} of "
                        f"{self.unit.slabs}; give more (points.boundary) or fewer slabs"
                    )
            parts.append(self._value_rows(slab, condition.symbol, points, values, unknown.shape[1]))
        rows = Rows.stacked(parts).equilibrated(self.config.condition_weight)
        if not (self.config.data_weight and len(data["measurement_values"])):
            return rows
        inside = self.unit.slab_of(data["measurement_points"]) == slab
        measured = [
            self._value_rows(
                slab, name, data["measurement_points"][mine], data["measurement_values"][mine], unknown.shape[1]
            )
            for number, name in enumerate(self.problem.fields)
            if (mine := inside & (data["measurement_index"] == number)).any()
        ]
        weighted = [part.equilibrated(self.config.data_weight) for part in measured]
        return Rows.stacked([rows, *weighted])

    def _value_rows(self, slab: int, symbol: str, points: Tensor, values: Tensor, unknowns: int) -> Rows:
        """Rows that set a symbol at ``points [n, d]`` to ``values [n]``."""
        unit = self.unit.of(points, slab).expand(len(self.seeds), -1, -1)
        design = self._placed(self._basis(unit, slab, [symbol])[symbol], symbol)
        return Rows(-values.expand(len(design), -1), design, design.new_zeros(*design.shape[:2], unknowns))

    def _handed_over(self, slab: int, symbol: str, points: Tensor) -> Rows:
        """Rows that start a slab where the one before ended, in value and in what it owes to the unknown."""
        assert self.unit.time is not None
        points = self.unit.whole(points).expand(len(self.seeds), -1, -1)
        start = self.features.stretch.inverse(points, self._models(slab))
        start[..., self.unit.time] = -1.0
        end = start.clone()
        end[..., self.unit.time] = 1.0
        design = self._placed(self._basis(start, slab, [symbol])[symbol], symbol)
        value = self._values(end, slab - 1, [symbol], self.coefficients)[symbol]
        by_parameter = self._values(end, slab - 1, [symbol], self.sensitivity)[symbol]
        return Rows(-value, design, -by_parameter)

    def _placed(self, phi: Tensor, symbol: str) -> Tensor:
        """``Phi [S, n, K]`` in the columns of its field: ``[S, n, F K]``."""
        fields = len(self.problem.fields)
        design = phi.new_zeros(*phi.shape[:2], fields, phi.shape[2])
        design[:, :, self.problem.derivative(symbol)[0]] = phi
        return design.flatten(2)

    # ------------------------------------------------------------ adapting to the field

    def _stretch(self, slab: int, like: int, times: Sequence[float]) -> None:
        """Stretch the coordinates of a slab to the field of a solved one, at these unit times."""
        nodes = torch.linspace(-1, 1, 401, dtype=torch.float64)
        slopes = {name: self._slopes(like, name, nodes, times) for name in self.config.stretch}
        for name, steepness in slopes.items():
            for seed, profile in enumerate(steepness):
                axis = self.problem.coordinates.index(name)
                self.features.stretch.fit((seed, slab), axis, profile, self.config.grading, self.config.smoothing)

    def _slopes(self, slab: int, name: str, nodes: Tensor, times: Sequence[float]) -> Tensor:
        """Largest ``|du/dx| / range(u)`` over times, other points and fields: ``[S, nodes]``."""
        axis, width = self.problem.coordinates.index(name), len(self.problem.coordinates)
        others = [torch.tensor(times if i == self.unit.time else (-0.8, -0.4, 0.0, 0.4, 0.8), dtype=torch.float64)
                  for i in range(width) if i != axis]  # fmt: skip
        lines = torch.cartesian_prod(*others).reshape(-1, width - 1) if others else torch.zeros(1, 0)
        unit = torch.empty(len(lines), len(nodes), width, dtype=torch.float64)
        unit[..., [i for i in range(width) if i != axis]] = lines[:, None].double()
        unit[..., axis] = nodes
        symbols = [s for f in self.problem.fields for s in (f, f"{f}_{name}")]
        every = unit.flatten(0, 1).expand(len(self.seeds), -1, -1)
        found = self._values(every, slab, symbols, self.coefficients)
        steepest = torch.zeros(len(self.seeds), len(nodes), dtype=torch.float64)
        for f in self.problem.fields:
            size = (found[f].amax(1) - found[f].amin(1)).clamp_min(1e-12)
            slope = found[f"{f}_{name}"].abs().reshape(len(self.seeds), len(lines), -1).amax(1)
            steepest = torch.maximum(steepest, slope * float(self.unit.size[axis]) / 2 / size[:, None])
        return steepest

    def _frozen(self, slab: int, stays: bool = False) -> Callable[[Tensor], list[Tensor]]:
        """The solution of a slab as it is now: unit points -> fields, each ``[S, N]``; ``stays``: its end for ever."""
        basis, coefficients = copy.deepcopy(self.features), self.coefficients[:, slab].clone()

        def fields(unit: Tensor) -> list[Tensor]:
            if stays and self.unit.time is not None:
                unit = unit.clone()
                unit[..., self.unit.time] = 1.0
            phi = basis.derivatives(unit, self._models(slab), [(0,) * unit.shape[-1]])[(0,) * unit.shape[-1]]
            return list((phi @ coefficients.mT).unbind(-1))

        return fields

    def _imitate(self, slab: int, fields: Callable[[Tensor], list[Tensor]], data: Data) -> None:
        """Choose the coefficients of a slab so that it shows given fields: where Gauss-Newton starts from."""
        unit = self._interior(slab, data)
        phi = self._basis(unit, slab, [self.problem.fields[0]])[self.problem.fields[0]]
        target = torch.stack(fields(unit), -1)
        self.coefficients[:, slab] = least_squares(phi, target, 1e-12).mT
