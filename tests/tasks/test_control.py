"""Manifests, and the judge of control: what scores mean, who ignores actions, what belongs together."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
import torch

from tests.control.toys import Goals, Line, Model, Policy, episodes, world
from wm_pipelines.control import manifest as manifests
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import FamilyConfig, Imagined, build
from wm_pipelines.pipelines.judging import _call_flagged, _flagged
from wm_pipelines.registry import families
from wm_pipelines.reporting.summary import summary_table
from wm_pipelines.tasks.control import Control
from wm_pipelines.tasks.control.judge import _feature_errors
from wm_pipelines.tasks.judgement import table

TASK, SEEDS = Control(), (0, 1)
SETTINGS = {
    "starts": 6, "steps": 12, "error_steps": [1, 4], "kept": 2, "imagined_steps": 5,
    "planner": {"horizon": 6, "samples": 32, "iterations": 2, "elites": 5},
}  # fmt: skip


def drawn(plant, train, split="test", **changed):
    config = TASK.config({**SETTINGS, **changed})
    own = {name: getattr(config, name) for name in ("starts", "steps", "seed", "true_planner")}
    return manifests.draw(
        plant, train, split=split, planner=TASK.planner(config), objective=TASK.objective(config), **own
    )


class Case:
    """A world, its episodes and its manifest."""

    def __init__(self, kind=Line):
        self.plant = world(kind)
        self.episodes = {"train": episodes(self.plant), "test": episodes(self.plant, 7, seed=1)}
        self.manifest = drawn(self.plant, self.episodes["train"])

    def judged(self, kind=Model, manifest=True, settings=None, **wrong):
        family = kind if isinstance(kind, type) else families.get(kind)
        config = wrong.pop("config", {})
        config = family.Config(**config) if family.Config is not FamilyConfig else FamilyConfig()
        model = build(family, config, self.episodes["train"].spec, SEEDS, self.plant.laws())
        for name, value in wrong.items():
            setattr(model, name, value)
        given = {"test": self.manifest if manifest is True else manifest} if manifest else None
        config = TASK.config({**SETTINGS, **(settings or {})})
        return TASK.judge(model, self.episodes, "test", self.plant.laws(), config, manifest=given)


@pytest.fixture(scope="module")
def line():
    return Case()


@pytest.fixture(scope="module")
def goals():
    return Case(Goals)


def values(judged, metric, step=-1):
    return [row["value"] for row in judged.rows if (row["metric"], row["step"]) == (metric, step)]


# ---------------------------------------------------------------- what scores mean


def test_random_actions_score_nothing_and_the_planner_on_the_true_world_one(line):
    random = line.judged("fixed_policies", config={"policy": "random"})
    np.testing.assert_allclose(values(random, "normalised_score"), 0.0, atol=1e-12)
    assert values(random, "over_random") == [0.0, 0.0]
    oracle = line.judged("oracle")
    np.testing.assert_allclose(values(oracle, "normalised_score"), 1.0, rtol=1e-12)
    assert values(oracle, "planning_gap") == [0.0, 0.0]
    for name in ("zero", "replay"):
        other = line.judged("fixed_policies", config={"policy": name})
        np.testing.assert_allclose(values(other, "return"), np.mean(line.manifest["references"][name]))


def test_a_model_without_a_fault_is_planned_with_as_the_true_world_is(line):
    judged = line.judged()
    np.testing.assert_allclose(values(judged, "planning_gap"), 0.0, atol=1e-4)
    np.testing.assert_allclose(values(judged, "normalised_score"), 1.0, atol=1e-4)
    np.testing.assert_allclose(values(judged, "mse"), 0.0, atol=1e-20)
    np.testing.assert_allclose(values(judged, "reward_mse"), 0.0, atol=1e-20)
    assert values(judged, "ignores_actions") == [0, 0]


def test_gaps_are_paired_start_by_start(line):
    judged = line.judged(slip=0.6)
    scores = judged.arrays["by_episode/return"]
    for metric, other, sign in (("planning_gap", "true_model", -1), ("over_random", "random", 1)):
        difference = sign * (scores - np.array(line.manifest["references"][other]))
        np.testing.assert_allclose(judged.arrays[f"by_episode/{metric}"], difference)
        np.testing.assert_allclose(values(judged, metric), difference.mean(1))


def test_what_a_plan_promises_too_much_is_optimism(line):
    honest, boasting = line.judged(), line.judged(praise=0.5)
    more = np.subtract(values(boasting, "optimism"), values(honest, "optimism"))
    np.testing.assert_allclose(more, 0.5 * SETTINGS["planner"]["horizon"], atol=1e-3)
    np.testing.assert_allclose(values(boasting, "return"), values(honest, "return"), atol=1e-4)


def test_headroom_is_what_twice_the_planning_gains_on_the_true_world(line):
    references = {name: np.array(score) for name, score in line.manifest["references"].items()}
    gain = (references["true_model_twice"] - references["true_model"]).mean()
    np.testing.assert_allclose(values(line.judged("oracle"), "planner_headroom"), gain)


def test_a_policy_of_its_own_is_judged_without_the_planner(line):
    judged = line.judged(Policy)
    assert {row["metric"] for row in judged.rows} == {
        "policy_return", "policy_normalised_score", "policy_over_random", "policy_planning_gap", "dream_return",
    }  # fmt: skip
    assert values(judged, "dream_return") == [7.0, 7.0]
    assert values(judged, "policy_over_random")[0] > 0
    assert values(line.judged(Policy, gain=-2.0), "policy_normalised_score")[0] < 0


def test_errors_of_predictions_are_those_of_the_steps_asked_for(line):
    judged = line.judged(slip=0.5)
    states, actions = line.episodes["test"]["states"], line.episodes["test"]["actions"]
    once = 0.5 * line.plant.advance(states[:, 0], actions[:, 0], 0.1)
    np.testing.assert_allclose(values(judged, "mse", 1), np.square(once - states[:, 1]).mean())
    assert values(judged, "mse", 4) == values(judged, "mse")


def test_nobody_acts_in_other_worlds_where_no_starts_are_judged_there(line, monkeypatch):
    monkeypatch.setattr("wm_pipelines.laws.laws_of", lambda spec: line.plant.laws())
    episodes = {**line.episodes, "transfer": line.episodes["test"]}
    counts = {**SETTINGS, "judged": 4}
    drawn = TASK.manifest(episodes, TASK.config({**counts, "transfer_judged": 0}))
    assert set(drawn) == {"test"}
    assert set(TASK.manifest(episodes, TASK.config({**counts, "transfer_judged": 2}))) == {"test", "transfer"}
    model = build(Model, FamilyConfig(), line.episodes["train"].spec, SEEDS, line.plant.laws())
    config = TASK.config({**counts, "transfer_judged": 0})
    judged = TASK.judge(model, episodes, "transfer", line.plant.laws(), config, manifest=drawn)
    assert "mse" in {row["metric"] for row in judged.rows}
    assert "return" not in {row["metric"] for row in judged.rows}
    with pytest.raises(UserError, match="transfer_judged"):
        TASK.config({**counts, "transfer_judged": 1})


# ---------------------------------------------------------------- who ignores actions


class _Counter:
    """Frames are bright by a count that actions add to; it imagines that count, and hears so much of an action."""

    seeds = (0, 1)

    def __init__(self, hears):
        self.hears = hears

    def features(self, observation, seed):
        return observation["frames"].double().mean((1, 2, 3))[:, None]

    def start(self, observation, seed):
        return self.features(observation, seed)

    def update(self, belief, action, observation, seed):
        return self.features(observation, seed)

    def imagine(self, belief, actions, seed):
        return Imagined(belief[:, None] + self.hears * actions.cumsum(1))


@pytest.mark.parametrize("hears", [0.0, 1.0])
def test_of_frames_the_features_say_whether_actions_matter(hears):
    actions = torch.tensor(np.random.default_rng(0).integers(0, 5, (3, 6, 1))).double()
    counts = torch.cat([torch.full((3, 1, 1), 9.0), 9.0 + actions.cumsum(1)], 1)
    frames = counts[..., None, None].expand(-1, -1, 4, 4, 3).to(torch.uint8)
    past = {"frames": frames[:, :2], "actions": actions[:, :1]}
    own, other = (
        _feature_errors(_Counter(hears), past, given, frames[:, 2:])
        for given in (actions[:, 1:], actions[:, 1:].roll(1, 0))
    )
    assert own.shape == (2, 3, 5)
    if hears:
        np.testing.assert_array_equal(own, 0.0)
        assert other.mean() > 0
    else:
        np.testing.assert_array_equal(own, other)


def test_a_model_that_ignores_actions_is_flagged_named_and_never_best(line, caplog):
    deaf, hearing = line.judged(hears=0.0), line.judged(slip=0.9)
    assert values(deaf, "action_sensitivity") == [1.0, 1.0]
    assert values(deaf, "ignores_actions") == [1.0, 1.0]
    assert min(values(hearing, "action_sensitivity")) > 1.05
    assert values(hearing, "ignores_actions") == [0.0, 0.0]
    with caplog.at_level(logging.WARNING):
        for name, judged in (("deaf", deaf), ("hearing", hearing)):
            flagged = {metric: {"test": seeds, "far": seeds} for metric, seeds in _flagged(judged).items()}
            _call_flagged(flagged, f"family/{name} on line")
    (record,) = caplog.records
    assert record.getMessage().startswith("family/deaf on line IGNORES ACTIONS (test, far: seeds 0, 1): ")
    same = {"task": "control", "world": "line", "variant": "v", "view": "states", "knows": ""}
    rows = [table(judged.rows, family=name, **same) for name, judged in (("deaf", deaf), ("hearing", hearing))]
    summary = summary_table(pd.concat(rows))
    assert not summary[summary["family"] == "deaf"]["best"].any()
    assert summary[(summary["family"] == "hearing") & (summary["metric"] == "normalised_score")]["best"].all()


def test_where_nothing_moves_nobody_can_be_wrong_about_actions():
    from wm_pipelines.tasks.control.judge import _ratio

    np.testing.assert_array_equal(_ratio(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0])), [1.0, np.inf, 2.0])


# ---------------------------------------------------------------- what is kept


def test_courses_are_kept_also_of_the_references_and_are_those_that_were_scored(line):
    for judged, name in ((line.judged("oracle"), "true_model"), (line.judged("fixed_policies"), "random")):
        states, actions = judged.arrays["planned_states"], judged.arrays["planned_actions"]
        assert states.shape == (2, SETTINGS["steps"] + 1, 2)
        rewards = line.plant.reward(states[:, :-1], actions)
        np.testing.assert_allclose(rewards.sum(1), line.manifest["references"][name][:2], atol=1e-5)


def test_imagined_futures_are_kept_beside_what_followed(line):
    judged = line.judged(slip=0.5)
    truth = line.episodes["test"]["states"][:2, :6]
    np.testing.assert_array_equal(judged.arrays["real_states"], truth)
    np.testing.assert_array_equal(judged.arrays["imagined_states"][:, 0], truth[:, 0])
    first = 0.5 * line.plant.advance(truth[:, 0], line.episodes["test"]["actions"][:2, 0], 0.1)
    np.testing.assert_allclose(judged.arrays["imagined_states"][:, 1], first)
    assert judged.arrays["imagined_rewards"].shape == judged.arrays["real_rewards"].shape == (2, 5)


# ---------------------------------------------------------------- manifests


def test_a_manifest_is_json_repeats_with_its_seed_and_differs_between_splits(line):
    again = drawn(line.plant, line.episodes["train"])
    assert json.loads(json.dumps(again)) == line.manifest == again
    other = drawn(line.plant, line.episodes["train"], split="transfer")
    assert other["starts"] != again["starts"]
    assert drawn(line.plant, line.episodes["train"], seed=1)["starts"] != again["starts"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"steps": 3}, "steps"), ({"seed": 7}, "seed"), ({"planner": {"samples": 99}}, "planner")],
)
def test_a_manifest_that_was_drawn_otherwise_is_refused(line, changed, named):
    with pytest.raises(UserError, match=rf"was drawn with other control\.{named}; draw it again"):
        line.judged(settings=changed)


def test_a_manifest_that_was_edited_is_refused(line):
    edited = {**line.manifest, "starts": [[0.0, 0.0]] * 6}
    with pytest.raises(UserError, match=r"the manifest of 'test_line' \(test\) does not match its hash"):
        manifests.check(edited, line.episodes["train"])
    with pytest.raises(UserError, match="does not match its hash"):
        TASK.judge(
            Model(FamilyConfig(), line.episodes["train"].spec, SEEDS), line.episodes, "test", line.plant.laws(),
            TASK.config(SETTINGS), manifest={"test": edited},
        )  # fmt: skip


def test_a_manifest_of_other_episodes_is_refused(line):
    with pytest.raises(UserError, match=r"belongs to training episodes .* draw it again") as caught:
        manifests.check(line.manifest, episodes(line.plant, seed=5))
    assert "\n" not in str(caught.value)


def test_without_a_manifest_predictions_alone_are_judged(line):
    metrics = {row["metric"] for row in line.judged(manifest=False).rows}
    assert metrics == {"mse", "action_sensitivity", "ignores_actions", "reward_mse", "law_error"}


# ---------------------------------------------------------------- goals


def test_goals_are_reached_or_not_and_none_is_solved_at_the_start(goals):
    starts, wanted = (np.array(goals.manifest[name]) for name in ("starts", "goals"))
    assert not goals.plant.success(starts, wanted).any()
    judged = goals.judged()
    assert set(np.unique(judged.arrays["by_episode/success_rate"])) <= {0.0, 1.0}
    np.testing.assert_allclose(values(judged, "planning_gap"), 0.0)
    np.testing.assert_array_equal(judged.arrays["goals"], wanted[:2])
    assert not values(judged, "optimism")
    assert values(goals.judged("fixed_policies", config={"policy": "zero"}), "success_rate")[0] < 1


def test_where_the_planner_does_not_act_on_the_true_world_one_is_that_all_goals_are_reached(goals):
    manifest = drawn(goals.plant, goals.episodes["train"], true_planner=False)
    assert set(manifest["references"]) == {"random", "zero", "replay"}
    assert manifest["starts"] == goals.manifest["starts"]
    judged, floor = goals.judged(manifest=manifest), np.mean(manifest["references"]["random"])
    success = np.array(values(judged, "success_rate"))
    np.testing.assert_allclose(values(judged, "normalised_score"), (success - floor) / (1 - floor))
    assert not values(judged, "planning_gap")
    assert not goals.judged("oracle", manifest=manifest).rows


def test_nor_is_any_solved_by_staying_where_it_starts_by_the_stricter_criterion(goals, monkeypatch):
    """Pushed T: the block may lie right at the start and only the hand be away."""

    def near(self, z, goal):
        return (np.abs(z[..., :1] - goal[:, None, :1]) < 0.3).all((-1, -2))

    monkeypatch.setattr(Goals, "strict_success", near)
    manifest = drawn(goals.plant, goals.episodes["train"])
    starts, wanted = (np.array(manifest[name]) for name in ("starts", "goals"))
    assert not near(goals.plant, np.repeat(starts[:, None], 3, 1), wanted).any()
    assert manifest["solved_at_start"] > goals.manifest["solved_at_start"]


def test_a_stricter_criterion_is_judged_where_a_world_has_one(goals, monkeypatch):
    assert not values(goals.judged(), "strict_success_rate")
    told = []

    def strict(self, z, goal):
        told.append((z.shape, goal.shape))
        return self.success(z, goal[:, None])[:, -1]

    monkeypatch.setattr(Goals, "strict_success", strict)
    judged = goals.judged()
    count, steps = SETTINGS["starts"], SETTINGS["steps"]
    assert told == [((count, steps + 1, 2), (count, 2))] * len(SEEDS)
    assert (np.array(values(judged, "strict_success_rate")) <= values(judged, "success_rate")).all()


def test_a_world_whose_goals_are_solved_at_the_start_is_too_easy(goals, monkeypatch):
    monkeypatch.setattr(Goals, "near", 10.0)
    with pytest.raises(UserError, match="hardly any goal is unsolved at the start"):
        drawn(goals.plant, goals.episodes["train"])


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "control.steps"),
        ({"starts": 1}, "control.starts"),
        ({"step": 10}, "control.step"),
        ({"planner": {"horizn": 3}}, "control.planner.horizn"),
        ({"planner": {"samples": 4, "elites": 9}}, "elites 9 are more than samples 4"),
        ({"objective": {"goal": "first"}}, "control.objective.goal"),
        ({"objective": {"landmarks": -1}}, "control.objective.landmarks"),
        ({"doses": {}, "true_planner": False}, "true_planner has to be true"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(settings, message):
    def read():
        config = TASK.config(settings)
        return TASK.planner(config), TASK.objective(config)

    with pytest.raises(UserError) as caught:
        read()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_who_predicts_nothing_under_actions_is_not_judged(line):
    kind = families.get("persistence")
    assert TASK.refuses(kind(kind.Config(), line.episodes["train"].spec, SEEDS), line.episodes["test"]) is not None
    assert TASK.refuses(Model(FamilyConfig(), line.episodes["train"].spec, SEEDS), line.episodes["test"]) is None
