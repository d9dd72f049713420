"""A ball on a floor: every impact at its own time, in closed form, down to the last of infinitely many."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.bouncing_ball import BouncingBall


def world_of(**parameters):
    return BouncingBall(validate(BouncingBall.Parameters, parameters, "bouncing_ball"))


def starts(world, episodes=6, seed=0):
    return world.sample_initial_state(np.random.default_rng(seed), episodes)


def one_after_the_other(h, v, g, e, times):
    """Height and velocity at rising times, impact by impact."""
    found, now = [], 0.0
    for time in times:
        while True:
            wait = (v + np.sqrt(v * v + 2 * g * h)) / g
            if now + wait > time:
                break
            h, v, now = 0.0, e * np.sqrt(v * v + 2 * g * h), now + wait
        dt = time - now
        h, v, now = h + v * dt - g * dt * dt / 2, v - g * dt, time
        found.append((h, v))
    return np.array(found)


@settings(max_examples=40, deadline=None)
@given(
    st.just(0.0) | st.floats(1e-3, 2.0),
    st.floats(-3.0, 3.0),
    st.floats(0.3, 3.0),
    st.floats(1.0, 20.0),
    st.sampled_from([0.6, 0.9, 1.0]),
)
def test_the_closed_form_is_one_impact_after_the_other(h, v, mass, g, e):
    impact = np.sqrt(v * v + 2 * g * h)
    first = (v + impact) / g
    assume(first > 1e-3)
    end = 4.0 if e == 1.0 else min(4.0, first + 0.95 * 2 * impact * e / (g * (1 - e)))  # before it comes to rest
    times = end / 40 * np.arange(41)
    expected = one_after_the_other(h, v, g, e, times)
    world = world_of(mass=mass, gravity=g, restitution=e)
    z = world.simulate(np.array([[h, mass * v]]), end / 40, 40)[0]
    # At an impact itself rounding decides on which side of it a row lies.
    clear = expected[:, 0] > 1e-9
    np.testing.assert_allclose(z[clear, 0], expected[clear, 0], atol=1e-8)
    np.testing.assert_allclose(z[clear, 1] / mass, expected[clear, 1], atol=1e-7)


def test_an_elastic_ball_keeps_its_energy_and_comes_back_every_period():
    world = world_of(mass=0.5)
    period = 2 * np.sqrt(2 * 1.2 / world.gravity)
    z = world.simulate(np.array([[1.2, 0.0]]), period, 1000)[0]
    np.testing.assert_allclose(z, np.tile([1.2, 0.0], (1001, 1)), atol=1e-9)
    z = world.simulate(starts(world), 0.05, 400)
    np.testing.assert_allclose(world.energy(z), np.broadcast_to(world.energy(z[:, :1]), z.shape[:2]), rtol=1e-11)
    assert z[..., 0].min() >= 0.0
    assert world.facts()["conserved"] == ["energy"]


def test_every_impact_takes_its_share():
    world = world_of(restitution=0.8)
    z = world.simulate(starts(world, 4), 0.01, 250)
    energy = world.energy(z)
    impacts = np.log(energy / energy[:, :1]) / np.log(0.8**2)
    np.testing.assert_allclose(impacts, np.rint(impacts), atol=1e-9)  # a whole number of them
    assert np.rint(impacts).max() >= 3
    assert (np.diff(np.rint(impacts), axis=1) >= 0).all()
    assert world.facts()["conserved"] == []
    assert "energy" not in world.facts()


@pytest.mark.parametrize("e", [0.3, 0.9, 0.99])
def test_after_infinitely_many_impacts_the_ball_rests(e):
    world = world_of(restitution=e)
    impact = np.sqrt(2 * world.gravity)
    rest = impact / world.gravity + 2 * impact / world.gravity * e / (1 - e)
    z = world.simulate(np.array([[1.0, 0.0]]), 0.999 * rest, 1)[0, 1]
    assert np.abs(z).max() > 0
    z = world.simulate(np.array([[1.0, 0.0]]), 1.001 * rest, 3)[0, 1:]
    np.testing.assert_array_equal(z, 0.0)
    np.testing.assert_array_equal(world.dynamics(z), 0.0)


def test_a_ball_on_the_floor_stays_there():
    for e in (1.0, 0.5):
        z = world_of(restitution=e).simulate(np.zeros((2, 2)), 0.1, 5)
        np.testing.assert_array_equal(z, 0.0)


def test_derivatives_are_those_of_the_flight():
    world = world_of(mass=0.7)
    z0 = starts(world)
    h = 1e-6
    z = world.simulate(z0, h, 2)
    np.testing.assert_allclose((z[:, 2] - z[:, 0]) / (2 * h), world.dynamics(z[:, 1]), rtol=1e-6, atol=1e-7)
    tensor = torch.tensor(z0)
    np.testing.assert_array_equal(world.dynamics(tensor).numpy(), world.dynamics(z0))
    np.testing.assert_array_equal(world.energy(tensor).numpy(), world.energy(z0))


def test_an_elastic_ball_runs_back_and_a_soft_one_does_not():
    world = world_of()
    z0 = starts(world)
    there = world.simulate(z0, 0.05, 100)[:, -1]
    np.testing.assert_allclose(world.simulate(there, -0.05, 100)[:, -1], z0, atol=1e-9)
    with pytest.raises(UserError, match="cannot be undone"):
        world_of(restitution=0.9).simulate(z0, -0.05, 10)


def test_nothing_is_below_the_floor():
    world = world_of(initial={"law": "given", "states": [[1.0, 0.0], [-0.1, 0.0]]})
    with pytest.raises(UserError, match="below the floor in episode 1"):
        starts(world, 2)
    assert world.allowed(np.array([[0.0, 1.0], [-0.01, 0.0], [np.nan, 0.0]])).tolist() == [True, False, False]
    with pytest.raises(UserError, match="restitution"):
        world_of(restitution=1.2)


def test_captions_count_the_turns_that_are_seen():
    world = world_of()
    z = world.simulate(np.array([[1.0, 0.0]]), 0.1, 20)[0]
    assert world.describe(z).startswith("A ball that reaches 1 m bounces on a floor (elastic);")
    assert world.describe(z).endswith("turn upwards two times.")
