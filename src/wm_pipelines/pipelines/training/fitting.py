"""Fit one variant of a family on one world's data; shared by every pipeline that trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from wm_pipelines.errors import validate
from wm_pipelines.families import get_family
from wm_pipelines.fields import FieldSystem
from wm_pipelines.learning.artifacts import Models, TrainedModel, versions
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train, training_fingerprint
from wm_pipelines.pipelines.configuration import FamilyParameters
from wm_pipelines.pixels import FrameSystem
from wm_pipelines.system import System
from wm_pipelines.worlds.episodes import Episodes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained model with its learning curve (``variant, seed, step, loss …``) and its cost."""

    model: TrainedModel
    curve: pd.DataFrame
    cost: dict[str, Any]


def fit_family(
    family: str,
    world: str,
    parameters: FamilyParameters,
    data: Mapping[str, torch.Tensor],
    data_hash: str,
    system: Any,
    learning: LearningConfig,
    seeds: Sequence[int],
    checkpoints: Path,
) -> tuple[Models, pd.DataFrame, dict[str, Any]]:
    """Fit every variant of a family on one world: models, learning curves, and what they cost.

    Where the family cannot model the system, there are no models but the reason.
    """
    if (reason := get_family(family).unsuitable(system)) is not None:
        return Models(not_applicable=reason), pd.DataFrame({"variant": [], "seed": [], "step": []}), {}
    store = CheckpointStore(checkpoints / family / world)
    fitted = {
        variant: fit_variant(
            family,
            world,
            variant,
            parameters.resolve(variant, world),
            data,
            data_hash,
            system,
            learning,
            seeds,
            store,
        )
        for variant in parameters.variants
    }
    return (
        Models({variant: one.model for variant, one in fitted.items()}),
        pd.concat([one.curve for one in fitted.values()], ignore_index=True),
        {variant: one.cost for variant, one in fitted.items()},
    )


def fit_variant(
    family: str,
    world: str,
    variant: str,
    settings: Mapping[str, Any],
    data: Mapping[str, torch.Tensor],
    data_hash: str,
    system: System | FieldSystem | FrameSystem,
    learning: LearningConfig,
    seeds: Sequence[int],
    store: CheckpointStore | None,
) -> Fitted:
    """Train with these settings of the family's `Config`, and pack what came of it.

    Args:
        data: what `Family.fit` and `Family.examples` take: episodes, or a field's points and measurements.
        data_hash: of the data, kept on the model's card. settings, system, learning, seeds: see `train`.
        store: where checkpoints go; None keeps none.
    """
    family_class = get_family(family)
    config = validate(family_class.Config, settings, f"{family} ({variant} on {world})")
    model = family_class(config, system, seeds)
    fingerprint = training_fingerprint(model, learning, data_hash)
    run = train(model, data, learning, store, variant, data_hash, f"{family}/{variant} on {world}")
    count = sum(p.numel() for p in model.parameters()) // len(seeds)
    logger.info(
        "%s/%s on %s: %d parameters, %.1f s for %d seeds.", family, variant, world, count, run.seconds, len(seeds)
    )
    card = {
        "family": family,
        "world": world,
        "variant": variant,
        "config": config.model_dump(mode="json"),
        "seeds": list(seeds),
        "data_hash": data_hash,
        "fingerprint": fingerprint,
        "versions": versions(),
        "summary": model.extra_summary(),
    }
    cost = {
        "train_seconds": run.seconds / len(seeds),
        "parameters": count,
        "peak_memory_mb": run.memory_mb,
        "train_flops": None if math.isnan(run.flops) else run.flops / len(seeds),
    }
    return Fitted(TrainedModel(model.state_dict(), card), curve_table(variant, run.curve), cost)


def curve_table(variant: str, rows: list[dict[str, float]]) -> pd.DataFrame:
    """Learning curve with columns in one order, however the rows came about: ``variant, step, seed, loss``, terms."""
    first = ["step", "seed", "loss"]
    terms = sorted({name for row in rows for name in row} - set(first))
    table = pd.DataFrame(rows, columns=[*first, *terms])
    table.insert(0, "variant", variant)
    return table


def as_tensors(episodes: Episodes) -> dict[str, torch.Tensor]:
    """The numeric columns of episodes as tensors (copied: stored episodes are read-only)."""
    columns = {name: getattr(episodes, name) for name in ("state", "time", "derivative", "action", "reward", "frames")}
    return {name: torch.tensor(array) for name, array in columns.items() if array is not None}
