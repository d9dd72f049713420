"""Accuracy against cost: what a task's metric is worth in seconds of training, and who is on the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from wm_pipelines.registry import tasks
from wm_pipelines.reporting import plots
from wm_pipelines.reporting.plots import Figure
from wm_pipelines.reporting.style import (
    INK,
    REFERENCES,
    Palette,
    lower_is_better,
    metric_title,
    model_label,
    model_order,
    pretty_number,
    split_model,
    titled,
)
from wm_pipelines.reporting.summary import chosen, main_split, rows_by_model

Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]  # model -> metric -> summary row

_CEILING = "oracle"  # needs no training, and would squeeze the rest
_SHORTEST = 1e-3  # s, of training, on a logarithmic axis
_SHARE = 1e-2  # of a value: whiskers that reach below are not shown to their end
_FLOOR = 1e-17  # of a logarithmic axis: below rounding, an error is drawn as this


def accuracy_against_cost(summary: pd.DataFrame, world: str, metric: str, palette: Palette) -> Figure | None:
    """A metric over training time, one point per trained model; the Pareto front joined, floors as lines.

    Args:
        summary: of a task, see `summary_table`. world: whose. metric: that has a good direction.

    Returns:
        None where no model has both numbers.
    """
    own, lower = summary[summary["world"] == world], lower_is_better(metric)
    judged = own[own["metric"] == metric]
    if judged.empty or lower is None:
        return None
    split = main_split(judged["split"])
    rows = {key.model: found for key, found in rows_by_model(own) if key.split == split and metric in found}
    paid = {m: r for m, r in rows.items() if split_model(m)[0] not in REFERENCES and "train_seconds" in r}
    drawn = {m: r for m, r in paid.items() if np.isfinite(r[metric]["value"])}
    if not drawn:
        return None
    floors = _floors(rows, metric, lower)
    logarithmic = lower and all(r[metric]["value"] >= 0 for r in (*drawn.values(), *floors.values()))
    front = pareto_front(
        {m: (_seconds(r), r[metric]["value"] if lower else -r[metric]["value"]) for m, r in drawn.items()}
    )
    figure = _figure(drawn, floors, metric, logarithmic, front, palette)
    diverged = [model_label(m) for m in model_order(paid) if m not in drawn]
    return Figure(
        figure,
        "Accuracy against cost",
        f"Each point is one model: further {'down' if lower else 'up'} is better, further left is cheaper to train. "
        "Filled points, named and joined by a line, are the Pareto front: no model is better and cheaper. Open ones "
        "are beaten in both. Whiskers are 95 % intervals."
        + (f" Not drawn, since it diverged: {', '.join(diverged)}." if diverged else ""),
    )


def decisive_against_cost(summary: pd.DataFrame, task: str, world: str, palette: Palette) -> Figure | None:
    """The same of the first of the task's main metrics that is judged on that world."""
    there = summary.loc[summary["world"] == world, "metric"]
    metric = next(iter(chosen(there, tasks.get(task).main_metrics)), None)
    return None if metric is None else accuracy_against_cost(summary, world, metric, palette)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Who is beaten by nobody in both numbers at once, by the first number.

    Args:
        points: name -> (cost, loss), both of which should be small.
    """
    front: list[str] = []
    least = math.inf
    for name in sorted(points, key=lambda n: points[n]):
        if points[name][1] < least or (front and points[name] == points[front[-1]]):
            front.append(name)
            least = points[name][1]
    return front


def _floors(rows: Rows, metric: str, lower: bool) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    """The best variant of every reference but the ceiling."""
    found: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for model in sorted(rows, key=lambda m: rows[m][metric]["value"], reverse=not lower):
        family = split_model(model)[0]
        is_first = family not in {split_model(m)[0] for m in found}
        if family in REFERENCES and family != _CEILING and is_first and np.isfinite(rows[model][metric]["value"]):
            found[model] = rows[model]
    return found


def _seconds(row: Mapping[str, Mapping[str, Any]]) -> float:
    return max(float(row["train_seconds"]["value"]), _SHORTEST)


def _figure(drawn: Rows, floors: Rows, metric: str, logarithmic: bool, front: list[str], palette: Palette) -> go.Figure:
    unit = next(iter(drawn.values()))[metric]["unit"]
    layout = plots.layout("training time of one model [s]", titled(metric, unit), log_y=logarithmic)
    layout["xaxis"] |= {"type": "log", "exponentformat": "power"}
    figure = go.Figure(layout=layout)
    height = {m: max(r[metric]["value"], _FLOOR) if logarithmic else r[metric]["value"] for m, r in drawn.items()}
    path = {"mode": "lines", "line": {"color": INK, "width": 1, "dash": "dot", "shape": "hv"}, "name": "Pareto front"}
    x, y = [_seconds(drawn[m]) for m in front], [height[m] for m in front]
    figure.add_trace(plots.truth_line(x, y, **path, hoverinfo="skip", showlegend=False))
    for model in model_order(drawn):
        figure.add_trace(_point(model, drawn[model], metric, height[model], palette, model in front))
    figure.update_xaxes(plots.log_axis([[_seconds(r) for r in drawn.values()]], margin=0.6))
    lines = {model: row[metric]["value"] for model, row in floors.items()}
    if logarithmic:
        # A whisker that ends at zero has no end here: it leaves the figure, and does not squeeze it.
        ends = [r[metric]["ci_high"] for r in drawn.values()]
        ends += [low for r in drawn.values() if (low := r[metric]["ci_low"]) > _SHARE * r[metric]["value"]]
        figure.update_yaxes(plots.log_axis([np.maximum([*lines.values(), *height.values(), *ends], _FLOOR)]))
    for model, value in lines.items():
        _draw_floor(figure, model, value, logarithmic, palette.colour(model))
    return figure


def _draw_floor(figure: go.Figure, model: str, value: float, logarithmic: bool, colour: str) -> None:
    """A line through the whole figure, named at its right end; `add_hline` misplaces the name on a logarithmic axis."""
    if logarithmic and value <= 0:
        return
    across = {"xref": "paper", "x0": 0, "x1": 1, "y0": float(f"{value:.5g}"), "y1": float(f"{value:.5g}")}
    figure.add_shape({"type": "line", **across, "line": {"color": colour, "dash": "dot", "width": 2}})
    figure.add_annotation(
        {
            "text": plots.model_name(model), "font": {"color": colour}, "showarrow": False, "xref": "paper", "x": 1,
            "xanchor": "right", "y": float(np.log10(value)) if logarithmic else value, "yanchor": "bottom",
        }
    )  # fmt: skip


def _point(
    model: str, row: Mapping[str, Mapping[str, Any]], metric: str, height: float, palette: Palette, on_front: bool
) -> dict[str, Any]:
    score, whiskers = row[metric], {}
    if np.isfinite([score["ci_low"], score["ci_high"]]).all():
        above, below = score["ci_high"] - score["value"], score["value"] - score["ci_low"]
        below = min(below, 0.999 * height) if height > 0 else below  # a whisker to zero has no end on a log axis
        whiskers = {
            "error_y": {"array": plots.numbers([above]), "arrayminus": plots.numbers([below]), "thickness": 1.2}
        }
    numbers = [f"{metric_title(m)}: {_with_unit(r)}" for m, r in row.items() if np.isfinite(r["value"])]
    symbol = palette.marker(model) + ("" if on_front else "-open")
    return {
        "type": "scatter",
        # All names would hide each other; the others are in the key and under the pointer.
        **(
            {"mode": "markers+text", "text": [plots.model_name(model)], "textposition": "bottom center"}
            if on_front
            else {"mode": "markers"}
        ),
        "cliponaxis": False,
        "legendgroup": model,
        "x": plots.numbers([_seconds(row)]),
        "y": plots.numbers([height]),
        "name": plots.model_name(model),
        "showlegend": False,
        "marker": {"color": palette.colour(model), "symbol": symbol, "size": 11, "line": {"width": 2}},
        "hovertemplate": "<br>".join([f"<b>{plots.model_name(model)}</b>", *numbers]) + "<extra></extra>",
        **whiskers,
    }


def _with_unit(row: Mapping[str, Any]) -> str:
    return pretty_number(row["value"]) + ("" if row["unit"] == "1" else f" {row['unit']}")
