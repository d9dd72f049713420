"""Hard discs: collisions obey the closed forms, nothing is lost, nothing overlaps."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.bouncing_balls import BouncingBalls, BouncingBallsParameters

EXACT = {"rtol": 0, "atol": 1e-13}
quick = settings(derandomize=True, deadline=None, max_examples=40)
masses = st.floats(0.05, 20.0)


def world_of(**parameters):
    return BouncingBalls(validate(BouncingBallsParameters, parameters, "bouncing_balls"))


def state(q, p):
    return np.concatenate([np.ravel(q), np.ravel(p)])[None]


@st.composite
def boxes(draw):
    balls = draw(st.integers(1, 4))
    lists = {
        "masses": draw(st.lists(masses, min_size=balls, max_size=balls)),
        "radii": draw(st.lists(st.floats(0.02, 0.3), min_size=balls, max_size=balls)),
    }
    return world_of(balls=balls, side=2.0, **lists), draw(st.integers(0, 2**32 - 1))


@quick
@given(boxes())
def test_energy_is_kept_and_nothing_overlaps_or_leaves_the_box(box):
    world, seed = box
    z = world.simulate(world.sample_initial_state(np.random.default_rng(seed), 5), 0.37, 20)
    energy = world.energy(z)
    np.testing.assert_allclose(energy, np.broadcast_to(energy[:, :1], energy.shape), rtol=3e-13)
    assert world.gaps(z).min() > -1e-13
    # A ball may go along one axis alone, but not stand still in both.
    assert np.ptp(z[:, :, : 2 * world.balls], axis=1).reshape(5, world.balls, 2).max(axis=-1).min() > 0.05


@quick
@given(boxes())
def test_time_reversed_motion_runs_back_to_the_start(box):
    world, seed = box
    start = world.sample_initial_state(np.random.default_rng(seed), 4)
    there = world.simulate(start, 0.05, 6)
    back = world.simulate(there[:, -1], -0.05, 6)
    np.testing.assert_allclose(back[:, ::-1], there, rtol=0, atol=1e-6 * np.abs(start).max())
    flipped = there[:, -1] * np.repeat([1.0, -1.0], 2 * world.balls)
    again = world.simulate(flipped, 0.05, 6)[:, -1] * np.repeat([1.0, -1.0], 2 * world.balls)
    np.testing.assert_allclose(again, start, rtol=0, atol=1e-6 * np.abs(start).max())


def test_rows_do_not_depend_on_how_often_one_looks():
    world = world_of(balls=3, radii=0.2, masses=[1.0, 2.0, 0.5])
    start = world.sample_initial_state(np.random.default_rng(0), 20)
    np.testing.assert_allclose(world.simulate(start, 0.4, 6), world.simulate(start, 0.05, 48)[:, ::8], atol=1e-9)


@quick
@given(st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_momentum_and_angular_momentum_are_kept_where_no_wall_is_met(balls, seed):
    rng = np.random.default_rng(seed)
    world = world_of(balls=balls, side=1000.0, radii=0.4, masses=rng.uniform(0.2, 5.0, balls).tolist())
    # From a ring towards its middle, so that they meet.
    angle = 2 * np.pi * (np.arange(balls) + rng.uniform(-0.1, 0.1, (8, balls))) / balls
    q = 2.0 * np.stack([np.cos(angle), np.sin(angle)], -1)
    p = -world.masses[:, None] * (q + rng.uniform(-0.3, 0.3, q.shape))
    start = np.concatenate([q.reshape(8, -1), p.reshape(8, -1)], -1)
    z = world.simulate(start, 0.25, 20)
    q, p = (part.reshape(8, 21, balls, 2) for part in np.split(z, 2, axis=-1))
    total = p.sum(axis=2)
    assert np.abs(p - p[:, :1]).max(axis=(1, 2, 3)).min() > 1e-3, "an episode without a collision"
    np.testing.assert_allclose(total, np.broadcast_to(total[:, :1], total.shape), **EXACT)
    turning = (q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]).sum(axis=2)
    np.testing.assert_allclose(turning, np.broadcast_to(turning[:, :1], turning.shape), atol=1e-11)


@quick
@given(masses, masses, st.floats(-2, 2), st.floats(-2, 2))
def test_head_on_collision_has_the_closed_form_of_one_dimension(m1, m2, v1, v2):
    assume(v1 - v2 > 0.1)
    world = world_of(balls=2, masses=[m1, m2], radii=[0.1, 0.2], side=1000.0)
    z = world.simulate(state([[-0.5, 0], [0.5, 0]], [[m1 * v1, 0], [m2 * v2, 0]]), 20.0, 1)[0, 1]
    after = z[4:].reshape(2, 2) / world.masses[:, None]
    expected = [((m1 - m2) * v1 + 2 * m2 * v2) / (m1 + m2), ((m2 - m1) * v2 + 2 * m1 * v1) / (m1 + m2)]
    np.testing.assert_allclose(after, [[expected[0], 0], [expected[1], 0]], rtol=1e-12, atol=1e-12)
    wait = 0.7 / (v1 - v2)  # from rim to rim
    where = [-0.5 + v1 * wait + expected[0] * (20 - wait), 0.5 + v2 * wait + expected[1] * (20 - wait)]
    np.testing.assert_allclose(z[[0, 2]], where, rtol=1e-10, atol=1e-10)


def test_equal_masses_swap_their_velocities_head_on():
    world = world_of(balls=2, masses=3.0, radii=0.1, side=100.0)
    z = world.simulate(state([[-1, 0], [1, 0]], [[6, 0], [-3, 0]]), 2.0, 1)[0, 1]
    np.testing.assert_array_equal(z[4:], [-3, 0, 6, 0])


@quick
@given(masses, masses, st.floats(-0.29, 0.29))
def test_oblique_collision_turns_only_what_lies_along_the_line_of_centres(m1, m2, offset):
    """A disc meets a resting one off centre: tangential velocities stay, normal ones follow the one-dimensional law."""
    world = world_of(balls=2, masses=[m1, m2], radii=[0.1, 0.2], side=100.0)
    z = world.simulate(state([[-1, offset], [0, 0]], [[m1, 0], [0, 0]]), 3.0, 1)[0, 1]
    v1, v2 = z[4:].reshape(2, 2) / world.masses[:, None]
    normal = np.array([-np.sqrt(0.09 - offset**2), offset]) / 0.3
    along = np.array([1.0, 0.0]) @ normal
    np.testing.assert_allclose(v2, 2 * m1 / (m1 + m2) * along * normal, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(v1, [1.0, 0.0] - 2 * m2 / (m1 + m2) * along * normal, rtol=1e-9, atol=1e-12)


def test_single_ball_follows_the_unfolded_path():
    world = world_of(balls=1, radii=0.25, side=2.0, masses=2.0)
    start = np.array([[0.3, -0.2, 2.6, -3.4]])
    z = world.simulate(start, 0.05, 400)[0]
    free = start[:, :2] + 0.05 * np.arange(401)[:, None] * start[:, 2:] / 2.0
    room, folded = 0.75, np.mod(free + 0.75, 3.0)
    np.testing.assert_allclose(z[:, :2], np.where(folded > 2 * room, 4 * room - folded, folded) - room, atol=1e-11)


def test_corner_and_simultaneous_collisions_end():
    one = world_of(balls=1, radii=0.25, side=2.0)
    np.testing.assert_allclose(one.simulate(state([[0, 0]], [[1, 1]]), 1.0, 2)[0, -1], [-0.5, -0.5, -1, -1], atol=1e-14)
    three = world_of(balls=3, radii=0.1, side=10.0)  # Newton's cradle: the last one leaves
    z = three.simulate(state([[-1, 0], [0, 0], [0.2, 0]], [[1, 0], [0, 0], [0, 0]]), 2.0, 1)[0, 1]
    np.testing.assert_allclose(z[6:], [0, 0, 0, 0, 1, 0], atol=1e-14)


def test_starts_do_not_overlap_and_a_full_box_is_an_error():
    world = world_of(balls=3, radii=0.3)
    assert world.gaps(world.sample_initial_state(np.random.default_rng(0), 200)).min() >= 0.0
    with pytest.raises(UserError, match="lower `radii`"):
        world_of(balls=9, radii=0.33).sample_initial_state(np.random.default_rng(0), 1)
    overlapping = {"law": "given", "states": [[0, 0, 0.1, 0, 1, 0, 0, 0]]}
    with pytest.raises(UserError, match=r"overlap.*episode 0"):
        world_of(initial=overlapping).sample_initial_state(np.random.default_rng(0), 1)
    with pytest.raises(UserError, match="overlap"):
        world_of().simulate(np.array(overlapping["states"], float), 0.1, 1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"masses": [1.0]}, "masses lists 1 numbers for 2 balls"),
        ({"radii": 1.0}, "wider than the box"),
        ({"masses": "3 m"}, "mass"),
        ({"initial": {"law": "scattered", "speed": [2, 1]}}, "slowest, fastest"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        world_of(**parameters)


def test_facts_are_of_particles_and_energy_takes_tensors():
    world = world_of(balls=3, masses=[1.0, 2.0, 3.0], radii=0.1)
    facts, laws, z = world.facts(), world.laws(), world.sample_initial_state(np.random.default_rng(0), 4)
    assert (facts["particles"], facts["space"], facts["conserved"], laws.momentum) == (3, 2, ["energy"], None)
    assert facts["attributes"] == {"mass": [1.0, 2.0, 3.0], "radius": [0.1] * 3}
    np.testing.assert_allclose(laws.energy(torch.from_numpy(z)).numpy(), world.energy(z), rtol=1e-15)


def test_the_image_shows_every_ball_where_it_is_in_its_colour():
    world = world_of(radii=0.3)
    image = world.render(state([[-0.5, 0.5], [0.5, -0.5]], np.zeros((2, 2)))[0], 32)
    assert image.shape == (32, 32, 3)
    red, blue = image[8, 8].astype(int), image[24, 24].astype(int)  # y points up
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert "Two balls" in world.describe(world.sample_initial_state(np.random.default_rng(0), 3))
