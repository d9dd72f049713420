"""What one trial on pictures or videos does: train with the proposed parameters, judge on the validation split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wm_pipelines.errors import UserError, validate
from wm_pipelines.families import get_family
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.search_space import TuningConfig
from wm_pipelines.mappings import deep_merge, nested
from wm_pipelines.pipelines.configuration import ImageEvaluationConfig, VideoEvaluationConfig, check_seeds
from wm_pipelines.pipelines.evaluation.judging import Judgement
from wm_pipelines.pipelines.pixels.images import judge_images
from wm_pipelines.pipelines.pixels.judging import frame_system
from wm_pipelines.pipelines.pixels.videos import judge_videos
from wm_pipelines.pipelines.training.fitting import fit_variant
from wm_pipelines.pipelines.tuning.objective import base_settings
from wm_pipelines.worlds.episodes import Episodes, WorldConfig, build_world


@dataclass(frozen=True)
class PixelObjective:
    """Callable for `run_study`; holds plain data alone, so that it travels to other processes."""

    config: TuningConfig
    base: Mapping[str, Any]
    world: WorldConfig
    train: Episodes
    validation: Episodes
    learning: LearningConfig
    evaluation: ImageEvaluationConfig | VideoEvaluationConfig
    seeds: tuple[int, ...]

    @classmethod
    def create(
        cls, config: TuningConfig, parameters: Mapping[str, Any], episodes: Mapping[str, Episodes]
    ) -> PixelObjective:
        """Pick from all parameters what the study needs.

        Raises:
            UserError: no validation split, no such variant, a family that learns from no pictures, wrong parameters.
        """
        base = base_settings(config, parameters)
        if "validation" not in episodes:
            raise UserError(f"world '{config.world}' has no split 'validation' to tune on; add one to its splits")
        system = frame_system(episodes["train"], config.world)
        if (reason := get_family(config.family).unsuitable(system)) is not None:
            raise UserError(f"parameter 'tuning.family': {config.family} does not fit {config.world}: {reason}")
        evaluation: ImageEvaluationConfig | VideoEvaluationConfig
        if system.is_video:
            videos = validate(VideoEvaluationConfig, parameters.get("video_evaluation", {}), "video_evaluation")
            evaluation = videos.on(config.world)
        else:
            evaluation = validate(ImageEvaluationConfig, parameters.get("image_evaluation", {}), "image_evaluation")
        learning = validate(LearningConfig, parameters.get("pixel_learning", {}), "pixel_learning")
        return cls(
            config,
            base,
            validate(WorldConfig, parameters[config.world], config.world),
            episodes["train"],
            episodes["validation"],
            learning.model_copy(update={"progress": False}),
            evaluation,
            tuple(check_seeds(parameters.get("pixel_seeds"), "pixel_seeds")),
        )

    @property
    def context(self) -> str:
        """What a value depends on beside the searched parameters; a study is resumed in the same context only."""
        what = [dict(self.base), self.seeds, self.train.content_hash, self.validation.content_hash]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def __call__(self, proposal: Mapping[str, Any]) -> float:
        """Train and judge: the metric's mean over seeds."""
        name, system = self.config.world, frame_system(self.train, self.config.world)
        fitted = fit_variant(
            self.config.family,
            name,
            self.config.variant,
            deep_merge(self.base, nested(proposal)),
            {"frames": torch.tensor(self.train.frames)},
            self.train.content_hash,
            system,
            self.learning,
            self.seeds,
            None,
        )
        family = fitted.model.restore(system)
        assert isinstance(family, PixelFamily)
        judged = self._judged(family)
        values = [r["value"] for r in judged.rows if r["metric"] == self.config.metric and r["step"] < 0]
        if not values:
            known = sorted({row["metric"] for row in judged.rows if row["step"] < 0})
            raise UserError(
                f"parameter 'tuning.metric': no '{self.config.metric}' on {name}; there is {', '.join(known)}"
            )
        return float(np.mean(values))

    def _judged(self, family: PixelFamily) -> Judgement:
        """The validation split stands where held-out pictures do."""
        episodes = {"train": self.train, "test": self.validation}
        if isinstance(self.evaluation, ImageEvaluationConfig):
            return judge_images(family, True, episodes, self.evaluation)
        system = build_world(self.world, "train", self.config.world).system(float(self.train.metadata["step"]))
        return judge_videos(family, True, episodes, system, self.evaluation)
