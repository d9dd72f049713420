"""What every world of fields is: a differential equation with its conditions, and what is known of its solution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from wm_pipelines.episodes import Episodes
from wm_pipelines.equations import Balance, Equation, Problem
from wm_pipelines.errors import UserError
from wm_pipelines.laws import Laws
from wm_pipelines.worlds.base import Float, World, WorldParameters
from wm_pipelines.worlds.parts import field_data
from wm_pipelines.worlds.parts.field_data import Arrays, MeasurementConfig, PointsConfig


class FieldParameters(WorldParameters):
    """Base of every field world's parameters: physical ones (SI units) are added, these say what is known of it."""

    points: PointsConfig = PointsConfig()
    measurements: MeasurementConfig = MeasurementConfig()
    unknown: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="coefficients to be found from the measurements: symbol -> [low, high]"
    )
    grid: list[int] = Field(default_factory=list, description="grid points per coordinate, for the evaluation")

    @field_validator("grid")
    @classmethod
    def _a_grid(cls, grid: list[int]) -> list[int]:
        if any(n < 2 for n in grid):
            raise ValueError(f"at least 2 points per coordinate, got {grid}")
        return grid

    @model_validator(mode="after")
    def _enough(self) -> FieldParameters:
        if self.unknown and not self.measurements.count and self.measurements.table is None:
            names = ", ".join(self.unknown)
            raise ValueError(f"nothing to find {names} from; give measurements.count or measurements.table")
        return self


class FieldWorld(World):
    """One partial differential equation with its initial and boundary conditions; its solution is its only episode.

    Subclasses set `name` and `Parameters` and give `problem`; equations are data, everything else is numpy float64.

    Attributes:
        reference: the true fields, ``points [N, d] -> [N, F]``; None (here) where they are unknown.
        divergence: vanishes where a flow is free of divergence; None (here) where there is no flow.
    """

    parameters: FieldParameters
    reference: Callable[[Float], Float] | None = None
    divergence: ClassVar[Equation | None] = None

    @abstractmethod
    def problem(self) -> Problem:
        """The equations with their conditions, all coefficients known."""

    def balances(self) -> Mapping[str, Balance]:
        """Quantities whose content changes by known production alone; here: none."""
        return {}

    @abstractmethod
    def describe(self) -> str:
        """One English sentence."""

    # ------------------------------------------------------------ what follows from it

    def posed(self) -> Problem:
        """The problem under the world's name in the parameter files, its unknown coefficients hidden.

        Raises:
            UserError: no such coefficient, or bounds that are not ``0 < low < high`` around the true value.
        """
        problem = self.problem()
        coefficients = dict(problem.coefficients)
        for symbol, (low, high) in self.parameters.unknown.items():
            if symbol not in coefficients:
                known = ", ".join(coefficients) or "none"
                raise UserError(f"'{self.entry}': no coefficient '{symbol}' to be found; it has {known}")
            about, value = f"'{self.entry}': bounds of '{symbol}'", coefficients[symbol].value
            if not 0 < low < high:
                raise UserError(f"{about}: need 0 < low < high, got [{low:g}, {high:g}]; correct 'unknown.{symbol}'")
            if value is not None and not low <= value <= high:
                raise UserError(
                    f"{about}, [{low:g}, {high:g}], do not hold the world's own value {value:g}; "
                    f"widen 'unknown.{symbol}'"
                )
            coefficients[symbol] = replace(coefficients[symbol], value=None, bounds=(low, high))
        return replace(problem, name=self.entry, coefficients=coefficients)

    def facts(self) -> dict[str, Any]:
        """The problem, see `Problem.to_facts`."""
        return self.posed().to_facts()

    def laws(self) -> Laws:
        """The solution, the coefficients, and what they obey.

        Of the user's own measurements of an unknown coefficient neither is the truth.
        """
        problem, own = self.problem(), self.parameters.measurements.table is not None
        hidden = set(self.parameters.unknown) if own else set()
        values = {n: c.value for n, c in problem.coefficients.items() if c.value is not None and n not in hidden}
        return Laws(
            reference=None if hidden else self.reference,
            coefficients=values,
            conditions=problem.conditions,
            balances=self.balances(),
            divergence=self.divergence,
        )

    def check(self) -> None:
        """Everything that can be wrong before anything is computed.

        Raises:
            UserError: conditions that contradict each other, a table with faults, a coefficient that does not exist.
        """
        problem = self.posed()
        field_data.check_conditions(problem)
        field_data.grid_shape(problem, self.parameters.grid)
        if self.parameters.measurements.table is not None:
            field_data.measurements(problem, self.parameters.measurements, None, 0)

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """One episode per split: ``train`` is what families may see, by ``validation`` and ``test`` they are judged.

        Views, each with a leading axis 1: see `field_data`.

        Args:
            seed: of points, and of measurements without a seed of their own.

        Raises:
            UserError: see `check`; a value is not finite.
        """
        self.check()
        p, problem, reference = self.parameters, self.posed(), self.laws().reference
        validation = field_data.anywhere(problem, p.points.validation, seed, "validation")
        measured = field_data.measurements(problem, p.measurements, reference, seed)
        grid = field_data.grid(problem, p.grid)
        truth = {} if reference is None else {"reference": np.asarray(reference(grid["grid"]), np.float64)}
        splits: dict[str, Arrays] = {
            "train": {
                "interior": field_data.anywhere(problem, p.points.interior, seed, "interior"),
                "validation": validation,
                **field_data.conditions(problem, p.points, seed),
                **measured,
            },
            "validation": {"validation": validation},
            "test": grid | truth | {n: view for n, view in measured.items() if n == "measurement_values"},
        }
        for views in splits.values():
            for name, view in views.items():
                if not np.isfinite(view).all():
                    raise UserError(f"'{self.entry}': {name} is not finite; check the world's formulas and parameters")
        return {
            split: self.episodes({name: view[None] for name, view in views.items()}, 0.0, {"seed": seed})
            for split, views in splits.items()
        }
