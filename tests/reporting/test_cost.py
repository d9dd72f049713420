import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.reporting.cost import accuracy_against_cost, decisive_against_cost, pareto_front
from wm_pipelines.reporting.style import Palette
from wm_pipelines.reporting.summary import summary_table

numbers = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0])


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.tuples(numbers, numbers), max_size=12))
def test_the_front_is_whom_nobody_dominates(points):
    def dominated(name):
        return any(
            all(a <= b for a, b in zip(other, points[name], strict=True)) and other != points[name]
            for other in points.values()
        )

    front = pareto_front(points)
    assert sorted(front) == sorted(name for name in points if not dominated(name))
    assert [points[name][0] for name in front] == sorted(points[name][0] for name in front)


def table(metric, unit, **models):
    """Models by family: (seconds, value)."""
    rows = []
    for family, (seconds, value) in models.items():
        same = ("images", "mnist", family, "default", "frames", "", 0)
        rows.append((*same, "test", metric, -1, value, 0.0 if unit == "state²" else value, value, 9, unit))
        if seconds is not None:
            rows.append((*same, "train", "train_seconds", -1, seconds, np.nan, np.nan, 1, "s"))
    return summary_table(pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS)))


def points(figure):
    return {t.name: (t.x[0], t.y[0], t.marker.symbol) for t in figure.data if "markers" in t.mode}


PROBES = {
    "ijepa": (9.0, 0.9), "mae": (5.0, 0.8), "contrastive": (6.0, 0.7), "raw_pixels": (0.0, 0.85), "vjepa": (None, 0.5)
}  # fmt: skip


def test_better_and_cheaper_points_are_filled_and_joined_and_floors_are_lines():
    summary = table("linear_probe", "1", **PROBES)
    shown = accuracy_against_cost(summary, "mnist", "linear_probe", Palette(f"{f}/default" for f in PROBES))
    assert points(shown.figure) == {
        "ijepa": (9.0, 0.9, "circle"), "mae": (5.0, 0.8, "circle"), "contrastive": (6.0, 0.7, "circle-open"),
    }  # fmt: skip
    assert {t.name for t in shown.figure.data if t.text} == {"ijepa", "mae"}
    (front,) = [t for t in shown.figure.data if t.name == "Pareto front"]
    assert (list(front.x), list(front.y)) == ([5.0, 9.0], [0.8, 0.9])
    assert [a.text for a in shown.figure.layout.annotations] == ["raw_pixels"]
    assert shown.figure.layout.shapes[0].y0 == 0.85
    assert shown.figure.layout.yaxis.type is None


def test_errors_are_drawn_on_a_logarithmic_axis_on_which_the_floor_keeps_its_name():
    models = {"hnn": (1.0, 1e-4), "mlp": (2.0, 1e-2), "persistence": (0.0, 1.0), "oracle": (0.0, 1e-30)}
    shown = accuracy_against_cost(
        table("mse", "state²", **models), "mnist", "mse", Palette(f"{f}/default" for f in models)
    )
    layout = shown.figure.layout
    assert layout.yaxis.type == "log"
    assert layout.yaxis.range[0] > -5  # neither the oracle nor an interval that reaches zero squeezes anybody
    assert (layout.annotations[0].y, layout.shapes[0].y0) == (0.0, 1.0)  # Plotly: exponents for texts, values for lines
    (hover,) = {t.hovertemplate for t in shown.figure.data if t.name == "mlp"}
    assert hover.startswith("<b>mlp</b><br>")
    assert "MSE: 0.0100 state²" in hover


@pytest.mark.parametrize("metric", ["linear_probe", "knn_probe"])
def test_the_decisive_metric_is_the_first_main_metric_that_the_world_has(metric):
    summary = table(metric, "1", ijepa=(1.0, 0.9), mae=(2.0, 0.8))
    shown = decisive_against_cost(summary, "images", "mnist", Palette(["ijepa/default", "mae/default"]))
    assert shown.figure.layout.yaxis.title.text == {"linear_probe": "Linear probe", "knn_probe": "kNN probe"}[metric]
    assert decisive_against_cost(summary, "images", "elsewhere", Palette([])) is None
