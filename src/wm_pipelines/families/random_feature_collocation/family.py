"""Random-feature collocation: a field is a sum of random ridge features that meets its equation in least squares.

Dong & Li 2021 (Comput. Methods Appl. Mech. Eng. 387) and Chen et al. 2022 (arXiv 2207.13380): the closed-form relative
of physics-informed networks (Raissi, Perdikaris, Karniadakis 2019). A linear equation is one least-squares problem, a
nonlinear one takes a few Gauss-Newton steps; long times are cut into slabs, each started where the one before ended.

Where this departs from the papers: the features' slopes are chosen by the residual between the collocation points;
coordinates stretch to where the field is steep; unknown coefficients are found from measurements by Gauss-Newton on the
coefficients alone (see `blocks.unknown_coefficients` for their intervals).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from wm_pipelines.blocks.field_solution import FieldSolution, only_episode
from wm_pipelines.blocks.least_squares import least_squares
from wm_pipelines.blocks.unknown_coefficients import UnknownCoefficients
from wm_pipelines.equations import FACTS, Problem
from wm_pipelines.families import register
from wm_pipelines.families.base import Family, FamilyConfig, Views
from wm_pipelines.families.random_feature_collocation.slabs import Collocation, CollocationConfig
from wm_pipelines.spec import Spec

logger = logging.getLogger(__name__)

_FINDING_STEPS = 20
_ADAPT_AGAIN = 0.05  # change of an unknown coefficient, relative


@register
class RandomFeatureCollocation(FieldSolution, Family):
    """A field that is linear in its coefficients."""

    name: ClassVar[str] = "random_feature_collocation"
    Config: ClassVar[type[FamilyConfig]] = CollocationConfig
    needs: ClassVar[tuple[str, ...]] = ("interior",)
    config: CollocationConfig

    def __init__(self, config: CollocationConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        self.problem = Problem.from_facts(self.spec.facts, spec.name)
        self.unknown = UnknownCoefficients(self.problem, seeds)
        self.solution = Collocation(config, self.problem, seeds)

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """The equation and everything that is given about it."""
        del config
        return FACTS

    @torch.no_grad()
    def fit(self, episodes: Views) -> Views:
        """Solve with the steepness that leaves the least residual between the collocation points."""
        data, best, called = only_episode(episodes), torch.inf, f"{self.name} on {self.spec.name}"
        for steepness in self.config.steepness:
            self.solution.draw(steepness)
            left = self.solution.solve(data, self.unknown.values, adapt=True)
            between = float(self.residual_rms(data["validation"]).mean())
            logger.info("%s: slopes up to %g leave a residual of %.1e.", called, steepness, between)
            if not between >= best:
                best, rms, kept = between, left, copy.deepcopy(self.solution)
        self.solution = kept
        if len(self.unknown):
            rms = self._find_unknown(data)
        return {"loss": rms, "residual": self.residual_rms(data["validation"])}

    def _find_unknown(self, data: Views) -> Tensor:
        """Gauss-Newton on the measurements; the solution and its sensitivity follow the unknown coefficients.

        Every step solves the equation for the present coefficients, so the field obeys it exactly and the measurements
        are explained by the coefficients alone.
        """
        (low, high), log = self.unknown.log_bounds, self.unknown.log
        adapted_at = log.clone()
        for _ in range(_FINDING_STEPS):
            # A layer's width may follow the unknown: once it has moved, the stretching is made anew.
            adapt = bool((log - adapted_at).abs().max() > _ADAPT_AGAIN)
            if adapt:
                adapted_at = log.clone()
            rms = self.solution.solve(data, self.unknown.values, adapt)
            left, design = self._misfit(data)
            step = least_squares(design, left[..., None], 1e-12)[..., 0].clamp(-0.7, 0.7)
            before = log.clone()
            log.copy_((log + step).clamp(low, high))
            if (log - before).abs().max() < 1e-6:
                break
        self.unknown.determine(design.mT @ design)
        called, remedy = f"{self.name} on {self.spec.name}", "Raise features or slabs."
        self.unknown.check(left, data["measurement_points"], data["measurement_index"], called, remedy)
        return rms

    def _misfit(self, data: Views) -> tuple[Tensor, Tensor]:
        """What measurements leave unexplained ``[S, M]``, and its derivative by the log of the unknown, ``[S, M, P]``.

        Both in units of the noise, which is estimated for each field from its own residuals.
        """
        points, index, names = data["measurement_points"], data["measurement_index"], self.problem.fields
        reached = self.solution.values(points, names)
        slope = self.solution.values(points, names, self.solution.sensitivity)
        every = torch.arange(len(index))
        left = data["measurement_values"] - torch.stack([reached[n] for n in names], -1)[:, every, index]
        design = torch.stack([slope[n] for n in names], -1)[:, every, :, index].movedim(0, 1)
        self.unknown.estimate_noise(left, index)
        scale = self.unknown.noise[:, index].clamp_min(1e-300)
        return left / scale, design * self.unknown.values[:, None] / scale[..., None]

    def derivatives(self, points: Tensor, symbols: Sequence[str]) -> dict[str, Tensor]:
        """Fields and derivatives, e.g. ``u_xx``, at ``points [N, d]``: each ``[S, N]``."""
        return self.solution.values(points, symbols)
