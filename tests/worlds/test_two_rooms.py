"""Two rooms: nothing passes through a wall, the door is the way, and no shortcut reaches the other room."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.parts.driving import roll
from wm_pipelines.worlds.two_rooms import TwoRooms, TwoRoomsParameters

BUDGET, TASKS = 100, 200
quick = settings(derandomize=True, deadline=None, max_examples=40)
spans = st.tuples(*(st.integers(a, b).map(lambda mm: mm / 1000) for a, b in [(-300, 300)] * 2 + [(50, 300), (5, 100)]))


def world_of(**parameters):
    return TwoRooms(validate(TwoRoomsParameters, parameters, "two_rooms"))


def boxed(span, stride=0.05):
    wall, door, width, thickness = span
    return world_of(wall=wall, door=door, door_width=width, thickness=thickness, stride=stride)


def enters(start, end, low, high):
    """Whether a segment meets an open rectangle, in rational numbers."""
    first, last = Fraction(0), Fraction(1)
    for a, b, lower, upper in zip(start, end, low, high, strict=True):
        a, b, lower, upper = (Fraction(float(x)) for x in (a, b, lower, upper))
        if a == b:
            if not lower < a < upper:
                return False
            continue
        one, other = sorted([(lower - a) / (b - a), (upper - a) / (b - a)])
        first, last = max(first, one), min(last, other)
    return first < last


def in_the_way(world, start, end, forgiven=1e-12):
    return any(enters(start, end, low + forgiven, high - forgiven) for low, high in world.walls)


@quick
@given(spans, st.floats(0.01, 3.0), st.integers(0, 2**32 - 1))
def test_no_step_crosses_a_wall(span, stride, seed):
    world, rng = boxed(span, stride), np.random.default_rng(seed)
    states, actions, _ = roll(world, world.sample_initial_state(rng, 8), 0.1, 12, "random", rng)
    assert np.abs(states).max() <= world.half
    for episode in states:
        for start, end in pairwise(episode):
            assert not in_the_way(world, start, end)
    # It goes straight, and no farther than it is told.
    gone, told = np.diff(states, axis=1), stride * actions
    assert np.abs(gone[..., 0] * told[..., 1] - gone[..., 1] * told[..., 0]).max() < 1e-12
    assert ((gone * told) >= -1e-12).all()
    assert (np.abs(gone) <= np.abs(told) + 1e-12).all()


@quick
@given(spans, st.integers(0, 2**32 - 1))
def test_it_stops_only_where_something_is_in_the_way(span, seed):
    world, rng = boxed(span, 0.4), np.random.default_rng(seed)
    z = world.sample_initial_state(rng, 200)
    wished = z + 0.4 * (action := rng.uniform(-1, 1, z.shape))
    free = np.array([not in_the_way(world, a, b) for a, b in zip(z, wished, strict=True)])
    free &= (np.abs(wished) <= world.half).all(-1)
    end = world.advance(z, action, 0.1)
    np.testing.assert_allclose(end[free], wished[free], atol=1e-15)
    assert 0 < free.sum() < len(z)
    # Who is stopped stands on a side of the box or of the wall.
    sides = np.concatenate([world.walls.reshape(-1, 2), [[-world.half] * 2, [world.half] * 2]])
    assert np.abs(end[~free][:, None] - sides).min(axis=(1, 2)).max() < 1e-15


def test_whoever_leans_on_a_wall_stays_and_may_leave():
    world = world_of()
    face = world.walls[0, 0, 0]
    z = np.array([[face - 0.01, 0.3]])
    for _ in range(50):  # pushed again and again, at an angle
        z = world.advance(z, np.array([[1.0, 0.001]]), 0.1)
    assert z[0, 0] == face
    along = world.advance(z, np.array([[0.0, 1.0]]), 0.1)
    np.testing.assert_allclose(along[0], [face, z[0, 1] + 0.05])
    assert world.advance(z, np.array([[-1.0, 0.0]]), 0.1)[0, 0] == pytest.approx(face - 0.05)
    through = world.advance(np.array([[-0.04, 0.0]]), np.array([[1.0, 0.0]]), 0.1)
    np.testing.assert_allclose(through, [[0.01, 0.0]])


def test_many_at_once_are_each_alone():
    world, rng = world_of(), np.random.default_rng(0)
    z, action = rng.uniform(-0.5, 0.5, (3, 5, 2)), rng.uniform(-2, 2, (3, 5, 2))
    all_at_once = world.advance(z, action, 0.1)
    for i, j in np.ndindex(3, 5):
        np.testing.assert_array_equal(world.advance(z[i, j], action[i, j], 0.1), all_at_once[i, j])


def tasks(world, seed=0):
    rng = np.random.default_rng(seed)
    starts = world.sample_initial_state(rng, TASKS)
    return starts, world.sample_goal(rng, starts)


def succeeds(world, policy, seed=0):
    """Share of tasks in which the goal is reached at any step of the budget."""
    z, goal = tasks(world, seed)
    reached = world.success(z, goal)
    for _ in range(BUDGET):
        z = world.advance(z, policy(z, goal), 0.1)
        reached |= world.success(z, goal)
    return reached.mean()


def straight(world, z, place):
    missing = place - z
    return missing / np.maximum(np.abs(missing).max(-1, keepdims=True), world.parameters.stride)


@pytest.mark.parametrize("changes", [{}, {"door": 0.1}, {"door": -0.2}, {"wall": 0.15}])
def test_goals_need_the_door(changes):
    world = world_of(**changes)
    rng, p = np.random.default_rng(1), world.parameters
    seen = np.zeros(TASKS, int)  # way-points behind one

    def by_two_way_points(z, goal):
        side = np.sign(goal[:, :1] - p.wall)
        points = [np.concatenate([p.wall + s * side * 0.1, np.full_like(side, p.door)], -1) for s in (-1.0, 1.0)]
        place = np.stack([*points, goal])[seen, np.arange(TASKS)]
        seen[:] = np.minimum(seen + (np.abs(place - z).max(-1) < 1e-9), 2)
        return straight(world, z, np.stack([*points, goal])[seen, np.arange(TASKS)])

    assert succeeds(world, lambda z, goal: rng.uniform(-1, 1, z.shape)) <= 0.15
    assert succeeds(world, lambda z, goal: straight(world, z, goal)) <= 0.5
    assert succeeds(world, by_two_way_points) == 1.0
    assert succeeds(world, world.towards) == 1.0


def test_goals_are_in_the_other_room_and_near_means_without_a_wall_between():
    world = world_of()
    starts, goals = tasks(world)
    assert (starts[:, 0] * goals[:, 0] < 0).all()
    assert not in_the_way(world, goals[0], goals[0])
    assert world.success(goals, goals).all()
    assert not world.success(starts, goals).any()
    assert not world.success(np.array([-0.021, 0.3]), np.array([0.021, 0.3]))  # 42 mm apart, on both sides of the wall
    assert world.success(np.array([-0.021, 0.0]), np.array([0.021, 0.0]))  # in the door
    assert world.reward(starts, np.zeros_like(starts)) is None


def test_the_script_visits_both_rooms_and_remembers_nothing():
    world = world_of()
    z0 = world.sample_initial_state(np.random.default_rng(0), 60)
    states, actions, _ = roll(world, z0, 0.1, 60, "scripted", np.random.default_rng(1))
    x = states[..., 0]
    crossed = (np.sign(x[:, 1:]) != np.sign(x[:, :-1])).any(1).mean()
    assert crossed > 0.5  # of two way-points, one is in the other room in three of four episodes
    random, *_ = roll(world, z0, 0.1, 60, "random", np.random.default_rng(1))
    assert (np.sign(random[..., 0]) != np.sign(random[:, :1, 0])).any(1).mean() < 0.5 * crossed
    again, *_ = roll(world, z0, 0.1, 60, "scripted", np.random.default_rng(1))
    np.testing.assert_array_equal(again, states)
    few, *_ = roll(world, z0[:7], 0.1, 20, "scripted", np.random.default_rng(2))
    assert few.shape == (7, 21, 2)
    assert np.abs(actions).max() <= 1.0


def test_pictures_show_point_and_door_but_no_goal():
    world = world_of(door=0.2)
    dark = world.render(np.array([[0.3, -0.3]]), 64)[0].mean(-1) < 128
    middle = dark[:, 31:33].all(1)
    pixel = 2 * (world.half + 0.04) / 64
    height = world.half + 0.04 - (np.arange(64) + 0.5) * pixel
    assert not middle[np.abs(height - 0.2) < 0.06].any()
    assert middle[np.abs(height - 0.2) > 0.1].all()
    moved = world.render(np.array([[0.3, -0.3], [0.31, -0.3]]), 64)
    assert moved.dtype == np.uint8
    assert (moved[0] != moved[1]).any()  # a third of a pixel is seen
    assert world.render(np.zeros((2, 3, 2)), 32).shape == (2, 3, 32, 32, 3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"wall": 0.49}, "no room is left"),
        ({"door": 0.45}, "does not fit into the wall"),
        ({"stride": -1}, "stride"),
    ],
)
def test_rooms_that_cannot_be(parameters, message):
    with pytest.raises(UserError, match=message):
        world_of(**parameters)
