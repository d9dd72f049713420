"""The page's figures, as Plotly figures that stand alone as well.

Every trace has at most `plots.MAX_POINTS` points and numbers of five digits, so that a report on
many worlds stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from wm_pipelines.reporting import plots
from wm_pipelines.reporting.cost import accuracy_against_cost
from wm_pipelines.reporting.plots import Figure, thinned
from wm_pipelines.reporting.style import INK, Palette, model_order
from wm_pipelines.reporting.summary import main_split
from wm_pipelines.tasks.physics.content import Content, WorldRollouts
from wm_pipelines.tasks.physics.trajectories import trajectories

Float = NDArray[np.float64]

ALL = ("energy", "energy_error", "error_growth", "accuracy_against_cost", "trajectories", "learning_curves")

_FLOOR = 1e-17  # of logarithmic axes: below rounding, a difference is drawn as this
_BANDS = 6  # models, beyond which their bands hide each other


# ---------------------------------------------------------------- one world


def energy_over_time(rollouts: WorldRollouts, palette: Palette, episode: int = 0) -> Figure | None:
    """Energy of the first episode's predictions beside the true energy, J over s."""
    if rollouts.truth_energy is None or not rollouts.energy:
        return None
    keep = thinned(len(rollouts.time))
    time, true = rollouts.time[keep], rollouts.truth_energy[episode, keep]
    series = {m: rollouts.energy[m][episode, keep] for m in model_order(rollouts.energy)}
    figure = go.Figure(layout=plots.layout("time [s]", "energy [J]"))
    for model, energy in series.items():
        figure.add_trace(plots.line(time, energy, model, palette))
    figure.add_trace(plots.truth_line(time, true, line={"color": INK, "width": 3, "dash": "dot"}))
    deviations = np.concatenate([np.abs(e - true[0]) for e in (*series.values(), true)])
    finite = deviations[np.isfinite(deviations)]
    # A model that blows up must not flatten all the others.
    largest = float(finite.max(initial=0.0))
    least = 1e-12 * _energy_size(rollouts)
    half = min(1.15 * largest, max(abs(true[0]), 5 * np.ptp(true), least))
    half = max(half, 1e-3 * abs(true[0]), least)
    figure.update_yaxes(range=[float(true[0] - half), float(true[0] + half)])
    return Figure(
        figure,
        "Energy over time",
        "Energy of the predicted states of one held-out episode, computed with the true law. A model that obeys "
        "physics stays on the dotted line of the truth"
        + ("; one that leaves it creates or destroys energy." if "energy" not in rollouts.changing else "."),
    )


def energy_error_over_time(rollouts: WorldRollouts, palette: Palette) -> Figure | None:
    """Median over episodes of ``|E(t) - E(0)|``, or of ``|E - E_true|`` where the truth changes; J over s, log."""
    if not rollouts.energy:
        return None
    keep = thinned(len(rollouts.time))[1:]
    true = rollouts.truth_energy if "energy" in rollouts.changing else None
    against = "the true energy at the same time" if true is not None else "its start"
    title = "|E(t) − E(0)| [J]" if true is None else "|E(t) − true E(t)| [J]"
    figure = go.Figure(layout=plots.layout("time [s]", title, log_y=True))
    drawn = {}
    for model in model_order(rollouts.energy):
        energy = rollouts.energy[model]
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(energy - (energy[:, :1] if true is None else true))
        middle = np.median(np.where(np.isnan(error), np.inf, error), axis=0)[keep]
        drawn[model] = np.maximum(middle, _FLOOR * _energy_size(rollouts))
        figure.add_trace(plots.line(rollouts.time[keep], drawn[model], model, palette))
    axis = plots.log_axis(plots.contending(drawn))
    figure.update_yaxes(axis)
    return Figure(
        figure,
        "Energy error over time",
        f"Distance of the energy from {against}, median of {len(rollouts.truth)} held-out episode(s), logarithmic. A "
        "flat line is an error that only swings back and forth; a rising one is drift. "
        + ("Persistence conserves energy, too, so read this together with the growth of the error. " * (true is None))
        + "The axis fits the trained models."
        + plots.below(drawn, axis),
    )


def _energy_size(rollouts: WorldRollouts) -> float:
    """Largest true energy, J, by which floors are set: joules of atoms and of planets have none in common."""
    size = 0.0 if rollouts.truth_energy is None else float(np.abs(rollouts.truth_energy).max())
    return size if 0 < size < np.inf else 1.0


def error_growth(scores: pd.DataFrame, world: str, time: Float | None, palette: Palette) -> Figure | None:
    """State MSE over the step, mean over seeds; of few models a band over the seeds' intervals."""
    rows = scores[(scores["world"] == world) & (scores["metric"] == "mse") & (scores["step"] > 0)]
    if rows.empty:
        return None
    rows = rows[rows["split"] == main_split(rows["split"])]
    keys = rows["family"] + "/" + rows["variant"]
    in_seconds = time is not None and len(time) > int(rows["step"].max())
    layout = plots.layout("time [s]" if in_seconds else "step", "mean squared error of the state", log_y=True)
    figure = go.Figure(layout=layout)
    drawn: dict[str, Float] = {}
    banded = keys.nunique() <= _BANDS
    for model in model_order(keys):
        by_step = rows[keys == model].groupby("step")
        mean, low, high = by_step["value"].mean(), by_step["ci_low"].min(), by_step["ci_high"].max()
        keep = thinned(len(mean))
        steps = mean.index.to_numpy()[keep]
        x = time[steps] if in_seconds and time is not None else steps
        middle, low, high = (np.maximum(s.to_numpy()[keep], _FLOOR) for s in (mean, low, high))
        drawn[model] = middle
        if banded:
            figure.add_trace(_band(x, low, high, model, palette))
        figure.add_trace(plots.line(x, middle, model, palette))
    axis = plots.log_axis(plots.contending(drawn))
    figure.update_yaxes(axis)
    return Figure(
        figure,
        "Growth of the error",
        "Mean squared error of the state at every step; lines are means over seeds and held-out episodes"
        + (", bands reach from the lowest to the highest end of the seeds' 95 % intervals" if banded else "")
        + ". A straight rise is exponential growth, the "
        "mark of chaos; a curve that meets persistence predicts no better than “nothing changes”. The axis fits the "
        "trained models." + plots.below(drawn, axis),
    )


def _band(x: Any, low: Float, high: Float, model: str, palette: Palette) -> dict[str, Any]:
    known = np.isfinite(low) & np.isfinite(high)
    colour = palette.colour(model)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    x = np.asarray(x)[known]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": plots.numbers(np.concatenate([x, x[::-1]])),
        "y": plots.numbers(np.concatenate([high[known], low[known][::-1]])),
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.15)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": model,
    }


# ---------------------------------------------------------------- all worlds


def world_figures(
    content: Content, world: str, summary: pd.DataFrame | None = None, names: Collection[str] = ALL
) -> dict[str, Figure]:
    """The figures of one world by name; those without data are missing.

    Args:
        content: of the page. world: its name. summary: of the scores, where it is another than that of the results.
        names: those that are wanted.
    """
    palette, results = Palette(content.models), content.results
    rollouts = content.rollouts.get(world)
    time = None if rollouts is None else rollouts.time
    scores, curves = results.scores, results.curves
    draw: dict[str, Callable[[], Figure | None]] = {
        "error_growth": lambda: error_growth(scores, world, time, palette),
        "accuracy_against_cost": lambda: accuracy_against_cost(
            results.summary if summary is None else summary, world, "mse", palette
        ),
        "learning_curves": lambda: plots.learning_curves(curves, world, palette),
    }
    if rollouts is not None:
        draw |= {
            "energy": lambda: energy_over_time(rollouts, palette),
            "energy_error": lambda: energy_error_over_time(rollouts, palette),
            "trajectories": lambda: trajectories(rollouts, palette),
        }
    drawn = {name: draw[name]() for name in ALL if name in draw and name in names}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def alone(shown: Figure, world: str) -> go.Figure:
    """A figure of the page as one that stands for itself: with its title and a ground to stand on."""
    figure = go.Figure(shown.figure)
    top = (figure.layout.margin.t or 0) + 48
    figure.update_layout(title={"text": f"{escape(world)}: {shown.title}"}, paper_bgcolor="white", margin={"t": top})
    return figure
