"""Pong: positions against pixels, the same play for the same seed, who plays, and what is said without the package."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from wm_pipelines.errors import UserError
from wm_pipelines.laws import laws_of
from wm_pipelines.registry import worlds
from wm_pipelines.worlds.making import WorldConfig, build_world, ingest
from wm_pipelines.worlds.pong import FIELD, shrunk, states_of

CONF = Path(__file__).parents[2] / "conf"
FEW = {"train": 2, "test": 2}
PLAYER, OPPONENT, BALL = (92, 186, 92), (213, 130, 74), (236, 236, 236)


def played(**parameters):
    pytest.importorskip("ale_py")
    return ingest(WorldConfig(world="pong", parameters={"episodes": FEW, "steps": 30, **parameters}))


@pytest.fixture(scope="module")
def screens():
    """Colour, as large as the console's."""
    return played(size=FIELD, colour=True, steps=90)


def test_the_world_is_listed_without_the_package_and_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert "pong" in worlds.names()
    message = r"^world 'pong' needs the optional package 'ale-py': pip install 'wm_pipelines\[atari\]'$"
    with pytest.raises(UserError, match=message):
        build_world(WorldConfig(world="pong")).check()
    with pytest.raises(UserError, match=message):
        ingest(WorldConfig(world="pong"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"episodes": {"train": 1}}, "no split to judge on"), ({"episodes": {"train": 1, "test": 0}}, "'test' has none")],
)
def test_splits_that_cannot_be_are_one_line(parameters, message):
    with pytest.raises(UserError, match=message):
        build_world(WorldConfig(world="pong", parameters=parameters))


def test_positions_are_where_the_pixels_are(screens):
    """The middle of what has a paddle's or the ball's colour, where none of it is cut off by the field's edge."""
    for column, colour, whole, along in ((0, PLAYER, 64, 0), (1, OPPONENT, 64, 0), (2, BALL, 8, 1), (3, BALL, 8, 0)):
        told, seen = [], []
        for episodes in screens.values():
            inside = (episodes["frames"] == np.array(colour, np.uint8)).all(-1)
            for place in np.argwhere(inside.sum((2, 3)) == whole):
                e, t = place
                told.append(episodes["states"][e, t, column])
                seen.append(np.argwhere(inside[e, t])[:, along].mean() + 0.5)
        assert len(told) > 50
        away = np.array(told) - np.array(seen)
        assert np.abs(away).max() <= 2.0
        assert abs(away.mean()) < 0.75


def test_speeds_are_differences_and_a_ball_that_is_out_has_none():
    memory = np.array([[100, 90, 60, 80], [104, 90, 64, 76], [108, 90, 205, 0], [108, 90, 60, 80]], float)
    states = states_of(memory, 0.5)
    np.testing.assert_allclose(states[:, 4], [8.0, 8.0, 0.0])
    np.testing.assert_allclose(states[:, 6:], [[8.0, -8.0], [0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(states[1, 2:4], 80.0)


def test_play_is_the_same_for_the_same_seed_and_splits_differ():
    first, again = played(), played()
    assert first["train"].content_hash == again["train"].content_hash
    assert first["train"].content_hash != first["test"].content_hash
    shorter = played(steps=10)["train"]
    np.testing.assert_array_equal(first["train"]["frames"][:, :11], shorter["frames"])


def test_what_is_pressed_moves_the_paddle_and_nothing_else_does():
    """Pressed for long enough: up is towards smaller y."""
    train = played(steps=90, policy="random")["train"]
    states, actions = train["states"], train["actions"]
    assert (actions.sum(-1) == 1).all()
    held = (actions[:, 1:] == actions[:, :-1]).all(-1)
    moved = np.diff(states[:, 1:, 0], axis=1)
    for key, sign in ((1, -1), (2, 1)):
        chosen = held & (actions[:, 1:, key] == 1)
        assert (sign * moved[chosen] >= 0).mean() > 0.95
    spec = train.spec
    assert spec.dof == 4
    assert laws_of(spec).agent == (0,)
    assert set(train.views) == {"times", "states", "frames", "actions"}


def test_who_follows_the_ball_is_nearer_to_it():
    away = {}
    for policy in ("random", "follow"):
        states = played(policy=policy, steps=90, episodes={"train": 4, "test": 1})["train"]["states"]
        near = states[..., 2] > 100  # the ball is on the player's side
        away[policy] = np.abs(states[..., 0] - states[..., 3])[near].mean()
    assert away["follow"] < 0.6 * away["random"]


def test_pixels_are_averaged_over_their_area():
    draw = np.random.default_rng(0).integers(256, size=(2, 3, FIELD, FIELD, 1)).astype(np.uint8)
    halves = draw.reshape(2, 3, 80, 2, 80, 2, 1).mean((3, 5))
    assert np.abs(shrunk(draw, 80) - halves).max() <= 0.5
    assert abs(float(shrunk(draw, 64).mean()) - float(draw.mean())) < 0.5


def test_the_entry_of_the_parameter_files_is_the_default():
    config = WorldConfig(**yaml.safe_load((CONF / "base" / "parameters_pong.yml").read_text())["pong"])
    assert build_world(config).parameters == build_world(WorldConfig(world="pong")).parameters
