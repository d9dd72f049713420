"""The report of a task that has no page of its own: a table per world and split, learning curves, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting.cost import decisive_against_cost
from wm_pipelines.reporting.plots import learning_curves
from wm_pipelines.reporting.style import Palette, metric_order, model_order


def page(
    task: str,
    title: str,
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    not_applicable: Sequence[tuple[str, str, str]],
    provenance: Mapping[str, Any],
    listed: Sequence[str] = (),
    about: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """One HTML page that needs nothing else; equal content gives equal bytes.

    Args:
        task: its name. title: of the page. scores: its part of the leaderboard. summary: of them.
        curves: ``"world/family/variant"`` -> learning curve. not_applicable: (world, family, reason).
        provenance: names to text, numbers or mappings. listed: worlds in order; by name where there is none.
        about: world -> what a reader must know of its episodes.
    """
    models = model_order(summary["family"] + "/" + summary["variant"])
    palette = Palette(models)
    worlds = []
    for index, world in enumerate(listed or sorted(set(summary["world"]))):
        own = summary[summary["world"] == world]
        figures = {
            "curves": learning_curves(curves, world, palette),
            "cost": decisive_against_cost(summary, task, world, palette),
        }
        drawn = {name: figure for name, figure in figures.items() if figure is not None}
        worlds.append(
            {
                "name": world,
                "anchor": f"world-{index}",
                "about": frame.about((about or {}).get(world)),
                "sample": frame.sample(own, "held-out examples"),
                "tables": [(s, frame.numbers(t, metric_order(t["metric"].unique()))) for s, t in own.groupby("split")],
                "not_applicable": [(family, reason) for where, family, reason in not_applicable if where == world],
                "legend": frame.legend(drawn),
                "figures": [frame.embedded(f"{name}-{index}", figure) for name, figure in drawn.items()],
            }
        )
    return frame.render(
        "tables.html.j2",
        task,
        models,
        figures=any(world["figures"] for world in worlds),
        provenance=provenance,
        told=frame.told(scores),
        title=title,
        worlds=worlds,
        glossary=[],
    )
