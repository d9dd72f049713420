"""Waypoints: shortest paths along what was gone through, around a wall, and away from what does not work."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.control.closed_loop import run
from wm_pipelines.control.planners import PlannerConfig
from wm_pipelines.control.policies import ObjectiveConfig, Planned, graph_of
from wm_pipelines.control.waypoints import Guide, LandmarkGraph, nearest, spread_out
from wm_pipelines.families.base import Imagined
from wm_pipelines.spec import Space
from wm_pipelines.worlds.parts.driving import roll
from wm_pipelines.worlds.two_rooms import TwoRooms, TwoRoomsParameters

STEP = 0.05
ROOMS = TwoRooms(TwoRoomsParameters(door=0.1))


class Known:
    """The two rooms as they are, but with a door that is believed to be wider than it is."""

    def __init__(self, door_width: float) -> None:
        self.believed = TwoRooms(TwoRoomsParameters(door=0.1, door_width=door_width))

    def features(self, observation, seed):
        return observation["states"]

    def start(self, observation, seed):
        return observation["states"]

    def update(self, belief, action, observation, seed):
        return observation["states"]

    def imagine(self, belief, actions, seed):
        z, path = belief.numpy(), []
        for action in actions.double().unbind(1):
            z = self.believed.advance(z, action.numpy(), 0.1)
            path.append(torch.from_numpy(z))
        return Imagined(torch.stack(path, 1), None)


def success_in_two_rooms(model: Known, objective: ObjectiveConfig) -> float:
    """Share of 20 goals in the other room that are reached within 60 steps."""
    rng = np.random.default_rng(0)
    seen, _, _ = roll(ROOMS, ROOMS.sample_initial_state(rng, 120), 0.1, 60, "mixed", rng)
    starts = ROOMS.sample_initial_state(rng, 20)
    goals = ROOMS.sample_goal(rng, starts)
    graph = graph_of(model, 0, {"states": torch.from_numpy(seen)}, objective)
    planner = PlannerConfig(horizon=12, samples=48, iterations=2, elites=8)
    policy = Planned(model, 0, planner, 2, objective, {"states": torch.from_numpy(goals)}, graph=graph)
    return run(policy, ROOMS, starts, goals, 0.1, 60, {"states": Space("vector", (2,))}).score.mean()


def corridor() -> torch.Tensor:
    """Ten walks along the shape of a U, there and back, with a little noise: ``[10, T, 2]``."""
    ticks = torch.arange(0.0, 1.0, STEP)
    one = torch.ones_like(ticks)
    down, across, up = (torch.stack(p, 1) for p in ((0 * one, 1 - ticks), (ticks, 0 * one), (one, ticks)))
    way = torch.cat([down, across, up, torch.tensor([[1.0, 1.0]])])
    noise = 0.1 * STEP * torch.randn(10, *way.shape, generator=torch.Generator().manual_seed(0))
    walks = way + noise
    walks[1::2] = walks[1::2].flip(1)
    return walks


def test_distances_are_steps_along_the_way_not_through_the_wall():
    graph = LandmarkGraph(corridor(), 30)
    ends = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    a, b = nearest(ends, graph.at, 1)[1][:, 0]
    assert graph.between[a, b] == pytest.approx(3 / STEP, rel=0.1)
    assert (ends[0] - ends[1]).norm() / graph.unit < 0.5 * graph.between[a, b]
    torch.testing.assert_close(graph.between, graph.between.T)
    assert (graph.between.diagonal() == 0).all()


def test_what_no_episode_joined_is_farther_than_everything_that_was():
    apart = torch.cat([corridor(), corridor() + 10.0])
    graph = LandmarkGraph(apart, 40)
    side = graph.at[:, 0] > 5
    assert graph.between[side][:, ~side].min() > 1.5 * graph.between[side][:, side].max()


def test_a_waypoint_is_within_reach_and_nearer_to_the_goal_and_at_last_the_goal():
    graph = LandmarkGraph(corridor(), 30)
    here, goal = torch.tensor([[0.0, 0.9]]), torch.tensor([[1.0, 0.9]])
    guide, path = Guide(graph, goal, reach=4.0), []
    for _ in range(40):
        here = guide.waypoint(here)
        path.append(here[0])
        if torch.equal(here, goal):
            break
    assert torch.equal(path[-1], goal[0])
    steps = torch.stack(path[:-1])
    assert ((steps[1:] - steps[:-1]).norm(dim=1) < 6 * STEP).all()
    assert steps[:, 1].min() < 0.1, "it leads through the bottom of the U"
    assert 2.8 / STEP / 4 < len(path) < 2.8 / STEP / 2, "four steps at a time at most, two where landmarks are sparse"


def test_a_waypoint_that_nothing_moved_towards_is_avoided_by_that_episode_alone():
    graph = LandmarkGraph(corridor(), 60)
    here, goal = torch.tensor([[0.0, 0.5], [0.0, 0.5]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    guide = Guide(graph, goal, reach=4.0)
    first = guide.waypoint(here)
    moved = here.clone()
    moved[1, 1] -= STEP
    second = guide.waypoint(moved)
    assert torch.equal(first[0], first[1])
    assert not torch.equal(second[0], first[0])
    third = guide.waypoint(torch.stack([here[0], here[1]]))
    assert torch.equal(third[1], first[1]), "what moved may go there again"
    assert not torch.equal(third[0], first[0])


@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_chosen_points_are_distinct_and_each_is_the_farthest_from_those_before(count, dimension, seed):
    points = torch.randn(40, dimension, generator=torch.Generator().manual_seed(seed))
    chosen = spread_out(points, count)
    assert len(set(chosen.tolist())) == count
    distance = torch.cdist(points, points[chosen[:-1]]).amin(1)
    assert distance[chosen[-1]] == distance.max()


def test_nearest_are_those_of_brute_force():
    points, centres = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (50, 20))
    distance, index = nearest(points, centres, 4)
    truth = np.sort(np.linalg.norm(points[:, None].numpy() - centres[None].numpy(), axis=-1), 1)[:, :4]
    np.testing.assert_allclose(distance, truth, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose((points[:, None] - centres[index]).norm(dim=-1), truth, rtol=1e-4, atol=1e-6)


@pytest.mark.training
def test_a_planner_that_goes_straight_runs_against_the_wall_and_waypoints_lead_through_the_door():
    """Of the true rooms, and of rooms whose door is believed wider: there the straight way ends at the corners."""
    for door_width, straight, led in ((0.15, 0.8, 0.95), (0.25, 0.5, 0.9)):
        model = Known(door_width)
        assert success_in_two_rooms(model, ObjectiveConfig()) <= straight
        assert success_in_two_rooms(model, ObjectiveConfig(landmarks=400)) >= led
