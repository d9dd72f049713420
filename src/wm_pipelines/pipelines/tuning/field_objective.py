"""What one trial on a field does: solve with the proposed parameters, judge the residual at the validation points."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_pipelines.errors import UserError, validate
from wm_pipelines.families import get_family
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.search_space import TuningConfig
from wm_pipelines.mappings import deep_merge, nested
from wm_pipelines.pipelines.configuration import check_seeds
from wm_pipelines.pipelines.field_eval.judging import judge_field
from wm_pipelines.pipelines.field_eval.nodes import shown
from wm_pipelines.pipelines.training.fitting import fit_variant
from wm_pipelines.pipelines.tuning.objective import base_settings
from wm_pipelines.worlds.fields.data import FieldConfig, build_field_system, content_hash


@dataclass(frozen=True)
class FieldObjective:
    """Callable for `run_study`; holds plain data alone, so that it travels to other processes."""

    config: TuningConfig
    base: Mapping[str, Any]
    world: FieldConfig
    data: Mapping[str, Any]
    learning: LearningConfig
    seeds: tuple[int, ...]

    @classmethod
    def create(cls, config: TuningConfig, parameters: Mapping[str, Any], data: Mapping[str, Any]) -> FieldObjective:
        """Pick from all parameters what the study needs.

        Raises:
            UserError: no such variant, a family that cannot solve for fields, or parameters that are wrong.
        """
        world = validate(FieldConfig, parameters[config.world], config.world)
        if (reason := get_family(config.family).unsuitable(build_field_system(world, config.world))) is not None:
            raise UserError(f"parameter 'tuning.family': {config.family} does not fit {config.world}: {reason}")
        learning = validate(LearningConfig, parameters.get("learning", {}), "learning")
        return cls(
            config,
            base_settings(config, parameters),
            world,
            data,
            learning.model_copy(update={"progress": False}),
            tuple(check_seeds(parameters.get("seeds"))),
        )

    @property
    def context(self) -> str:
        """What a value depends on beside the searched parameters; a study is resumed in the same context only."""
        what = [dict(self.base), self.seeds, content_hash(self.data)]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def __call__(self, proposal: Mapping[str, Any]) -> float:
        """Solve and judge: the metric's mean over seeds. The reference has no part in it."""
        config, name = self.config, self.config.world
        system = build_field_system(self.world, name)
        fitted = fit_variant(
            config.family,
            name,
            config.variant,
            deep_merge(self.base, nested(proposal)),
            shown(dict(self.data)),
            content_hash(self.data),
            system,
            self.learning,
            self.seeds,
            None,
        )
        judged = judge_field(fitted.model.restore(system), self.data, system, "validation")
        values = [row["value"] for row in judged.rows if row["metric"] == config.metric]
        if not values:
            known = sorted({row["metric"] for row in judged.rows})
            raise UserError(f"parameter 'tuning.metric': no '{config.metric}' on {name}; there is {', '.join(known)}")
        return float(np.mean(values))
