"""The driven pendulum is Gymnasium's to rounding; with other parameters it obeys the mechanics of a rod."""

import numpy as np
import pytest
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from wm_pipelines.errors import validate
from wm_pipelines.worlds.driven_pendulum import DrivenPendulum, DrivenPendulumParameters
from wm_pipelines.worlds.parts.driving import drive, roll

STEP = 0.05


def world_of(**parameters):
    return DrivenPendulum(validate(DrivenPendulumParameters, parameters, "driven_pendulum"))


def by_gymnasium(starts, actions, env):
    """States ``[E, T + 1, 2]``, what is shown of them ``[E, T, 3]`` and rewards ``[E, T]`` of Gymnasium's own steps."""
    env.reset(seed=0)
    states = np.empty((*actions.shape[:1], actions.shape[1] + 1, 2))
    shown, rewards = np.empty((*actions.shape[:2], 3)), np.empty(actions.shape[:2])
    states[:, 0] = starts
    for e, t in np.ndindex(actions.shape[:2]):
        env.state = states[e, t]
        seen, rewards[e, t], *_ = env.step(env.max_torque * actions[e, t])
        states[e, t + 1], shown[e, t] = env.state, seen
    return states, shown, rewards


@pytest.mark.parametrize("episodes", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("policy", ["random", "scripted"])
def test_states_and_rewards_are_gymnasiums(episodes, policy):
    world = world_of()
    starts = world.sample_initial_state(np.random.default_rng(0), episodes)
    ours, actions, rewards = roll(world, starts, STEP, 200, policy, np.random.default_rng(1))
    states, shown, theirs = by_gymnasium(starts, actions, PendulumEnv())
    assert np.abs(ours - states).max() <= 1e-12
    assert np.abs(rewards - theirs).max() <= 1e-12
    assert np.abs(world.observe(ours)[:, 1:] - shown).max() <= 1e-6  # which Gymnasium shows in single precision
    assert np.abs(ours[..., 1]).max() == 8.0  # the cut of the speed is met


def test_another_rod_is_gymnasiums_with_its_mass_length_and_gravity():
    world, env = world_of(mass=1.3, length=0.7, gravity=3.7), PendulumEnv(g=3.7)
    env.m, env.l = 1.3, 0.7
    starts = world.sample_initial_state(np.random.default_rng(0), 10)
    ours, actions, rewards = roll(world, starts, STEP, 100, "smooth", np.random.default_rng(1))
    states, _, theirs = by_gymnasium(starts, actions, env)
    assert np.abs(ours - states).max() <= 1e-12
    assert np.abs(rewards - theirs).max() <= 1e-12


def test_returns_in_the_original_environment():
    world = world_of()
    starts = world.sample_initial_state(np.random.default_rng(0), 5)
    _, actions, rewards = roll(world, starts, STEP, 50, "random", np.random.default_rng(1))
    np.testing.assert_allclose(world.score_elsewhere(starts, actions), rewards.sum(1), rtol=0, atol=1e-10)
    assert world_of(mass=2.0).score_elsewhere(starts, actions) is None


def test_energy_is_lost_to_friction_and_brought_by_torque():
    z = np.array([[2.0, 1.0]])
    for friction in (0.0, 0.1):
        world = world_of(friction=friction)
        fine = [z]
        for _ in range(4000):
            fine.append(world.advance(fine[-1], np.zeros((1, 1)), 1e-4))
        fine = np.stack(fine, 1)
        energy = world.energy(world.observe(fine))[0]
        lost = friction * (fine[0, 1:, 1] ** 2).sum() * 1e-4  # integral of b omega^2
        np.testing.assert_allclose(energy[0] - energy[-1], lost, atol=2e-3)
    assert world_of().energy(np.array([1.0, 0.0, 0.0])) == 0.0
    pushed = world_of().advance(np.array([[np.pi, 0.0]]), np.array([[1.0]]), 1e-3)
    np.testing.assert_allclose(pushed[0, 1], 2.0 / (1.0 / 3.0) * 1e-3, rtol=1e-9)  # torque over the inertia m l^2 / 3


def test_the_script_gets_to_the_top_and_random_torques_do_not():
    world = world_of()
    starts = world.sample_initial_state(np.random.default_rng(0), 50)
    last = {p: roll(world, starts, STEP, 200, p, np.random.default_rng(1))[0][:, -1] for p in ("scripted", "random")}
    up = {policy: (np.cos(z[:, 0]) > 0.9).mean() for policy, z in last.items()}
    assert up["scripted"] > 0.9
    assert up["random"] < 0.3


def test_episodes_show_what_acted():
    episodes = drive(world_of(), step=STEP, steps=30, episodes=4, seed=3, policy="mixed", frame_size=16)
    assert {name: view.shape for name, view in episodes.views.items()} == {
        "times": (4, 31),
        "states": (4, 31, 3),
        "frames": (4, 31, 16, 16, 3),
        "actions": (4, 30, 1),
        "rewards": (4, 30),
    }
    np.testing.assert_allclose((episodes["states"][..., :2] ** 2).sum(-1), 1.0)
    assert np.abs(episodes["actions"]).max() <= 1.0
