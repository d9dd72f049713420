"""What every world that takes actions owes: the seam that planners, tasks and ingestion rely on."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from wm_pipelines.errors import UserError, validate
from wm_pipelines.laws import laws_of
from wm_pipelines.registry import worlds
from wm_pipelines.spec import FACTS, Spec
from wm_pipelines.worlds.base import ControlledWorld, SimulatedWorld, simulated
from wm_pipelines.worlds.making import WorldConfig, build_world, ingest
from wm_pipelines.worlds.parts.driving import Policy

BASE = Path(__file__).parents[2] / "conf" / "base"
ENTRIES = {
    name: entry
    for path in sorted(BASE.glob("parameters_*.yml"))
    for name, entry in (yaml.safe_load(path.read_text()) or {}).items()
    if isinstance(entry, dict)
    and entry.get("world") in worlds.names()
    and issubclass(worlds.get(entry["world"]), ControlledWorld)
}

FOR_PREDICTION = {"branching"}  # judged by its futures: nothing is wanted there, and a step may outweigh an action


def test_all_of_them_have_a_parameter_file():
    registered = {name for name in worlds.names() if issubclass(worlds.get(name), ControlledWorld)}
    assert {entry["world"] for entry in ENTRIES.values()} == registered
    assert len(registered) >= 4


@pytest.fixture(params=sorted(ENTRIES))
def entry(request):
    return request.param


@pytest.fixture
def config(entry):
    return validate(WorldConfig, ENTRIES[entry], entry)


@pytest.fixture
def world(entry, config):
    return build_world(config, where=entry)


def acting(world, episodes=6, seed=0):
    rng = np.random.default_rng(seed)
    return world.sample_initial_state(rng, episodes), rng.uniform(-1, 1, (episodes, world.action_size))


def test_steps_keep_shapes_and_change_nothing_they_are_given(world, config):
    z, action = acting(world)
    before = z.copy(), action.copy()
    after = world.advance(z, action, config.step)
    assert after.shape == z.shape
    assert after.dtype == np.float64
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(z, before[0])
    np.testing.assert_array_equal(action, before[1])
    np.testing.assert_array_equal(world.advance(z, action, config.step), after)  # no chance in it, no memory
    assert (after != z).any(), "nothing moves"


def test_actions_matter_and_are_cut_at_one(world, config):
    z, action = acting(world)
    signs = np.sign(action)
    cut = world.advance(z, signs, config.step)
    np.testing.assert_array_equal(world.advance(z, 3.0 * signs, config.step), cut)
    matters = np.abs(world.advance(z, -signs, config.step) - cut).max(-1) > 0
    assert matters.any() if world.name in FOR_PREDICTION else matters.all()
    if world.reward(z, action) is not None:
        np.testing.assert_array_equal(world.reward(z, 3.0 * signs), world.reward(z, signs))


def test_episodes_do_not_know_of_each_other(world, config):
    z, action = acting(world, 6)
    together, stacked = (
        world.advance(z, action, config.step),
        world.advance(z.reshape(2, 3, -1), action.reshape(2, 3, -1), config.step),
    )
    np.testing.assert_array_equal(stacked.reshape(together.shape), together)
    np.testing.assert_allclose(world.advance(z[:1], action[:1], config.step), together[:1], rtol=0, atol=1e-13)


def test_there_are_rewards_or_goals(world):
    z, action = acting(world)
    reward, goal = world.reward(z, action), world.sample_goal(np.random.default_rng(1), z)
    if world.name in FOR_PREDICTION:
        assert reward is None
        assert goal is None
        return
    assert (reward is None) != (goal is None)
    if reward is not None:
        assert reward.shape == (6,)
        with pytest.raises(TypeError, match="no goals"):
            world.success(z, z)
    else:
        assert goal.shape == z.shape
        assert world.success(goal, goal).all()
        assert world.success(z, goal).shape == (6,)
        assert not world.success(z, goal).any(), "a goal is reached before anything is done"


def test_what_is_shown_has_one_form(world, config):
    z, _ = acting(world)
    assert world.observe(z.reshape(2, 3, -1)).shape == (2, 3, world.observe(z).shape[-1])
    frames = world.render(z, 24)
    assert frames.shape == (6, 24, 24, 3)
    assert frames.dtype == np.uint8
    assert (frames[0] != frames[1]).any()
    assert set(world.facts()) <= FACTS


def test_laws_come_back_from_the_spec(world, config):
    spec = world.episodes({"rewards": np.zeros((1, 1))}, config.step).spec
    plant = laws_of(Spec.from_json(json.loads(json.dumps(spec.to_json())))).plant
    z, action = acting(world)
    assert plant.entry == world.entry
    np.testing.assert_array_equal(plant.advance(z, action, 0.1), world.advance(z, action, 0.1))
    if (energy := world.laws().energy) is not None:
        assert energy(world.observe(z)).shape == (6,)


def test_it_is_no_world_left_alone(world):
    assert not isinstance(world, SimulatedWorld)
    assert world.laws().simulate is None
    with pytest.raises(UserError, match="cannot be simulated"):
        simulated(world)


def test_the_splits_of_the_parameter_file(entry, config):
    small = {
        name: split.model_copy(update={"episodes": 3, "steps": 5, "frame_size": 16})
        for name, split in config.splits.items()
    }
    splits = ingest(config.model_copy(update={"splits": small}), entry)
    assert {"train", "validation", "test"} <= set(splits)
    first = splits["train"]
    for episodes in splits.values():
        assert episodes.spec.views.keys() == first.spec.views.keys()
        assert episodes["actions"].shape == (3, 5, episodes.spec.views["actions"].shape[0])
        assert np.abs(episodes["actions"]).max() <= 1.0
        episodes.check_finite()
    assert len({episodes.content_hash for episodes in splits.values()}) == len(splits)


@pytest.mark.parametrize("policy", get_args(Policy))
def test_every_policy_acts_in_every_world(entry, config, policy):
    small = {n: s.model_copy(update={"episodes": 4, "steps": 6}) for n, s in list(config.splits.items())[:3]}
    update = {"splits": small, "policy": policy, "frame_size": None}
    first, again = (ingest(config.model_copy(update=update), entry)["train"] for _ in range(2))
    assert first.content_hash == again.content_hash
    assert first["actions"].any() == (policy != "zero")
