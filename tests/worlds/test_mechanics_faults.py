"""Mechanical worlds that cannot be, or cannot be integrated: one line each."""

import numpy as np
import pytest

from tests.worlds.mechanics import starts, world_of
from wm_pipelines.errors import UserError
from wm_pipelines.integrators import IntegrationError
from wm_pipelines.worlds.parts.simulation import check_energy, energy_drift, simulate_separable

# ---------------------------------------------------------------- refusals


def test_coincident_bodies_are_named():
    given_states = {"law": "given", "states": [[0.0, 1, 0, -1, 1, 0, -1, 0], [1.0, 1, 1, 1, 0, 0, 0, 0]]}
    world = world_of("two_body", initial=given_states)
    with pytest.raises(UserError, match="bodies 0 and 1 coincide at the start of episode 1"):
        world.simulate(starts(world, 2), 0.1, 5)


@pytest.mark.training
def test_a_collision_is_an_error():
    world = world_of("two_body", initial={"law": "given", "states": [[1.0, 0, -1, 0, 0, 0, 0, 0]]})
    with pytest.raises(IntegrationError, match="two_body"):
        world.simulate(starts(world, 1), 0.5, 10)


def test_an_episode_that_loses_its_energy_is_named():
    world = world_of("pendulum")
    z = world.simulate(starts(world, 3), 0.1, 10)
    z[2, 5, 1] *= 1.001
    with pytest.raises(IntegrationError, match="pendulum: episode 2 fails its energy check"):
        check_energy("pendulum", z, world.energy, world.kinetic, 1e-10)
    z[1, 3] = np.nan
    with pytest.raises(IntegrationError, match="episode 1 "):
        check_energy("pendulum", z, world.energy, world.kinetic, 1e-10)


def test_substeps_are_refined_until_energy_is_kept():
    world = world_of("pendulum")
    laws = {"velocity": world.velocity, "force": world.force, "energy": world.energy, "kinetic": world.kinetic}
    z = simulate_separable("pendulum", starts(world, 3), 0.5, 20, longest=0.5, **laws)  # far too long to begin with
    assert energy_drift(z, world.energy, world.kinetic).max() < 1e-10
    with pytest.raises(IntegrationError, match="energy check"):
        simulate_separable("pendulum", starts(world, 3), 60.0, 3, longest=60.0, **laws)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("pendulum", {"mass": -1.0}, "parameter 'pendulum.mass'"),
        ("pendulum", {"length": "2 kg"}, "length"),
        ("pendulum", {"initial": {"law": "annulus", "radius": [2.0, 1.0]}}, "swap them"),
        ("pendulum", {"initial": {"law": "annulus", "radius": [1.0, 2.0], "radios": 1}}, "radios"),
        ("n_body", {"bodies": 0}, "n_body.bodies"),
        ("n_body", {"bodies": 3, "masses": [1.0, 2.0]}, "one per body"),
        ("n_body", {"masses": {"low": 2.0, "high": 1.0}}, "swap them"),
        ("two_body", {"masses": [1.0, 0.0]}, "masses"),
        ("double_pendulum", {"gravity": float("nan")}, "gravity"),
        ("pendulum", {"initial": {"law": "box", "q": [float("inf")], "p": [1.0]}}, "initial.*finite"),
        ("n_body", {"initial": {"law": "lattice", "heat": float("inf")}}, "initial.*finite"),
        ("mass_spring", {"stifness": 1.0}, "stifness"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(name, parameters, message):
    with pytest.raises(UserError, match=message) as caught:
        world_of(name, **parameters)
    assert "\n" not in str(caught.value)


def test_start_states_of_the_wrong_length_are_refused():
    world = world_of("double_pendulum", initial={"law": "box", "q": [1.0], "p": [1.0]})
    with pytest.raises(UserError, match="2 entries, this world's states have 4"):
        starts(world)
    world = world_of("pendulum", initial={"law": "given", "states": [[1.0, 0.0]]})
    with pytest.raises(UserError, match="1 start states, 2 episodes"):
        starts(world, 2)
