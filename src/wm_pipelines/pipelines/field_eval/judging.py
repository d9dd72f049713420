"""Judge one trained variant on one field: against the reference on a grid, and by the true equations.

Axes: ``S`` seeds, ``G`` points of the grid (row-major), ``F`` fields, ``T`` instants.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_pipelines.errors import UserError
from wm_pipelines.fields import Balance, Equation, FieldSystem
from wm_pipelines.metrics import fields as metrics
from wm_pipelines.metrics.statistics import Summary
from wm_pipelines.pipelines.evaluation.judging import Judgement

Float = NDArray[np.float64]
Data = Mapping[str, NDArray[Any]]
_LINE_POINTS = 1001  # where there is one dimension of space
_TOUCHES = 1e-12  # of a side's length: a point this near to a face lies on it


class FieldFamily(Protocol):
    """What a family has to offer beside `Family` to be judged here."""

    seeds: Sequence[int]

    def derivatives(self, points: Tensor, symbols: Sequence[str]) -> Mapping[str, Tensor]:
        """Fields and derivatives at ``points [N, d]``: each ``[S, N]``."""

    def found(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Unknown coefficients by symbol, each ``[S]``: ``value``, ends of the 95 % interval ``low`` and ``high``.

        ``identified``: whether the measurements are explained up to noise; without it the value is worth nothing.
        """


@dataclass(frozen=True)
class Solution:
    """A trained family's fields at some points, and the true equations.

    Attributes:
        family: restored, in float64.
        system: the field's description; coefficients that the family had to find keep their true value in it.
        points: ``[N, d]``.
        read: the symbols to evaluate; None: all that equations, the divergence and conditions read.
    """

    family: FieldFamily
    system: FieldSystem
    points: Float
    read: tuple[str, ...] | None = None

    @cached_property
    def coefficients(self) -> dict[str, Float]:
        """What the equations are judged with, ``[S, 1]``: true values, or those found where nobody knows the truth."""
        seeds, found = len(self.family.seeds), self.family.found()
        return {
            name: found[name]["value"].numpy()[:, None]
            if not c.known and self.system.reference is None
            else np.full((seeds, 1), c.value)
            for name, c in self.system.coefficients.items()
        }

    @cached_property
    def symbols(self) -> dict[str, Float]:
        """Every field, and every derivative in `read`: each ``[S, N]``."""
        system = self.system
        read = {*system.fields, *(self.read or ())}
        if self.read is None:
            read |= {s for symbols in system.symbols.values() for s in symbols}
            read |= {condition.symbol for condition in system.conditions}
            read |= set(() if system.divergence is None else system.symbols_of(system.divergence))
        with torch.no_grad():
            found = self.family.derivatives(torch.tensor(self.points), sorted(read))
        return {name: np.asarray(value, np.float64) for name, value in found.items()}

    @property
    def fields(self) -> Float:
        """``[S, N, F]``."""
        return np.stack([self.symbols[name] for name in self.system.fields], axis=-1)

    def evaluate(self, function: Equation, name: str) -> Float:
        """A function of `Symbols` by the true coefficients: ``[S, N]``."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = function(self.system.namespace(self.points, self.symbols, self.coefficients, name))
        return np.array(np.broadcast_to(values, (len(self.family.seeds), len(self.points))), np.float64)

    @cached_property
    def residuals(self) -> dict[str, Float]:
        """Of every equation: ``[S, N]``."""
        return {name: self.evaluate(equation, name) for name, equation in self.system.equations.items()}


def judge_field(family: Any, data: Data, system: FieldSystem, split: str = "test") -> Judgement:
    """All metrics of one trained family on one field.

    Args:
        family: restored, in float64, see `FieldFamily`. data: the field's data. system: the field's description.
        split: ``test`` judges on the grid, where nothing was fitted or chosen; ``validation`` gives only the residual's
            norm, at the validation points.

    Raises:
        UserError: the family says nothing about fields and their derivatives.
    """
    if not hasattr(family, "derivatives") or not hasattr(family, "found"):
        raise UserError(f"family '{family.name}' gives no derivatives of fields; remove it from 'field_families'")
    place = {"test": "grid", "validation": "validation"}[split]
    solution = Solution(family, system, np.asarray(data[place], np.float64))
    began = time.perf_counter()
    with torch.no_grad():
        family.predict(torch.tensor(solution.points), 0)
    seconds = time.perf_counter() - began
    count = len(solution.points)
    judged = Judgement([int(s) for s in family.seeds], split)
    judged.add("residual_norm", metrics.residual_norm(list(solution.residuals.values())), "SI", count)
    if split == "validation":
        return judged
    shape = tuple(int(n) for n in data["grid_shape"])
    if "reference" in data:
        errors = metrics.relative_l2(solution.fields, data["reference"])
        for i, name in enumerate(system.fields):
            judged.add(f"relative_l2_{name}", errors[:, i], "1", count)
    if system.divergence is not None:
        judged.add("divergence", metrics.rms(solution.evaluate(system.divergence, "divergence")), "1/s", count)
    _add_boundary(judged, solution)
    for name, balance in system.balances.items():
        judged.add(f"{name}_balance_error", balance_breach(family, system, balance, name, shape), "1", count)
    _add_coefficients(judged, family, system, len(data["measurement_values"]))
    steps = 1 if system.time is None else shape[system.coordinates.index(system.time)] - 1
    judged.add("step_ms", np.full(len(judged.seeds), 1e3 * seconds / steps / len(judged.seeds)), "ms", 1)
    judged.arrays |= _maps(solution)
    return judged


def _add_boundary(judged: Judgement, solution: Solution) -> None:
    """How far the initial and boundary conditions are missed, at the grid's points on the faces."""
    system, points = solution.system, solution.points
    reached, given = [], []
    for condition in system.conditions:
        on_face = np.ones(len(points), bool)
        for name, value in condition.at.items():
            low, high = system.domain[name]
            on_face &= np.abs(points[:, system.coordinates.index(name)] - value) <= _TOUCHES * (high - low)
        if on_face.any():
            reached.append(solution.symbols[condition.symbol][:, on_face])
            given.append(np.asarray(condition.value(points[on_face]), np.float64))
    if given:
        together = np.concatenate(given)
        judged.add("boundary_error", metrics.boundary_error(np.concatenate(reached, 1), together), "1", len(together))


def balance_breach(
    family: FieldFamily, system: FieldSystem, balance: Balance, name: str, shape: Sequence[int]
) -> Float:
    """By how much a balance is broken, as a share of the content: ``[S]``.

    A steady field has no content that changes; its 100 % is half the sum of squares of the observed fields, in a flow
    the kinetic energy.

    The integrals are Simpson's on the grid, whose spacing along a line is made fine enough for layers of a thousandth:
    else the quadrature's own error would be all there is to see.
    """
    sides = dict(zip(system.coordinates, shape, strict=True))
    space_names = [c for c in sides if c != system.time]
    if len(space_names) == 1:
        sides[space_names[0]] = max(_LINE_POINTS, sides[space_names[0]])
    axes = {c: np.linspace(*system.domain[c], n) for c, n in sides.items()}
    space = [axes[c] for c in space_names]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes.values(), indexing="ij")], axis=1)
    functions = [f for f in (balance.density, balance.production) if f is not None]
    read = {symbol for function in functions for symbol in system.symbols_of(function, name)}
    solution = Solution(family, system, points, tuple(sorted(read)))

    def integral(density: Float) -> Float:
        on_grid = density.reshape(len(density), *sides.values())
        if system.time is not None:
            on_grid = np.moveaxis(on_grid, 1 + system.coordinates.index(system.time), -1)
        return metrics.content(on_grid, space)

    production = solution.evaluate(balance.production, name)
    if balance.density is None or system.time is None:
        content = np.stack([np.square(solution.symbols[name]) / 2 for name in system.observed]).sum(axis=0)
        return metrics.steady_balance_error(integral(production), integral(content))
    return metrics.balance_error(
        axes[system.time], integral(solution.evaluate(balance.density, name)), integral(production)
    )


def _add_coefficients(judged: Judgement, family: FieldFamily, system: FieldSystem, measurements: int) -> None:
    """What was found, its 95 % interval, whether it counts, and, where the truth is known, its error and coverage."""
    for name, entry in family.found().items():
        value, low, high = (entry[key].numpy() for key in ("value", "low", "high"))
        coefficient = system.coefficients[name]
        ends = zip(value, low, high, strict=True)
        judged.add(f"coefficient_{name}", [Summary.scalar(*e, n=measurements) for e in ends], coefficient.unit)
        suffix = f"_{name}" if len(system.unknown) > 1 else ""
        judged.add(f"coefficient_identified{suffix}", entry["identified"].double().numpy(), "1", measurements)
        if system.reference is not None:
            error = metrics.coefficient_error(value, coefficient.value)
            judged.add(f"coefficient_error{suffix}", error, "1", measurements)
            covered = metrics.covers(low, high, coefficient.value)
            judged.add(f"coefficient_covered{suffix}", covered, "1", measurements)


def _maps(solution: Solution) -> dict[str, Float]:
    """First seed's fields ``predicted [G, F]`` and root mean square over the equations ``residual [G]``."""
    residual = np.stack([r[0] for r in solution.residuals.values()])
    with np.errstate(over="ignore"):
        size = np.sqrt(np.mean(np.square(residual), axis=0))
    return {"predicted": np.ascontiguousarray(solution.fields[0]), "residual": size}
