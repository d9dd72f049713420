"""Bodies that are kicked: free between kicks, which bring exactly their momentum; and Kepler's flow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from wm_pipelines.errors import UserError, validate
from wm_pipelines.integrators import IntegrationError
from wm_pipelines.registry import worlds
from wm_pipelines.worlds.parts.driving import roll
from wm_pipelines.worlds.parts.kepler import kepler_flow

STEPS = {"pushed_balls": 0.1, "two_body_thruster": 0.2}
every_kicked = pytest.mark.parametrize("name", sorted(STEPS))
quick = settings(derandomize=True, deadline=None, max_examples=60)


def world_of(name, **parameters):
    World = worlds.get(name)
    return World(validate(World.Parameters, parameters, name))


def starts(world, episodes=20, seed=0):
    return world.sample_initial_state(np.random.default_rng(seed), episodes)


@every_kicked
@pytest.mark.parametrize("masses", [[1.0, 1.0], [0.5, 2.0]])
def test_without_kicks_it_is_the_world_left_alone(name, masses):
    world = world_of(name, masses=masses)
    free = worlds.get({"pushed_balls": "bouncing_balls", "two_body_thruster": "two_body"}[name])
    left_alone = free(validate(free.Parameters, {"masses": masses}, name)).simulate(starts(world), STEPS[name], 40)
    states, actions, _ = roll(world, starts(world), STEPS[name], 40, "zero", np.random.default_rng(0))
    assert not actions.any()
    np.testing.assert_allclose(states, left_alone, rtol=0, atol=1e-9)  # what DOP853 is good for
    energy = world.laws().energy(states)
    np.testing.assert_allclose(energy, np.broadcast_to(energy[:, :1], energy.shape), rtol=0, atol=1e-12)


@every_kicked
def test_a_kick_changes_the_momentum_by_the_impulse_and_nothing_else(name):
    world, rng = world_of(name, impulse=0.2, masses=[0.5, 2.0]), np.random.default_rng(0)
    z, action = starts(world), rng.uniform(-1, 1, (20, 2))
    change = world.kicked(z, action) - z
    np.testing.assert_allclose(change[:, 4:6], 0.2 * action, rtol=0, atol=1e-15)
    assert not change[:, :4].any()
    assert not change[:, 6:].any()
    np.testing.assert_array_equal(world.kicked(z, 7.0 * np.sign(action)), world.kicked(z, np.sign(action)))
    # And so in a step: the total momentum of two bodies, whatever gravity does meanwhile.
    if name == "two_body_thruster":
        total = world.advance(z, action, 0.2)[:, 4:].reshape(-1, 2, 2).sum(1) - z[:, 4:].reshape(-1, 2, 2).sum(1)
        np.testing.assert_allclose(total, 0.2 * action, rtol=0, atol=1e-14)


@every_kicked
def test_energy_changes_by_the_work_of_the_kicks_alone(name):
    world, rng = world_of(name, masses=[0.5, 2.0]), np.random.default_rng(0)
    states, actions, _ = roll(world, starts(world), STEPS[name], 40, "random", rng)
    energy = world.laws().energy(states)
    p, dp = states[:, :-1, 4:6], world.impulse * actions
    work = ((p + 0.5 * dp) * dp).sum(-1) / world.masses[0]
    np.testing.assert_allclose(np.diff(energy, axis=1), work, rtol=0, atol=1e-12)
    assert np.abs(work).max() > 1e-3


def test_pushed_balls_stay_in_the_box_and_apart():
    world = world_of("pushed_balls", balls=3, radii=[0.2, 0.3, 0.15])
    states, *_ = roll(world, starts(world), 0.1, 60, "random", np.random.default_rng(0))
    assert world.free.gaps(states).min() > -1e-12


@every_kicked
def test_any_leading_axes(name):
    world, rng = world_of(name), np.random.default_rng(0)
    z, action = starts(world, 6).reshape(2, 3, -1), rng.uniform(-1, 1, (2, 3, 2))
    flat = world.advance(z.reshape(6, -1), action.reshape(6, 2), 0.1)
    np.testing.assert_array_equal(world.advance(z, action, 0.1).reshape(6, -1), flat)
    assert world.reward(z, action).shape == (2, 3)
    assert world.render(z, 16).shape == (2, 3, 16, 16, 3)


def test_rewards_are_as_documented():
    balls = world_of("pushed_balls", radii=[0.2, 0.3])
    np.testing.assert_array_equal(balls.target, [0.7, 0.7])
    z = np.zeros((2, 8))
    z[0, 2:4], z[1, 2:4] = [0.7, 0.7], [0.7, -0.3]
    np.testing.assert_allclose(balls.reward(z, np.zeros((2, 2))), [0.0, -0.5])
    np.testing.assert_array_equal(world_of("pushed_balls", target=[0.0, "10 cm"]).target, [0.0, 0.1])
    bodies = world_of("two_body_thruster", radius=2.0)
    z[:, :4] = [[1.2, 0.0, -0.8, 0.0], [3.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(bodies.reward(z, np.zeros((2, 2))), [0.0, -0.5])


def test_a_circle_of_the_radius_wanted_earns_the_most():
    orbit = {"law": "near_circular", "radius": [1.25, 1.25], "noise": 0.0}
    world = world_of("two_body_thruster", initial=orbit, radius=2.5)
    *_, rewards = roll(world, starts(world), 0.2, 100, "zero", np.random.default_rng(0))
    assert np.abs(rewards).max() < 1e-12


@every_kicked
def test_the_script_earns_more_than_chance_and_than_nothing(name):
    world = world_of(name)
    earned = {
        policy: roll(world, starts(world, 100), STEPS[name], 60, policy, np.random.default_rng(0))[2].mean()
        for policy in ("zero", "random", "scripted")
    }
    assert earned["scripted"] > max(earned["zero"], earned["random"]) + 0.05


def test_the_camera_goes_along_with_the_centre_of_mass():
    world = world_of("two_body_thruster")
    z = starts(world, 1)
    moved = z + np.array([3.0, -2.0] * 2 + [0.0] * 4)
    assert np.abs(world.render(z, 32).astype(int) - world.render(moved, 32)).max() <= 1  # rounding
    np.testing.assert_array_equal(moved, z + np.array([3.0, -2.0] * 2 + [0.0] * 4))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("pushed_balls", {"balls": 1}, "balls"),
        ("pushed_balls", {"target": [0.9, 0.0]}, "ball 1 does not fit there"),
        ("pushed_balls", {"impulse": "2 m"}, "a momentum"),
        ("two_body_thruster", {"radius": 0}, "radius"),
    ],
)
def test_worlds_that_cannot_be(name, parameters, message):
    with pytest.raises(UserError, match=message):
        world_of(name, **parameters)


def test_messages_name_the_entry():
    world = world_of("pushed_balls", radii=0.45, side=2.0, balls=6)
    world.entry = "my_balls"
    with pytest.raises(UserError, match="my_balls: 6 balls hardly fit"):
        starts(world)


# ---------------------------------------------------------------- Kepler's flow


@quick
@given(st.floats(0.1, 3.0), st.floats(0.0, 1.0), st.floats(0.05, 3.0), st.floats(-np.pi, np.pi), st.floats(-3.0, 3.0))
def test_kepler_flow_keeps_energy_and_spin_and_runs_back(distance, share, speed, angle, duration):
    """Bound and unbound: speeds are in units of the circular one, 2 ** 0.5 is the parabola's."""
    r = distance * np.array([[np.cos(angle), np.sin(angle)]])
    v = speed / np.sqrt(distance) * np.array([[np.cos(angle + np.pi * share), np.sin(angle + np.pi * share)]])
    later, faster = kepler_flow(r, v, 1.0, duration)

    def kept(r, v):
        return 0.5 * (v * v).sum(-1) - 1.0 / np.linalg.norm(r, axis=-1), r[:, 0] * v[:, 1] - r[:, 1] * v[:, 0]

    near = np.linalg.norm(later, axis=-1).min()
    for now, before in zip(kept(later, faster), kept(r, v), strict=True):
        np.testing.assert_allclose(now, before, rtol=0, atol=1e-11 / min(near, distance) ** 2)
    back, slower = kepler_flow(later, faster, 1.0, -duration)
    np.testing.assert_allclose(np.hstack([back, slower]), np.hstack([r, v]), rtol=0, atol=1e-6 / min(near, 1.0))


@pytest.mark.parametrize("speed", [0.3, 1.0, 2.0**0.5, 1.4, 2.5])
def test_kepler_flow_follows_scipy(speed):
    r, v = np.array([1.2, 0.1]), speed * np.array([-0.2, 0.9])

    def field(_, y):
        return np.concatenate([y[2:], -1.5 * y[:2] / np.linalg.norm(y[:2]) ** 3])

    path = solve_ivp(field, (0, 4.0), np.concatenate([r, v]), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    np.testing.assert_allclose(np.concatenate(kepler_flow(r, v, 1.5, 4.0)), path, rtol=0, atol=1e-8)


def test_a_body_that_falls_freely_arrives_when_it_should():
    # From rest at distance 1: half the height at t = (pi / 4 + 1 / 2) / sqrt(2 gm).
    duration = (np.pi / 4 + 0.5) / np.sqrt(2.0)
    r, _ = kepler_flow(np.array([[1.0, 0.0]]), np.zeros((1, 2)), 1.0, duration)
    np.testing.assert_allclose(r, [[0.5, 0.0]], atol=1e-12)
    with pytest.raises(IntegrationError, match="in one place"):
        kepler_flow(np.zeros((1, 2)), np.ones((1, 2)), 1.0, 0.1)


def test_thrust_that_brings_bodies_together_is_no_end():
    world, rng = world_of("two_body_thruster"), np.random.default_rng(0)
    z, thrust = starts(world, 4096), np.sign(rng.standard_normal((4096, 2)))
    for _ in range(40):
        z = world.advance(z, thrust, 0.2)
    assert np.isfinite(z).all()
