"""The first page: the results of all tasks on one board; and a few numbers that stand for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from wm_pipelines.registry import tasks
from wm_pipelines.reporting import page
from wm_pipelines.reporting.style import COST_METRICS, lower_is_better, model_order
from wm_pipelines.reporting.summary import (
    BestSets,
    chosen,
    competes,
    main_split,
    on_main_split,
    rows_by_model,
    summary_table,
)

_TITLE = "World models"


def first_page(leaderboard: pd.DataFrame, best: Mapping[str, BestSets] | None = None) -> str:
    """One HTML page that needs nothing else: the main metrics of every task, to be filtered, searched and sorted."""
    summary = summary_table(leaderboard, best)
    summary = summary[on_main_split(summary)]  # what else was judged stands on the tasks' pages
    main = {name: chosen(own["metric"], tasks.get(name).main_metrics) for name, own in _by_task(summary)}
    metrics = list(dict.fromkeys(m for name in main for m in main[name]))
    metrics = sorted(metrics, key=lambda m: (m == "train_seconds", metrics.index(m)))  # every task has it: last
    splits = _judged(summary).groupby("world")["split"].unique()
    rows = [
        {
            "key": key if len(splits[key.world]) > 1 else key._replace(split=""),
            "task": tasks.get(key.task).title,
            "file": tasks.get(key.task).file,
            "words": key.knows.split(",") if key.knows else [],
            "cells": [page.cell(found.get(m) if m in main[key.task] else None) for m in metrics],
        }
        for key, found in rows_by_model(summary)
    ]
    return page.render(
        "board.html.j2",
        "",
        model_order(row["key"].model for row in rows),
        figures=False,
        provenance={},
        title=_TITLE,
        rows=rows,
        columns=page.columns(summary, metrics),
        tasks=list(dict.fromkeys(row["task"] for row in rows)),
        worlds=[],
        worlds_shown=list(dict.fromkeys(row["key"].world for row in rows)),
        views=sorted({row["key"].view for row in rows}),
        words=sorted({word for row in rows for word in row["words"]}),
        glossary=[],
    )


def headline_numbers(summary: pd.DataFrame) -> dict[str, float]:
    """The best trained model's value of the task's decisive metric, world by world: ``task.world.metric``."""
    found: dict[str, float] = {}
    for name, own in _by_task(summary):
        for world, rows in _judged(own[competes(own)]).groupby("world"):
            judged = rows[rows["split"] == main_split(rows["split"])]
            metric = next(iter(chosen(judged["metric"], tasks.get(name).main_metrics)), None)
            if metric is None:
                continue
            values = judged.loc[judged["metric"] == metric, "value"]
            found[f"{name}.{world}.{metric}"] = float(values.min() if lower_is_better(metric) else values.max())
    return found


def _judged(summary: pd.DataFrame) -> pd.DataFrame:
    """Without what training cost, which is of no evaluation split."""
    return summary[~summary["metric"].isin(COST_METRICS)]


def _by_task(summary: pd.DataFrame) -> list[tuple[str, Any]]:
    return [(str(name), own) for name, own in summary.groupby("task", sort=False)] if len(summary) else []
