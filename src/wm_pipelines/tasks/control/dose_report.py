"""Does physics help to act? Scores against how wrong the law is that was planned with, and what foretells success.

`dose_section` is what the page shows (template ``dose.html.j2``), `dose_figures` the same figures for kedro viz,
`conclusions` the numbers. Scores are compared in pairs, start by start, with the same planner on the true world.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from wm_pipelines.metrics.dose import Judged, Place, Trend, place, rank_correlations, trend
from wm_pipelines.metrics.statistics import Summary, pooled, summarise
from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting.plots import Figure, layout, line, log_axis, numbers
from wm_pipelines.reporting.style import (
    DASHES,
    INK,
    MARKERS,
    REFERENCES,
    UNTRAINED,
    Palette,
    metric_title,
    model_label,
    model_order,
    pretty_interval,
    pretty_number,
)
from wm_pipelines.tasks.base import Results

Float = NDArray[np.float64]

_SPLIT = "test"
_HARMLESS = {"wrong_mass": 1.0}
_COLOURS = ("#2f7fd1", "#d55e00", "#00956d", "#a35cc2", "#9a7b1c")
_SCORES = ("success_rate", "return")
_FORETELL = {"law_error": -1.0, "law_energy_error": -1.0, "mse": -1.0, "reward_mse": -1.0, "action_sensitivity": 1.0}
"""What might foretell success, and whether more of it should (1) or less (-1)."""
_LEAST = 4  # families (or corruptions) from which a rank correlation is told


@dataclass(frozen=True)
class Curve:
    """One corruption in one world, the true law first.

    Attributes:
        unit: of the doses. doses, law, energy: ``[D]``, dose, law error, energy error (NaN: no energy).
        scores: ``[D, E]``. trend: of them.
    """

    unit: str
    doses: Float
    law: Float
    energy: Float
    scores: Float
    trend: Trend


@dataclass(frozen=True)
class Placed:
    """A learned model beside the curves of its world.

    Attributes:
        law: its law error. score: its score. change: its score less that of the true law.
        beside: corruption -> where it stands; those alone whose doses reach its law error.
    """

    law: Summary
    score: float
    change: Summary
    beside: Mapping[str, Place]


# ---------------------------------------------------------------- what was measured


def curves(doses: Mapping[str, Any]) -> dict[str, Curve]:
    """Corruption -> its curve, of what `control.doses` measured in one world."""
    found = {}
    for corruption in dict.fromkeys(row["corruption"] for row in doses.get("doses", ())):
        rows = [row for row in doses["doses"] if row["corruption"] == corruption]
        scores = np.array([doses["true_model"], *(row["score"] for row in rows)], np.float64)
        energy = [np.nan if row["energy_error"] is None else np.mean(row["energy_error"]) for row in rows]
        found[corruption] = Curve(
            rows[0]["unit"],
            np.array([_HARMLESS.get(corruption, 0.0), *(row["dose"] for row in rows)]),
            np.array([0.0, *(np.mean(row["law_error"]) for row in rows)]),
            np.array([0.0 if np.isfinite(energy[0]) else np.nan, *energy]),
            scores,
            trend(scores),
        )
    return found


def placed(results: Results, world: str) -> dict[str, Placed]:
    """Model -> where it stands, of those whose law error is known in a world with doses."""
    doses, found = results.doses[world], {}
    truth, known = np.array(doses["true_model"], np.float64), curves(doses)
    arrays = results.arrays.get(world, {})
    for model in model_order(arrays):
        law, own = (arrays[model].get(f"{_SPLIT}/by_episode/{name}") for name in ("law_error", doses["metric"]))
        if law is None or own is None or own.shape[1] != len(truth):
            continue
        error = pooled(law)
        places = {
            name: where
            for name, c in known.items()
            if (where := place(c.doses, c.law, c.scores, float(error.value), own)) is not None
        }
        found[model] = Placed(error, float(own.mean()), pooled(own - truth), places)
    return found


def _worlds(results: Results) -> list[str]:
    return [world for world, doses in results.doses.items() if doses.get("doses")]


# ---------------------------------------------------------------- what foretells success


def simulators(results: Results) -> Judged:
    """Wrong simulators as models: corruptions are the families, doses the seeds."""
    rows = [
        (world, name, c.scores[d].mean(), -c.law[d], -c.energy[d])
        for world in _worlds(results)
        for name, c in curves(results.doses[world]).items()
        for d in range(1, len(c.doses))
    ]
    return _judged(pd.DataFrame(rows, columns=["world", "family", "success", "law_error", "law_energy_error"]))


def models(results: Results) -> Judged:
    """Learned models, seed by seed, with what might foretell their success; more is better for each."""
    s = results.scores
    learned = ~s["family"].isin(REFERENCES) & ~s["variant"].str.endswith(UNTRAINED)
    own = s[learned & (s["split"] == _SPLIT) & (s["step"] < 0) & s["metric"].isin([*_SCORES, *_FORETELL])]
    table = own.pivot_table("value", ["world", "family", "variant", "seed"], "metric").reset_index()
    table = table.reindex(columns=["world", "family", *_SCORES, *_FORETELL])
    table["success"] = table[_SCORES[0]].fillna(table[_SCORES[1]])
    for name, sign in _FORETELL.items():
        table[name] *= sign
    return _judged(table.drop(columns=list(_SCORES)))


def _judged(table: pd.DataFrame) -> Judged:
    known = [name for name in _FORETELL if name in table and table[name].notna().any()]
    predictors = {name: table[name].to_numpy(np.float64) for name in known}
    world, family = (table[name].to_numpy(dtype=str) for name in ("world", "family"))
    return Judged(world, family, table["success"].to_numpy(np.float64), predictors)


def correlations(results: Results) -> dict[str, dict[str, Summary]]:
    """Kendall's tau of success with what might foretell it, among wrong simulators and among learned models."""
    return {
        "wrong simulators": rank_correlations(simulators(results), least=_LEAST),
        "learned models": rank_correlations(models(results), least=_LEAST),
    }


# ---------------------------------------------------------------- numbers


def conclusions(results: Results) -> dict[str, Any]:
    """Dose and response, learned models beside it, rank correlations: JSON types; empty without doses."""
    if not _worlds(results):
        return {}
    response = {
        world: {name: _response(c) for name, c in curves(results.doses[world]).items()} for world in _worlds(results)
    }
    beside = {
        world: {
            model: {"law_error": _told(p.law), "score": p.score, "change": _told(p.change)}
            | {"beside": {n: {"dose": w.dose, "score": w.score, "gap": _told(w.gap)} for n, w in p.beside.items()}}
            for model, p in placed(results, world).items()
        }
        for world in _worlds(results)
    }
    tau = {who: {name: _told(t) for name, t in own.items()} for who, own in correlations(results).items()}
    return {"dose_response": response, "models": beside, "rank_correlations": tau}


def _response(c: Curve) -> dict[str, Any]:
    rows = [
        {"dose": float(c.doses[d]), "law_error": float(c.law[d]), "energy_error": _finite(c.energy[d])}
        | {"score": float(c.scores[d].mean()), "change": _told(summarise(c.scores[d] - c.scores[0]))}
        for d in range(len(c.doses))
    ]
    return {"unit": c.unit, "monotone": c.trend.monotone, "falls": c.trend.falls, "doses": rows}


def _told(s: Summary) -> dict[str, Any]:
    return {"value": _finite(s.value), "ci_low": _finite(s.ci_low), "ci_high": _finite(s.ci_high), "n": int(s.n)}


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


# ---------------------------------------------------------------- what the page shows


def dose_section(results: Results) -> dict[str, Any] | None:
    """What the macro ``dose`` of ``dose.html.j2`` takes; None where nothing was measured.

    ``worlds``: name, sentences, figure, table of doses. ``correlations``: a row per predictor. ``few``: why learned
    models are not correlated, or empty.
    """
    worlds = _worlds(results)
    if not worlds:
        return None
    tau = correlations(results)
    names = [name for name in _FORETELL if any(name in own for own in tau.values())]
    return {
        "worlds": [_section(results, world, f"dose-{i}") for i, world in enumerate(worlds)],
        "who": list(tau),
        "correlations": [
            {"title": metric_title(name), "cells": [_cell(own.get(name)) for own in tau.values()]} for name in names
        ],
        "few": "" if tau["learned models"] else _few(results),
    }


def _section(results: Results, world: str, anchor: str) -> dict[str, Any]:
    shown = _figure(results, world)
    found = curves(results.doses[world])
    rows = [
        {
            "corruption": name.replace("_", " "),
            "unit": c.unit,
            "dose": pretty_number(c.doses[d]),
            "law": pretty_number(c.law[d]),
            "energy": pretty_number(c.energy[d]),
            "score": pretty_number(c.scores[d].mean(), 4),
            "change": _cell(summarise(c.scores[d] - c.scores[0])),
        }
        for name, c in found.items()
        for d in range(1, len(c.doses))
    ]
    return {"name": world, "sentences": list(_sentences(results, world)), "figure": frame.embedded(anchor, shown),
            "rows": rows, "metric": metric_title(results.doses[world]["metric"]).lower()}  # fmt: skip


def dose_figures(results: Results) -> dict[str, go.Figure]:
    """``"world_dose"`` -> figure, for kedro viz."""
    return {f"{world}_dose": _figure(results, world).figure for world in _worlds(results)}


def _cell(s: Summary | None) -> dict[str, str]:
    if s is None:
        return {"text": "", "interval": ""}
    value, low, high = (float(x) for x in (s.value, s.ci_low, s.ci_high))
    return {"text": pretty_number(value), "interval": pretty_interval(low, high)}


def _few(results: Results) -> str:
    count = len(set(models(results).family))
    return f"{count} learned famil{'y' if count == 1 else 'ies'} with a law error: {_LEAST} are needed for an order."


def _sentences(results: Results, world: str) -> Iterator[str]:
    """Which errors cost anything, whether more of them costs more, where the learned models stand."""
    found = curves(results.doses[world])
    metric = metric_title(results.doses[world]["metric"]).lower()
    starts = len(results.doses[world]["true_model"])
    worse = [n.replace("_", " ") for n, c in found.items() if c.trend.falls]
    equal = [n.replace("_", " ") for n, c in found.items() if not c.trend.falls]
    if worse:
        yield f"From {starts} starts the {metric} falls by the largest dose of {_listed(worse)} beyond chance."
    if equal:
        yield f"Even the largest dose of {_listed(equal)} does not lower it beyond chance."
    rising = [n.replace("_", " ") for n, c in found.items() if not c.trend.monotone]
    yield (
        f"Not monotone: {_listed(rising)} (a larger dose does better beyond its interval)."
        if rising
        else "No larger dose does better than a smaller one beyond its interval."
    )
    for model, own in placed(results, world).items():
        yield f"{model_label(model)}: {_stands(own, metric)}"


def _stands(own: Placed, metric: str) -> str:
    said = f"law error {pretty_number(float(own.law.value))}, {metric} {pretty_number(own.score, 4)}; "
    if not own.beside:
        return said + "no dose has such a law error."
    beside = [
        f"{name.replace('_', ' ')} {pretty_number(where.dose, 2)}: {pretty_number(where.score, 4)}"
        for name, where in own.beside.items()
    ]
    return said + f"simulators as wrong as that reach by {', '.join(beside)}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# ---------------------------------------------------------------- the figure


def _figure(results: Results, world: str) -> Figure:
    """Score against law error: a line per corruption with its band, learned models as points, the true law, random."""
    doses = results.doses[world]
    truth, found = float(np.mean(doses["true_model"])), curves(doses)
    points = placed(results, world)
    shape = layout("law error at the planner's horizon, in the truth's spread", metric_title(doses["metric"]))
    axis = log_axis([*(c.law[1:] for c in found.values()), *([float(p.law.value)] for p in points.values())], 0.1)
    shape["xaxis"] |= {"type": "log", **axis, "exponentformat": "power"}
    figure = go.Figure(layout=shape | {"height": 460, "margin": {"l": 60, "r": 84, "t": 12, "b": 48}})
    for (name, curve), colour, dash, marker in zip(found.items(), _COLOURS, DASHES, MARKERS, strict=False):
        figure.add_traces(_traces(name, curve, truth, colour, dash, marker))
    palette = Palette(results.arrays.get(world, {}))
    for model, own in points.items():
        figure.add_trace(_point(model, own, truth, palette))
    for label, level in (("true law", truth), ("random", float(np.mean(doses["random"])))):
        figure.add_hline(level, line={"color": INK, "width": 1, "dash": "dot"}, annotation_text=label,
                         annotation_position="bottom left")  # fmt: skip
    return Figure(
        figure,
        "Score against the error of the law",
        "Each line: the same planner on a simulator that is wrong in one way, more and more, acting in the true world "
        f"from {len(doses['true_model'])} starts. Bands: 95 % intervals of the difference to the true law on the same "
        "starts. Large markers: learned models, seeds and starts in their intervals. Law error: root mean square error "
        f"of the states {doses['horizon']} steps ahead under the actions of held-out episodes. What stands above a "
        "line acts better than a simulator that is as wrong in that way.",
    )


def _traces(name: str, c: Curve, truth: float, colour: str, dash: str, marker: str) -> list[dict[str, Any]]:
    changes = [summarise(score - c.scores[0]) for score in c.scores[1:]]
    low, high = (truth + np.array([float(getattr(s, end)) for s in changes]) for end in ("ci_low", "ci_high"))
    order = np.argsort(c.law[1:], kind="stable")
    x, y = c.law[1:][order], c.scores[1:].mean(1)[order]
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    words = name.replace("_", " ")
    band = {
        "type": "scatter", "mode": "lines", "x": numbers(np.concatenate([x, x[::-1]])),
        "y": numbers(np.concatenate([high[order], low[order][::-1]])), "fill": "toself", "line": {"width": 0},
        "fillcolor": f"rgba({red},{green},{blue},0.14)", "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip
    curve = {
        "type": "scatter", "mode": "lines+markers+text", "x": numbers(x), "y": numbers(y), "name": words,
        "line": {"color": colour, "dash": dash, "width": 2}, "marker": {"color": colour, "symbol": marker, "size": 6},
        "text": [""] * (len(x) - 1) + [words], "textposition": "middle right", "textfont": {"color": colour},
        "cliponaxis": False, "customdata": [f"{dose:.4g} {c.unit}" for dose in c.doses[1:][order]],
        "hovertemplate": f"<b>{words}</b> %{{customdata}}<br>law error %{{x:.3g}}<br>score %{{y:.4g}}<extra></extra>",
    }  # fmt: skip
    return [band, curve]


def _point(model: str, own: Placed, truth: float, palette: Palette) -> dict[str, Any]:
    score, trace = own.change, line([float(own.law.value)], [own.score], model, palette, mode="markers")
    trace["marker"] |= {"size": 12, "line": {"width": 1.5, "color": INK}}

    def whisker(middle: float, low: float, high: float) -> dict[str, Any]:
        ends = {"array": numbers([high - middle]), "arrayminus": numbers([middle - low])}
        return {"type": "data", "thickness": 1.2, "width": 4, "color": palette.colour(model), **ends}

    return trace | {
        "error_y": whisker(own.score, truth + float(score.ci_low), truth + float(score.ci_high)),
        "error_x": whisker(float(own.law.value), float(own.law.ci_low), float(own.law.ci_high)),
    }
