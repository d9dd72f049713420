"""The nodes of every task: ingest, train, evaluate, gather, report. The work is done on the floors below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.worlds.making import WorldConfig


def ingest(world: WorldConfig, *, world_name: str) -> dict[str, Any]:
    """Episodes of one world by split, simulated or read."""
    from threadpoolctl import threadpool_limits

    from wm_pipelines.worlds.making import ingest as make

    with threadpool_limits(1):  # worlds are numpy: torch, which `threads` sees to, is not imported for them
        return dict(make(world, world_name))


def train(
    episodes: dict[str, Any],
    family: FamilyParameters,
    learning: LearningConfig,
    seeds: list[int],
    checkpoints: Path,
    *,
    task_name: str,
    family_name: str,
    world_name: str,
) -> tuple[Any, dict[str, Any]]:
    """Fitted models by variant; their learning curves, what they cost, and which trainings these are of."""
    from wm_pipelines.learning.fitting import Assignment, fit_family
    from wm_pipelines.registry import tasks

    shows = tasks.get(task_name).shows
    assignment = Assignment(task_name, family_name, world_name, shows, episodes["train"], learning, seeds)
    models, curves, cost = fit_family(assignment, family, checkpoints)
    fingerprints = {variant: model.card["fingerprint"] for variant, model in models.variants.items()}
    return models, {"curves": curves, "cost": cost, "fingerprints": fingerprints}


def draw_manifest(
    episodes: dict[str, Any], evaluation: dict[str, Any], *, task_name: str, world_name: str
) -> dict[str, Any]:
    """What every model of a world is judged on, by split, and what reference policies make of it."""
    from wm_pipelines.registry import tasks
    from wm_pipelines.threads import threads

    task = tasks.get(task_name)()
    with threads(1):
        return task.manifest(episodes, task.config(evaluation, world_name))


def dose(
    manifest: dict[str, Any],
    episodes: dict[str, Any],
    evaluation: dict[str, Any],
    *,
    task_name: str,
    world_name: str,
) -> dict[str, Any]:
    """What laws that are wrong by a known amount do in a world; see `Task.doses`."""
    from wm_pipelines.registry import tasks
    from wm_pipelines.threads import threads

    task = tasks.get(task_name)()
    with threads(1):
        return task.doses(manifest, episodes, task.config(evaluation, world_name))


def evaluate(
    models: Any,
    episodes: dict[str, Any],
    training: dict[str, Any],
    evaluation: dict[str, Any],
    manifest: dict[str, Any] | None = None,
    *,
    task_name: str,
    family_name: str,
    world_name: str,
) -> dict[str, Any]:
    """Leaderboard rows of every variant on every held-out split, arrays for the report, and facts about both."""
    from wm_pipelines.pipelines.judging import judge_models

    return judge_models(task_name, family_name, world_name, models, episodes, training, evaluation, manifest)


def gather(**collected: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A task's part of the leaderboard, and what it was made from.

    Args:
        collected: results of every family on every world; where the task has a jury also its models
            (``jury_<world>``) and the episodes (``episodes_<world>``); where it has doses, they (``<world>_doses``).
    """
    from wm_pipelines.pipelines.gathering import part_of_leaderboard

    return part_of_leaderboard(collected)


def report(scores: pd.DataFrame, made_from: dict[str, Any], **collected: Any) -> tuple[str, str, dict[str, Any]]:
    """A task's page, its summary for the terminal, and its figures for kedro viz.

    Args:
        scores: the task's part of the leaderboard. made_from: what that was made from.
        collected: results and training of every family on every world; where the task has doses also them.
    """
    from wm_pipelines.pipelines.gathering import results_of
    from wm_pipelines.registry import tasks

    task = tasks.get(str(scores["task"].iloc[0]))()
    results = results_of(scores, made_from, collected)
    return task.page(results), task.summary(results.summary) + "\n", task.figures(results)


def leaderboard(parts: dict[str, Any], **written: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The union of the parts of all tasks, as Parquet and as CSV.

    Args:
        parts: table and provenance by task. written: only orders this node after those that write them.
    """
    from wm_pipelines.pipelines.gathering import union

    del written
    table = union(parts)
    return table, table


def board(
    leaderboard: pd.DataFrame, parts: dict[str, Any], played: bool
) -> tuple[str, pd.DataFrame, str, dict[str, float]]:
    """The first page; all results with seeds pooled as a table and as Markdown; a few numbers for `dvc metrics`.

    Args:
        leaderboard: the union of the parts. parts: table and provenance by task, also of those that were left out; the
            provenance holds the sets of the best. played: whether there is a page to play on.
    """
    from wm_pipelines.reporting.board import first_page, headline_numbers
    from wm_pipelines.reporting.summary import format_markdown, summary_table

    made_from = {name: origin for name, (_, origin) in parts.items()}
    best, limits = ({name: own.get(what, {}) for name, own in made_from.items()} for what in ("best", "limits"))
    summary = summary_table(leaderboard, best, limits)
    page, text = first_page(summary, made_from, played), format_markdown(summary) + "\n"
    return page, summary.drop(columns="starred"), text, headline_numbers(summary)


def figure_library() -> str:
    """The script that draws the figures of all pages, from the package that makes them."""
    from wm_pipelines.reporting.library import figure_library as source

    return source()
