"""The first page: the results of all tasks on one board; and a few numbers that stand for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from wm_pipelines.registry import tasks
from wm_pipelines.reporting import page
from wm_pipelines.reporting.style import COST_METRICS, lower_is_better, metric_title, model_order
from wm_pipelines.reporting.summary import (
    chosen,
    competes,
    main_split,
    on_main_split,
    rows_by_model,
)
from wm_pipelines.reporting.winners import Win, answers, model_of, wins

_TITLE = "World models"
PLAY = ("Play a learned world", "play.html")
"""Title and file of the page of `reporting.play`."""
_MOST = 3  # of the best in the table of winners
_HASH = 12  # digits of a hash that the page shows


def first_page(
    summary: pd.DataFrame, made_from: Mapping[str, Mapping[str, Any]] | None = None, played: bool = False
) -> str:
    """One HTML page that needs nothing else: who wins, and the main metrics of every task to be filtered and sorted.

    It links to the reports of the tasks that have results, and to no other.

    Args:
        summary: of the leaderboard, see `summary_table`. made_from: by task, what its part was made from.
        played: whether there is a page to play on, to be linked to as well.
    """
    made_from = made_from or {}
    summary = _as_listed(summary[on_main_split(summary)], made_from)  # what else was judged stands on the tasks' pages
    main = {name: _shown(own, tasks.get(name).main_metrics) for name, own in _by_task(summary)}
    metrics = list(dict.fromkeys(m for name in main for m in main[name]))
    metrics = sorted(metrics, key=lambda m: (m == "train_seconds", metrics.index(m)))  # every task has it: last
    splits, found = _judged(summary).groupby("world")["split"].unique(), wins(summary)
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
    titles = {name: (tasks.get(name).title, tasks.get(name).file) for name in main}
    sources = {name: made for name, made in made_from.items() if name in main}
    return page.render(
        "board.html.j2",
        "",
        model_order(row["key"].model for row in rows),
        figures=False,
        beside=[*titles.values(), *([PLAY] if played else [])],
        provenance={titles[name][0]: _source(made) for name, made in sources.items()},
        title=_TITLE,
        answers=[(a.question, [(titles[task][0], text) for task, text in a.clauses]) for a in answers(found)],
        wins=[_win(win, *titles[win.task]) for win in found],
        thresholds=[(titles[name][0], made.get("thresholds", [])) for name, made in sources.items()],
        samples=[(titles[name][0], page.sample(own, "held-out examples")) for name, own in _by_task(summary)],
        rows=rows,
        columns=page.columns(summary, metrics),
        tasks=list(dict.fromkeys(row["task"] for row in rows)),
        worlds=[],
        worlds_shown=list(dict.fromkeys(row["key"].world for row in rows)),
        views=sorted({row["key"].view for row in rows}),
        words=sorted({word for row in rows for word in row["words"]}),
        glossary=[],
    )


def _as_listed(summary: pd.DataFrame, made_from: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of every task with its worlds as they were listed; those that were not, last."""
    order = {(task, w): i for task, made in made_from.items() for i, w in enumerate(made.get("worlds", ()))}
    place = [order.get(at, len(order)) for at in zip(summary["task"], summary["world"], strict=True)]
    return summary.assign(_place=place).sort_values(["task", "_place"], kind="stable").drop(columns="_place")


def _shown(own: pd.DataFrame, patterns: Sequence[str]) -> list[str]:
    """A task's main metrics; of several that one pattern chooses, what most models have first."""
    counts = own["metric"].value_counts()
    return list(
        dict.fromkeys(
            m for pattern in patterns for m in sorted(chosen(counts.index, [pattern]), key=lambda m: -counts[m])
        )
    )


def _win(win: Win, title: str, file: str) -> dict[str, Any]:
    """A row of the table of winners."""
    return {
        "task": title,
        "file": file,
        "world": win.world,
        "metric": metric_title(win.metric),
        "best": [(model_of(row), page.cell(row)) for row in win.best[:_MOST]],
        "more": len(win.best) - _MOST if len(win.best) > _MOST else 0,
        "some_nothing": win.generic_wins and bool(win.told),
        "generic": None if win.generic is None else (model_of(win.generic), page.cell(win.generic)),
        "gain": win.gain,
        "told": win.told,
    }


def _source(made: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance with hashes cut to what tells them apart."""
    short = {
        world: ", ".join(f"{split} {digest[:_HASH]}" for split, digest in own.items())
        for world, own in made.get("data", {}).items()
    }
    return page.origin({**made, **({"data": short} if short else {})})


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
