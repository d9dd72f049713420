"""Nodes of the evaluation pipeline."""

from __future__ import annotations

from typing import Any

import pandas as pd

from wm_pipelines.pipelines.configuration import EvaluationConfig
from wm_pipelines.worlds.episodes import WorldConfig

_NOT_JUDGED = {"train", "validation"}


def evaluate_family(
    models: Any,
    episodes: dict[str, Any],
    world: WorldConfig,
    cost: dict[str, Any],
    evaluation: EvaluationConfig,
    *,
    family_name: str,
    world_name: str,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Leaderboard rows, and roll-outs for the figures, of every variant on every held-out split."""
    from wm_pipelines.pipelines.evaluation.judging import cost_rows, judge, table
    from wm_pipelines.worlds.episodes import build_world

    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for variant, model in models.variants.items():
        rows += [{"variant": variant, **row} for row in cost_rows(cost[variant], list(model.card["seeds"]))]
        for split in sorted(set(episodes) - _NOT_JUDGED):
            system = build_world(world, split, world_name).system(episodes[split].metadata["step"])
            judged = judge(model, split, episodes[split], system, evaluation)
            rows += [{"variant": variant, **row} for row in judged.rows]
            arrays |= {f"{split}/{variant}/{name}": array for name, array in judged.arrays.items()}
    return table(rows, world_name, family_name), arrays


def collect_family(
    *parts: Any, worlds: tuple[str, ...]
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame, dict[str, Any]]:
    """One family's scores, roll-outs and learning curves on all worlds, and where it does not apply.

    Args:
        parts: scores of every world, then roll-outs of every world, then curves, then models. worlds: their names.
    """
    count = len(worlds)
    scores, rollouts, curves, models = (parts[i * count : (i + 1) * count] for i in range(4))
    named = list(zip(worlds, models, strict=True))
    return (
        pd.concat(scores, ignore_index=True),
        {f"{world}/{name}": a for world, arrays in zip(worlds, rollouts, strict=True) for name, a in arrays.items()},
        pd.concat([c.assign(world=w) for w, c in zip(worlds, curves, strict=True)], ignore_index=True),
        {
            "not_applicable": {world: m.not_applicable for world, m in named if m.not_applicable},
            "data": {world: v.card["data_hash"] for world, m in named for v in m.variants.values()},
        },
    )


def concatenate(*scores: pd.DataFrame) -> pd.DataFrame:
    """One table of several, in a stable order of rows."""
    together = pd.concat(scores, ignore_index=True)
    return together.sort_values(
        ["world", "family", "variant", "split", "metric", "seed", "step"], kind="stable", ignore_index=True
    )


def leaderboard(parts: dict[str, pd.DataFrame], *written: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The union of all pipelines' parts (those just written are among them), as Parquet and as CSV.

    Args:
        parts: one table per evaluation pipeline. written: only orders this node after those that write them.
    """
    del written
    union = concatenate(*parts.values())
    return union, union
