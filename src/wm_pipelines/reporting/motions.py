"""The report on motions: who obeys physics, for how long, at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wm_pipelines.metrics.registry import STATE_METRICS
from wm_pipelines.reporting import page
from wm_pipelines.reporting.animation import Animation, animate
from wm_pipelines.reporting.content import ReportContent, WorldRollouts
from wm_pipelines.reporting.figures import main_split, models_of, world_figures
from wm_pipelines.reporting.style import (
    COST_DESCRIPTIONS,
    COST_METRICS,
    REFERENCES,
    lower_is_better,
    metric_order,
    metric_title,
    model_label,
    model_order,
    pretty_number,
    split_model,
)
from wm_pipelines.reporting.summary import rows_by_model, summary_table

Rows = dict[tuple[str, str], dict[str, dict[str, Any]]]  # (world, "family/variant") -> metric -> summary row


def build_report(content: ReportContent, animation_budget: int = 300_000, *, beside: Sequence[str] = ()) -> str:
    """Write the report.

    The page embeds everything it shows, reads no network, holds no clock and no random name: equal content gives equal
    bytes.

    Args:
        content: what to show; sections without data vanish.
        animation_budget: largest size of one world's animation in bytes.
        beside: evaluation pipelines whose reports lie in the same folder, to link to.

    Returns:
        The HTML text.
    """
    summary = summary_table(content.leaderboard)
    models = models_of(content)
    main = _main_rows(summary)
    worlds = [
        _world_section(content, world, i, summary, main, animation_budget) for i, world in enumerate(content.worlds)
    ]
    return page.render(
        "report.html.j2",
        "physics_eval",
        models,
        figures=any(w["figures"] for w in worlds),
        provenance=content.provenance,
        beside=beside,
        title=content.title,
        findings=headline(main, content),
        matrix=_matrix(content, main, models),
        worlds=worlds,
        leaderboard=_leaderboard(summary),
        glossary=_glossary(summary),
        seeds=int(content.leaderboard["seed"].nunique()),
    )


def _main_rows(summary: pd.DataFrame) -> Rows:
    """The rows of every world's main split."""
    rows: Rows = {}
    for world, group in summary.groupby("world", sort=False):
        judged = group[~group["metric"].isin(COST_METRICS)]
        split = main_split((judged if len(judged) else group)["split"])
        rows |= {(str(world), f"{f}/{v}"): r for _, s, f, v, r in rows_by_model(group) if s == split}
    return rows


# ---------------------------------------------------------------- headline


@dataclass(frozen=True)
class Finding:
    """One answer of the headline: the question, the models that answer it, and the numbers behind it."""

    question: str
    models: tuple[str, ...]
    text: str


def headline(main: Rows, content: ReportContent) -> list[Finding]:
    """Which family obeys physics, which predicts longest, and what they cost, counted over the worlds.

    A model wins a world if no other trained model is better there on average; models may share a win. Oracle and
    persistence do not compete.
    """
    questions = {
        "Who keeps the energy?": ("energy_error", "smallest energy error"),
        "Whose predictions last longest?": ("horizon", "longest horizon"),
        "Who predicts most exactly?": ("mse", "smallest state error"),
        "Who trains fastest?": ("train_seconds", "shortest training"),
    }
    found = []
    for question, (metric, claim) in questions.items():
        wins, contested = _wins(main, metric)
        if not wins:
            continue
        most = max(wins.values())
        winners = tuple(m for m in model_order(wins) if wins[m] == most)
        shared = "" if len(winners) == 1 else " each, ties included"
        text = f"The {claim} in {most} of {contested} world{'s' if contested > 1 else ''}{shared}. "
        found.append(Finding(question, winners, text + _behind(main, metric, winners[0], content)))
    return found


def _wins(main: Rows, metric: str) -> tuple[dict[str, int], int]:
    """Worlds won per model, and how many worlds were contested."""
    wins: dict[str, int] = {}
    contested = 0
    for world in dict.fromkeys(w for w, _ in main):
        values = {
            m: rows[metric]["value"]
            for (w, m), rows in main.items()
            if w == world
            and metric in rows
            and split_model(m)[0] not in REFERENCES
            and np.isfinite(rows[metric]["value"])
        }
        if not values:
            continue
        contested += 1
        top = min(values.values()) if lower_is_better(metric) else max(values.values())
        for model in (m for m, v in values.items() if v == top):
            wins[model] = wins.get(model, 0) + 1
    return wins, contested


def _behind(main: Rows, metric: str, model: str, content: ReportContent) -> str:
    """What that model's numbers are, over the worlds it was judged on."""
    own = {w: rows for (w, m), rows in main.items() if m == model}
    if metric == "horizon":
        shares = [
            rows["horizon"]["value"] / length
            for w, rows in own.items()
            if "horizon" in rows and (length := _episode_length(content.rollouts.get(w)))
        ]
        if shares:
            return f"{model_label(model)} stays close to the truth for {100 * np.mean(shares):.0f} % of an episode."
    if metric == "energy_error":
        rates = [rows["violation_rate"]["value"] for rows in own.values() if "violation_rate" in rows]
        if rates:
            return f"{model_label(model)} breaks a conservation law in {100 * np.mean(rates):.3g} % of its steps."
    if metric == "train_seconds":
        seconds = [rows["train_seconds"]["value"] for rows in own.values() if "train_seconds" in rows]
        return f"{model_label(model)} takes {pretty_number(float(np.median(seconds)))} s per model (median world)."
    return ""


def _episode_length(rollouts: WorldRollouts | None) -> float | None:
    return None if rollouts is None else float(rollouts.time[-1] - rollouts.time[0])


# ---------------------------------------------------------------- tables


def _matrix(content: ReportContent, main: Rows, models: list[str]) -> dict[str, Any]:
    """Worlds × models: horizon and violations, or why there is nothing."""
    reasons = {(w, f): reason for w, f, reason in content.not_applicable}
    absent = [f for _, f, _ in content.not_applicable if f not in {split_model(m)[0] for m in models}]
    columns = model_order([*models, *(f"{f}/" for f in absent)])
    rows = []
    for world in content.worlds:
        length = _episode_length(content.rollouts.get(world)) or _longest(main, world)
        cells = []
        for model in columns:
            reason = reasons.get((world, split_model(model)[0]))
            cells.append(_matrix_cell(main.get((world, model)), length, reason))
        rows.append({"world": world, "cells": cells})
    return {"columns": columns, "rows": rows, "empty": not main and not reasons}


def _longest(main: Rows, world: str) -> float | None:
    horizons = [r["horizon"]["value"] for (w, _), r in main.items() if w == world and "horizon" in r]
    return max(horizons, default=None)


def _matrix_cell(rows: dict[str, dict[str, Any]] | None, length: float | None, reason: str | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"reason": None, "share": None, "horizon": None, "violations": None, "best": False}
    if rows is None or not ({"horizon", "violation_rate"} & set(rows)):
        return cell | {"reason": reason}
    if "horizon" in rows:
        horizon = rows["horizon"]
        cell["horizon"] = f"{pretty_number(horizon['value'])} {horizon['unit']}"
        cell["share"] = round(min(1.0, horizon["value"] / length), 3) if length else None
        cell["best"] = horizon["best"]
    if "violation_rate" in rows:
        cell["violations"] = f"{100 * rows['violation_rate']['value']:.3g} %"
    return cell


def _leaderboard(summary: pd.DataFrame) -> dict[str, Any] | None:
    """One row per world, split and model, one column per metric."""
    if summary.empty:
        return None
    metrics = metric_order(summary["metric"])
    rows = [
        {"world": w, "split": s, "model": f"{f}/{v}", "cells": [page.cell(r.get(m)) for m in metrics]}
        for w, s, f, v, r in rows_by_model(summary)
    ]
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    splits = list(dict.fromkeys(row["split"] for row in rows))
    return {"columns": page.columns(summary, metrics), "rows": rows, "worlds": worlds, "splits": splits}


def _cost_table(summary: pd.DataFrame, main: Rows, world: str) -> dict[str, Any] | None:
    own = {m: rows for (w, m), rows in main.items() if w == world}
    metrics = [m for m in COST_METRICS if any(m in rows for rows in own.values())]
    if not metrics:
        return None
    rows = [{"model": m, "cells": [page.cell(own[m].get(c)) for c in metrics]} for m in model_order(own)]
    return {"columns": page.columns(summary, metrics), "rows": rows}


def _glossary(summary: pd.DataFrame) -> list[dict[str, str]]:
    """Plain words for every metric that appears."""
    entries = []
    for metric in metric_order(summary["metric"]):
        name = metric.removesuffix("_probed")
        text = STATE_METRICS[name].description if name in STATE_METRICS else COST_DESCRIPTIONS.get(name)
        if text is None:
            continue
        probed = " Read from the model's own representation by a frozen probe." if name != metric else ""
        entries.append({"name": metric, "title": metric_title(metric), "text": text + probed})
    return entries


# ---------------------------------------------------------------- worlds and provenance


def _world_section(
    content: ReportContent, world: str, index: int, summary: pd.DataFrame, main: Rows, animation_budget: int
) -> dict[str, Any]:
    rollouts = content.rollouts.get(world)
    animation: Animation | None = None
    if rollouts is not None and rollouts.frames:
        animation = animate(rollouts.frames, rollouts.frames_per_second, animation_budget)
    figures = world_figures(content, world, summary)
    return {
        "name": world,
        "anchor": f"world-{index}",
        "caption": rollouts.caption if rollouts is not None else "",
        "legend": page.legend(figures),
        "figures": [page.embedded(f"world-{index}-{name}", name, figure) for name, figure in figures.items()],
        "animation": animation,
        "costs": _cost_table(summary, main, world),
        "not_applicable": [(f, reason) for w, f, reason in content.not_applicable if w == world],
    }
