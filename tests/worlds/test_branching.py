"""The ball with two futures: free motion, an exact kick, its probabilities, and luck that nobody sees."""

import numpy as np
import pytest

from wm_pipelines.worlds.branching import Branching, BranchingParameters
from wm_pipelines.worlds.parts.driving import drive

STEP = 0.1


def world_of(**parameters):
    return Branching(BranchingParameters(**parameters))


def test_it_rolls_freely_before_and_behind_the_wedge():
    world = world_of()
    z = np.array([[0.1, -0.3, 0.0, 1.0, 0.4], [0.1, 0.2, -1.0, 1.0, 0.4]])
    moved = world.advance(z, np.ones((2, 1)), STEP)
    np.testing.assert_allclose(moved[:, :4], [[0.1, -0.2, 0.0, 1.0], [0.0, 0.3, -1.0, 1.0]], atol=1e-15)


@pytest.mark.parametrize(("luck", "side"), [(0.0, 2.0), (0.999999, -2.0)])
def test_the_wedge_is_hit_within_the_step(luck, side):
    """The path across is ``side_speed`` times the time behind the wedge, however long the steps are."""
    world, z = world_of(side_speed=2.0), np.array([[0.2, -0.07, 0.0, 1.0, luck]])
    once = world.advance(z, np.zeros((1, 1)), STEP)
    np.testing.assert_allclose(once[0, :4], [0.2 + side * 0.03, 0.03, side, 1.0], atol=1e-15)
    halves = world.advance(world.advance(z, np.zeros((1, 1)), STEP / 2), np.zeros((1, 1)), STEP / 2)
    np.testing.assert_allclose(halves, once, atol=1e-15)


def test_ways_are_taken_as_often_as_the_law_says():
    world, draws = world_of(), 40_000
    z = np.tile([0.15, -0.05, 0.0, 1.0, 0.0], (draws, 1))
    z[:, 4] = np.random.default_rng(0).random(draws)
    action = np.full((draws, 1), -0.6)
    right = world.advance(z, action, STEP)[:, 2] > 0
    expected = 1 / (1 + np.exp(-(0.15 - 0.4 * 0.6) / 0.4))
    assert world.chance(z, action)[0] == pytest.approx(expected)
    assert right.mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / draws))


def test_both_futures_are_those_of_the_world_itself():
    world, rng = world_of(), np.random.default_rng(1)
    z, actions = world.sample_initial_state(rng, 50), rng.uniform(-1, 1, (50, 6, 1))
    ways, chance = world.futures(z, actions, STEP)
    now, seen = z, []
    for k in range(6):
        now = world.advance(now, actions[:, k], STEP)
        seen.append(world.observe(now))
    own = np.stack(seen, 1)
    taken = np.where(z[:, 4] < chance, 0, 1)
    np.testing.assert_array_equal(ways[taken, np.arange(50)], own)
    assert np.isfinite(chance).all()


def test_what_does_not_reach_the_wedge_has_one_future():
    z = np.array([[0.0, -0.35, 0.0, 1.0, 0.5]])
    ways, chance = world_of().futures(z, np.zeros((1, 2, 1)), STEP)
    assert np.isnan(chance).all()
    np.testing.assert_array_equal(ways[0], ways[1])


def test_no_view_shows_the_luck():
    episodes = drive(world_of(), step=STEP, steps=6, episodes=20, seed=0)
    assert episodes["states"].shape == (20, 7, 4)
    assert "rewards" not in episodes
    before = episodes["states"][:, 0]
    assert (before[:, 2] == 0).all()
    assert set(np.unique(episodes["states"][:, -1, 2])) == {-1.0, 1.0}


def test_it_is_drawn():
    world = world_of()
    z = world.sample_initial_state(np.random.default_rng(0), 2)
    assert world.render(z, 32).shape == (2, 32, 32, 3)
    assert (world.render(z, 32)[0] != world.render(z, 32)[1]).any()
