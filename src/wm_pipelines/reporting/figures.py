"""The report's figures, as Plotly figures that stand alone as well.

Every trace has at most `MAX_POINTS` points and numbers of five digits, so that a report on many worlds stays small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from wm_pipelines.reporting.content import ReportContent, WorldRollouts
from wm_pipelines.reporting.style import INK, REFERENCES, Palette, model_label, model_order, pretty_number
from wm_pipelines.reporting.summary import rows_by_model, summary_table

Float = NDArray[np.float64]

MAX_POINTS = 400
_FLOOR = 1e-17  # of logarithmic axes: below rounding, a difference is drawn as this
_SHORTEST = 1e-3  # s, of training, on a logarithmic axis
_MAX_PATHS = 6
_COLUMNS = 4


@dataclass(frozen=True)
class Figure:
    """A figure with its title and a caption that says what to look at."""

    figure: go.Figure
    title: str
    caption: str


# ---------------------------------------------------------------- shared by all figures


def thinned(count: int, most: int = MAX_POINTS) -> NDArray[np.intp]:
    """Evenly spread indices, at most ``most`` of ``count``, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _numbers(values: Any) -> list[float | None]:
    """Five significant digits; what is not finite becomes a gap."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=np.float64).tolist()]


def _name(model: str) -> str:
    """A model's name for Plotly, which reads some HTML in texts."""
    return escape(model_label(model))


def _layout(x: str, y: str, log_y: bool = False, **more: Any) -> dict[str, Any]:
    axis = {"gridcolor": "#dfe3e8", "zerolinecolor": "#c3c9d0", "linecolor": "#c3c9d0", "automargin": True}
    logarithmic = {"type": "log", "exponentformat": "power"} if log_y else {"zeroline": False}
    return {
        "template": {},
        "xaxis": {**axis, "title": {"text": x}, "zeroline": False},
        "yaxis": {**axis, **logarithmic, "title": {"text": y}},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "xanchor": "left"},
        "margin": {"l": 60, "r": 12, "t": 12, "b": 48},
        "height": 400,
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        **more,
    }


def _line(x: Any, y: Any, model: str, palette: Palette, **more: Any) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _numbers(x),
        "y": _numbers(y),
        "name": _name(model),
        "legendgroup": model,
        "line": {"color": palette.colour(model), "dash": palette.dash(model), "width": 2},
        **more,
    }


def _truth_line(x: Any, y: Any, **more: Any) -> dict[str, Any]:
    style = {"color": INK, "width": 1.5}
    return {"type": "scatter", "mode": "lines", "x": _numbers(x), "y": _numbers(y), "name": "truth", "meta": "ink"} | {
        "line": style,
        **more,
    }


def _log_axis(values: Iterable[Any], margin: float = 0.3) -> dict[str, Any]:
    """Range and whole-decade ticks of a logarithmic axis: what blew up leaves at the top."""
    positive = np.concatenate([np.asarray(v, dtype=np.float64).ravel() for v in values] or [np.empty(0)])
    positive = positive[np.isfinite(positive) & (positive > 0.0)]
    if not len(positive):
        return {}
    top = min(positive.max(), 1e4 * np.quantile(positive, 0.9))
    bottom = max(positive.min(), 1e-18 * top)
    low, high = float(np.log10(bottom)) - margin, float(np.log10(top)) + margin
    ticks = {"dtick": int(np.ceil((high - low) / 7))} if high - low > 1.5 else {}
    return {"range": [round(low, 3), round(high, 3)], **ticks}


# ---------------------------------------------------------------- one world


def energy_over_time(rollouts: WorldRollouts, palette: Palette, episode: int = 0) -> Figure | None:
    """Energy of the first episode's predictions beside the true energy, J over s."""
    if rollouts.truth_energy is None or not rollouts.energy:
        return None
    keep = thinned(len(rollouts.time))
    time, true = rollouts.time[keep], rollouts.truth_energy[episode, keep]
    series = {m: rollouts.energy[m][episode, keep] for m in model_order(rollouts.energy)}
    figure = go.Figure(layout=_layout("time [s]", "energy [J]"))
    for model, energy in series.items():
        figure.add_trace(_line(time, energy, model, palette))
    figure.add_trace(_truth_line(time, true, line={"color": INK, "width": 3, "dash": "dot"}))
    deviations = np.concatenate([np.abs(e - true[0]) for e in (*series.values(), true)])
    finite = deviations[np.isfinite(deviations)]
    # A model that blows up must not flatten all the others.
    largest = float(finite.max(initial=0.0))
    half = min(1.15 * largest, max(abs(true[0]), 5 * np.ptp(true), 1e-12))
    half = max(half, 1e-3 * abs(true[0]), 1e-12)
    figure.update_yaxes(range=[float(true[0] - half), float(true[0] + half)])
    return Figure(
        figure,
        "Energy over time",
        "Energy of the predicted states of one held-out episode, computed with the true law. A model that obeys "
        "physics stays on the dotted line of the truth; one that leaves it creates or destroys energy.",
    )


def energy_error_over_time(rollouts: WorldRollouts, palette: Palette) -> Figure | None:
    """Median over episodes of ``|E(t) - E(0)|``, J over s, logarithmic."""
    if not rollouts.energy:
        return None
    keep = thinned(len(rollouts.time))[1:]
    figure = go.Figure(layout=_layout("time [s]", "|E(t) − E(0)| [J]", log_y=True))
    drawn = []
    for model in model_order(rollouts.energy):
        energy = rollouts.energy[model]
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(energy - energy[:, :1])
        middle = np.median(np.where(np.isnan(error), np.inf, error), axis=0)[keep]
        drawn.append(np.maximum(middle, _FLOOR))
        figure.add_trace(_line(rollouts.time[keep], drawn[-1], model, palette))
    figure.update_yaxes(_log_axis(drawn))
    return Figure(
        figure,
        "Energy error over time",
        f"Distance of the energy from its start, median of {len(rollouts.truth)} held-out episode(s), logarithmic. A "
        "flat line is an error that only swings back and forth; a rising one is drift. A model that stands still "
        "conserves energy too, so read this together with the growth of the error.",
    )


def error_growth(leaderboard: pd.DataFrame, world: str, time: Float | None, palette: Palette) -> Figure | None:
    """State MSE over the step, mean over seeds, band from the lowest to the highest end of the seeds' intervals."""
    rows = leaderboard[(leaderboard["world"] == world) & (leaderboard["metric"] == "mse") & (leaderboard["step"] > 0)]
    if rows.empty:
        return None
    rows = rows[rows["split"] == main_split(rows["split"])]
    keys = rows["family"] + "/" + rows["variant"]
    in_seconds = time is not None and len(time) > int(rows["step"].max())
    layout = _layout("time [s]" if in_seconds else "step", "mean squared error of the state", log_y=True)
    figure = go.Figure(layout=layout)
    drawn = []
    for model in model_order(keys):
        by_step = rows[keys == model].groupby("step")
        mean, low, high = by_step["value"].mean(), by_step["ci_low"].min(), by_step["ci_high"].max()
        keep = thinned(len(mean))
        steps = mean.index.to_numpy()[keep]
        x = time[steps] if in_seconds and time is not None else steps
        middle, low, high = (np.maximum(s.to_numpy()[keep], _FLOOR) for s in (mean, low, high))
        drawn.append(middle)
        figure.add_trace(_band(x, low, high, model, palette))
        figure.add_trace(_line(x, middle, model, palette))
    figure.update_yaxes(_log_axis(drawn))
    return Figure(
        figure,
        "Growth of the error",
        "Mean squared error of the state at every step; lines are means over seeds and held-out episodes, bands reach "
        "from the lowest to the highest end of the seeds' 95 % intervals. A straight rise is exponential growth, the "
        "mark of chaos; a curve that meets persistence predicts no better than “nothing changes”.",
    )


def _band(x: Any, low: Float, high: Float, model: str, palette: Palette) -> dict[str, Any]:
    known = np.isfinite(low) & np.isfinite(high)
    colour = palette.colour(model)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    x = np.asarray(x)[known]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": _numbers(np.concatenate([x, x[::-1]])),
        "y": _numbers(np.concatenate([high[known], low[known][::-1]])),
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.15)",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": model,
    }


def portraits(rollouts: WorldRollouts, palette: Palette, episode: int = 0) -> Figure | None:
    """Truth and prediction per model: paths in space for particles, else phase space or the first two coordinates."""
    models = model_order(rollouts.predicted)
    if not models:
        return None
    view, x_title, y_title = _view(rollouts)
    columns = min(_COLUMNS, len(models))
    rows = -(-len(models) // columns)
    gaps = {"horizontal_spacing": 0.03, "vertical_spacing": 0.24 / rows}
    figure = make_subplots(rows, columns, subplot_titles=[_name(m) for m in models], **gaps)
    truth = view(rollouts.truth[episode])
    spatial = _is_spatial(rollouts)
    for i, model in enumerate(models):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        x, y = view(rollouts.predicted[model][episode])
        figure.add_trace(_truth_line(*truth, showlegend=i == 0, legendgroup="truth"), **place)
        figure.add_trace(_line(x, y, model, palette, showlegend=False), **place)
        figure.add_trace(_ends(*truth, INK, "circle-open", spatial, meta="ink"), **place)
        figure.add_trace(_ends(x, y, palette.colour(model), "circle", spatial, legendgroup=model), **place)
    layout = _layout("", "", height=60 + 250 * rows)
    axis = {k: v for k, v in layout.pop("xaxis").items() if k not in ("title", "automargin")}
    layout.pop("yaxis")
    figure.update_layout({**layout, "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "yref": "container"}})
    figure.update_layout(margin={"l": 46, "r": 12, "t": 56, "b": 44}, showlegend=False)
    x_range, y_range = _ranges(truth, equal=spatial)
    figure.update_xaxes({**axis, "range": x_range, "nticks": 5})
    figure.update_yaxes({**axis, "range": y_range, "nticks": 5, "showticklabels": False})
    figure.update_yaxes(showticklabels=True, title={"text": y_title, "standoff": 4}, col=1)
    for column in range(1, columns + 1):
        last = max(i // columns + 1 for i in range(len(models)) if i % columns + 1 == column)
        figure.update_xaxes(title={"text": x_title, "standoff": 4}, row=last, col=column)
    if spatial:
        for i in range(len(models)):
            anchor = "x" if i == 0 else f"x{i + 1}"
            figure.update_yaxes(scaleanchor=anchor, row=i // columns + 1, col=i % columns + 1)
    return Figure(figure, *_portrait_words(rollouts))


def _portrait_words(rollouts: WorldRollouts) -> tuple[str, str]:
    """Title and caption that suit the kind of portrait."""
    how = (
        "of one held-out episode: the truth as a thin line without colour, the prediction coloured on top; "
        "dots mark where they end."
    )
    if rollouts.particles is not None and _is_spatial(rollouts):
        bodies = f" The first {_MAX_PATHS} bodies are drawn." if rollouts.particles > _MAX_PATHS else ""
        look = "Where the two part, the model has lost the motion; bodies that leave the panel have been flung out."
        return "Paths of the bodies", f"Paths through space {how}{bodies} {look}"
    if rollouts.dof == 1:
        look = "A closed orbit is conserved energy; a spiral inwards loses energy, one outwards gains it."
        return "Phase portraits", f"Coordinate q and momentum p {how} {look}"
    look = "Where the two part, the model has lost the motion."
    return "Portraits of the motion", f"Two of the state's entries {how} {look}"


def _ends(x: Float, y: Float, colour: str, symbol: str, several: bool, **more: Any) -> dict[str, Any]:
    """Where a path, or each of several with gaps between, ends."""
    last = np.isfinite(x) & np.isnan(np.append(x[1:], np.nan))
    if not several:  # gaps are jumps of an angle, not ends
        last[: np.flatnonzero(last).max(initial=0)] = False
    marker = {"color": colour, "symbol": symbol, "size": 8, "line": {"width": 1.5}}
    places = {"x": _numbers(x[last]), "y": _numbers(y[last])}
    return {"type": "scatter", "mode": "markers", "showlegend": False, "hoverinfo": "skip", "marker": marker} | {
        **places,
        **more,
    }


View = Callable[[Float], tuple[Float, Float]]


def _is_spatial(rollouts: WorldRollouts) -> bool:
    """Whether bodies move in a plane or in space, so that their paths can be drawn."""
    return rollouts.particles is not None and rollouts.space is not None and rollouts.space >= 2


def _view(rollouts: WorldRollouts) -> tuple[View, str, str]:
    """How to draw a state ``[K, 2d]`` as a curve, and the axes' titles."""
    if rollouts.particles is not None and rollouts.space is not None and _is_spatial(rollouts):
        return _paths(rollouts.particles, rollouts.space), "x", "y"
    wrapped = rollouts.angles
    if rollouts.dof == 1:
        return _curve(0, 1, wrapped), "q", "p"
    if rollouts.particles is not None:
        return _curve(0, rollouts.dof, ()), "q₁", "p₁"
    return _curve(0, 1, wrapped), "q₁", "q₂"


def _curve(first: int, second: int, angles: tuple[int, ...]) -> View:
    def view(states: Float) -> tuple[Float, Float]:
        states = states[thinned(len(states))].copy()
        with np.errstate(invalid="ignore"):
            for i in angles:
                states[:, i] = np.remainder(states[:, i] + np.pi, 2 * np.pi) - np.pi
        x, y = states[:, first], states[:, second]
        # A jump from one side of the circle to the other is not a path.
        jump = np.zeros(len(x), dtype=bool)
        for i in set(angles) & {first, second}:
            with np.errstate(invalid="ignore"):
                jump[1:] |= np.abs(np.diff(states[:, i])) > np.pi
        return np.where(jump, np.nan, x), np.where(jump, np.nan, y)

    return view


def _paths(particles: int, space: int) -> View:
    shown = min(particles, _MAX_PATHS)

    def view(states: Float) -> tuple[Float, Float]:
        keep = thinned(len(states), MAX_POINTS // shown - 1)
        position = states[keep, : particles * space].reshape(len(keep), particles, space)[:, :shown, :2]
        # One trace for all bodies: a gap after each.
        paths = np.concatenate([position, np.full((1, shown, 2), np.nan)]).transpose(1, 0, 2).reshape(-1, 2)
        return paths[:, 0], paths[:, 1]

    return view


def _ranges(curve: tuple[Float, Float], equal: bool) -> tuple[list[float], list[float]]:
    """Axis ranges around the truth with a margin; predictions that leave it leave the panel."""
    middles, halves = [], []
    for values in curve:
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        middles.append((low + high) / 2)
        halves.append(0.7 * (high - low) or 1.0)
    if equal:
        halves = [max(halves)] * 2
    x, y = ([float(f"{m - h:.5g}"), float(f"{m + h:.5g}")] for m, h in zip(middles, halves, strict=True))
    return x, y


def learning_curves(curves: Mapping[str, pd.DataFrame], world: str, palette: Palette) -> Figure | None:
    """Training loss over the optimiser's step, mean over seeds."""
    tables = {key.split("/", 1)[1]: curve for key, curve in curves.items() if key.split("/", 1)[0] == world}
    own = {m: c.groupby("step")["loss"].mean() for m, c in tables.items() if "loss" in c and len(c)}
    if not own:
        return None
    figure = go.Figure(layout=_layout("training step", "loss", log_y=True))
    for model in model_order(own):
        loss = own[model]
        keep = thinned(len(loss))
        mode = {"mode": "lines+markers"} if len(loss) < 3 else {}
        figure.add_trace(_line(loss.index.to_numpy()[keep], loss.to_numpy()[keep], model, palette, **mode))
    figure.update_yaxes(_log_axis(loss.to_numpy() for loss in own.values()))
    return Figure(
        figure,
        "Learning curves",
        "Training loss, mean over seeds. Families minimise different quantities, so heights cannot be compared; look "
        "for curves that still fall at the end (train longer) or that jump (train more gently).",
    )


def score_per_cost(summary: pd.DataFrame, world: str, palette: Palette) -> Figure | None:
    """State MSE over training time, one point per model, whiskers are 95 % intervals, persistence as a line."""
    own = summary[summary["world"] == world]
    if own.empty:
        return None
    split = main_split(own[own["metric"] == "mse"]["split"])
    rows = {f"{f}/{v}": r for _, s, f, v, r in rows_by_model(own) if s == split and "mse" in r and "train_seconds" in r}
    trained = {m: r for m, r in rows.items() if m.split("/")[0] not in REFERENCES and np.isfinite(r["mse"]["value"])}
    if not trained:
        return None
    layout = _layout("training time of one model [s]", "mean squared error of the state", log_y=True)
    layout["xaxis"] |= {"type": "log", "exponentformat": "power"}
    figure = go.Figure(layout=layout)
    upwards = sorted(trained, key=lambda m: trained[m]["mse"]["value"])
    for model, row in trained.items():
        # Labels of neighbours in height lie on different sides of their points.
        side = "top" if (len(upwards) - upwards.index(model)) % 2 else "bottom"
        figure.add_trace({**_cost_point(model, row, palette), "textposition": f"{side} center"})
    figure.update_xaxes(_log_axis([max(r["train_seconds"]["value"], _SHORTEST) for r in trained.values()], margin=0.6))
    floor = [r["mse"]["value"] for m, r in rows.items() if m.split("/")[0] == "persistence"]
    scores = [r["mse"][end] for r in trained.values() for end in ("value", "ci_low", "ci_high")]
    figure.update_yaxes(_log_axis([np.maximum(floor + scores, _FLOOR)]))
    for model, row in rows.items():
        if model.split("/")[0] == "persistence" and np.isfinite(row["mse"]["value"]):
            figure.add_hline(
                y=float(f"{row['mse']['value']:.5g}"),
                line={"color": palette.colour(model), "dash": "dot"},
                annotation={"text": "persistence", "font": {"color": palette.colour(model)}},
            )
    return Figure(
        figure,
        "Score for the cost",
        "Each point is one model: further down is more exact, further left is cheaper to train; the good corner is "
        "bottom left. Whiskers are 95 % intervals.",
    )


def _cost_point(model: str, row: Mapping[str, Mapping[str, Any]], palette: Palette) -> dict[str, Any]:
    score, seconds = row["mse"], max(row["train_seconds"]["value"], _SHORTEST)
    whiskers = {}
    if np.isfinite([score["ci_low"], score["ci_high"]]).all():
        above, below = score["ci_high"] - score["value"], min(score["value"] - score["ci_low"], 0.999 * score["value"])
        whiskers = {"error_y": {"array": _numbers([above]), "arrayminus": _numbers([below]), "thickness": 1.2}}
    hover = [f"{name}: {pretty_number(r['value'])} {r['unit'] if r['unit'] != '1' else ''}" for name, r in row.items()]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "text": [_name(model)],
        "cliponaxis": False,
        "legendgroup": model,
        "x": _numbers([seconds]),
        "y": _numbers([max(score["value"], _FLOOR)]),
        "name": _name(model),
        "showlegend": False,
        "marker": {"color": palette.colour(model), "symbol": palette.marker(model), "size": 12},
        "hovertemplate": "<br>".join(hover),
        **whiskers,
    }


def main_split(splits: Iterable[str]) -> str:
    """The split that figures show: ``test`` if it is there, else the first by name; empty if there is none."""
    names = sorted(set(splits))
    return "test" if "test" in names else next(iter(names), "")


# ---------------------------------------------------------------- all worlds


def models_of(content: ReportContent) -> list[str]:
    """All models named anywhere in the content, in the report's order."""
    models = set(content.leaderboard["family"] + "/" + content.leaderboard["variant"])
    for rollouts in content.rollouts.values():
        models |= set(rollouts.predicted) | set(rollouts.energy) | (set(rollouts.frames) - {"truth"})
    models |= {key.split("/", 1)[1] for key in content.curves}
    return model_order(models)


def world_figures(content: ReportContent, world: str, summary: pd.DataFrame | None = None) -> dict[str, Figure]:
    """The figures of one world by name; those without data are missing.

    Args:
        content: of the report.
        world: its name.
        summary: `summary_table` of the leaderboard, where it is known already.
    """
    palette = Palette(models_of(content))
    summary = summary_table(content.leaderboard) if summary is None else summary
    rollouts = content.rollouts.get(world)
    figures: dict[str, Figure | None] = {}
    if rollouts is not None:
        figures["energy"] = energy_over_time(rollouts, palette)
        figures["energy_error"] = energy_error_over_time(rollouts, palette)
    time = None if rollouts is None else rollouts.time
    figures["error_growth"] = error_growth(content.leaderboard, world, time, palette)
    figures["score_per_cost"] = score_per_cost(summary, world, palette)
    if rollouts is not None:
        figures["portraits"] = portraits(rollouts, palette)
    figures["learning_curves"] = learning_curves(content.curves, world, palette)
    return {name: figure for name, figure in figures.items() if figure is not None}


def all_figures(content: ReportContent) -> dict[str, go.Figure]:
    """Every figure of the report, ``"world/name"`` -> Plotly figure with its title, to be saved one by one."""
    summary = summary_table(content.leaderboard)
    figures = {}
    for world in content.worlds:
        for name, shown in world_figures(content, world, summary).items():
            alone = go.Figure(shown.figure)
            top = (alone.layout.margin.t or 0) + 48
            # On its own the figure needs a title and a ground to stand on.
            alone.update_layout(
                title={"text": f"{escape(world)}: {shown.title}"}, paper_bgcolor="white", margin={"t": top}
            )
            figures[f"{world}/{name}"] = alone
    return figures
