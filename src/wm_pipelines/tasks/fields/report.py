"""The report on fields: solutions, errors and residuals as maps, one HTML file that needs nothing but a browser."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from wm_pipelines.equations import Problem
from wm_pipelines.laws import laws_of, world_of
from wm_pipelines.reporting import page as frame
from wm_pipelines.reporting.cost import decisive_against_cost
from wm_pipelines.reporting.plots import Figure, learning_curves, thinned
from wm_pipelines.reporting.style import (
    COST_DESCRIPTIONS,
    COST_METRICS,
    Palette,
    metric_title,
    model_label,
    model_order,
    pretty_number,
)
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.base import Results

Float = NDArray[np.float64]

_MOST = 81  # points along one side of a map
_CURVE_POINTS = 3  # a learning curve with fewer is not drawn
_CURVE_CAPTION = (
    "Training loss, mean over seeds: gradient steps, their weights balanced again and again, and as the last point "
    "what the second-order finish leaves. Most of the work is done there; its residual is in the table."
)
_SMALLEST = 1e-17  # errors below rounding are drawn as this
_ROW, _BELOW, _ABOVE = 190, 110, 40  # pixels
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_DESCRIPTIONS = {
    "relative_l2": "Length of the difference to the reference over the length of the reference, on the whole grid.",
    "residual_norm": "Root mean square of what is left of the equations, with their true coefficients, in SI units.",
    "divergence": "Root mean square of the divergence of the flow; zero for an incompressible one.",
    "boundary_error": "Root mean square of what initial and boundary values are missed by, in units of their own size.",
    "balance_error": "Relative imbalance: the largest share of the content that appears or vanishes without a cause.",
    "coefficient_error": "Relative error of the coefficient that was found from measurements.",
    "coefficient_covered": "Share of seeds whose 95 % interval holds the true coefficient.",
    "coefficient_identified": "Share of seeds that explain the measurements up to noise. The others have not found the "
    "coefficient: their interval is everything that was allowed.",
    "coefficient": "The coefficient as found, with the mean 95 % interval, widened by the spread of the seeds.",
}


@dataclass(frozen=True)
class FieldMaps:
    """One field world to draw. ``[*grid]`` has an axis per coordinate; models are named ``"family/variant"``.

    Attributes:
        problem: whose name is the world's. shape: of the grid.
        reference: ``[*grid, F]``, None if unknown.
        predicted: model -> ``[*grid, F]``, of the first seed. residual: model -> ``[*grid]``, likewise.
    """

    problem: Problem
    shape: tuple[int, ...]
    reference: Float | None = None
    predicted: Mapping[str, Float] = field(default_factory=dict)
    residual: Mapping[str, Float] = field(default_factory=dict)

    @classmethod
    def create(cls, spec: Spec, kept: Mapping[str, Mapping[str, NDArray[Any]]]) -> FieldMaps:
        """From what the judge kept: model -> ``test/name`` -> array."""
        any_model = next(iter(kept.values()))
        shape = tuple(int(n) for n in any_model["test/grid_shape"])
        reference = any_model.get("test/reference")
        return cls(
            Problem.from_facts(spec.facts, spec.name),
            shape,
            None if reference is None else reference.reshape(*shape, -1),
            {model: arrays["test/predicted"].reshape(*shape, -1) for model, arrays in kept.items()},
            {model: arrays["test/residual"].reshape(shape) for model, arrays in kept.items()},
        )

    def axis(self, coordinate: str) -> Float:
        """Values of a coordinate along its axis of the grid."""
        return np.linspace(*self.problem.domain[coordinate], self.shape[self.problem.coordinates.index(coordinate)])


def metric_columns(metrics: Sequence[str]) -> list[str]:
    """The order of columns: errors against the reference, the laws, coefficients, costs. Duplicates removed."""
    places = ["relative_l2_", "residual_norm", "divergence", "boundary_error"]
    # What was found comes before what is said about it.
    said = ["coefficient_error", "coefficient_covered", "coefficient_identified"]
    places += ["coefficient_", *said]

    def place(metric: str) -> tuple[int, str]:
        if metric in COST_METRICS:
            return len(places) + 1 + COST_METRICS.index(metric), metric
        found = [i for i, start in enumerate(places) if metric.startswith(start)]
        return (found[-1] if found else len(places)), metric

    return sorted(set(metrics), key=place)


def page(results: Results) -> str:
    """The report as one HTML page; equal results give equal bytes."""
    table = results.summary
    models = model_order(table["family"] + "/" + table["variant"])
    palette, drawn = Palette(models), [world for world, models in results.arrays.items() if models]
    return frame.render(
        "fields.html.j2",
        "fields",
        models,
        told=frame.told(results.scores),
        figures=bool(drawn),
        provenance=results.provenance,
        title="Fields and their equations",
        worlds=[_section(results, world, i, table, palette) for i, world in enumerate(drawn)],
        glossary=_glossary(results.scores),
        seeds=int(results.scores["seed"].nunique()),
    )


def _section(results: Results, world: str, index: int, table: pd.DataFrame, palette: Palette) -> dict[str, Any]:
    spec = results.specs[world]["test"]
    shown, truths = FieldMaps.create(spec, results.arrays[world]), laws_of(spec).coefficients
    figures = {f"map-{name}": field_map(shown, name) for name in shown.problem.fields}
    embedded = [frame.embedded(f"field-{index}-{name}", figure, wide=True) for name, figure in figures.items()]
    curves = learning_curves(drawn_curves(results.curves), world, palette)
    if curves is not None:
        curves = replace(curves, caption=_CURVE_CAPTION)
    lines = {"cost": decisive_against_cost(table, "fields", world, palette), "curves": curves}
    drawn = {name: figure for name, figure in lines.items() if figure is not None}
    embedded += [frame.embedded(f"field-{index}-{name}", figure) for name, figure in drawn.items()]
    units = {name: pretty_unit(shown.problem.coefficients[name].unit) for name in shown.problem.unknown}
    return {
        "name": world,
        "anchor": f"world-{index}",
        "caption": world_of(spec).describe(),
        "truths": ", ".join(
            f"{name} = {pretty_number(truths[name])}{'' if unit == '1' else ' ' + unit}"
            for name, unit in units.items()
            if name in truths
        ),
        "figures": embedded,
        "legend": frame.legend(drawn),
        "table": _table(table[table["world"] == world]),
    }


def drawn_curves(curves: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Without those of too few points to show anything: what is solved in one go has a single one."""
    return {n: curve for n, curve in curves.items() if "step" in curve and curve["step"].nunique() >= _CURVE_POINTS}


def _table(own: pd.DataFrame) -> dict[str, Any]:
    """One row per model, one column per metric."""
    table = frame.numbers(own, metric_columns(list(own["metric"])))
    return table | {"columns": [column | {"unit": pretty_unit(column["unit"])} for column in table["columns"]]}


def _glossary(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Plain words for every metric that appears."""
    entries = []
    for metric in metric_columns(list(scores["metric"])):
        text = COST_DESCRIPTIONS.get(metric) or next(
            (text for key, text in _DESCRIPTIONS.items() if metric.startswith(key) or metric.endswith(key)), None
        )
        if text is not None:
            entries.append({"name": metric, "title": metric_title(metric), "text": text})
    return entries


# ---------------------------------------------------------------- maps


def field_map(shown: FieldMaps, name: str) -> Figure:
    """One field beside the reference, its error and the equations' residual; a row per model and time."""
    number = shown.problem.fields.index(name)
    rows = list(product(model_order(shown.predicted), _times(shown)))
    kinds = ["reference", "solution", "error", "residual"] if shown.reference is not None else ["solution", "residual"]
    titles = {
        "reference": f"reference {name}",
        "solution": name,
        "error": f"|{name} − reference|",
        "residual": "|residual|",
    }
    figure = make_subplots(
        rows=len(rows),
        cols=len(kinds),
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=0.12 / len(rows),
        column_titles=[titles[kind] for kind in kinds],
        row_titles=[_row_title(shown, model, at) for model, at in rows],
    )
    for (row, (model, at)), (column, kind) in product(enumerate(rows, 1), enumerate(kinds, 1)):
        figure.add_trace(
            {
                "type": "heatmap",
                **_slice(shown, _values(shown, kind, model, number), at),
                "coloraxis": _axis(kind),
                "hovertemplate": _hover(shown, _row_title(shown, model, at), titles[kind], name, kind),
            },
            row=row,
            col=column,
        )
    _finish(figure, shown, kinds, len(rows))
    unit = pretty_unit(shown.problem.units.get(name, ""))
    return Figure(
        figure,
        f"{name}{f' [{unit}]' if unit not in ('', '1') else ''}",
        "First seed. Reference and solution share one scale; error and residual are powers of ten. Look where the "
        "error sits: on a boundary, in a steep layer, or at late times, and whether the residual points there, too.",
    )


def _hover(shown: FieldMaps, row: str, title: str, name: str, kind: str) -> str:
    """What is under the pointer: whose, where, how much, with units."""
    right, up = _plane(shown)
    where = [f"{_titled(c, shown.problem.units)}: %{{{axis}}}" for c, axis in ((right, "x"), (up, "y")) if c]
    unit = "" if kind == "residual" else _titled("", {"": shown.problem.units.get(name, "1")})
    value = "%{z:.4g}" if _axis(kind) == "coloraxis" else "10<sup>%{z:.2f}</sup>"
    return "<br>".join([f"<b>{row}</b>", *where, f"{escape(title)}{unit}: {value}"]) + "<extra></extra>"


def _values(shown: FieldMaps, kind: str, model: str, number: int) -> Float:
    """What one panel draws, ``[*grid]``."""
    if kind == "residual":
        return _decades(shown.residual[model])
    if kind == "solution":
        return shown.predicted[model][..., number]
    assert shown.reference is not None
    reference = shown.reference[..., number]
    return reference if kind == "reference" else _decades(shown.predicted[model][..., number] - reference)


def _decades(values: Float) -> Float:
    return np.log10(np.maximum(np.abs(values), _SMALLEST))


def _times(shown: FieldMaps) -> list[int | None]:
    """Indices of the times at which a field of three coordinates is drawn: the middle and the end."""
    if len(shown.shape) < 3:
        return [None]
    return [(shown.shape[-1] - 1) // 2, shown.shape[-1] - 1]


def _row_title(shown: FieldMaps, model: str, at: int | None) -> str:
    label = escape(model_label(model)).replace(" · ", "<br>")  # no longer than its row is high
    if at is None:
        return label
    last = shown.problem.coordinates[-1]
    return f"{label}, {last} = {shown.axis(last)[at]:.3g}"


def _plane(shown: FieldMaps) -> tuple[str, str]:
    """Coordinates to the right and upwards: time runs to the right."""
    first, second = shown.problem.coordinates[:2] if len(shown.shape) > 1 else (*shown.problem.coordinates, "")
    return (second, first) if second == shown.problem.time else (first, second)


def _slice(shown: FieldMaps, values: Float, at: int | None) -> dict[str, Any]:
    """Thinned values and axes of a heat map, four digits of the largest."""
    plane = values if at is None else values[..., at]
    first, second = shown.problem.coordinates[:2]
    i, j = thinned(plane.shape[0], _MOST), thinned(plane.shape[1], _MOST)
    z = plane[np.ix_(i, j)]
    right, _ = _plane(shown)
    x, y, z = (
        (shown.axis(second)[j], shown.axis(first)[i], z) if right == second else
        (shown.axis(first)[i], shown.axis(second)[j], z.T)
    )  # fmt: skip
    largest = np.abs(z[np.isfinite(z)]).max(initial=1e-300)
    digits = int(np.clip(3 - np.floor(np.log10(largest)), -300, 300))
    gaps = [[v if np.isfinite(v) else None for v in row] for row in np.round(z, digits).tolist()]
    return {"x": np.round(x, 5).tolist(), "y": np.round(y, 5).tolist(), "z": gaps}


def _axis(kind: str) -> str:
    return {"error": "coloraxis2", "residual": "coloraxis3"}.get(kind, "coloraxis")


def _finish(figure: go.Figure, shown: FieldMaps, kinds: Sequence[str], rows: int) -> None:
    """Axes, scales and size."""
    right, up = _plane(shown)
    height = _ROW * rows
    width = 1 / len(kinds)
    scales = {"coloraxis": width, "coloraxis2": 1 - 1.5 * width, "coloraxis3": 1 - width / 2}  # centres of their bars
    if "error" not in kinds:
        scales = {"coloraxis": width / 2, "coloraxis3": 1 - width / 2}
    layout = {
        axis: _scale(axis, _drawn(figure, axis))
        | {
            "colorbar": {
                **_ticks(axis, _drawn(figure, axis)), "orientation": "h", "x": centre, "xanchor": "center",
                "y": -50 / height, "yanchor": "top", "len": 0.9 * width, "thickness": 10,
            }
        }
        for axis, centre in scales.items()
    }  # fmt: skip
    figure.update_layout(
        **layout,
        template={},
        height=height + _BELOW + _ABOVE,
        margin={"l": 60, "r": 46, "t": _ABOVE, "b": _BELOW},
        font={"family": "system-ui, sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    units = shown.problem.units
    for number in range(1, len(kinds) + 1):
        figure.update_xaxes(title_text=_titled(right, units), row=rows, col=number)
    for number in range(1, rows + 1):
        figure.update_yaxes(title_text=_titled(up, units), row=number, col=1)
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)


def _drawn(figure: go.Figure, axis: str) -> Float:
    """All finite numbers that share a colour scale."""
    maps = [trace.z for trace in figure.data if trace.coloraxis == axis]
    return np.array([v for z in maps for line in z for v in line if v is not None], np.float64)


def _scale(axis: str, values: Float) -> dict[str, Any]:
    """Red and blue about zero where a field has both signs, else one hue."""
    if axis != "coloraxis":
        return {"colorscale": "Viridis"}
    both = len(values) > 0 and values.min() < -0.05 * values.max() and values.max() > 0
    return {"colorscale": "RdBu_r", "cmid": 0.0} if both else {"colorscale": "YlOrRd"}


def _ticks(axis: str, values: Float) -> dict[str, Any]:
    """Ticks at whole powers of ten where exponents are drawn."""
    if axis == "coloraxis" or not len(values):
        return {"nticks": 5}
    low, high = int(np.ceil(values.min())), int(np.floor(values.max()))
    powers = list(range(low, high + 1, max(1, -(-(high - low) // 4))))
    return {"tickvals": powers, "ticktext": [f"10<sup>{power}</sup>" for power in powers]}


def _titled(coordinate: str, units: Mapping[str, str]) -> str:
    unit = units.get(coordinate, "1")
    return coordinate if unit == "1" else f"{coordinate} [{pretty_unit(unit)}]"


def pretty_unit(unit: str) -> str:
    """``m^2/s`` as ``m²/s``."""
    return re.sub(r"\^(-?\d+)", lambda power: power[1].translate(_RAISED), unit)
