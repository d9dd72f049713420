"""Push-T: contacts against gym-pusht and against statics, exact restarts, goals, the scripted pusher, frames."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from wm_pipelines.errors import UserError
from wm_pipelines.laws import laws_of
from wm_pipelines.registry import worlds
from wm_pipelines.worlds.making import WorldConfig, build_world, ingest
from wm_pipelines.worlds.parts.driving import drive, roll
from wm_pipelines.worlds.parts.t_block import (
    AGENT_RADIUS,
    MIDDLE,
    OUTLINE,
    Table,
    agent_path,
    from_block,
    turned,
    untouched,
)

CONF = Path(__file__).parents[2] / "conf"
RECORDED = Path(__file__).parent / "push_t_recorded.json"
STEP = 0.1


def push_t(**parameters):
    return build_world(WorldConfig(world="push_t", parameters=parameters))


def at_rest(agent, block, angle=0.0):
    return np.array([[*agent, 0.0, 0.0, *block, angle]])


def shifted(z, **entries):
    """A state with some entries moved, named ``z0`` … ``z6``."""
    z = z.copy()
    for name, by in entries.items():
        z[..., int(name[1])] += by
    return z


def course(world, z, target, rows):
    """Rows ``[E, rows + 1, 7]`` on the way of the agent to a fixed target (absolute actions)."""
    action = np.tile(2.0 * np.array(target) / 512.0 - 1.0, (len(z), 1))
    states = [z]
    for _ in range(rows):
        states.append(world.advance(states[-1], action, STEP))
    return np.stack(states, 1)


# ---------------------------------------------------------------- without the engine


def test_the_world_is_listed_and_starts_without_the_engine_but_says_what_it_needs_to_move(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymunk", None)
    assert "push_t" in worlds.names()
    world = push_t()
    z = world.sample_initial_state(np.random.default_rng(0), 3)
    assert world.render(z, 32).shape == (3, 32, 32, 3)
    message = r"^world 'push_t' needs the optional package 'pymunk': pip install 'wm_pipelines\[pusht\]'$"
    with pytest.raises(UserError, match=message):
        world.check()
    with pytest.raises(UserError, match=message):
        ingest(WorldConfig(world="push_t", step=STEP, policy="scripted", splits=splits(episodes=4, steps=30)))


def splits(**split):
    return dict.fromkeys(("train", "validation", "test"), split)


def test_the_agent_follows_a_critically_damped_spring():
    positions, velocities = agent_path(np.zeros((1, 2)), np.zeros((1, 2)), np.array([[100.0, -50.0]]), 100)
    t = 0.01 * np.arange(1, 101)[:, None]
    exact = (1.0 - (1.0 + 10.0 * t) * np.exp(-10.0 * t)) * [100.0, -50.0]
    np.testing.assert_allclose(positions[0], exact, atol=4.0)  # steps of a tenth of its time constant
    np.testing.assert_allclose(positions[0, -1], [100.0, -50.0], atol=0.2)
    np.testing.assert_allclose(np.diff(positions, axis=1), 0.01 * velocities[:, 1:], atol=1e-12)


def test_distances_from_the_block_are_those_from_its_outline():
    rng = np.random.default_rng(0)
    points, pose = rng.uniform(0.0, 512.0, (200, 2)), rng.uniform([150, 150, -3], [350, 350, 3], (200, 3))
    corners = turned(OUTLINE, pose)
    share = np.linspace(0.0, 1.0, 400)[:, None, None, None]
    rim = (1.0 - share) * corners + share * np.roll(corners, -1, 1)
    sampled = np.hypot(*np.moveaxis(rim - points[:, None], -1, 0)).min((0, 2))
    distance = from_block(points, pose)
    outside = distance > 0.0
    np.testing.assert_allclose(distance[outside], sampled[outside], atol=0.2)
    assert (from_block(turned(MIDDLE[None], pose)[:, 0], pose) < 0.0).all()


def test_starts_touch_nothing():
    z = push_t().sample_initial_state(np.random.default_rng(0), 300)
    assert (from_block(z[:, :2], z[:, 4:]) > AGENT_RADIUS).all()
    corners = turned(OUTLINE, z[:, 4:])
    assert ((corners > 7.0) & (corners < 504.0)).all()
    assert (z[:, 2:4] == 0.0).all()


def test_a_goal_is_reached_within_its_distances_and_held_for_three_rows():
    world, goal = push_t(), at_rest((100.0, 100.0), (250.0, 250.0), 3.1)
    fast = shifted(goal, z2=9.0, z3=9.0, z6=2 * np.pi - np.radians(15.0))
    assert world.success(fast, goal).all()  # velocities do not count, angles do not wrap
    for away in (shifted(goal, z0=21.0), shifted(goal, z5=21.0), shifted(goal, z6=np.radians(21.0))):
        assert not world.success(away, goal).any()
    assert push_t(goal="standard").success(shifted(goal, z0=300.0), goal).all()  # the block alone

    near, far = shifted(goal[0], z4=9.0), shifted(goal[0], z4=11.0)
    held, broken = np.stack([far, near, near, near, far]), np.stack([near, near, far, near, near])
    assert world.strict_success(np.stack([held, broken]), goal[[0, 0]]).tolist() == [True, False]


def test_frames_show_block_agent_and_goal_where_they_are():
    z = at_rest((100.0, 400.0), (300.0, 150.0), 0.5)
    frame = push_t().render(z, 128)[0].astype(float)
    paper = frame[0, 0]
    blue = (frame[..., 2] - frame[..., 0]) > 60.0
    row, column = (np.nonzero(blue)[i].mean() for i in (0, 1))
    np.testing.assert_allclose([4.0 * (column + 0.5), 4.0 * (row + 0.5)], [100.0, 400.0], atol=3.0)  # y points down
    # Area and centroid of the T: bar 120 x 30, stem 30 x 90.
    darker = np.abs(frame - paper).sum(-1) * (np.arange(128) < 75)[:, None]
    cover = darker / np.median(darker[darker > 0.5 * darker.max()])
    assert 16.0 * cover.sum() == pytest.approx(6300.0, rel=0.03)
    ys, xs = np.mgrid[:128, :128]
    centroid = [4.0 * ((xs * cover).sum() / cover.sum() + 0.5), 4.0 * ((ys * cover).sum() / cover.sum() + 0.5)]
    expected = turned(np.array([[0.0, (3600 * 15 + 2700 * 75) / 6300]]), z[0, 4:])[0]
    np.testing.assert_allclose(centroid, expected, atol=1.0)
    green = push_t(show_goal=True).render(z, 128)[0].astype(float)
    assert ((green[..., 1] - green[..., 0]) > 60.0).sum() * 16.0 == pytest.approx(6300.0, rel=0.15)


def test_the_parameter_file_is_of_this_world():
    config = WorldConfig(**yaml.safe_load((CONF / "base" / "parameters_push_t.yml").read_text())["push_t"])
    assert build_world(config).parameters == push_t().parameters


# ---------------------------------------------------------------- with it


@pytest.fixture
def _engine():
    pytest.importorskip("pymunk")


@pytest.mark.usefixtures("_engine")
def test_a_push_through_the_middle_shifts_and_one_beside_it_turns():
    world = push_t(actions="absolute")
    start = at_rest((256.0, 150.0), (256.0, 200.0))  # above the bar's outer edge
    straight = course(world, start, (256.0, 230.0), 15)[0, -1]
    np.testing.assert_allclose(straight[[4, 6]], [256.0, 0.0], atol=1e-9)
    assert straight[5] == pytest.approx(straight[1] + AGENT_RADIUS, abs=0.5)  # its edge touches the agent
    right = course(world, shifted(start, z0=40.0), (296.0, 230.0), 15)[0, -1]
    left = course(world, shifted(start, z0=-40.0), (216.0, 230.0), 15)[0, -1]
    assert right[6] > 0.2  # clockwise on the screen, y points down
    np.testing.assert_allclose(left[6], -right[6], atol=1e-9)
    np.testing.assert_allclose(left[4] - 256.0, 256.0 - right[4], atol=1e-9)


@pytest.mark.usefixtures("_engine")
def test_a_contact_without_friction_pushes_along_its_normal_alone():
    world = push_t(actions="absolute")
    start = at_rest((140.0, 180.0), (256.0, 200.0))
    slid = course(world, start, (380.0, 184.0), 12)[0, -1]  # along the bar's edge, just touching it
    assert abs(slid[4] - 256.0) < 1.0


@pytest.mark.usefixtures("_engine")
def test_a_block_left_alone_stays_and_a_pushed_one_stops_at_once():
    world = push_t()
    z = world.sample_initial_state(np.random.default_rng(3), 5)
    for _ in range(3):
        z2 = world.advance(z, np.zeros((5, 2)), STEP)
        np.testing.assert_array_equal(z2, z)
    pushed = course(push_t(actions="absolute"), at_rest((256.0, 150.0), (256.0, 200.0)), (256.0, 230.0), 6)[:, -1]
    away = world.advance(pushed, np.array([[0.0, -1.0]]), STEP)
    still = world.advance(away, np.array([[0.0, -1.0]]), STEP)
    np.testing.assert_allclose(still[:, 4:], away[:, 4:], atol=1e-9)


@pytest.mark.usefixtures("_engine")
def test_where_nothing_touches_the_engine_agrees_that_nothing_moves():
    world, table = push_t(), Table()
    z, actions, _ = roll(world, world.sample_initial_state(np.random.default_rng(0), 20), STEP, 20, "smooth",
                         np.random.default_rng(1))  # fmt: skip
    flat, target = z[:, :-1].reshape(-1, 7), world._target(z[:, :-1, :2].reshape(-1, 2), actions.reshape(-1, 2))
    positions, velocities = agent_path(flat[:, :2], flat[:, 2:4], target, 10)
    free = np.flatnonzero(untouched(positions, flat[:, 4:]))
    assert 100 < len(free) < len(flat)
    for e in free[::4]:
        pose = table.pushed(flat[e, 4:], flat[e, :2], velocities[e])
        np.testing.assert_allclose(pose, flat[e, 4:], atol=1e-9)


@pytest.mark.usefixtures("_engine")
def test_a_state_is_all_that_the_future_depends_on():
    """Restarted at every row, a push goes on as without; rows of a batch and earlier moves do not matter."""
    world = push_t(actions="absolute")
    z = np.concatenate([at_rest((256.0, 150.0), (250.0, 200.0), a) for a in (-0.3, 0.0, 0.2)])
    action = np.tile([0.0, 0.1], (3, 1))
    once = world.advance(z, action, 2.0)
    restarted = z
    for _ in range(20):
        restarted = world.advance(restarted, action, STEP)
    assert (np.abs(once[:, 4:] - z[:, 4:]).max(1) > 20.0).all()
    np.testing.assert_allclose(restarted, once, atol=1e-9)
    for e in (2, 0, 1):
        np.testing.assert_array_equal(world.advance(z[e], action[e], 2.0), once[e])
    np.testing.assert_array_equal(push_t(actions="absolute").advance(z, action, 2.0), once)


@pytest.mark.usefixtures("_engine")
def test_the_scripted_pusher_moves_the_block_within_the_walls():
    world = push_t()
    z = world.sample_initial_state(np.random.default_rng(1), 40)
    states, actions, rewards = roll(world, z, STEP, 50, "scripted", np.random.default_rng(2))
    assert rewards is None
    assert np.abs(actions).max() <= 1.0
    moved = np.abs(np.diff(states[..., 4:6], axis=1)).max(-1) > 0.5
    assert moved.mean() > 0.3
    assert moved.any(1).mean() > 0.9
    assert ((states[..., 4:6] > 0.0) & (states[..., 4:6] < 512.0)).all()
    turns = np.degrees(states[:, -1, 6] - states[:, 0, 6])
    assert (turns > 20.0).sum() > 5  # both senses
    assert (turns < -20.0).sum() > 5


@pytest.mark.usefixtures("_engine")
def test_goals_are_reached_by_their_own_actions_and_not_by_waiting():
    world = push_t()
    z = starts = world.sample_initial_state(np.random.default_rng(5), 40)
    goal = world.sample_goal(np.random.default_rng(6), starts)
    assert not world.success(starts, goal).any()
    away = np.hypot(*(goal - starts)[:, 4:6].T) > 20.0
    assert (away | (np.abs(goal - starts)[:, 6] > np.radians(20.0))).mean() > 0.95  # the block has to be moved
    rng, idle = np.random.default_rng(6), starts
    for row in range(25):
        z = world.advance(z, np.clip(world.scripted(rng, z, row), -1, 1), STEP)
        idle = world.advance(idle, np.zeros((40, 2)), STEP)
    drawn_at_once = np.abs(z - goal)[:, [0, 1, 4, 5, 6]].max(1) < 1e-9
    assert drawn_at_once.mean() > 0.7
    assert world.success(z, goal)[drawn_at_once].all()
    assert not world.success(idle, goal).any()
    standard = push_t(goal="standard").sample_goal(np.random.default_rng(6), starts)
    np.testing.assert_allclose(standard[:, 4:], [[256.0, 256.0, np.pi / 4]] * 40)


@pytest.mark.usefixtures("_engine")
def test_episodes_hold_what_is_shown_and_lead_back_to_the_world():
    episodes = drive(push_t(reach=80.0), step=STEP, steps=4, episodes=3, seed=0, policy="mixed", frame_size=32)
    assert episodes["states"].shape == (3, 5, 8)
    np.testing.assert_allclose(np.hypot(episodes["states"][..., 6], episodes["states"][..., 7]), 1.0)
    plant = laws_of(episodes.spec).plant
    assert plant.parameters.reach == 80.0
    with pytest.raises(UserError, match=r"'w', split 'train': a step of 0\.105 s is no multiple of 0\.01 s"):
        ingest(WorldConfig(world="push_t", step=0.105, splits=splits(episodes=1, steps=2)), "w")


@pytest.mark.usefixtures("_engine")
def test_pushes_are_those_of_gym_pusht():
    """Scripted episodes that the original package played, to rounding."""
    recorded = json.loads(RECORDED.read_text())
    states, actions = np.array(recorded["states"]), np.array(recorded["actions"])
    world, z = push_t(), states[:, 0]
    assert (np.abs(states[:, -1, 4:] - z[:, 4:]).max(1) > 10.0).all()
    for row in range(actions.shape[1]):
        z = world.advance(z, actions[:, row], STEP)
        np.testing.assert_allclose(z, states[:, row + 1], atol=1e-9)


def record():
    """Play scripted episodes in gym-pusht 0.1.8 and keep them; needs the package."""
    from gym_pusht.envs.pusht import PushTEnv

    world, env = push_t(), PushTEnv()
    start = world.sample_initial_state(np.random.default_rng(1), 4)
    _, actions, _ = roll(world, start, STEP, 16, "scripted", np.random.default_rng(2))
    actions = actions.round(3)
    states = [_played(env, world, z, a).tolist() for z, a in zip(start, actions, strict=True)]
    RECORDED.write_text(json.dumps({"states": states, "actions": actions.tolist()}) + "\n")


def _played(env, world, start, actions):
    """Rows ``[T + 1, 7]`` of the original; its block is one inner step behind and is read after that step."""
    env._setup()
    env.agent.position = tuple(start[:2])
    env.block.angle = start[6]
    env.block.position = tuple(start[4:6])
    agents, blocks, step = [start[:4]], [start[4:]], env.space.step

    def watched(dt):
        step(dt)
        blocks.append([*env.block.position, env.block.angle])

    env.space.step = watched
    for action in actions:
        target = world._target(np.array(agents[-1])[None, :2], action[None])[0]
        env.step(target)
        agents.append([*env.agent.position, *env.agent.velocity])
    env.step(target)
    return np.concatenate([agents, [blocks[0], *blocks[11::10]]], -1)


if __name__ == "__main__":
    record()
