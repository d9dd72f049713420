"""What all figures are drawn with: a layout, lines of models and of the truth, axes, numbers of five digits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from wm_pipelines.reporting.style import INK, REFERENCES, Palette, model_label, model_order, split_model

Float = NDArray[np.float64]

MAX_POINTS = 400
_MOST_MARKERS = 9  # of a curve: enough to tell variants apart, few enough to see the line


@dataclass(frozen=True)
class Figure:
    """A figure with its title and a caption that says what to look at."""

    figure: go.Figure
    title: str
    caption: str


def thinned(count: int, most: int = MAX_POINTS) -> NDArray[np.intp]:
    """Evenly spread indices, at most ``most`` of ``count``, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def numbers(values: Any) -> list[float | None]:
    """Five significant digits; what is not finite becomes a gap."""
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.asarray(values, dtype=np.float64).tolist()]


def model_name(model: str) -> str:
    """A model's name for Plotly, which reads some HTML in texts."""
    return escape(model_label(model))


def layout(x: str, y: str, log_y: bool = False, **more: Any) -> dict[str, Any]:
    """Axes titled ``x`` and ``y``; ``more`` of Plotly's layout."""
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


def line(x: Any, y: Any, model: str, palette: Palette, **more: Any) -> dict[str, Any]:
    """A curve of a model in its colour, with the dash and a few markers of its variant; ``more`` of Plotly's trace."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": numbers(x),
        "y": numbers(y),
        "name": model_name(model),
        "legendgroup": model,
        "line": {"color": palette.colour(model), "dash": palette.dash(model), "width": 2},
        "marker": {
            "color": palette.colour(model),
            "symbol": palette.marker(model),
            "size": 7,
            "maxdisplayed": _MOST_MARKERS,
        },
        **more,
    }


def truth_line(x: Any, y: Any, **more: Any) -> dict[str, Any]:
    """A curve of the truth."""
    style = {"color": INK, "width": 1.5}
    return {"type": "scatter", "mode": "lines", "x": numbers(x), "y": numbers(y), "name": "truth", "meta": "ink"} | {
        "line": style,
        **more,
    }


def contending(series: Mapping[str, Any]) -> list[Any]:
    """Values of the trained models, by which an axis is scaled: an exact reference must not squeeze all others."""
    trained = [values for model, values in series.items() if split_model(model)[0] not in REFERENCES]
    return trained or list(series.values())


def log_axis(values: Iterable[Any], margin: float = 0.3) -> dict[str, Any]:
    """Range and whole-decade ticks of a logarithmic axis: what blew up leaves at the top."""
    positive = np.concatenate([np.asarray(v, dtype=np.float64).ravel() for v in values] or [np.empty(0)])
    positive = positive[np.isfinite(positive) & (positive > 0.0)]
    if not len(positive):
        return {}
    top = min(positive.max(), 1e4 * np.quantile(positive, 0.9))
    bottom = max(positive.min(), 1e-18 * top)
    low, high = float(np.log10(bottom)) - margin, float(np.log10(top)) + margin
    # Decades; of a few also 2 and 5; within one decade what Plotly chooses.
    ticks = {"dtick": int(np.ceil((high - low) / 7))} if high - low > 3 else {"dtick": "D2"} if high - low > 1 else {}
    return {"range": [round(low, 3), round(high, 3)], **ticks}


def below(series: Mapping[str, Any], axis: Mapping[str, Any]) -> str:
    """A sentence that names the curves which lie wholly below a logarithmic axis; empty where there are none.

    Args:
        series: model -> values. axis: as `log_axis` gives it.
    """
    bottom = 10.0 ** axis["range"][0] if "range" in axis else 0.0
    hidden = [m for m in model_order(series) if np.nanmax(np.asarray(series[m], np.float64), initial=0.0) < bottom]
    return f" Below the axis: {', '.join(model_label(m) for m in hidden)}." if hidden else ""


def learning_curves(curves: Mapping[str, pd.DataFrame], world: str, palette: Palette) -> Figure | None:
    """Training loss over the optimiser's step, mean over seeds."""
    tables = {key.split("/", 1)[1]: curve for key, curve in curves.items() if key.split("/", 1)[0] == world}
    own = {m: c.groupby("step")["loss"].mean() for m, c in tables.items() if "loss" in c and len(c)}
    if not own:
        return None
    figure = go.Figure(layout=layout("training step", "loss", log_y=True))
    for model in model_order(own):
        loss = own[model]
        keep = thinned(len(loss))
        figure.add_trace(line(loss.index.to_numpy()[keep], loss.to_numpy()[keep], model, palette))
    figure.update_yaxes(log_axis(loss.to_numpy() for loss in own.values()))
    negative = [model_label(model) for model in model_order(own) if (own[model] <= 0).any()]
    return Figure(
        figure,
        "Learning curves",
        "Training loss, mean over seeds. Families minimise different quantities, so heights cannot be compared; look "
        "for curves that still fall at the end (train longer) or that jump (train more gently)."
        + (f" A likelihood has no logarithm where it is negative: {', '.join(negative)}." if negative else ""),
    )


def logged(
    curves: Mapping[str, pd.DataFrame], world: str, name: str, title: str, palette: Palette, log_y: bool = False
) -> go.Figure | None:
    """A term of the learning curves over the optimiser's step, mean over seeds; None where nobody has it."""
    own = {
        key.split("/", 1)[1]: curve.dropna(subset=[name]).groupby("step")[name].mean()
        for key, curve in curves.items()
        if key.split("/", 1)[0] == world and name in curve
    }
    if not own:
        return None
    figure = go.Figure(layout=layout("training step", title, log_y=log_y))
    for model in model_order(own):
        keep = thinned(len(own[model]))
        figure.add_trace(line(own[model].index.to_numpy()[keep], own[model].to_numpy()[keep], model, palette))
    return figure
