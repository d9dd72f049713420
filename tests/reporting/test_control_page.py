"""The page of control, from made-up scores of a pendulum that is really drawn."""

import numpy as np
import pandas as pd
import pytest
from html_page import Page

from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.registry import worlds
from wm_pipelines.reporting.summary import summary_table
from wm_pipelines.spec import Facts, Space, Spec
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.control import Control
from wm_pipelines.tasks.control.figures import shown_models
from wm_pipelines.tasks.control.report import answers

MODELS = {  # model -> score, gap, optimism, ignores actions
    ("oracle", "plain"): (1.0, 0.0, None, None),
    ("latent_dynamics", "good"): (0.9, 10.0, 1.0, 0.0),
    ("latent_dynamics", "poor"): (0.4, 60.0, 9.0, 0.0),
    ("rssm", "deaf"): (0.95, 5.0, 3.0, 1.0),
    ("fixed_policies", "random"): (0.0, 100.0, None, None),
}
ROWS, KEPT = 21, 2


def spec():
    kind = worlds.get("driven_pendulum")
    views = {"states": Space("vector", (3,)), "actions": Space("vector", (1,), per="transition")}
    facts = Facts({"observed": ["cosine", "sine", "speed"]})
    return Spec("rod", 0.05, views, ROWS, facts, kind(kind.Parameters()).origin())


def arrays(family, rng):
    angle = rng.uniform(-3, 3, (KEPT, 1)) + np.linspace(0, 1, ROWS)
    found = {"test/planned_states": np.stack([angle, angle], -1)}
    if family not in ("oracle", "fixed_policies"):
        seen = np.stack([np.cos(angle), np.sin(angle), angle], -1)
        found |= {"test/imagined_states": seen, "test/real_states": seen}
        found |= {f"test/{which}_rewards": -(angle[:, 1:] ** 2) for which in ("imagined", "real")}
    return found


@pytest.fixture(scope="module")
def results():
    rows, rng = [], np.random.default_rng(0)
    for (family, variant), (score, gap, optimism, deaf) in MODELS.items():
        for split in ("test", "transfer_mass"):
            given = {
                "normalised_score": score, "return": -gap, "over_random": 100.0 - gap, "planning_gap": gap,
                "optimism": optimism, "ignores_actions": deaf, "planner_headroom": 3.0 if family == "oracle" else None,
            }  # fmt: skip
            measured = [(metric, -1, value) for metric, value in given.items()]
            measured += [("mse", k, 0.1 * k) for k in (1, 5)] if deaf is not None else []
            if variant == "good":
                measured += [("policy_normalised_score", -1, 0.7), ("policy_over_random", -1, 70.0),
                             ("policy_planning_gap", -1, 30.0), ("policy_return", -1, -30.0)]  # fmt: skip
            for metric, step, value in measured:
                if value is not None:
                    key = ("control", "rod", family, variant, "states", "", 0, split, metric, step)
                    rows.append((*key, value, value - 1.0, value + 1.0, 9, "1"))
    kept = {f"{family}/{variant}": arrays(family, rng) for family, variant in MODELS}
    curve = pd.DataFrame({"step": [0, 1], "seed": 0, "loss": [3.0, 2.0], "actor": [0.5, -0.5], "value": [1.0, 2.0]})
    return Results(
        pd.DataFrame(rows, columns=list(LEADERBOARD_COLUMNS)), specs={"rod": {"test": spec()}}, arrays={"rod": kept},
        curves={"rod/latent_dynamics/good": curve},
        not_applicable=[("rod", "sequence", "predicts nothing under actions")],
    )  # fmt: skip


def test_three_sentences_say_who_acts_best_who_ignores_actions_and_whether_the_planner_limits(results):
    text = Page(Control().page(results)).text
    assert (
        "rod: latent_dynamics · good with the planner: 90.0 (89.0 … 91.0) return over random from the same starts, "
        "10.0 (9.0 … 11.0) short of the same planner on the true world (score 0.900)"
    ) in text
    assert "Who ignores actions? rod: rssm · deaf." in text
    assert "Is the planner a bottleneck? rod: yes: on the true world" in text


def test_all_that_was_kept_is_drawn_once_and_the_same_results_give_the_same_bytes(results):
    text = Control().page(results)
    page = Page(text)
    for title in (
        "Who acts best", "Predictions under actions", "Courses in motion", "Imagined futures beside real ones",
        "What is imagined, entry by entry", "Accuracy against cost", "Learning curves", "Behaviour: loss of the policy",
        "Behaviour: value of imagined states", "Worlds with other parameters", "sequence does not apply",
    ):  # fmt: skip
        assert (title in page.text) == (title != "Accuracy against cost"), title  # nobody has paid anything
    assert len(page.ids) == len(set(page.ids))
    assert "frame {} of 2 × 21" in text
    assert Control().page(results) == text
    assert len(text) < 2_000_000


def test_who_ignores_actions_has_no_star(results):
    summary = results.summary
    assert not summary[summary["family"] == "rssm"]["best"].any()
    best = summary[(summary["metric"] == "normalised_score") & summary["best"]]
    assert set(best["variant"]) <= {"good", "poor"}


def test_every_metric_of_acting_has_a_title_and_a_meaning(results):
    text = Page(Control().page(results)).text
    for title in ("Score", "Planning gap", "Optimism", "Ignores actions", "Planner's headroom", "Own policy: score"):
        assert f"{title} " in text
    assert "Share of seeds whose sensitivity is below 1.05" in text


def test_ceiling_and_floor_are_drawn_and_the_best_of_every_family_before_further_variants(results):
    main = results.summary[results.summary["split"] == "test"]
    assert shown_models(main) == [
        "oracle/plain", "fixed_policies/random", "rssm/deaf", "latent_dynamics/good", "latent_dynamics/poor",
    ]  # fmt: skip
    assert shown_models(main, most=2)[2:] == ["rssm/deaf", "latent_dynamics/good"]


def test_without_arrays_there_are_tables_and_without_anything_a_sentence(results):
    from dataclasses import replace

    assert "Courses in motion" not in Control().page(replace(results, arrays={}))
    without = results.scores[~results.scores["metric"].str.contains("planning_gap")]
    text = Control().page(replace(results, scores=without))
    assert "over random from the same starts" in text
    assert "all goals reached (1)" in text
    assert "the same planner on the true world (1)" in Control().page(results)
    assert "Nothing has been judged yet" in Control().page(Results(results.scores.iloc[:0]))


@pytest.mark.parametrize("name", ["driven_pendulum", "push_t"])
def test_what_is_seen_tells_the_plant_state_that_is_drawn(name):
    kind = worlds.get(name)
    world = kind(kind.Parameters())
    z = world.sample_initial_state(np.random.default_rng(0), 5)
    np.testing.assert_allclose(world.observe(world.plant_state(world.observe(z))), world.observe(z), atol=1e-12)
    np.testing.assert_array_equal(world.render(world.plant_state(world.observe(z)), 32), world.render(z, 32))


def answered(*rows):
    """Of rows (variant, return over random, half its interval, ignores actions)."""
    table = []
    for variant, value, half, deaf in rows:
        for metric, x in (("over_random", value), ("planning_gap", 9.0), ("ignores_actions", deaf)):
            key = ("control", "rod", "flow", variant, "states", "", 0, "test", metric, -1)
            table.append((*key, x, x - half, x + half, 9, "1"))
    return dict(answers(summary_table(pd.DataFrame(table, columns=list(LEADERBOARD_COLUMNS))), ["rod"]))[
        "Who acts best?"
    ]


def test_who_is_left_out_although_it_scores_higher_is_named():
    ((_, said),) = answered(("deaf", 8.0, 1.0, 1.0), ("good", 5.0, 1.0, 0.0), ("poor", 1.0, 1.0, 0.0))
    assert said.startswith("flow · good with the planner: 5.00")
    assert said.endswith("; left out, since it ignores actions: flow · deaf with the planner (8.00)")


def test_where_nobody_beats_random_it_says_so():
    ((_, said),) = answered(("a", -3.36, 1.0, 0.0), ("b", -9.0, 1.0, 0.0))
    assert said.startswith(
        "nobody beats random by more than its interval; the best is flow · a with the planner: −3.36"
    )
    assert "left out" not in said


def test_many_that_cannot_be_told_from_the_best_are_counted():
    ((_, said),) = answered(*((name, 5.0 + i / 10, 1.0, 0.0) for i, name in enumerate("abcde")))
    assert "not told from it: 4 of 4 others" in said
