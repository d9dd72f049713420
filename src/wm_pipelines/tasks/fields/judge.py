"""Judge one trained model on one field: against the reference on a grid, and by the true equations.

Axes: ``S`` seeds, ``G`` points of the grid (row-major), ``F`` fields, ``T`` times.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes
from wm_pipelines.equations import Balance, Equation, Problem
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family, Solves
from wm_pipelines.laws import Laws
from wm_pipelines.metrics import fields as metrics
from wm_pipelines.metrics.statistics import Summary
from wm_pipelines.tasks.judgement import Judgement

Float = NDArray[np.float64]
_LINE_POINTS = 1001  # where there is one dimension of space
_TOUCHES = 1e-12  # of a side's length: a point this near to a face lies on it


@dataclass(frozen=True)
class Solution:
    """A trained model's fields at some points, and the true equations.

    Attributes:
        family: restored, in float64. seeds: how many. problem: as it was posed. laws: of the world.
        points: ``[N, d]``. read: the symbols to evaluate; None: all that equations, the divergence and conditions read.
    """

    family: Solves
    seeds: int
    problem: Problem
    laws: Laws
    points: Float
    read: tuple[str, ...] | None = None

    @cached_property
    def coefficients(self) -> dict[str, Float]:
        """What the equations are judged with, ``[S, 1]``: true values, or those found where nobody knows the truth."""
        known = {name: c.value for name, c in self.problem.coefficients.items() if c.value is not None}
        known |= self.laws.coefficients
        found = self.family.found()
        return {
            name: np.full((self.seeds, 1), known[name]) if name in known else found[name]["value"].numpy()[:, None]
            for name in self.problem.coefficients
        }

    @cached_property
    def symbols(self) -> dict[str, Float]:
        """Every field, and every derivative in `read`: each ``[S, N]``."""
        problem, divergence = self.problem, self.laws.divergence
        read = {*problem.fields, *(self.read or ())}
        if self.read is None:
            read |= {*problem.read, *(condition.symbol for condition in problem.conditions)}
            read |= set(() if divergence is None else problem.symbols_of(divergence))
        with torch.no_grad():
            found = self.family.derivatives(torch.tensor(self.points), sorted(read))
        return {name: np.asarray(value, np.float64) for name, value in found.items()}

    @property
    def fields(self) -> Float:
        """``[S, N, F]``."""
        return np.stack([self.symbols[name] for name in self.problem.fields], axis=-1)

    def evaluate(self, equation: Equation, name: str) -> Float:
        """An equation by the true coefficients: ``[S, N]``."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = equation(self.problem.namespace(self.points, self.symbols, self.coefficients, name))
        return np.array(np.broadcast_to(values, (self.seeds, len(self.points))), np.float64)

    @cached_property
    def residuals(self) -> dict[str, Float]:
        """Of every equation: ``[S, N]``."""
        return {name: self.evaluate(equation, name) for name, equation in self.problem.equations.items()}


def judge(family: Family, episodes: Episodes, split: str, laws: Laws) -> Judgement:
    """All metrics of one trained family on one field.

    Args:
        family: restored, in float64. laws: of the world.
        episodes: with ``split`` ``test``, a grid, where nothing was fitted or chosen; with ``validation`` the
            validation points, at which only the residual's norm is judged.

    Raises:
        UserError: the family says nothing about fields and their derivatives.
    """
    if not isinstance(family, Solves):
        raise UserError(f"family '{family.name}' gives no derivatives of fields; remove it from tasks.fields.families")
    problem = Problem.from_facts(episodes.spec.facts, episodes.spec.name)
    points = np.asarray(episodes["validation" if split == "validation" else "grid"][0], np.float64)
    solution = Solution(family, len(family.seeds), problem, laws, points)
    seconds, count = _seconds(family, points), len(points)
    judged = Judgement([int(s) for s in family.seeds], split)
    judged.add("residual_norm", metrics.residual_norm(list(solution.residuals.values())), "SI", count)
    if split == "validation":
        return judged
    shape = tuple(int(n) for n in episodes["grid_shape"][0])
    if (reference := episodes.get("reference")) is not None:
        errors = metrics.relative_l2(solution.fields, reference[0])
        for i, name in enumerate(problem.fields):
            judged.add(f"relative_l2_{name}", errors[:, i], "1", count)
        judged.arrays["reference"] = np.array(reference[0])
    if laws.divergence is not None:
        judged.add("divergence", metrics.rms(solution.evaluate(laws.divergence, "divergence")), "1/s", count)
    _add_boundary(judged, solution)
    for name, balance in laws.balances.items():
        judged.add(f"{name}_balance_error", balance_error(solution, balance, name, shape), "1", count)
    measured = episodes.get("measurement_values")
    _add_coefficients(judged, solution, 0 if measured is None else measured.shape[1])
    steps = 1 if problem.time is None else shape[problem.coordinates.index(problem.time)] - 1
    judged.add("step_ms", np.full(len(judged.seeds), 1e3 * seconds / steps / len(judged.seeds)), "ms", 1)
    judged.arrays |= {"grid_shape": np.array(shape, np.int64), **_maps(solution)}
    return judged


def _seconds(family: Family, points: Float) -> float:
    """How long the fields at all points take."""
    with torch.no_grad():
        began = time.perf_counter()
        family.predict({"points": torch.tensor(points)}, 0)
        return time.perf_counter() - began


def _add_boundary(judged: Judgement, solution: Solution) -> None:
    """How far the initial and boundary conditions are missed, at the grid's points on the faces."""
    problem, points = solution.problem, solution.points
    reached, given = [], []
    for condition in solution.laws.conditions:
        on_face = np.ones(len(points), bool)
        for name, value in condition.at.items():
            low, high = problem.domain[name]
            on_face &= np.abs(points[:, problem.coordinates.index(name)] - value) <= _TOUCHES * (high - low)
        if on_face.any() and condition.value is not None:
            reached.append(solution.symbols[condition.symbol][:, on_face])
            given.append(np.asarray(condition.value(points[on_face]), np.float64))
    if given:
        together = np.concatenate(given)
        judged.add("boundary_error", metrics.boundary_error(np.concatenate(reached, 1), together), "1", len(together))


def balance_error(judged: Solution, balance: Balance, name: str, shape: Sequence[int]) -> Float:
    """Relative imbalance of a quantity, by the content of the domain: ``[S]``.

    A steady field has no content that changes; its 100 % is half the sum of squares of the observed fields, in a flow
    the kinetic energy.

    The integrals are Simpson's on the grid, whose spacing along a line is made fine enough for layers of a thousandth:
    else the quadrature's own error would be all there is to see.
    """
    problem = judged.problem
    sides = dict(zip(problem.coordinates, shape, strict=True))
    space_names = [c for c in sides if c != problem.time]
    if len(space_names) == 1:
        sides[space_names[0]] = max(_LINE_POINTS, sides[space_names[0]])
    axes = {c: np.linspace(*problem.domain[c], n) for c, n in sides.items()}
    space = [axes[c] for c in space_names]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes.values(), indexing="ij")], axis=1)
    equations = [e for e in (balance.density, balance.production) if e is not None]
    read = {symbol for equation in equations for symbol in problem.symbols_of(equation)}
    solution = Solution(judged.family, judged.seeds, problem, judged.laws, points, tuple(sorted(read)))

    def integral(density: Float) -> Float:
        on_grid = density.reshape(len(density), *sides.values())
        if problem.time is not None:
            on_grid = np.moveaxis(on_grid, 1 + problem.coordinates.index(problem.time), -1)
        return metrics.content(on_grid, space)

    production = solution.evaluate(balance.production, name)
    if balance.density is None or problem.time is None:
        content = np.stack([np.square(solution.symbols[name]) / 2 for name in problem.observed]).sum(axis=0)
        return metrics.steady_balance_error(integral(production), integral(content))
    return metrics.balance_error(
        axes[problem.time], integral(solution.evaluate(balance.density, name)), integral(production)
    )


def _add_coefficients(judged: Judgement, solution: Solution, measurements: int) -> None:
    """What was found, its 95 % interval, whether it counts, and, where the truth is known, its error and coverage."""
    problem, truths = solution.problem, solution.laws.coefficients
    for name, entry in solution.family.found().items():
        value, low, high = (entry[key].numpy() for key in ("value", "low", "high"))
        ends = zip(value, low, high, strict=True)
        unit = problem.coefficients[name].unit
        judged.add(f"coefficient_{name}", [Summary.scalar(*e, n=measurements) for e in ends], unit)
        suffix = f"_{name}" if len(problem.unknown) > 1 else ""
        judged.add(f"coefficient_identified{suffix}", entry["identified"].double().numpy(), "1", measurements)
        if name in truths:
            error = metrics.coefficient_error(value, truths[name])
            judged.add(f"coefficient_error{suffix}", error, "1", measurements)
            covered = metrics.covers(low, high, truths[name])
            judged.add(f"coefficient_covered{suffix}", covered, "1", measurements)


def _maps(solution: Solution) -> dict[str, Float]:
    """First seed's fields ``predicted [G, F]`` and root mean square over the equations ``residual [G]``."""
    residual = np.stack([r[0] for r in solution.residuals.values()])
    with np.errstate(over="ignore"):
        size = np.sqrt(np.mean(np.square(residual), axis=0))
    return {"predicted": np.ascontiguousarray(solution.fields[0]), "residual": size}
