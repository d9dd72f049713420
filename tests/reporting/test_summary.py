import numpy as np
import pandas as pd
import pytest
from html_page import Page
from scipy import stats

from wm_pipelines.metrics.statistics import summarise
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.reporting.board import first_page
from wm_pipelines.reporting.summary import (
    contest,
    format_markdown,
    format_terminal,
    on_main_split,
    summary_table,
)
from wm_pipelines.tasks.physics import Physics


def board(*rows):
    """Rows (world, family, seed, metric, value, low, high)."""
    full = [
        ("physics", w, f, "default", "states", "", s, "test", m, -1, v, lo, hi, 10, "J")
        for w, f, s, m, v, lo, hi in rows
    ]
    return pd.DataFrame(full, columns=list(LEADERBOARD_COLUMNS))


def test_one_seed_keeps_its_interval():
    row = summary_table(board(("w", "hnn", 0, "mse", 2.0, 1.5, 3.0))).iloc[0]
    assert (row["value"], row["ci_low"], row["ci_high"], row["seeds"], row["n"]) == (2.0, 1.5, 3.0, 1, 10)


def test_seeds_that_agree_do_not_sharpen_what_the_shared_episodes_leave_open():
    row = summary_table(board(*(("w", "hnn", s, "mse", 2.0, 1.5, 3.0) for s in range(3)))).iloc[0]
    np.testing.assert_allclose([row["value"], row["ci_low"], row["ci_high"]], [2.0, 1.5, 3.0])
    assert row["n"] == 30


def test_spread_of_seeds_alone_is_students_t():
    values = [4.0, 5.0, 7.0]
    row = summary_table(board(*(("w", "hnn", s, "mse", v, np.nan, np.nan) for s, v in enumerate(values)))).iloc[0]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose([row["ci_low"], row["ci_high"]], [max(expected[0], 0.0), expected[1]])


def test_a_diverged_seed_shows_and_cannot_win():
    table = summary_table(
        board(
            ("w", "hnn", 0, "mse", 0.1, 0.05, 0.2),
            ("w", "hnn", 1, "mse", np.inf, 0.3, np.inf),
            ("w", "mlp", 0, "mse", 5.0, 4.0, 6.0),
        )
    ).set_index("family")
    assert table.loc["hnn", "value"] == table.loc["hnn", "ci_high"] == np.inf
    assert table.loc["hnn", "ci_low"] == 0.05
    assert list(table["best"]) == [False, True]


def test_best_respects_direction_world_and_references():
    rows = [(w, f, 0, m, v, v, v) for w, f, m, v in [
        ("a", "oracle", "mse", 0.0), ("a", "hnn", "mse", 1.0), ("a", "mlp", "mse", 2.0),
        ("a", "hnn", "horizon", 3.0), ("a", "mlp", "horizon", 9.0), ("a", "persistence", "horizon", 10.0),
        ("b", "hnn", "mse", 5.0), ("b", "mlp", "mse", 5.0),
    ]]  # fmt: skip
    table = summary_table(board(*rows))
    best = {(r.world, r.family, r.metric) for r in table[table["best"]].itertuples()}
    assert best == {("a", "hnn", "mse"), ("a", "mlp", "horizon")}


def test_the_best_are_all_whose_intervals_meet_that_of_the_best():
    rows = [("w", "hnn", 1.0, 0.8, 1.3), ("w", "mlp", 1.5, 1.2, 1.8), ("w", "momentum_gnn", 9.0, 7.0, 11.0)]
    table = summary_table(board(*((w, f, 0, "mse", *ends) for w, f, *ends in rows)))
    assert list(table.loc[table["best"], "family"]) == ["hnn", "mlp"]


def test_pairs_decide_where_there_are_values_of_every_episode():
    hard = np.random.default_rng(0).lognormal(0, 1.5, 20)
    kept = {
        "hnn/default": hard[None],
        "mlp/default": 1.2 * hard[None],
        "momentum_gnn/default": (hard * np.linspace(0.98, 1.2, 20))[None],
    }
    rows = []
    for model, values in kept.items():
        s = summarise(values[0])
        rows.append(("w", model.split("/")[0], 0, "mse", *(float(x) for x in s[:3])))
    scores = board(*rows, ("w", "oracle", 0, "mse", 0.0, 0.0, 0.0))
    assert summary_table(scores)["best"].sum() == 3  # episodes differ more than models: all intervals meet
    best = contest(scores, {"w": {"test": {"mse": kept}}})
    assert best == {"w": {"test": {"mse": ["hnn/default"]}}}
    table = summary_table(scores, {"physics": best})
    assert list(table.loc[table["best"], "family"]) == ["hnn"]
    # Without the values of one who competes nothing is compared in pairs.
    assert contest(scores, {"w": {"test": {"mse": dict(list(kept.items())[:2])}}}) == {}


def test_steps_are_left_out_and_row_order_does_not_matter(content):
    shuffled = content.results.scores.sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(summary_table(shuffled), summary_table(content.results.scores))
    overall = content.results.scores[content.results.scores["step"] < 0]
    pd.testing.assert_frame_equal(summary_table(overall), summary_table(content.results.scores))


def test_text_tables_hold_every_model_its_cost_and_a_star(content):
    summary = summary_table(content.results.scores)
    text = format_terminal(summary, Physics.main_metrics)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 160
    hnn = next(line for line in lines if "hnn · structured" in line)
    assert "20.0*" in hnn
    assert "0.400*" in hnn
    assert sum("train" in line.split()[:2] for line in lines) == 0
    markdown = format_markdown(summary)
    assert markdown.startswith("## Mechanics\n\n| world | split | model |")
    assert len({line.count("|") for line in markdown.splitlines()[2:]}) == 1
    assert "| angles, structure |" in markdown
    assert "**0.400**" in markdown


def test_other_splits_stand_in_tables_of_their_own_and_training_costs_in_the_main_one():
    rows = board(("w", "hnn", 0, "mse", 2.0, 1.5, 3.0), ("w", "hnn", 0, "step_ms", 5.0, 5.0, 5.0))
    far = rows.assign(split="ood", value=70.0)
    cost = board(("w", "hnn", 0, "train_seconds", 9.0, 9.0, 9.0)).assign(split="train")
    fields = rows[:1].assign(task="fields", split="other")  # a world without a split called test
    summary = summary_table(pd.concat([rows, far, cost, fields], ignore_index=True))
    main = summary[on_main_split(summary)]
    assert set(zip(main["task"], main["split"], main["metric"], strict=True)) == {
        ("physics", "test", "mse"),
        ("physics", "test", "step_ms"),
        ("physics", "train", "train_seconds"),
        ("fields", "other", "mse"),
    }
    physics = summary[summary["task"] == "physics"]
    first, second = format_terminal(physics, ("mse", "train_seconds", "step_ms")).split("Other splits")
    assert "70.0" not in first
    assert "9.00" in first
    assert "70.0" in second
    assert "Time per step" in first
    assert "Time per step" not in second
    assert "### Mechanics: other splits\n\n| world | split |" in format_markdown(summary)
    assert "70" not in Page(first_page(summary_table(pd.concat([rows, far, cost], ignore_index=True)))).text


def test_an_empty_leaderboard_says_so():
    empty = summary_table(pd.DataFrame(columns=list(LEADERBOARD_COLUMNS)))
    assert empty.empty
    assert format_terminal(empty, ("mse",)) == "The leaderboard is empty."
    with pytest.raises(KeyError):
        summary_table(pd.DataFrame({"value": [1.0]}))


@pytest.mark.parametrize(("metric", "most"), [("r2_position_probed", 1.0), ("knn_probe", 1.0), ("psnr", 100.0)])
def test_an_interval_ends_where_its_metric_does(metric, most):
    seeds = [("w", "vjepa", seed, metric, value, np.nan, np.nan) for seed, value in enumerate((0.9, 0.99))]
    row = summary_table(board(*seeds)).iloc[0]
    expected = stats.t.interval(0.95, 1, loc=0.945, scale=stats.sem([0.9, 0.99]))
    np.testing.assert_allclose([row["ci_low"], row["ci_high"]], [expected[0], min(expected[1], most)])


def test_a_collapsed_model_cannot_win():
    values = {"ijepa": (1.0, (0.0, 1.0)), "mae": (9.0, (0.0, 0.0))}  # one seed of two is enough
    rows = []
    for family, (seconds, collapsed) in values.items():
        for seed in (0, 1):
            rows.append(("w", family, seed, "train_seconds", seconds, np.nan, np.nan))
            rows.append(("w", family, seed, "collapsed", collapsed[seed], np.nan, np.nan))
    table = summary_table(board(*rows))
    best = table[table["best"]]
    assert list(zip(best["family"], best["metric"], strict=True)) == [("mae", "train_seconds")]


def test_a_horizon_s_interval_ends_with_the_episode():
    table = board(("w", "hnn", 0, "horizon", 9.0, 4.0, 14.0), ("w", "hnn", 0, "mse", 9.0, 4.0, 14.0))
    task = table["task"].iloc[0]
    summary = summary_table(table, limits={task: {"w": {"test": {"horizon": 10.0}}}}).set_index("metric")
    assert list(summary.loc["horizon", ["ci_low", "ci_high"]]) == [4.0, 10.0]
    assert summary.loc["mse", "ci_high"] == 14.0
    assert summary_table(table).set_index("metric").loc["horizon", "ci_high"] == 14.0


def test_who_does_not_beat_the_floor_by_its_interval_is_among_the_best_but_not_marked():
    rows = [("hnn", 0.30, 0.20, 0.52), ("mlp", 0.25, 0.15, 0.45), ("persistence", 0.5, 0.5, 0.5)]
    errors = [("w", family, 0, "mse", *ends) for family, *ends in rows]
    nothing_lost = [
        ("w", f, 0, "energy_error", v, 0.0, 1.0) for f, v in (("hnn", 0.5), ("mlp", 0.6), ("persistence", 0.0))
    ]
    summary = summary_table(board(*errors, *nothing_lost)).set_index(["metric", "family"])
    assert summary.loc["mse", "best"].to_dict() == {"hnn": True, "mlp": True, "persistence": False}
    assert summary.loc["mse", "starred"].to_dict() == {"hnn": False, "mlp": True, "persistence": False}
    assert summary.loc["energy_error", "starred"].to_dict() == {"hnn": True, "mlp": True, "persistence": False}
    assert "0.300*" not in format_terminal(summary.reset_index(), ["mse"])
