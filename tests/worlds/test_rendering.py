"""Frames show the state, and captions tell it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.errors import validate
from wm_pipelines.registry import worlds
from wm_pipelines.worlds.parts import captions
from wm_pipelines.worlds.parts.rendering import PAPER, Canvas, colour


def world_of(name, **parameters):
    World = worlds.get(name)
    return World(validate(World.Parameters, parameters, name))


def redness(frames):
    """Where body 0 is, in pixels (row, column): centroid of what is red and not grey."""
    red = np.clip(frames[..., 0].astype(float) - np.maximum(frames[..., 1], frames[..., 2]) - 60.0, 0.0, None)
    rows, columns = np.mgrid[: red.shape[-2], : red.shape[-1]]
    total = red.sum((-2, -1))
    return (red * rows).sum((-2, -1)) / total, (red * columns).sum((-2, -1)) / total


WORLDS = ["mass_spring", "pendulum", "double_pendulum", "two_body", "three_body", "n_body"]
WORLDS += ["henon_heiles", "duffing_damped", "bouncing_ball"]


@pytest.mark.parametrize("name", WORLDS)
def test_frames_have_the_shape_of_the_states_and_depend_on_nothing_else(name):
    world = world_of(name)
    z = world.simulate(world.sample_initial_state(np.random.default_rng(0), 3), 0.2, 2)
    frames = world.render(z, size=32)
    assert frames.shape == (3, 3, 32, 32, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(world.render(z[1, 2], size=32), frames[1, 2])
    assert (frames[0, 0] != frames[1, 0]).any()  # another state is another image
    paper = np.rint(255 * np.array(PAPER)).astype(np.uint8)
    assert (np.abs(frames.astype(int) - paper).max(-1) > 40).mean((-2, -1)).min() > 0.01  # something is drawn


def test_moving_the_mass_moves_its_pixels_in_proportion():
    world = world_of("mass_spring")
    q = np.linspace(-0.8, 0.8, 9)
    row, column = redness(world.render(np.stack([q, 0 * q], -1), size=64))
    np.testing.assert_allclose(row, row[0], atol=0.05)
    pixels_per_metre = np.polyfit(q, column, 1)[0]
    assert pixels_per_metre == pytest.approx(64 / (4 * world._reach), rel=0.02)
    assert np.abs(column - np.polyval(np.polyfit(q, column, 1), q)).max() < 0.3  # to a fraction of a pixel


def test_bob_of_the_pendulum_is_where_its_angle_says():
    world = world_of("pendulum")
    q = np.linspace(-3.0, 3.0, 25)
    row, column = redness(world.render(np.stack([q, 0 * q], -1), size=96))
    scale = 96 / 3.0  # pixels per length of the rod
    np.testing.assert_allclose(column - 47.5, scale * np.sin(q), atol=0.7)
    np.testing.assert_allclose(row - 47.5, scale * np.cos(q), atol=0.7)


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.integers(-2, 2))
@settings(max_examples=10, deadline=None)
def test_frames_are_periodic_in_the_angles_and_blind_to_momenta(a, b, turns):
    for name, z, turned in (
        ("pendulum", [a, 0.0], [a + 2 * math.pi * turns, 3.0]),
        ("double_pendulum", [a, b, 0, 0], [a, b + 2 * math.pi * turns, 1.0, -1.0]),
    ):
        first, second = world_of(name).render(np.array([z, turned]), size=32).astype(int)
        assert np.abs(first - second).max() <= 1


def test_bodies_leave_the_image_without_an_error():
    world = world_of("two_body")
    far = np.array([[1e6, 0, 0, 0, 0, 0, 0, 0], [0, -1e12, 0, 1e3, 0, 0, 0, 0]])
    frames = world.render(far, size=32)
    assert (frames[..., 0].astype(int) - frames[..., 2] < 60).all()  # the red one is far away …
    assert (frames[..., 2].astype(int) - frames[..., 0] > 60).any((-2, -1)).tolist() == [
        True,
        False,
    ]  # … the blue one once


def test_heavier_bodies_are_larger():
    world = world_of("two_body", masses=[8.0, 1.0])
    z = np.array([[-0.5, 0, 0.8, 0, 0, 0, 0, 0]])
    frame = world.render(z, size=96)[0].astype(int)
    red = (frame[..., 0] > frame[..., 2] + 60).sum()
    blue = (frame[..., 2] > frame[..., 0] + 60).sum()
    assert red > 3 * blue  # twice the radius


def test_disc_covers_its_area():
    canvas = Canvas(1, 64, half_width=1.0)
    canvas._spot(np.array([[0.013, -0.021]]), 0.5, (0.0, 0.0, 0.0))
    darkness = 1.0 - canvas.pixels()[0, ..., 0] / 255.0 / PAPER[0]
    assert darkness.sum() * canvas.pixel**2 == pytest.approx(math.pi * 0.25, rel=0.01)


def test_hundreds_of_bodies_are_drawn():
    world = world_of("n_body", bodies=200)
    frame = world.render(world.sample_initial_state(np.random.default_rng(0), 1), size=64)
    assert (frame != np.rint(255 * np.array(PAPER)).astype(np.uint8)).any(-1).mean() > 0.1
    assert colour(8) == colour(0)


# ---------------------------------------------------------------- captions


def test_pendulum_caption_tells_swing_from_turn():
    world = world_of("pendulum")
    swing = world.describe(world.simulate(np.array([[math.pi / 3, 0.0]]), 0.1, 20)[0])
    assert swing == "A 1 kg pendulum of length 1 m swings with an amplitude of 60 degrees and a period of 2.15 s."
    turn = world.describe(world.simulate(np.array([[0.0, -9.0]]), 0.1, 20)[0])
    assert "turns over the top clockwise" in turn
    assert "two full turns" in turn
    assert "hangs at rest" in world.describe(np.zeros((3, 2)))


def test_mass_spring_caption_has_amplitude_and_period():
    world = world_of("mass_spring", mass=0.5, stiffness=2.0)
    caption = world.describe(world.simulate(np.array([[0.3, 0.4]]), 0.1, 10)[0])
    assert caption == "A 0.5 kg mass on a spring of 2 N/m oscillates with an amplitude of 0.5 m and a period of 3.14 s."
    assert "rests" in world.describe(np.zeros((2, 2)))


def test_double_pendulum_caption_counts_the_times_over_the_top():
    z = np.zeros((4, 4))
    z[:, 1] = [3.0, 3.3, 3.0, 3.3]
    assert "goes over the top three times" in world_of("double_pendulum").describe(z)
    assert "never" in world_of("double_pendulum").describe(z[:1])


def test_two_body_caption_has_sense_period_and_shape():
    world = world_of("two_body", initial={"law": "near_circular", "radius": [1.0, 1.0], "noise": 0.0})
    z = world.simulate(world.sample_initial_state(np.random.default_rng(0), 1), 0.5, 4)[0]
    caption = world.describe(z)
    assert caption == (
        "Two bodies of 1 kg each orbit each other anticlockwise every 12.6 s, 2 to 2 m apart (eccentricity 0.00)."
    )
    backwards = z * np.array([1, 1, 1, 1, -1, -1, -1, -1])
    assert " clockwise " in world.describe(backwards)
    assert "part for good" in world.describe(z * np.array([1, 1, 1, 1, 3, 3, 3, 3]))


def test_three_body_caption_names_the_closest_pair():
    z = np.zeros((2, 12))
    z[:, :6] = [0, 0, 1, 0, 1.25, 0]
    z[:, 9] = 1.0
    caption = world_of("three_body").describe(z)
    assert "the blue and the amber one come as close as 0.25 m" in caption


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"bodies": 5}, ("Five bodies of 1 kg each", "springs of 1 N/m")),
        ({"bodies": 20, "masses": {"low": 1.0, "high": 2.0}}, ("20 bodies", "to", "kg")),
        ({"bodies": 3, "force": "gravity", "masses": [1.0, 2.0, 3.0]}, ("1, 2 and 3 kg", "gravity")),
        ({"bodies": 2, "force": "charges"}, ("Two bodies", "charges")),
    ],
)
def test_n_body_caption_has_number_masses_and_force(parameters, words):
    world = world_of("n_body", **parameters)
    z = world.simulate(world.sample_initial_state(np.random.default_rng(0), 1), 0.05, 2)[0]
    caption = world.describe(z)
    assert all(word in caption for word in words)
    assert ("anticlockwise" in caption) == (world.angular_momentum(z[0])[0] > 0)


def test_words():
    assert captions.number(123456.0, "m") == "123456 m"
    assert captions.number(0.000012) == "1.2e-05"
    assert captions.count(1, "turn") == "one turn"
    assert captions.count(13, "turn") == "13 turns"
    assert captions.degrees(-1e-9) == "0 degrees"
    assert captions.listing(["a"]) == "a"
