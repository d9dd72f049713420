"""Nodes of the reporting pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd

from wm_pipelines.pipelines.configuration import EvaluationConfig
from wm_pipelines.worlds.episodes import WorldConfig

_NOWHERE: Mapping[str, Sequence[str]] = MappingProxyType({})
FIGURES = ("energy_error", "error_growth")


def summarise(
    leaderboard: pd.DataFrame, *, elsewhere: Mapping[str, Sequence[str]] = _NOWHERE
) -> tuple[pd.DataFrame, dict[str, Any], str, str]:
    """Seeds pooled: as a table, as numbers for `dvc metrics`, as text for the terminal, as Markdown.

    The texts leave out the worlds that are reported ``elsewhere``, by evaluation pipeline.
    """
    from wm_pipelines.reporting.summary import format_markdown, format_terminal, summary_table

    summary = summary_table(leaderboard)
    physics = summary[
        ~summary["metric"].isin(["train_seconds", "train_flops", "step_ms", "peak_memory_mb", "parameters"])
    ]
    numbers: dict[str, Any] = {}
    for row in physics.to_dict("records"):
        key = f"{row['family']}/{row['variant']}"
        numbers.setdefault(row["world"], {}).setdefault(row["split"], {}).setdefault(key, {})[row["metric"]] = row[
            "value"
        ]
    own = summary[~_is_elsewhere(summary, elsewhere)]
    return summary, numbers, format_terminal(own) + "\n", format_markdown(own) + "\n"


def draw_world(
    leaderboard: pd.DataFrame,
    world: WorldConfig,
    evaluation: EvaluationConfig,
    *rollouts: Any,
    world_name: str,
    families: tuple[str, ...],
) -> tuple[Any, ...]:
    """Energy error over time, growth of the error: plotly figures (empty where there is nothing to show)."""
    from plotly.graph_objects import Figure

    from wm_pipelines.pipelines.reporting.gathering import report_content
    from wm_pipelines.reporting.figures import all_figures

    arrays = dict(zip(families, rollouts, strict=True))
    rows = leaderboard[leaderboard["world"] == world_name]
    figures = all_figures(report_content(rows, {world_name: world}, arrays, {}, {}, evaluation, frames=False))
    empty = Figure(layout={"title": {"text": f"{world_name}: nothing to show"}})
    return tuple(figures.get(f"{world_name}/{name}", empty) for name in FIGURES)


def write_report(
    leaderboard: pd.DataFrame,
    evaluation: EvaluationConfig,
    *parts: Any,
    worlds: tuple[str, ...],
    families: tuple[str, ...],
    elsewhere: Mapping[str, Sequence[str]] = _NOWHERE,
) -> str:
    """The whole report as one HTML page that needs nothing else.

    Args:
        leaderboard: the long table. evaluation: how it came about.
        parts: the worlds' configurations, then roll-outs, curves and facts of every family. worlds, families: names.
        elsewhere: evaluation pipelines and their worlds that have a report of their own; linked to if there is any.
    """
    from wm_pipelines.pipelines.reporting.gathering import report_content
    from wm_pipelines.reporting.motions import build_report

    configs, rest = dict(zip(worlds, parts[: len(worlds)], strict=True)), parts[len(worlds) :]
    count = len(families)
    rollouts, curves, facts = (dict(zip(families, rest[i * count : (i + 1) * count], strict=True)) for i in range(3))
    beside = [name for name, theirs in elsewhere.items() if leaderboard["world"].isin(theirs).any()]
    own = leaderboard[~_is_elsewhere(leaderboard, elsewhere)]
    content = report_content(own, configs, rollouts, curves, facts, evaluation)
    return build_report(content, beside=beside)


def _is_elsewhere(table: pd.DataFrame, elsewhere: Mapping[str, Sequence[str]]) -> pd.Series:
    """Whether a row belongs to a world that has a report of its own."""
    return table["world"].isin([world for worlds in elsewhere.values() for world in worlds])
