"""Simulators that are wrong by a known amount: each error is what it says, a harmless dose is the world itself."""

from __future__ import annotations

import numpy as np
import pytest

from wm_pipelines.control import manifest
from wm_pipelines.control.closed_loop import run
from wm_pipelines.control.corruptions import CORRUPTIONS, HARMLESS, Corrupted, DoseConfig, WronglyPlanned
from wm_pipelines.control.doses import measure
from wm_pipelines.control.planners import PlannerConfig
from wm_pipelines.control.policies import ObjectiveConfig, TruePlanned
from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.driven_pendulum import DrivenPendulum, DrivenPendulumParameters
from wm_pipelines.worlds.parts.driving import drive
from wm_pipelines.worlds.two_body_thruster import TwoBodyThruster, TwoBodyThrusterParameters
from wm_pipelines.worlds.two_rooms import TwoRooms, TwoRoomsParameters

PLANNER = PlannerConfig(horizon=6, samples=16, iterations=2, elites=4)
OBJECTIVE = ObjectiveConfig()
SIGMA = np.array([1.5, 3.0])
STEP = 0.05


@pytest.fixture
def pendulum():
    return DrivenPendulum(DrivenPendulumParameters())


@pytest.fixture
def rooms():
    return TwoRooms(TwoRoomsParameters())


@pytest.fixture
def moves(pendulum):
    """States, actions and what truly follows."""
    rng = np.random.default_rng(0)
    z, action = pendulum.sample_initial_state(rng, 50), rng.uniform(-1, 1, (50, 1))
    return z, action, pendulum.advance(z, action, STEP)


# ---------------------------------------------------------------- one step


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_harmless_dose_is_the_world(pendulum, moves, corruption):
    z, action, true = moves
    wrong = Corrupted(pendulum, corruption, HARMLESS[corruption], SIGMA)
    np.testing.assert_array_equal(wrong.advance(wrong.start(z), action, STEP), true)
    np.testing.assert_array_equal(wrong.reward(wrong.start(z), action), pendulum.reward(z, action))


def test_a_leak_takes_its_share_of_the_kinetic_energy(pendulum, moves):
    z, action, true = moves
    found = Corrupted(pendulum, "energy_leak", 0.1, SIGMA).advance(z, action, STEP)
    np.testing.assert_array_equal(found[:, 0], true[:, 0])
    np.testing.assert_allclose(found[:, 1] ** 2, 0.81 * true[:, 1] ** 2)


def test_a_kick_adds_the_same_momentum_in_every_step(pendulum, moves):
    z, action, true = moves
    found = Corrupted(pendulum, "kick", 0.2, SIGMA).advance(z, action, STEP)
    np.testing.assert_allclose(found - true, np.tile([0.0, 0.6], (50, 1)), atol=1e-14)


def test_a_wrong_mass_is_another_rod(pendulum, moves):
    z, action, _ = moves
    heavier = DrivenPendulum(DrivenPendulumParameters(mass=2.0))
    found = Corrupted(pendulum, "wrong_mass", 2.0, SIGMA).advance(z, action, STEP)
    np.testing.assert_array_equal(found, heavier.advance(z, action, STEP))


def test_noise_has_the_spread_asked_for_and_its_seed(pendulum):
    z, action = np.zeros((20000, 2)), np.zeros((20000, 1))
    one, same, other = (Corrupted(pendulum, "noise", 0.1, SIGMA, seed).advance(z, action, STEP) for seed in (0, 0, 1))
    np.testing.assert_allclose(one.std(0), 0.1 * SIGMA, rtol=0.03)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_delayed_actions_take_effect_later_and_those_taken_are_remembered(pendulum, moves):
    z, _, _ = moves
    wrong, actions = Corrupted(pendulum, "delay", 2, SIGMA), np.random.default_rng(1).uniform(-1, 1, (5, 50, 1))
    state, true = wrong.start(z), z
    for k, action in enumerate(actions):
        state = wrong.advance(state, action, STEP)
        true = pendulum.advance(true, actions[k - 2] if k >= 2 else np.zeros((50, 1)), STEP)
    np.testing.assert_array_equal(wrong.observe(state), pendulum.observe(true))
    seen = wrong.start(z)
    for action in actions:  # the world is seen at rest, but what was commanded is on its way
        seen = wrong.follow(seen, action, z)
    np.testing.assert_array_equal(seen, np.concatenate([z, actions[3], actions[4]], -1))


def test_masses_of_several_bodies_are_multiplied_and_momenta_are_velocities():
    plant = TwoBodyThruster(TwoBodyThrusterParameters())
    assert Corrupted(plant, "wrong_mass", 3.0, np.ones(8))._heavier.masses == pytest.approx(3.0 * plant.masses)
    z = plant.sample_initial_state(np.random.default_rng(0), 4)
    true, leaking = plant.advance(z, np.zeros((4, 2)), 0.1), Corrupted(plant, "energy_leak", 0.5, np.ones(8))
    np.testing.assert_allclose(leaking.advance(z, np.zeros((4, 2)), 0.1), true * np.repeat([1.0, 0.5], 4))


def test_positions_alone_leak_displacements_drift_and_heed_actions_less(rooms):
    z, action = np.full((1, 2), -0.4), np.array([[1.0, 0.5]])
    moved = rooms.advance(z, action, 0.1) - z
    for corruption, dose, expected in (
        ("energy_leak", 0.25, 0.75 * moved),
        ("kick", 0.1, moved + 0.1 * SIGMA),
        ("wrong_mass", 2.0, 0.5 * moved),
    ):
        found = Corrupted(rooms, corruption, dose, SIGMA).advance(z, action, 0.1)
        np.testing.assert_allclose(found - z, expected, atol=1e-14)


# ---------------------------------------------------------------- planning


@pytest.mark.parametrize("corruption", ["wrong_mass", "delay", "kick"])
def test_a_planner_on_a_harmless_dose_acts_as_on_the_true_world(rooms, corruption):
    rng = np.random.default_rng(0)
    z = rooms.sample_initial_state(rng, 3)
    goals = rooms.sample_goal(rng, z)
    dose = HARMLESS[corruption]
    policies = (
        TruePlanned(rooms, 0.1, PLANNER, OBJECTIVE, goals),
        WronglyPlanned(Corrupted(rooms, corruption, dose, np.ones(2)), 0.1, PLANNER, OBJECTIVE, goals),
    )
    one, other = (run(policy, rooms, z, goals, 0.1, 5, {}) for policy in policies)
    np.testing.assert_array_equal(one.states, other.states)


def test_a_planner_that_knows_of_a_delay_reaches_goals_as_plants(rooms):
    rng = np.random.default_rng(0)
    z = rooms.sample_initial_state(rng, 3)
    goals = rooms.sample_goal(rng, z)
    policy = WronglyPlanned(Corrupted(rooms, "delay", 3, np.ones(2)), 0.1, PLANNER, OBJECTIVE, goals)
    course = run(policy, rooms, z, goals, 0.1, 4, {})
    assert course.states.shape == (3, 5, 2)
    np.testing.assert_array_equal(policy.states[:, 2:].reshape(3, 3, 2), course.actions[:, 1:])


def prepared(plant, step, starts=8, steps=12):
    episodes = {
        split: drive(plant, step=step, steps=30, episodes=6, seed=[0, i], policy="random")
        for i, split in enumerate(("train", "test"))
    }
    drawn = manifest.draw(
        plant, episodes["train"], starts=starts, steps=steps, seed=0, split="test", planner=PLANNER, objective=OBJECTIVE
    )
    return episodes, drawn


def again(drawn, planner):
    """The manifest as if another planner had been given."""
    changed = {**drawn, "planner": planner.model_dump(mode="json")}
    return changed | {"hash": manifest.digest(changed)}


@pytest.fixture
def measured(pendulum):
    episodes, drawn = prepared(pendulum, STEP)
    doses = DoseConfig(kick=[0.5, 0.01], wrong_mass=[1.0, 0.5])
    return drawn, measure(pendulum, pendulum.energy, drawn, episodes, doses, PLANNER, OBJECTIVE)


def test_doses_rise_and_have_scores_from_every_start_and_errors_of_every_episode(measured):
    drawn, found = measured
    assert [(r["corruption"], r["dose"]) for r in found["doses"]] == [
        ("wrong_mass", 0.5), ("kick", 0.01), ("kick", 0.5),
    ]  # fmt: skip
    assert {(len(r["score"]), len(r["law_error"]), len(r["energy_error"])) for r in found["doses"]} == {(8, 6, 6)}
    assert found["true_model"] == drawn["references"]["true_model"]
    assert (found["metric"], found["horizon"], found["manifest"]) == ("return", 6, drawn["hash"])


def test_larger_doses_are_more_wrong_and_act_worse(measured):
    small, large = measured[1]["doses"][1:]
    assert np.mean(small["law_error"]) < 0.1 < np.mean(large["law_error"])
    assert np.mean(small["energy_error"]) < np.mean(large["energy_error"])
    assert np.mean(large["score"]) < np.mean(small["score"])


def test_the_law_error_is_that_of_the_velocities_and_angles_kicked(pendulum):
    """After one step a kick of k spreads is an error of the speed alone: k sigma / spread, over three entries."""
    episodes, drawn = prepared(pendulum, STEP, starts=2, steps=1)
    short = PLANNER.model_copy(update={"horizon": 1})
    drawn = again(drawn, short)
    row = measure(pendulum, None, drawn, episodes, DoseConfig(kick=[0.2]), short, OBJECTIVE)["doses"][0]
    ratio = episodes["train"]["states"][..., 2].std() / episodes["test"]["states"][..., 2].std()
    np.testing.assert_allclose(row["law_error"], 0.2 * ratio / np.sqrt(3))
    assert row["energy_error"] is None


def test_equal_doses_give_equal_numbers(rooms):
    episodes, drawn = prepared(rooms, 0.1, starts=3, steps=3)
    doses = DoseConfig(noise=[0.1])
    one, other = (measure(rooms, None, drawn, episodes, doses, PLANNER, OBJECTIVE) for _ in range(2))
    assert one == other
    assert one["metric"] == "success_rate"


def test_what_cannot_be_is_refused_in_one_line(pendulum, monkeypatch):
    for doses in ({"energy_leak": [1.5]}, {"wrong_mass": [0]}, {"noise": [-1]}, {"delay": [0.5]}, {"friction": [1]}):
        with pytest.raises(UserError, match=f"control.doses.{next(iter(doses))}"):
            validate(DoseConfig, doses, "control.doses")
    episodes, drawn = prepared(pendulum, STEP, starts=2, steps=1)
    long = PLANNER.model_copy(update={"horizon": 31})
    with pytest.raises(UserError, match="drawn with another planner"):
        measure(pendulum, None, drawn, episodes, DoseConfig(kick=[1]), long, OBJECTIVE)
    with pytest.raises(UserError, match="have 30 steps, the planner looks 31 ahead"):
        measure(pendulum, None, again(drawn, long), episodes, DoseConfig(kick=[1]), long, OBJECTIVE)
    monkeypatch.setattr(DrivenPendulum, "plant_state", lambda self, seen: None)
    with pytest.raises(UserError, match="does not tell its plant state"):
        measure(pendulum, None, drawn, episodes, DoseConfig(kick=[1]), PLANNER, OBJECTIVE)
