import numpy as np
import pandas as pd
import pytest
from html_page import Page

from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.reporting.board import first_page, headline_numbers
from wm_pipelines.reporting.summary import summary_table


def rows(task, world, metric, unit, view, **values):
    """Rows of one metric; ``family=(knows, value)``."""
    for family, (knows, value) in values.items():
        yield (task, world, family, "default", view, knows, 0, "test", metric, -1, value, np.nan, np.nan, 1, unit)


@pytest.fixture(scope="module")
def leaderboard():
    table = [
        *rows(
            "physics", "pendulum", "horizon", "s", "states", hnn=("angles", 9.0), mlp=("", 4.0), oracle=("energy", 20.0)
        ),
        *rows("physics", "pendulum", "energy_drift", "W", "states", hnn=("angles", 1e-9), mlp=("", 0.1)),
        *rows("images", "mnist", "linear_probe", "1", "frames", ijepa=("", 0.93), raw_pixels=("", 0.95), mae=("", 0.9)),
        *rows("fields", "heat", "relative_l2_u", "1", "interior", pinn=("equations", 1e-3)),
        *rows("fields", "heat", "relative_l2_v", "1", "interior", pinn=("equations", 1e-4)),
    ]
    return pd.DataFrame(table, columns=list(LEADERBOARD_COLUMNS))


def test_every_model_of_every_task_has_a_row_that_says_what_it_was_shown_and_told(leaderboard):
    page = Page(first_page(leaderboard))
    found = [a for tag, a in page.tags if tag == "tr" and "data-task" in a]
    assert [(a["data-task"], a["data-model"], a["data-view"], a["data-knows"]) for a in found] == [
        ("Fields", "pinn", "interior", "equations"),
        ("Images", "ijepa", "frames", ""),
        ("Images", "mae", "frames", ""),
        ("Images", "raw_pixels", "frames", ""),
        ("Mechanics", "oracle", "states", "energy"),
        ("Mechanics", "hnn", "states", "angles"),
        ("Mechanics", "mlp", "states", ""),
    ]
    assert {"physics.html", "fields.html", "images.html", "videos.html", "leaderboard.csv"} <= set(page.links)
    assert {a["data-filter"] for _, a in page.tags if "data-filter" in a} == {"task", "world", "view", "knows", "model"}


def test_columns_are_the_main_metrics_and_sort_their_best_first(leaderboard):
    text = first_page(leaderboard)
    assert "Energy drift" not in text
    directions = {
        a["title"]: a["data-direction"] for tag, a in Page(text).tags if tag == "th" and "data-direction" in a
    }
    assert directions == {"lower is better": "l", "higher is better": "h"}
    assert len(text) < 100_000  # no plotly


def test_an_empty_board_says_so():
    assert "no model has been judged yet" in first_page(pd.DataFrame(columns=list(LEADERBOARD_COLUMNS)))


def test_a_few_numbers_stand_for_all(leaderboard):
    assert headline_numbers(summary_table(leaderboard)) == {
        "fields.heat.relative_l2_u": 1e-3,
        "images.mnist.linear_probe": 0.93,
        "physics.pendulum.horizon": 9.0,
    }
