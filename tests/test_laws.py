"""Laws are rebuilt from the spec of stored episodes, and only from there."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.specs import PENDULUM
from wm_pipelines.equations import box
from wm_pipelines.errors import UserError, validate
from wm_pipelines.laws import Laws, laws_of, world_of
from wm_pipelines.registry import worlds
from wm_pipelines.spec import Spec
from wm_pipelines.worlds.base import SimulatedWorld
from wm_pipelines.worlds.making import WorldConfig, build_world
from wm_pipelines.worlds.parts.fields import FieldWorld

BASE = Path(__file__).parents[1] / "conf" / "base"


def entries():
    """Every world of conf/base: those of globals.yml, and others that have a parameter file."""
    files = [yaml.safe_load(path.read_text()) or {} for path in sorted(BASE.glob("parameters_*.yml"))]
    named = [(name, entry) for file in files for name, entry in file.items() if isinstance(entry, dict)]
    return {name: e for name, e in named if e.get("world") in worlds.names() and "trials" not in e}


def own_and_rebuilt(name):
    """A world, and the laws that come back from its spec in the header of a file."""
    world = build_world(validate(WorldConfig, entries()[name], name), None, name)
    spec = world.episodes({"rewards": np.zeros((1, 1))}, 0.1).spec
    return world, laws_of(Spec.from_json(json.loads(json.dumps(spec.to_json()))))


def of_kind(kind):
    return [name for name, entry in entries().items() if issubclass(worlds.get(entry["world"]), kind)]


def test_all_worlds_that_run_are_here():
    tasks = yaml.safe_load((BASE / "globals.yml").read_text())["tasks"]
    assert {world for task in tasks.values() for world in task["worlds"]} <= set(entries())


@pytest.mark.parametrize("name", of_kind(SimulatedWorld))
def test_laws_of_motion_come_back(name):
    world, laws = own_and_rebuilt(name)
    z = world.sample_initial_state(np.random.default_rng(0), 2)
    np.testing.assert_array_equal(laws.simulate(z, 0.1, 2), world.simulate(z, 0.1, 2))
    for law in ("energy", "momentum", "angular_momentum", "dynamics"):
        ours, theirs = getattr(laws, law), getattr(world.laws(), law)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours(z), theirs(z))


@pytest.mark.parametrize("name", of_kind(FieldWorld))
def test_laws_of_fields_come_back(name):
    world, laws = own_and_rebuilt(name)
    own = world.laws()
    assert (laws.coefficients, set(laws.balances)) == (own.coefficients, set(own.balances))
    assert len(laws.conditions) == len(own.conditions) > 0
    low, high = box(world.problem())
    points = np.asarray(low) + np.random.default_rng(0).random((20, len(low))) * (np.asarray(high) - np.asarray(low))
    for ours, theirs in zip(laws.conditions, own.conditions, strict=True):
        np.testing.assert_array_equal(ours.value(points), theirs.value(points))
    if own.reference is not None:
        np.testing.assert_array_equal(laws.reference(points), own.reference(points))


def test_who_is_told_has_no_way_to_the_laws():
    assert laws_of(PENDULUM).energy is not None
    assert laws_of(PENDULUM.told(PENDULUM.facts, "somebody")) == Laws()
    with pytest.raises(KeyError):
        world_of(PENDULUM.told(PENDULUM.facts, "somebody"))


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"world": "pendulun", "parameters": {}}, "unknown world 'pendulun'; did you mean 'pendulum'"),
        ({"world": "pendulum", "parameters": {"gravity": -1}}, "'swing.parameters.gravity'"),
    ],
)
def test_a_world_that_is_no_more_is_told_in_one_line(origin, message):
    with pytest.raises(UserError, match=message):
        laws_of(Spec("swing", 0.1, {}, origin=origin))
