import numpy as np
import pandas as pd
import pytest

from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.reporting.summary import summary_table
from wm_pipelines.reporting.winners import answers, wins


def board(*rows, task="physics", metric="horizon", unit="s"):
    """Rows (world, family, knows, value)."""
    full = [(task, w, f, "default", "states", k, 0, "test", metric, -1, v, v, v, 1, unit) for w, f, k, v in rows]
    return summary_table(pd.DataFrame(full, columns=list(LEADERBOARD_COLUMNS)))


def texts(summary):
    return [dict(answer.clauses) for answer in answers(wins(summary))]


INFORMED = [
    ("a", "oracle", "simulator", 20.0), ("a", "hnn", "angles,structure", 9.0), ("a", "mlp", "", 3.0),
    ("a", "latent_dynamics", "", 1.0),
    ("b", "oracle", "simulator", 20.0), ("b", "hnn", "structure", 8.0), ("b", "mlp", "", 1.0),
    ("b", "persistence", "", 9.5),
]  # fmt: skip


def test_the_winner_is_compared_with_the_best_that_was_told_nothing_and_floors_compete_with_nobody():
    first, second = wins(board(*INFORMED))
    assert (first.models, first.generic["family"], first.ratio) == (["hnn/default"], "mlp", 3.0)
    assert (second.models, second.generic["family"], second.ratio) == (["hnn/default"], "mlp", 8.0)
    assert first.told == ["angles", "structure"]
    assert not first.generic_wins


def test_three_sentences_count_worlds_give_median_and_range_and_name_what_was_told():
    who, size, why = texts(board(*INFORMED))
    assert who["physics"] == "hnn (horizon; on all 2 worlds)"
    assert size["physics"] == "5.50× (median of 2 worlds, from 3.00× to 8.00×; larger horizon) over mlp"
    assert why["physics"] == "angles, structure"


def test_an_error_is_divided_the_other_way_round():
    (win,) = wins(board(("a", "hnn", "angles", 0.5), ("a", "mlp", "", 4.0), metric="relative_error"))
    assert win.ratio == 8.0
    assert win.gain == "8.00×"


def test_a_share_gains_points():
    (win,) = wins(
        board(("m", "ijepa", "patches", 0.97), ("m", "mae", "", 0.9), task="images", metric="linear_probe", unit="1")
    )
    assert win.gain == "7.0 points"


def test_who_was_told_nothing_and_wins_gains_nothing_by_being_told():
    who, size, why = texts(board(("a", "hnn", "angles", 2.0), ("a", "mlp", "", 4.0)))
    assert who["physics"].startswith("mlp")
    assert size["physics"] == "nothing: it was told nothing itself"
    assert why["physics"] == "nothing: it learned from the data alone"


def test_models_that_cannot_be_told_apart_share_a_world_and_an_informed_tie_is_no_gain():
    tied = board(("a", "hnn", "angles", 4.0), ("a", "mlp", "", 4.0), ("a", "latent_dynamics", "", 1.0))
    (win,) = wins(tied)
    assert win.generic_wins
    who, size, _ = texts(tied)
    assert who["physics"] == "hnn and mlp (horizon; on a, shared)"
    assert size["physics"].startswith("nothing")


@pytest.mark.parametrize("generic", [np.inf, None])
def test_without_a_generic_model_that_has_a_number_there_is_no_gain(generic):
    rows = [("a", "hnn", "angles", 4.0), ("a", "pinn", "equations", 5.0)]
    rows += [("a", "mlp", "", generic)] if generic is not None else []
    (win,) = wins(board(*rows, metric="relative_error"))
    assert (win.generic, win.ratio, win.gain) == (None, None, "no model here was told nothing")


def test_where_all_are_equal_nobody_stands_out():
    same = board(("a", "hnn", "angles", 4.0), ("a", "mlp", "", 4.0))
    assert wins(same)[0].best == ()
    assert {line["physics"] for line in texts(same)} == {"nobody stands out"}


def test_nothing_judged_nothing_said():
    assert answers(wins(summary_table(pd.DataFrame(columns=list(LEADERBOARD_COLUMNS))))) == []


def test_of_tied_winners_some_may_have_been_told_nothing():
    tied = board(("a", "hnn", "angles", 4.0), ("a", "mlp", "", 4.0), ("a", "latent_dynamics", "", 1.0))
    (win,) = wins(tied)
    assert win.gain == "none: one that was told nothing cannot be told from the best"
    _, size, why = texts(tied)
    assert size["physics"] == "nothing that can be told: mlp, told nothing, cannot be told from the best"
    assert why["physics"] == "mlp nothing, hnn angles"
