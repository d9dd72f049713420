"""The frame that all reports share, and the pieces they are made of.

Reports are HTML files in one folder that need nothing but a browser. They share one file, Plotly's script, and link to
the first page; that links to all reports which there are. So no link depends on which pipeline ran last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_json

from wm_pipelines.episodes import counted, too_few
from wm_pipelines.reporting.library import FIGURE_LIBRARY
from wm_pipelines.reporting.plots import Figure
from wm_pipelines.reporting.style import (
    COST_METRICS,
    DASHES,
    MARKERS,
    Palette,
    lower_is_better,
    metric_title,
    model_label,
    model_order,
    pretty_interval,
    pretty_number,
)
from wm_pipelines.reporting.summary import rows_by_model

BOARD = ("All results", "index.html")
"""Title and file of the first page."""

TABLE = ("All numbers (CSV)", "leaderboard.csv")
"""Title and file of the leaderboard."""

_SOME = " (in some worlds)"


def told(scores: pd.DataFrame) -> dict[str, list[str]]:
    """``"family/variant"`` -> what it is told or its form contains; marked where that is in some worlds only."""
    found = {}
    for model, own in scores.groupby(scores["family"] + "/" + scores["variant"]):
        by_world = [set(str(line).split(",")) - {""} for line in own.groupby("world")["knows"].first()]
        everywhere = set.intersection(*by_world)
        found[str(model)] = [w if w in everywhere else f"{w}{_SOME}" for w in sorted(set.union(*by_world))]
    return found


def render(
    template: str,
    own: str,
    models: Sequence[str],
    *,
    figures: bool,
    provenance: Mapping[str, Any],
    told: Mapping[str, Sequence[str]] | None = None,
    beside: Sequence[tuple[str, str]] = (BOARD, TABLE),
    **content: Any,
) -> str:
    """Fill a template that extends ``page.html.j2``; equal content gives equal bytes.

    Args:
        template: its file. own: the task that is reported, empty for the first page. figures: whether there are any.
        models: ``"family/variant"``, to be coloured. provenance: nested mappings. told: see `told`.
        beside: title and file of what to link to in the same folder. content: what the template wants beside that.
    """
    environment = Environment(
        loader=PackageLoader("wm_pipelines.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"label": model_label, "number": pretty_number, "word": lambda w: w.replace("_", " ")}
    environment.filters["coded"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))
    environment.filters["breakable"] = lambda name: Markup("_<wbr>").join(name.split("_"))
    palette = Palette(models)
    return environment.get_template(template).render(
        style=Markup(template_text("report.css")),
        script=Markup(template_text("report.js")),
        own=own,
        figure_library=FIGURE_LIBRARY if figures else None,
        colours={m: palette.colour(m) for m in models},
        told=told or {},
        told_words=sorted({word.removesuffix(_SOME) for words in (told or {}).values() for word in words}),
        provenance=nested(provenance),
        beside=beside,
        **content,
    )


def template_text(name: str) -> str:
    """A file among the templates, as it stands."""
    return files("wm_pipelines.reporting").joinpath("templates", name).read_text(encoding="utf-8")


def about(world: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What stands under a world's heading: how many episodes, how they were split, what ingestion found.

    Args:
        world: see `pipelines.judging.about`; nothing where results are older than that.
    """
    if not world or not world["in_time"]:
        return None
    how = {
        "time": "one recording, cut by time",
        "episode": "whole recordings, none of them in two splits",
    }.get(world["split_by"], "")
    return {
        "counted": counted(world["counts"]) + (f" ({how})" if how else ""),
        "found": [line for level, line in world["found"] if level != "WARNING"],
        "warnings": [*too_few(world["counts"]), *(line for level, line in world["found"] if level == "WARNING")],
    }


def sample(own: pd.DataFrame, of: str = "held-out episodes") -> str:
    """What the means of a world's summary rows are taken over: ``20 held-out episodes, 3 seeds``.

    Args:
        own: the rows. of: what is counted, by the number that most metrics have.
    """
    judged = own[~own["metric"].isin(COST_METRICS)]
    if judged.empty:
        return ""
    several = judged[judged["n"] > judged["seeds"]]
    judged = several if len(several) else judged
    each = (judged["n"] // judged["seeds"]).groupby([judged["world"], judged["split"]])
    counts = each.agg(lambda n: n.mode().max())
    low, high, seeds = int(counts.min()), int(counts.max()), int(judged["seeds"].max())
    of = of.replace("episodes", "episode") if high == 1 else of
    episodes = f"{low} to {high} {of} per world" if low < high else f"{high} {of}"
    return f"{episodes}, {seeds} seed{'s' * (seeds != 1)}"


def cell(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """A number as a table shows it: text, interval, sorting key, whether it is the best."""
    if row is None:
        return {"text": "", "interval": "", "key": "", "best": False, "diverged": False}
    value = float(row["value"])
    low, high = float(row["ci_low"]), float(row["ci_high"])
    return {
        "text": pretty_number(value),
        "interval": pretty_interval(low, high) if np.isfinite(value) else "",
        "key": f"{value:.17g}",
        "best": bool(row["starred"]),
        "diverged": bool(np.isinf(value)),
        "n": int(row["n"]),
        "seeds": int(row["seeds"]),
    }


def numbers(own: pd.DataFrame, metrics: list[str]) -> dict[str, Any]:
    """A table with one row per model, what it is told there, and one column per metric, of a world's summary rows."""
    rows = [
        {"model": key.model, "told": words(key.knows), "cells": [cell(r.get(m)) for m in metrics]}
        for key, r in rows_by_model(own)
    ]
    return {"columns": columns(own, metrics), "rows": rows}


def words(knows: str) -> list[str]:
    """What a model is told, of a row's ``knows``."""
    return [word for word in knows.split(",") if word]


def columns(summary: pd.DataFrame, metrics: list[str]) -> list[dict[str, Any]]:
    """Titles, units and good directions of the columns of a table."""
    units = summary.drop_duplicates("metric").set_index("metric")["unit"].to_dict()
    found = []
    for metric in metrics:
        direction = {True: "lower is better", False: "higher is better", None: ""}[lower_is_better(metric)]
        unit = "" if units[metric] == "1" else units[metric]
        found.append({"title": metric_title(metric), "unit": unit, "direction": direction})
    return found


def legend(figures: Mapping[str, Figure]) -> list[dict[str, Any]]:
    """One key for all figures of a world: model, pattern of its line (None without one), outline of its marker."""
    dashes: dict[str, str] = {}
    markers: dict[str, str] = {}
    for trace in (trace for shown in figures.values() for trace in shown.figure.data):
        of_model = trace.type == "scatter" and trace.legendgroup not in (None, "truth")
        if not of_model or trace.hoverinfo == "skip" or trace.marker.symbol is None:
            continue
        markers.setdefault(trace.legendgroup, MARKERS[trace.marker.symbol.removesuffix("-open")])
        if trace.line.dash is not None:
            dashes.setdefault(trace.legendgroup, DASHES[trace.line.dash])
    return [{"model": m, "dash": dashes.get(m), "marker": markers[m]} for m in model_order(markers)]


def embedded(identifier: str, shown: Figure, wide: bool = False) -> dict[str, Any]:
    """A figure as JSON inside a script element, in which ``</`` would end the element."""
    figure = shown.figure.to_dict()  # a copy; as a figure, every number of it would be checked once more
    figure["layout"]["showlegend"] = False  # one key serves all figures of a world
    for trace in figure["data"]:
        if trace["type"] == "scatter" and "hovertemplate" not in trace and "hoverinfo" not in trace:
            trace["hovertemplate"] = _hover(figure["layout"], trace)
    text = to_json(figure, validate=False, engine="json").replace("<", "\\u003c")
    return {
        "id": identifier,
        "wide": wide,
        "title": shown.title,
        "caption": shown.caption,
        "height": int(shown.figure.layout.height or 400),
        "json": Markup(text),
    }


def _hover(layout: Mapping[str, Any], trace: Mapping[str, Any]) -> str:
    """The model's name, and both numbers under the titles of their axes, which hold the units."""
    lines = [f"<b>{trace.get('name')}</b>"]
    for axis in ("x", "y"):
        drawn_on = layout.get(trace.get(f"{axis}axis", axis).replace(axis, f"{axis}axis", 1), {})
        title = drawn_on.get("title", {}).get("text") or axis
        lines.append(f"{escape(title)}: %{{{axis}:.4g}}")
    return "<br>".join(lines) + "<extra></extra>"


def origin(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """What a task's part of the leaderboard was made from, under names for people; what is not known is left out."""
    named = {"made": "made", "revision": "git revision", "machine": "machine", "code": "judging code (SHA-256)"}
    found = {name: made_from[key] for key, name in named.items() if key in made_from}
    if seconds := made_from.get("seconds"):
        parts = [f"{duration(seconds[what])} of {what}" for what in ("training", "judging") if seconds.get(what)]
        found["time of a core in all"] = " and ".join(parts)
    return found | {"data (SHA-256)": made_from["data"]} if "data" in made_from else found


def duration(seconds: float) -> str:
    """``12 s``, ``4 min 10 s``, ``3 h 12 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def nested(value: Any) -> Any:
    """Provenance as nested (name, value) lists of text; what is neither mapping nor sequence is printed."""
    if isinstance(value, Mapping):
        return [(str(name), nested(v)) for name, v in value.items()]
    if isinstance(value, (list, tuple)):
        return ", ".join(str(v) for v in value)
    return value if isinstance(value, str) else json.dumps(value, default=str)
