"""What one trial does: train with the proposed parameters, judge on the validation split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_pipelines.errors import UserError, validate
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.search_space import TuningConfig
from wm_pipelines.mappings import deep_merge, nested
from wm_pipelines.pipelines.configuration import EvaluationConfig, FamilyParameters, check_seeds
from wm_pipelines.pipelines.evaluation.judging import judge
from wm_pipelines.pipelines.training.fitting import as_tensors, fit_variant
from wm_pipelines.worlds.episodes import Episodes, WorldConfig, build_world


@dataclass(frozen=True)
class TuningObjective:
    """Callable for `run_study`; holds plain data alone, so that it travels to other processes."""

    config: TuningConfig
    base: Mapping[str, Any]
    world: WorldConfig
    train: Episodes
    validation: Episodes
    learning: LearningConfig
    evaluation: EvaluationConfig
    seeds: tuple[int, ...]

    @classmethod
    def create(
        cls, config: TuningConfig, parameters: Mapping[str, Any], episodes: Mapping[str, Episodes]
    ) -> TuningObjective:
        """Pick from all parameters what the study needs.

        Raises:
            UserError: no validation split, no such variant, or parameters that are wrong by themselves.
        """
        base = base_settings(config, parameters)
        if "validation" not in episodes:
            raise UserError(f"world '{config.world}' has no split 'validation' to tune on; add one to its splits")
        learning = validate(LearningConfig, parameters.get("learning", {}), "learning")
        return cls(
            config,
            base,
            validate(WorldConfig, parameters[config.world], config.world),
            episodes["train"],
            episodes["validation"],
            learning.model_copy(update={"progress": False}),
            validate(EvaluationConfig, parameters.get("evaluation", {}), "evaluation"),
            tuple(check_seeds(parameters.get("seeds"))),
        )

    @property
    def context(self) -> str:
        """What a value depends on beside the searched parameters; a study is resumed in the same context only."""
        what = [dict(self.base), self.seeds, self.train.content_hash, self.validation.content_hash]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def __call__(self, proposal: Mapping[str, Any]) -> float:
        """Train and judge: the metric's mean over seeds and validation episodes."""
        config, name = self.config, self.config.world
        system = build_world(self.world, "train", name).system(float(self.train.metadata["step"]))
        settings = deep_merge(self.base, nested(proposal))
        fitted = fit_variant(
            config.family,
            name,
            config.variant,
            settings,
            as_tensors(self.train),
            self.train.content_hash,
            system,
            self.learning,
            self.seeds,
            None,
        )
        judged = judge(fitted.model, "validation", self.validation, system, self.evaluation)
        values = [row["value"] for row in judged.rows if row["metric"] == config.metric and row["step"] < 0]
        if not values:
            known = sorted({row["metric"] for row in judged.rows})
            raise UserError(f"parameter 'tuning.metric': no '{config.metric}' on {name}; there is {', '.join(known)}")
        return float(np.mean(values))


def base_settings(config: TuningConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the study's family, variant and world, which proposals change.

    Raises:
        UserError: no such variant.
    """
    family = validate(FamilyParameters, parameters[config.family], config.family)
    if config.variant not in family.variants:
        raise UserError(
            f"parameter 'tuning.variant': {config.family} has no variant '{config.variant}'; "
            f"known: {', '.join(family.variants)}"
        )
    return family.resolve(config.variant, config.world)
