"""What a leaderboard is made from must belong together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wm_pipelines.errors import UserError
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.pipelines.gathering import part_of_leaderboard, provenance, union
from wm_pipelines.pipelines.nodes import board
from wm_pipelines.reporting.summary import contest, summary_table


def result(family: str, **data: str) -> dict:
    row = dict.fromkeys(LEADERBOARD_COLUMNS, "x") | {
        "task": "physics", "world": "pendulum", "family": family, "variant": "plain", "split": "test",
        "metric": "relative_error", "seed": 0, "step": -1, "value": 1.0, "ci_low": 0.5, "ci_high": 1.5, "n": 8,
    }  # fmt: skip
    facts = {"task": "physics", "world": "pendulum", "family": family, "data": data}
    return {"scores": pd.DataFrame([row])[list(LEADERBOARD_COLUMNS)], "facts": facts, "arrays": {}}


def test_a_part_says_when_where_and_in_what_time_it_was_made():
    slow = result("mlp", train="aa", test="bb")
    cost = slow["scores"].assign(metric="train_seconds", split="train", value=[90.0], unit="s")
    slow["scores"] = pd.concat([slow["scores"], cost], ignore_index=True)
    slow["facts"] |= {"seconds": 5.0, "evaluation": {"tolerance": 0.02, "horizon_threshold": 0.3}}
    other = result("hnn", train="aa", test="bb")
    other["facts"] |= {"seconds": 2.0}
    _, made_from = part_of_leaderboard({"mlp": slow, "hnn": other})
    assert made_from["seconds"] == {"training": 90.0, "judging": 7.0}
    assert made_from["thresholds"] == [
        "The horizon ends where the error reaches 0.3 of how far the true state ranges.",
        "A step violates a law where energy or momentum is off by more than 2 %.",
    ]
    assert made_from["made"].endswith("UTC")
    assert "cores" in made_from["machine"]
    shown = provenance(slow["scores"], made_from)
    assert shown["time of a core in all"] == "1 min 30 s of training and 7 s of judging"
    assert shown["data (SHA-256)"] == {"pendulum": {"train": "aa", "test": "bb"}}


def test_a_part_says_which_episodes_it_was_judged_on():
    both = {name: result(name, train="aa", test="bb") for name in ("mlp", "hnn")}
    scores, made_from = part_of_leaderboard(both)
    assert scores["family"].tolist() == ["hnn", "mlp"]
    assert made_from["data"] == {"pendulum": {"train": "aa", "test": "bb"}}


def test_families_that_acted_from_other_starts_make_no_part():
    results = {name: result(name, train="aa", test="bb") for name in ("mlp", "hnn")}
    results["mlp"]["facts"]["manifest"], results["hnn"]["facts"]["manifest"] = {"test": "m1"}, {"test": "m1"}
    part_of_leaderboard(results)
    results["mlp"]["facts"]["manifest"] = {"test": "m2"}
    with pytest.raises(UserError, match=r"judged on other starts of 'pendulum' \(test m"):
        part_of_leaderboard(results)


@pytest.mark.parametrize("other", [{"train": "aa", "test": "cc"}, {"train": "aa"}], ids=["another test", "no test"])
def test_two_sets_of_episodes_make_no_part(other):
    results = {"mlp": result("mlp", train="aa", test="bb"), "hnn": result("hnn", **other)}
    with pytest.raises(UserError, match=r"hnn was judged on other episodes of 'pendulum' \(test .*run training and"):
        part_of_leaderboard(results)


def test_a_part_says_who_cannot_be_told_from_the_best():
    easy_and_hard, both = np.linspace(1.0, 100.0, 12), {}
    for name, factor in (("mlp", 1.1), ("hnn", 1.0), ("persistence", 0.5)):
        both[name] = result(name, train="aa", test="bb")
        both[name]["arrays"] = {
            "plain/test/by_episode/relative_error": factor * easy_and_hard[None],
            "plain/test/other": np.ones(3),
        }
    both["mlp"]["scores"]["value"] = 1.1
    both["persistence"]["scores"]["value"] = 2.0  # who is no better than the floor is not shown as the best
    scores, made_from = part_of_leaderboard(both)
    assert made_from["best"] == {
        "pendulum": {"test": {"relative_error": ["hnn/plain"]}}
    }  # persistence does not compete
    assert contest(scores, {}) == {}
    # Their intervals meet; the first page and its tables go by the pairs.
    alone, (_, summary, text, _) = summary_table(scores), board(scores, {"physics": (scores, made_from)}, played=False)
    assert [list(t.loc[t["best"], "family"]) for t in (alone, summary)] == [["hnn", "mlp"], ["hnn"]]
    assert text.count("**") == 2
    both["mlp"]["arrays"]["plain/test/by_episode/relative_error"] = easy_and_hard[None, ::-1]
    assert part_of_leaderboard(both)[1]["best"]["pendulum"]["test"]["relative_error"] == ["hnn/plain", "mlp/plain"]


def test_a_part_that_was_edited_is_refused():
    part = part_of_leaderboard({"mlp": result("mlp", train="aa", test="bb")})
    assert len(union({"physics": part})) == 1
    edited = part[0].assign(value=0.0)
    with pytest.raises(UserError, match=r"'physics' are not those .*kedro run --pipeline=physics_eval"):
        union({"physics": (edited, part[1])})
