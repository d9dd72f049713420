import numpy as np
import pandas as pd
import pytest
from browser import FOUND, chromium
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
    page = Page(first_page(summary_table(leaderboard)))
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
    assert {a["data-filter"] for _, a in page.tags if "data-filter" in a} == {"task", "world", "view", "knows", "model"}


def test_links_lead_to_the_reports_that_there_are_and_to_no_other(leaderboard):
    def beside(table):
        return {link for link in Page(first_page(summary_table(table))).links if not link.startswith("#")}

    assert beside(leaderboard) == {"physics.html", "fields.html", "images.html", "leaderboard.csv"}
    assert beside(leaderboard[leaderboard["task"] == "fields"]) == {"fields.html", "leaderboard.csv"}
    assert beside(leaderboard.iloc[:0]) == set()
    assert "play.html" in Page(first_page(summary_table(leaderboard), played=True)).links


def test_the_answer_says_who_wins_by_how_much_over_whom_and_what_it_was_told(leaderboard):
    text = Page(first_page(summary_table(leaderboard))).text
    assert "Mechanics: hnn (horizon; on pendulum)" in text
    assert "Mechanics: 2.25× (larger horizon) over mlp" in text
    assert "Mechanics: angles" in text
    assert "Fields: no model was told nothing" in text
    assert "Images: nothing: it was told nothing itself" in text
    assert "Images: nothing: it learned from the data alone" in text


MADE_FROM = {
    "physics": {
        "code": "c0de" * 16,
        "revision": "0123abcd",
        "data": {"pendulum": {"test": "beef" * 16, "train": "cafe" * 16}},
        "thresholds": ["The horizon ends at 0.4.", "Off by more than 1 %."],
        "made": "2026-01-02 03:04 UTC",
        "machine": "Linux x86_64, A processor, 2 cores",
        "seconds": {"training": 3725.0, "judging": 61.0},
    },
    "videos": {"code": "0", "made": "left out: not on the leaderboard"},
}


def test_the_page_says_where_its_numbers_come_from_and_by_which_limits(leaderboard):
    text = Page(first_page(summary_table(leaderboard), MADE_FROM)).text
    for shown in (
        "Mechanics: The horizon ends at 0.4. Off by more than 1 %.",
        "made 2026-01-02 03:04 UTC",
        "machine Linux x86_64, A processor, 2 cores",
        "1 h 2 min of training and 1 min 1 s of judging",
        f"judging code (SHA-256) {'c0de' * 16}",
        "test beefbeefbeef, train cafecafecafe",
    ):
        assert shown in text, shown
    assert "left out" not in text


def test_every_column_can_be_chosen(leaderboard):
    page = Page(first_page(summary_table(leaderboard)))
    board = page.tags[next(i for i, (_, a) in enumerate(page.tags) if a.get("id") == "leaderboard") :]
    boxes = [int(a["data-column"]) for tag, a in board if "data-column" in a]
    assert boxes == list(range(1, sum(tag == "th" and a.get("scope") == "col" for tag, a in board)))


def test_columns_are_the_main_metrics_and_sort_their_best_first(leaderboard):
    text = first_page(summary_table(leaderboard))
    assert "Energy drift" not in text
    titles = [a for tag, a in Page(text).tags if tag == "th" and "data-direction" in a]
    assert {a["title"]: a["data-direction"] for a in titles} == {"lower is better": "l", "higher is better": "h"}
    assert len(text) < 100_000  # no plotly


def test_an_empty_board_says_so():
    assert "no model has been judged yet" in first_page(summary_table(pd.DataFrame(columns=list(LEADERBOARD_COLUMNS))))


def test_a_few_numbers_stand_for_all(leaderboard):
    assert headline_numbers(summary_table(leaderboard)) == {
        "fields.heat.relative_l2_u": 1e-3,
        "images.mnist.linear_probe": 0.93,
        "physics.pendulum.horizon": 9.0,
    }


def test_worlds_stand_as_they_were_listed():
    table = [*rows("physics", "pendulum", "horizon", "s", "states", hnn=("", 9.0), mlp=("", 4.0)),
             *rows("physics", "mass_spring", "horizon", "s", "states", hnn=("", 9.0), mlp=("", 4.0))]  # fmt: skip
    summary = summary_table(pd.DataFrame(table, columns=list(LEADERBOARD_COLUMNS)))
    for listed in (["pendulum", "mass_spring"], ["mass_spring", "pendulum"]):
        page = Page(first_page(summary, {"physics": {"worlds": listed}}))
        assert list(dict.fromkeys(a["data-world"] for _, a in page.tags if "data-world" in a)) == listed


def test_of_many_winners_three_are_named():
    several = [f"m{i}" for i in range(6)]
    table = [("physics", "w", f, "v", "states", "", 0, "test", "horizon", -1, 5.0 + i / 10, 1.0, 9.0, 5, "s")
             for i, f in enumerate(several)]  # fmt: skip
    text = Page(first_page(summary_table(pd.DataFrame(table, columns=list(LEADERBOARD_COLUMNS))))).text
    assert "and 3 more that cannot be told from it" in text


@pytest.mark.skipif(FOUND is None, reason="needs Chromium, which is not here (Debian: apt-get install chromium)")
def test_of_several_tasks_one_is_shown_with_its_own_columns(leaderboard, tmp_path):
    (tmp_path / "index.html").write_text(first_page(summary_table(leaderboard)))
    shown = "[...document.querySelectorAll('#leaderboard thead th.n')].filter(t => !t.hidden).map(t => t.textContent)"
    offered = "[...document.querySelectorAll('.columns label')].filter(l => !l.hidden).map(l => l.textContent.trim())"
    with chromium(tmp_path / "profile") as tab:
        tab.open(tmp_path / "index.html")
        assert tab.value("document.querySelector('[data-filter=task]').value") == "Fields"
        assert tab.value(shown) == ["L2 error of u", "L2 error of v"]
        assert tab.value(offered)[-2:] == ["L2 error of u", "L2 error of v"]
        assert "Horizon" not in tab.value(offered)
