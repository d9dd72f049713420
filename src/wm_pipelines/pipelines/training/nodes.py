"""Nodes of the training pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.pipelines.configuration import FamilyParameters
from wm_pipelines.worlds.episodes import WorldConfig


def train_node(family_name: str, world_name: str) -> Callable[..., tuple[Any, pd.DataFrame, dict[str, Any]]]:
    """The node function that trains one family on one world."""

    def train_family(
        episodes: dict[str, Any],
        world: WorldConfig,
        family: FamilyParameters,
        learning: LearningConfig,
        seeds: list[int],
        checkpoints: Any,
    ) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
        """Fitted models by variant, their learning curves, and what they cost."""
        from wm_pipelines.learning.artifacts import Models
        from wm_pipelines.pipelines.training.fitting import fit_variant
        from wm_pipelines.worlds.episodes import build_world

        system = build_world(world, "train").system(episodes["train"].metadata["step"])
        from wm_pipelines.families import get_family

        if (reason := get_family(family_name).unsuitable(system)) is not None:
            return Models(not_applicable=reason), pd.DataFrame({"variant": [], "seed": [], "step": []}), {}
        models, curves, costs = {}, [], {}
        for variant in family.variants:
            fitted = fit_variant(
                family_name, world_name, variant, family, episodes["train"], system, learning, seeds, checkpoints
            )
            models[variant], costs[variant] = fitted.model, fitted.cost
            curves.append(fitted.curve)
        return Models(models), pd.concat(curves, ignore_index=True), costs

    return train_family
