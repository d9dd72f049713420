"""The report of a search for parameters: its trials, what was found, which parameters mattered."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting import plots
from wm_pipelines.reporting.plots import Figure
from wm_pipelines.reporting.style import INK, metric_title, pretty_number

_FIXED = ("study", "metric", "number", "state", "value", "seconds", "error")
_COLOUR = "#2f7fd1"


def page(trials: pd.DataFrame, summary: Mapping[str, Mapping[str, Any]]) -> str:
    """One HTML page; equal content gives equal bytes. Of a single study also its figures.

    Args:
        trials: ``study, metric, number, state, value, seconds, error`` and a column per parameter.
        summary: by study ``metric``, ``minimise``, ``start_value`` (of the settings it started from, or None),
            ``best_trial``, ``best_value``, ``best_parameters``, ``importances``.
    """
    figures: dict[str, Figure | None] = {}
    if len(summary) == 1:
        (only,) = summary.values()
        figures["history"] = history(trials.drop(columns=["study", "metric"]), only["metric"], only["minimise"])
        figures["importances"] = importances(only["importances"])
    return frame.render(
        "study.html.j2",
        "tuning",
        [],
        figures=bool(figures),
        provenance={},
        title="Search for parameters",
        studies=[
            {"name": name, "found": _found(own), "best": frame.nested(own["best_parameters"])}
            for name, own in summary.items()
        ],
        figures_shown=[frame.embedded(name, figure) for name, figure in figures.items() if figure is not None],
        columns=[name for name in trials if name not in ("error",)],
        trials=[_row(trial) for trial in trials.to_dict("records")],
        worlds=[],
        glossary=[],
    )


def _found(own: Mapping[str, Any]) -> str:
    """What was found, and what the search gained."""
    best = f"{metric_title(own['metric'])} {pretty_number(float(own['best_value']))} in trial {own['best_trial']}"
    if own["start_value"] is None:
        return f"{best}."
    return f"{best}; the settings it started from reach {pretty_number(float(own['start_value']))} (trial 0)."


def history(trials: pd.DataFrame, metric: str, minimise: bool) -> Figure:
    """Values of the completed trials in their order, and the best so far."""
    done = trials[trials["value"].notna()].sort_values("number")
    values = done["value"].to_numpy(dtype=np.float64)
    positive = len(values) > 0 and bool((values > 0).all()) and minimise
    figure = go.Figure(layout=plots.layout("trial", metric_title(metric), log_y=positive))
    searched = [str(name) for name in trials if name not in _FIXED]
    texts = [
        "<br>".join(f"{escape(name)}: {_short(row[name])}" for name in searched) for row in done.to_dict("records")
    ]
    value = escape(metric_title(metric))
    figure.add_trace(
        {
            "type": "scatter", "mode": "markers", "x": done["number"].tolist(), "y": plots.numbers(values),
            "name": "trial", "text": texts, "marker": {"color": _COLOUR, "size": 8},
            "hovertemplate": f"<b>trial %{{x}}</b><br>{value}: %{{y:.4g}}<br>%{{text}}<extra></extra>",
        }
    )  # fmt: skip
    best = np.minimum.accumulate(values) if minimise else np.maximum.accumulate(values)
    line = {"color": INK, "width": 1.5, "shape": "hv"}
    figure.add_trace(plots.truth_line(done["number"], best, name="best so far", line=line))
    lost = trials.loc[trials["value"].isna(), "state"].str.lower().value_counts().sort_index()
    beside = ", ".join(f"{count} {state}" for state, count in lost.items())
    return Figure(
        figure,
        "History",
        "Every completed trial, and as a line the best so far. A line that still falls at its end asks for more trials."
        + (f" Not drawn: {beside}." if beside else ""),
    )


def importances(shares: Mapping[str, float]) -> Figure | None:
    """Share of the metric's variation that each parameter explains; None where it cannot be told."""
    if not shares:
        return None
    names = sorted(shares, key=lambda name: shares[name])
    figure = go.Figure(layout=plots.layout("share of the variation explained", "", height=120 + 40 * len(names)))
    figure.add_trace(
        {
            "type": "bar", "orientation": "h", "x": plots.numbers([shares[n] for n in names]),
            "y": [escape(n) for n in names], "marker": {"color": _COLOUR},
            "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
        }
    )  # fmt: skip
    return Figure(
        figure,
        "Importance",
        "How much of the metric's variation each parameter explains within the space that was searched (PED-ANOVA).",
    )


def _row(trial: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Cells as text, numbers with a key to sort by."""
    return [
        {"text": _short(value), "key": "" if pd.isna(value) else f"{value:.17g}" if _is_number(value) else None}
        for name, value in trial.items()
        if name != "error"
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return pretty_number(value) if isinstance(value, float) else str(value)
