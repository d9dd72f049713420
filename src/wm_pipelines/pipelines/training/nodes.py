"""Nodes of the training pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.pipelines.configuration import FamilyParameters
from wm_pipelines.worlds.episodes import WorldConfig


def train_family(
    episodes: dict[str, Any],
    world: WorldConfig,
    family: FamilyParameters,
    learning: LearningConfig,
    seeds: list[int],
    checkpoints: Path,
    *,
    family_name: str,
    world_name: str,
) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    """Fitted models by variant, their learning curves, and what they cost."""
    from wm_pipelines.pipelines.training.fitting import as_tensors, fit_family
    from wm_pipelines.worlds.episodes import build_world

    train = episodes["train"]
    system = build_world(world, "train", world_name).system(train.metadata["step"])
    return fit_family(
        family_name, world_name, family, as_tensors(train), train.content_hash, system, learning, seeds, checkpoints
    )
