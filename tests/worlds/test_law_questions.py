"""Questions about laws: the answers are those of the simulator, looked at in another way."""

import re

import numpy as np
import pytest

from wm_pipelines.errors import UserError
from wm_pipelines.registry import worlds
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.law_questions import ASK, Clip

FEW = {"train": 24, "validation": 8, "test": 8, "rows": 10, "frame_size": 16}
BALLS = {
    **FEW, "of": "bouncing_balls", "asks": ["law", "frame", "energy", "momentum", "meeting"],
    "shares": {"lawful": 0.25, "teleport": 0.25, "energy_jump": 0.25, "pass_through": 0.25},
}  # fmt: skip
PENDULUM = {**FEW, "of": "pendulum", "asks": ["law", "frame", "energy", "swing", "turns"]}


def made(parameters, seed=0):
    return ingest(WorldConfig(world="law_questions", seed=seed, parameters=parameters), "asked")


def world(name, **parameters):
    kind = worlds.get(name)
    return kind(kind.Parameters(**parameters))


def asked(kind, clip, seed=0):
    question, answer = ASK[kind](np.random.default_rng(seed), clip)
    return [int(k) for k in re.findall(r"frame (\d+)", question)], answer


def lawful(name, count=30, rows=16, **parameters):
    made = world(name, **parameters)
    z = made.simulate(made.sample_initial_state(np.random.default_rng(1), count), 0.1, rows - 1)
    return [Clip(one, 0.1, made, None, -1) for one in z]


@pytest.mark.parametrize("name", ["pendulum", "bouncing_balls"])
def test_lawful_clips_keep_their_energy_and_break_nothing(name):
    for clip in lawful(name, 5):
        assert [asked(kind, clip)[1] for kind in ("energy", "law", "frame")] == ["yes", "none", "never"]


def test_more_energy_is_noticed():
    for clip in lawful("pendulum", 5):
        z = clip.z.copy()
        z[8:, 1] *= 1.01
        assert asked("energy", clip._replace(z=z))[1] == "no"


def test_momentum_is_kept_between_walls_and_balls_collide_where_it_is_handed_over():
    """Alone in a wide box nothing happens; head-on, one collision at a known time, which keeps the momentum."""
    apart = {"law": "given", "states": [[-5.0, 0.0, 5.0, 0.0, 1.0, 0.0, -1.0, 0.5]]}
    (alone,) = lawful("bouncing_balls", 1, side=100.0, initial=apart)
    towards = {"law": "given", "states": [[-1.0, 0.0, 1.0, 0.0, 1.0, 0.3, -1.0, 0.3]]}
    (meeting,) = lawful("bouncing_balls", 1, side=100.0, initial=towards)  # rims meet after 0.75 s, radius 0.25
    for seed in range(20):
        assert asked("momentum", alone, seed)[1] == "yes"
        assert asked("meeting", alone, seed)[1] == "no"
        assert asked("momentum", meeting, seed)[1] == "yes"
        (first, last), answer = asked("meeting", meeting, seed)
        assert answer == ("yes" if first <= 7 < last else "no")


def test_walls_take_momentum_and_are_no_collisions_of_balls():
    start = {"law": "given", "states": [[0.0, 0.5, 0.0, -0.5, 1.0, 0.0, 1.0, 0.0]]}
    (clip,) = lawful("bouncing_balls", 1, side=2.0, initial=start)  # both at the wall after 0.75 s
    for seed in range(20):
        (first, last), answer = asked("momentum", clip, seed)
        assert answer == ("no" if first <= 7 < last else "yes")
        assert asked("meeting", clip, seed)[1] == "no"


def test_a_pendulum_turns_round_where_its_speed_vanishes():
    for clip in lawful("pendulum"):
        turns = int((np.diff(np.sign(clip.z[:, 1])) != 0).sum())
        assert asked("turns", clip)[1] == {0: "no times", 1: "one time"}.get(turns, f"{['', '', 'two'][turns]} times")
        (first, last), answer = asked("swing", clip)
        angle = clip.z[first : last + 1, 0]
        if answer == "no":  # it moves one way all the time
            assert (np.diff(angle) >= -1e-12).all() or (np.diff(angle) <= 1e-12).all()


@pytest.mark.parametrize("parameters", [BALLS, PENDULUM])
def test_clips_are_as_many_as_asked_for_and_say_what_is_broken(parameters):
    splits = made(parameters)
    train = splits["train"]
    assert {name: len(part) for name, part in splits.items()} == {"train": 24, "validation": 8, "test": 8}
    assert train["frames"].shape == (24, 10, 16, 16, 3)
    law, frame = train["answers"][:, 0], train["answers"][:, 1]
    assert ((law == "none") == (frame == "never")).all()
    shares = parameters.get("shares", {"lawful": 0.4})
    assert abs((law == "none").sum() - 24 * shares["lawful"]) < 1.5
    if parameters["of"] == "bouncing_balls":
        assert (law == "energy").sum() == (train["answers"][:, 2] == "no").sum() == 6
        assert not set(train["answers"][law == "contact", 4]) - {"yes", "no"}


def test_a_clip_jumps_in_the_frame_that_is_named():
    train = made(PENDULUM | {"shares": {"lawful": 0.5, "teleport": 0.5}})["train"]
    frames = train["frames"].astype(float)
    moved = np.abs(np.diff(frames, axis=1)).mean((2, 3, 4))
    for change, answer in zip(moved, train["answers"][:, 1], strict=True):
        if answer != "never":
            row = int(answer.split()[1])
            assert change[row - 1] > 0.5 * change.max()


def test_the_same_seed_gives_the_same_clips_and_another_one_others():
    first, again, other = made(PENDULUM), made(PENDULUM), made(PENDULUM, seed=1)
    for part in first:
        assert first[part].content_hash == again[part].content_hash != other[part].content_hash
    assert first["train"]["frames"][:8].tobytes() != first["test"]["frames"].tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"asks": ["law", "colour"]}, "asks: unknown 'colour'"),
        ({"shares": {"lawful": 0.5, "teleport": 0.4}}, "add up to 1"),
        ({"of": "captioned_scenes"}, "recordings alone"),
        ({"of": "pendulum", "shares": {"lawful": 0.5, "pass_through": 0.5}}, "do not collide"),
        ({"asks": ["law", "meeting"]}, "'meeting' means nothing in 'pendulum'"),
        ({"of": "bouncing_balls"}, "'swing' means nothing in 'bouncing_balls'"),
        ({"world": {"length": -1}}, "length"),
    ],
)
def test_what_cannot_be_asked_is_told(changes, message):
    with pytest.raises(UserError, match=message):
        made(PENDULUM | changes)
