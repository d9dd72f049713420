"""Phase portraits and trajectories: every model beside the truth, in the plane that shows the motion best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from wm_pipelines.reporting import plots
from wm_pipelines.reporting.plots import Figure, thinned
from wm_pipelines.reporting.style import INK, Palette, model_order
from wm_pipelines.tasks.physics.content import WorldRollouts

Float = NDArray[np.float64]

_MAX_PATHS = 6
_COLUMNS = 4
_LEAP = 10.0  # times the usual change from row to row


def trajectories(rollouts: WorldRollouts, palette: Palette, episode: int = 0) -> Figure | None:
    """Truth and prediction per model: paths in space for particles, else phase space or the first two coordinates."""
    models = model_order(rollouts.predicted)
    if not models:
        return None
    view, x_title, y_title = _view(rollouts)
    columns = min(_COLUMNS, len(models))
    rows = -(-len(models) // columns)
    gaps = {"horizontal_spacing": 0.03, "vertical_spacing": 0.28 / rows}
    figure = make_subplots(rows, columns, subplot_titles=[_panel_title(m) for m in models], **gaps)
    truth = view(rollouts.truth[episode])
    spatial = _is_spatial(rollouts)
    traces: list[Any] = []
    for i, model in enumerate(models):
        x, y = view(rollouts.predicted[model][episode])
        traces += [
            plots.truth_line(*truth, showlegend=i == 0, legendgroup="truth"),
            plots.line(x, y, model, palette, mode="lines", showlegend=False),
            _ends(*truth, INK, "circle-open", spatial, meta="ink"),
            _ends(x, y, palette.colour(model), "circle", spatial, legendgroup=model),
        ]
    panels = [i for i in range(len(models)) for _ in range(len(traces) // len(models))]
    figure.add_traces(traces, rows=[i // columns + 1 for i in panels], cols=[i % columns + 1 for i in panels])
    layout = plots.layout("", "", height=60 + 250 * rows)
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
    return Figure(figure, *_words(rollouts))


def _panel_title(model: str) -> str:
    """A name that is no wider than its panel."""
    return f"<span style='font-size:13px'>{plots.model_name(model).replace(' · ', '<br>')}</span>"


def _words(rollouts: WorldRollouts) -> tuple[str, str]:
    """Title and caption that suit the plane."""
    how = (
        "of one held-out episode: the truth as a thin line without colour, the prediction coloured on top; "
        "dots mark where they end."
    )
    if rollouts.particles is not None and _is_spatial(rollouts):
        bodies = f" The first {_MAX_PATHS} bodies are drawn." if rollouts.particles > _MAX_PATHS else ""
        look = "Where the two part, the model has lost the motion; bodies that leave the panel have been flung out."
        return "Trajectories of the bodies", f"Paths through space {how}{bodies} {look}"
    if rollouts.dof == 1:
        look = "A closed orbit is conserved energy; a spiral inwards loses energy, one outwards gains it."
        return "Phase portraits", f"Coordinate q and momentum p {how} {look}"
    if rollouts.particles is not None:
        return "Phase portraits of the first particle", f"Its coordinate and momentum {how}"
    look = "Where the two part, the model has lost the motion."
    return "Trajectories in configuration space", f"The first two coordinates {how} {look}"


def _ends(x: Float, y: Float, colour: str, symbol: str, several: bool, **more: Any) -> dict[str, Any]:
    """Where a path, or each of several with gaps between, ends."""
    last = np.isfinite(x) & np.isnan(np.append(x[1:], np.nan))
    if not several:  # gaps are jumps, not ends
        last[: np.flatnonzero(last).max(initial=0)] = False
    marker = {"color": colour, "symbol": symbol, "size": 8, "line": {"width": 1.5}}
    places = {"x": plots.numbers(x[last]), "y": plots.numbers(y[last])}
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
        # A jump from one side of the circle to the other is not a path, nor is an impact.
        jump = np.zeros(len(x), dtype=bool)
        for i in {first, second}:
            jump[1:] |= _jumps(states[:, i], np.pi if i in angles else None)
        return np.where(jump, np.nan, x), np.where(jump, np.nan, y)

    return view


def _jumps(values: Float, least: float | None) -> NDArray[np.bool_]:
    """Between which neighbours values leap.

    Args:
        values: ``[K]``. least: what is a leap; None: a quarter of what they range over, ten times the usual change.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        change = np.abs(np.diff(values))
        if least is None:
            good = values[np.isfinite(values)]
            usual = float(np.median(change[np.isfinite(change)])) if np.isfinite(change).any() else 0.0
            least = max(0.25 * float(np.ptp(good)) if len(good) else 0.0, _LEAP * usual)
        return change > least


def _paths(particles: int, space: int) -> View:
    shown = min(particles, _MAX_PATHS)

    def view(states: Float) -> tuple[Float, Float]:
        keep = thinned(len(states), plots.MAX_POINTS // shown - 1)
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
