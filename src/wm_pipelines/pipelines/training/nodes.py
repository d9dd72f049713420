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
    from wm_pipelines.families import get_family
    from wm_pipelines.learning.artifacts import Models
    from wm_pipelines.learning.checkpoints import CheckpointStore
    from wm_pipelines.pipelines.training.fitting import as_tensors, fit_variant
    from wm_pipelines.worlds.episodes import build_world

    train = episodes["train"]
    system = build_world(world, "train", world_name).system(train.metadata["step"])
    if (reason := get_family(family_name).unsuitable(system)) is not None:
        return Models(not_applicable=reason), pd.DataFrame({"variant": [], "seed": [], "step": []}), {}
    fitted = {
        variant: fit_variant(
            family_name,
            world_name,
            variant,
            family.resolve(variant, world_name),
            as_tensors(train),
            train.content_hash,
            system,
            learning,
            seeds,
            CheckpointStore(checkpoints / family_name / world_name),
        )
        for variant in family.variants
    }
    return (
        Models({variant: one.model for variant, one in fitted.items()}),
        pd.concat([one.curve for one in fitted.values()], ignore_index=True),
        {variant: one.cost for variant, one in fitted.items()},
    )
