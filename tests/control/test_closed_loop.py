"""Episodes under a policy: what happens, what it is shown, when a goal counts as reached."""

import numpy as np
import pytest
import torch

from tests.control.toys import COST, STEP, A, B, Goals, world
from wm_pipelines.control.closed_loop import run
from wm_pipelines.control.planners import PlannerConfig
from wm_pipelines.control.policies import Fixed, ObjectiveConfig, TruePlanned
from wm_pipelines.errors import UserError
from wm_pipelines.spec import Space

VIEWS = {"states": Space("vector", (2,))}


class Scribe(Fixed):
    """Writes down what it is shown, and acts as it is told."""

    def begin(self, observation, plant_states):
        super().begin(observation, plant_states)
        self.shown, self.told = [observation["states"]], []

    def observe(self, action, observation, plant_states):
        super().observe(action, observation, plant_states)
        self.shown.append(observation["states"])
        self.told.append(action)


def test_the_world_moves_and_rewards_under_the_actions_and_shows_every_row():
    starts = np.array([[0.5, 0.0], [-1.0, 0.3], [0.0, 0.0]])
    given = torch.tensor(np.random.default_rng(0).uniform(-1.5, 1.5, (3, 6, 1)))
    policy = Scribe(1, "replay", given=given)
    course = run(policy, world(), starts, None, STEP, 6, VIEWS)
    z, total = starts, np.zeros(3)
    for k in range(6):
        action = np.clip(given[:, k].numpy(), -1, 1)
        np.testing.assert_array_equal(course.actions[:, k], action)
        total -= z[:, 0] ** 2 + COST * action[:, 0] ** 2
        z = z @ A.T + action @ B.T
        np.testing.assert_allclose(course.states[:, k + 1], z, rtol=1e-14)
    np.testing.assert_allclose(course.score, total)
    np.testing.assert_allclose(torch.stack(policy.shown, 1), course.states)
    np.testing.assert_array_equal(torch.stack(policy.told, 1), course.actions)
    assert course.expected is None
    assert course.reached is None


def test_a_goal_counts_once_it_is_reached_within_the_budget():
    starts, goals = np.array([[0.0, 0.5], [0.0, -0.5], [0.0, 0.0]]), np.array([[0.3, 0.0], [0.3, 0.0], [0.0, 0.0]])
    still = Fixed(1, "zero")
    course = run(still, world(Goals), starts, goals, STEP, 8, VIEWS)
    assert course.rewards is None
    np.testing.assert_array_equal(course.score, [1, 0, 1])
    assert not course.reached[0, 0]
    assert not course.reached[0, -1], "it went through, and on"
    assert run(still, world(Goals), starts, goals, STEP, 1, VIEWS).score[0] == 0


def test_random_actions_repeat_with_the_seed_and_fill_the_range():
    def course(seed):
        return run(Fixed(1, "random", seed), world(), np.zeros((50, 2)), None, STEP, 20, VIEWS).actions

    np.testing.assert_array_equal(course(1), course(1))
    assert not np.array_equal(course(1), course(2))
    assert course(1).min() < -0.95
    assert course(1).max() > 0.95


def test_the_planner_on_the_true_world_beats_doing_nothing_and_is_the_same_for_a_part_of_the_starts():
    starts = world().sample_initial_state(np.random.default_rng(0), 6)
    config = PlannerConfig(horizon=8, samples=48, iterations=2)

    def planned(z):
        return run(TruePlanned(world(), STEP, config, ObjectiveConfig()), world(), z, None, STEP, 15, VIEWS)

    whole = planned(starts)
    assert (whole.score >= run(Fixed(1, "zero"), world(), starts, None, STEP, 15, VIEWS).score - 1e-9).all()
    np.testing.assert_allclose(planned(starts[:2]).states, whole.states[:2], rtol=0, atol=1e-6)
    assert whole.expected.shape == (6, 15)


def test_actions_of_another_world_are_one_line():
    with pytest.raises(UserError, match=r"world 'test_line' takes 1 action\(s\) of 2 episodes, .* shape \(2, 3\)"):
        run(Fixed(3, "random"), world(), np.zeros((2, 2)), None, STEP, 4, VIEWS)
