"""The page on mechanics: who obeys physics, for how long, at what cost."""

from __future__ import annotations

from typing import Any

import pandas as pd

from wm_pipelines.metrics.registry import described
from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting.animation import animate
from wm_pipelines.reporting.style import (
    COST_DESCRIPTIONS,
    COST_METRICS,
    metric_order,
    metric_title,
    model_order,
    pretty_number,
    split_model,
)
from wm_pipelines.reporting.summary import on_main_split, rows_by_model
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.physics.content import Content, WorldRollouts
from wm_pipelines.tasks.physics.figures import alone, world_figures
from wm_pipelines.tasks.physics.headline import Rows, headline
from wm_pipelines.tasks.physics.questions import changing_note, elsewhere, laws_table

_SAVED = ("energy_error", "error_growth")  # figures for kedro viz
_PER_SECOND = 12.0  # frames of an animation
_ANIMATION_BYTES = 300_000
_TITLE = "World models and the laws of physics"


def page(results: Results) -> str:
    """The whole page."""
    return build(Content.of(results, frames=True))


def figures(results: Results) -> dict[str, Any]:
    """``"world_name"`` -> plotly figure."""
    content = Content.of(results, frames=False)
    return {
        f"{world}_{name}": alone(shown, world)
        for world in content.worlds
        for name, shown in world_figures(content, world, names=_SAVED).items()
    }


def build(content: Content, title: str = _TITLE) -> str:
    """Write the page; sections without data vanish.

    It embeds everything it shows, reads no network, holds no clock and no random name: equal content gives equal bytes.
    """
    scores, models = content.results.scores, content.models
    summary = content.results.summary
    main = _main_rows(summary)
    matrix = _matrix(content, main, models)
    worlds = [_world_section(content, world, i, summary, main) for i, world in enumerate(content.worlds)]
    return frame.render(
        "physics.html.j2",
        "physics",
        matrix["models"],
        figures=any(w["figures"] for w in worlds),
        told=frame.told(scores),
        provenance=content.results.provenance,
        title=title,
        findings=headline(main, {w for w, r in content.rollouts.items() if "energy" in r.changing}),
        thresholds=next((r.thresholds for r in content.rollouts.values() if r.thresholds), None),
        matrix=matrix,
        worlds=worlds,
        sample=frame.sample(summary[on_main_split(summary)]),
        leaderboard=_leaderboard(summary[on_main_split(summary)]),
        glossary=_glossary(summary),
    )


def _main_rows(summary: pd.DataFrame) -> Rows:
    """The rows of every world's main split."""
    rows: Rows = {}
    for world, group in summary[on_main_split(summary)].groupby("world", sort=False):
        rows |= {(str(world), key.model): found for key, found in rows_by_model(group)}
    return rows


# ---------------------------------------------------------------- tables


def _matrix(content: Content, main: Rows, models: list[str]) -> dict[str, Any]:
    """Models × worlds: horizon and violations, or why there is nothing."""
    reasons = {(w, who): reason for w, who, reason in content.results.not_applicable}
    there = {split_model(m)[0] for m in models} | set(models)
    absent = [who for _, who in reasons if who not in there]
    everybody = model_order([*models, *(who if "/" in who else f"{who}/" for who in absent)])
    lengths = {}
    for world in content.worlds:
        rollouts = content.rollouts.get(world)
        lengths[world] = (rollouts and rollouts.length) or _longest(main, world)
    rows = []
    for model in everybody:
        cells = [
            _matrix_cell(
                main.get((world, model)),
                length,
                reasons.get((world, model), reasons.get((world, split_model(model)[0]))),
            )
            for world, length in lengths.items()
        ]
        rows.append({"model": model, "cells": cells})
    return {"models": everybody, "worlds": content.worlds, "rows": rows, "empty": not main and not reasons}


def _longest(main: Rows, world: str) -> float | None:
    horizons = [r["horizon"]["value"] for (w, _), r in main.items() if w == world and "horizon" in r]
    return max(horizons, default=None)


def _matrix_cell(rows: dict[str, dict[str, Any]] | None, length: float | None, reason: str | None) -> dict[str, Any]:
    cell: dict[str, Any] = {"reason": None, "share": None, "horizon": None, "violations": None, "best": False}
    if rows is None or not ({"horizon", "violation_rate"} & set(rows)):
        return cell | {"reason": reason}
    if "horizon" in rows:
        horizon = rows["horizon"]
        cell["horizon"] = pretty_number(horizon["value"])
        cell["share"] = round(min(1.0, horizon["value"] / length), 3) if length else None
        cell["best"] = horizon["starred"]
    if "violation_rate" in rows:
        cell["violations"] = f"{100 * rows['violation_rate']['value']:.3g} %"
    return cell


def _leaderboard(summary: pd.DataFrame) -> dict[str, Any] | None:
    """One row per world, split and model, one column per metric."""
    if summary.empty:
        return None
    metrics = metric_order(summary["metric"])
    rows = [
        {
            "model": key.model,
            "key": key,
            "told": frame.words(key.knows),
            "cells": [frame.cell(r.get(m)) for m in metrics],
        }
        for key, r in rows_by_model(summary)
    ]
    choices = {name: list(dict.fromkeys(getattr(row["key"], name) for row in rows)) for name in ("world", "split")}
    return {"columns": frame.columns(summary, metrics), "rows": rows, "worlds": choices["world"],
            "splits": choices["split"]}  # fmt: skip


def _cost_table(summary: pd.DataFrame, main: Rows, world: str) -> dict[str, Any] | None:
    own = {m: rows for (w, m), rows in main.items() if w == world}
    metrics = [m for m in COST_METRICS if any(m in rows for rows in own.values())]
    if not metrics:
        return None
    told = {m: frame.words(next(iter(rows.values()))["knows"]) for m, rows in own.items()}
    rows = [
        {"model": m, "told": told[m], "cells": [frame.cell(own[m].get(c)) for c in metrics]} for m in model_order(own)
    ]
    return {"columns": frame.columns(summary, metrics), "rows": rows}


def _glossary(summary: pd.DataFrame) -> list[dict[str, str]]:
    """Plain words for every metric that appears."""
    entries = []
    for metric in metric_order(summary["metric"]):
        known = described(metric)
        text = known.description if known is not None else COST_DESCRIPTIONS.get(metric)
        if text is not None:
            entries.append({"name": metric, "title": metric_title(metric), "text": text})
    return entries


# ---------------------------------------------------------------- worlds


def _world_section(content: Content, world: str, index: int, summary: pd.DataFrame, main: Rows) -> dict[str, Any]:
    rollouts, anchor = content.rollouts.get(world), f"world-{index}"
    drawn = world_figures(content, world, summary)
    return {
        "name": world,
        "anchor": anchor,
        "about": frame.about(content.results.about.get(world)),
        "caption": f"In the episode shown: {rollouts.caption}" if rollouts is not None and rollouts.caption else "",
        "legend": frame.legend(drawn),
        "figures": [frame.embedded(f"{anchor}-{name}", f, name == "trajectories") for name, f in drawn.items()],
        "animation": None if rollouts is None or not rollouts.frames else _animation(rollouts),
        "costs": _cost_table(summary, main, world),
        "changing": "" if rollouts is None else changing_note(rollouts.changing, rollouts.truth_energy),
        "laws": laws_table(summary, world, {} if rollouts is None else rollouts.pair_force),
        "resolution": _resolution(rollouts),
        "elsewhere": elsewhere(summary, world, content.results.specs.get(world, {}), content.ranges),
        "not_applicable": [(who, reason) for w, who, reason in content.results.not_applicable if w == world],
    }


def _resolution(rollouts: WorldRollouts | None) -> str:
    """What extrapolating the differences behind the symplecticity errors changes, at most."""
    return pretty_number(max(rollouts.resolution.values()), 2) if rollouts is not None and rollouts.resolution else ""


def _animation(rollouts: WorldRollouts) -> dict[str, Any]:
    drawn = animate(rollouts.frames, _PER_SECOND, _ANIMATION_BYTES)
    count = len(next(iter(rollouts.frames.values())))
    seconds = rollouts.length / max(1, count - 1)
    return {"title": "Roll-outs: the truth and every model, side by side", "drawn": drawn, "unit": "t = {} s",
            "scale": float(f"{seconds * drawn.stride:.6g}"), "first": 0, "caption": ""}  # fmt: skip
