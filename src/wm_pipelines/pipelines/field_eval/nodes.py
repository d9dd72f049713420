"""Nodes of the field_eval pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.pipelines.configuration import FamilyParameters
from wm_pipelines.worlds.fields.data import FieldConfig

_HIDDEN = {"grid", "grid_shape", "reference"}  # from families: what they are judged by


def ingest_field(world: FieldConfig, *, world_name: str) -> dict[str, Any]:
    """Points, conditions, measurements and the reference of one field."""
    from wm_pipelines.worlds.fields.data import ingest_field as ingest

    return ingest(world, world_name)


def train_field(
    data: dict[str, Any],
    world: FieldConfig,
    family: FamilyParameters,
    learning: LearningConfig,
    seeds: list[int],
    checkpoints: Path,
    *,
    family_name: str,
    world_name: str,
) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    """Fitted models by variant, their learning curves, and what they cost."""
    from wm_pipelines.pipelines.training.fitting import fit_family
    from wm_pipelines.worlds.fields.data import build_field_system, content_hash

    system = build_field_system(world, world_name)
    return fit_family(
        family_name, world_name, family, shown(data), content_hash(data), system, learning, seeds, checkpoints
    )


def shown(data: dict[str, Any]) -> dict[str, Any]:
    """What a family is given of a field's data, as tensors."""
    import torch

    return {name: torch.tensor(array) for name, array in data.items() if name not in _HIDDEN}


def evaluate_field(
    models: Any,
    data: dict[str, Any],
    world: FieldConfig,
    cost: dict[str, Any],
    *,
    family_name: str,
    world_name: str,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Leaderboard rows, and maps for the report, of every variant."""
    from wm_pipelines.pipelines.evaluation.judging import cost_rows, table
    from wm_pipelines.pipelines.field_eval.judging import judge_field
    from wm_pipelines.worlds.fields.data import build_field_system

    system = build_field_system(world, world_name)
    rows: list[dict[str, Any]] = []
    maps: dict[str, Any] = {name: data[name] for name in ("grid_shape", "reference") if name in data}
    for variant, model in models.variants.items():
        judged = judge_field(model.restore(system), data, system)
        # The loop counts operations of its gradient steps alone, not those of a second-order finish.
        whole = {name: value for name, value in cost[variant].items() if name != "train_flops"}
        costs = cost_rows(whole, list(model.card["seeds"]))
        rows += [{"variant": variant, **row} for row in (*costs, *judged.rows)]
        maps |= {f"{variant}/{name}": array for name, array in judged.arrays.items()}
    return table(rows, world_name, family_name), maps


def summarise_fields(scores: pd.DataFrame) -> str:
    """Seeds pooled, for the terminal."""
    from wm_pipelines.reporting.fields import format_terminal

    return format_terminal(scores) + "\n"


def write_field_report(
    scores: pd.DataFrame,
    leaderboard_parts: dict[str, pd.DataFrame],
    *parts: Any,
    worlds: tuple[str, ...],
    families: tuple[str, ...],
) -> str:
    """The report on fields as one HTML page that needs nothing else.

    Args:
        scores: the part of the leaderboard on fields. leaderboard_parts: all parts, to tell which reports there are.
        parts: the fields' configurations, then maps, curves and facts of every family. worlds, families: names.
    """
    from wm_pipelines.pipelines.reporting.gathering import learning_curves, provenance
    from wm_pipelines.reporting.fields import FieldContent, FieldMaps, build_field_report
    from wm_pipelines.worlds.fields.data import build_field_system, build_field_world

    configs, rest, count = dict(zip(worlds, parts[: len(worlds)], strict=True)), parts[len(worlds) :], len(families)
    maps, curves, facts = (dict(zip(families, rest[i * count : (i + 1) * count], strict=True)) for i in range(3))
    fields = []
    for name, config in configs.items():
        of_world = {
            (family, key.removeprefix(f"{name}/")): array
            for family, arrays in maps.items()
            for key, array in arrays.items()
            if key.startswith(f"{name}/")
        }
        if of_world:
            system, caption = build_field_system(config, name), build_field_world(config, name).describe()
            fields.append(FieldMaps.create(name, caption, system, of_world))
    content = FieldContent(scores, fields, learning_curves(curves), provenance(scores, facts))
    return build_field_report(content, beside=list(leaderboard_parts))
