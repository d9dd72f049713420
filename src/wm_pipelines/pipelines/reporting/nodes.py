"""Nodes of the reporting pipeline."""

from __future__ import annotations

from typing import Any

import pandas as pd

from wm_pipelines.pipelines.configuration import EvaluationConfig
from wm_pipelines.worlds.episodes import WorldConfig

FIGURES = ("energy_error", "error_growth")


def summarise(
    leaderboard: pd.DataFrame, *, elsewhere: tuple[str, ...] = ()
) -> tuple[pd.DataFrame, dict[str, Any], str, str]:
    """Seeds pooled: as a table, as numbers for `dvc metrics`, as text for the terminal, as Markdown.

    The texts leave out the worlds that are reported ``elsewhere``.
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
    own = summary[~summary["world"].isin(elsewhere)]
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
    elsewhere: tuple[str, ...] = (),
) -> str:
    """The whole report as one HTML page that needs nothing else.

    Args:
        leaderboard: the long table. evaluation: how it came about.
        parts: the worlds' configurations, then roll-outs, curves and facts of every family. worlds, families: names.
        elsewhere: worlds that have a report of their own, which is linked to where it has any results.
    """
    from wm_pipelines.pipelines.reporting.gathering import report_content
    from wm_pipelines.reporting.html import build_report

    configs, rest = dict(zip(worlds, parts[: len(worlds)], strict=True)), parts[len(worlds) :]
    count = len(families)
    rollouts, curves, facts = (dict(zip(families, rest[i * count : (i + 1) * count], strict=True)) for i in range(3))
    others = leaderboard["world"].isin(elsewhere)
    content = report_content(leaderboard[~others], configs, rollouts, curves, facts, evaluation)
    return build_report(content, fields=bool(others.any()))
