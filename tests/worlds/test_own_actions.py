"""A user's own tables and videos with actions: the action of a row acts until the next row."""

import numpy as np
import pandas as pd
import pytest

from tests.user_files import refused, saved
from tests.worlds.oscillators import COLUMNS, ENERGY, STEP, load, oscillator
from tests.worlds.test_own_films import film
from wm_pipelines.errors import validate
from wm_pipelines.laws import laws_of
from wm_pipelines.worlds.making import WorldConfig, ingest

SPLITS = {"train": [1, 2], "test": [3]}
ACTED = {**COLUMNS, "actions": [{"column": "u", "low": -2.0, "high": 2.0}, {"column": "w", "low": 0, "high": 10}]}


def pushed(episodes=3, rows=21):
    """Two actions and a reward beside every row; the last rows have none."""
    frame, rng = oscillator(episodes, rows), np.random.default_rng(1)
    frame["u"], frame["w"] = rng.uniform(-2, 2, len(frame)), rng.uniform(0, 10, len(frame))
    frame["r"] = rng.standard_normal(len(frame))
    last = frame.groupby("run").tail(1).index
    frame.loc[last, ["u", "w", "r"]] = np.nan
    return frame


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_actions_and_rewards_of_a_table(tmp_path, name):
    frame = pushed()
    found = load(frame, tmp_path, name, columns={**ACTED, "reward": "r"}, splits=SPLITS)
    assert found["train"]["actions"].shape == (2, 20, 2)
    for place, run in enumerate((1, 2)):
        rows = frame[frame.run == run][:-1]
        expected = np.stack([rows.u / 2.0, rows.w / 5.0 - 1.0], -1)
        np.testing.assert_allclose(found["train"]["actions"][place], expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found["train"]["rewards"][place], rows.r, rtol=1e-12)
    space = found["train"].spec.views["actions"]
    assert (space.kind, space.shape, space.per) == ("vector", (2,), "transition")


def test_rows_that_are_mixed_up_keep_their_actions(tmp_path):
    frame = pushed()
    mixed = frame.sort_values(["t", "run"], kind="stable")
    straight, crossed = (load(f, tmp_path, columns=ACTED, splits=SPLITS)["train"] for f in (frame, mixed))
    assert straight.content_hash == crossed.content_hash


def test_stretches_and_parts_in_time_keep_the_actions_of_their_rows(tmp_path):
    frame = pushed()
    cut = load(frame, tmp_path, columns=ACTED, splits=SPLITS, steps=6)["train"]
    assert cut["actions"].shape == (6, 6, 2)  # three stretches of seven rows each
    u = frame[frame.run == 1].u.to_numpy() / 2.0
    np.testing.assert_allclose(cut["actions"][:3, :, 0], [u[:6], u[7:13], u[14:20]], rtol=0, atol=1e-12)
    alone = frame[frame.run == 1].drop(columns="run")
    columns = {name: column for name, column in ACTED.items() if name != "episode"}
    parts = load(alone, tmp_path, columns=columns, splits={"train": 0.5, "test": 0.5})
    rows = len(parts["train"]["states"][0])
    np.testing.assert_allclose(parts["test"]["actions"][0, :, 0], u[rows:-1], rtol=0, atol=1e-12)


def test_whoever_is_pushed_conserves_nothing(tmp_path):
    frame = pushed()
    alone = load(frame, tmp_path, splits=SPLITS, **ENERGY)["train"]
    acted = load(frame, tmp_path, columns=ACTED, splits=SPLITS, **ENERGY)["train"]
    assert alone.spec.facts.plain()["conserved"] == ["energy"]
    assert acted.spec.facts.plain()["conserved"] == []
    assert "simulator" not in acted.spec.facts.plain()
    laws = laws_of(acted.spec)
    assert laws.energy is not None
    assert laws.simulate is laws.dynamics is None
    np.testing.assert_array_equal(acted["states"], alone["states"])


def test_kicks_are_not_smoothed_away(tmp_path):
    rng = np.random.default_rng(0)
    push = rng.choice([-1.0, 1.0], (4, 200))
    p = np.cumsum(0.1 * push, axis=1)
    x = np.cumsum(STEP * p, axis=1)
    frame = pd.DataFrame(
        {"run": np.repeat(np.arange(4), 200), "t": np.tile(STEP * np.arange(200), 4), "x": x.ravel(), "p": p.ravel()}
    )
    frame["u"] = np.roll(push, -1, axis=1).ravel()
    columns = {**COLUMNS, "actions": [{"column": "u"}]}
    found = load(frame, tmp_path, columns=columns, splits={"train": [0, 1, 2], "test": [3]})
    np.testing.assert_array_equal(found["test"]["states"][0, :, 1], p[3])
    np.testing.assert_allclose(np.diff(found["test"]["states"][0, :, 1]), 0.1 * found["test"]["actions"][0, :, 0])


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ({"u": 2.5}, {}, "column 'u', data row 5: action 2.5 is not in its range [-2, 2]"),
        ({"w": np.nan}, {}, "column 'w', data row 5: expected a finite number, got 'nan'; only the last row"),
        ({"r": np.inf}, {"reward": "r"}, "column 'r', data row 5: expected a finite number"),
        ({}, {"actions": [{"column": "v"}]}, "has no column 'v'"),
        ({}, {"actions": [{"column": "u", "low": 2, "high": 2}]}, "low (2) must be less than high (2)"),
        ({}, {"actions": [{"column": "x"}]}, "column 'x' is used twice"),
        ({}, {"actions": [], "reward": "r"}, "declare actions, too"),
    ],
)
def test_faults_in_actions_are_told(tmp_path, change, columns, message):
    frame = pushed()
    for name, value in change.items():
        frame.loc[4, name] = value
    assert message in refused(load, frame, tmp_path, columns={**ACTED, **columns}, splits=SPLITS)


def test_actions_are_not_put_on_another_grid(tmp_path):
    said = refused(load, pushed(), tmp_path, columns=ACTED, splits=SPLITS, resample=0.05)
    assert "an action lasts from row to row" in said


# ---------------------------------------------------------------- videos


def films(folder, count=5, frames=9):
    """Films whose brightness tells the row, and beside each its actions."""
    rng = np.random.default_rng(0)
    acted = {}
    for k in range(count):
        film(folder / f"f{k}.mp4", [np.full((32, 32, 3), 20 + 20 * i + k, np.uint8) for i in range(frames)])
        acted[f"f{k}.mp4"] = rng.uniform(-3, 3, (frames, 2))
        saved(folder, pd.DataFrame(acted[f"f{k}.mp4"], columns=["left", "right"]), f"f{k}.csv")
    return acted


def shown(folder, **parameters):
    actions = [{"column": name, "low": -3, "high": 3} for name in ("left", "right")]
    given = {"path": str(folder), "size": 16, "frames": 4, "actions": actions, **parameters}
    data = {"world": "videos", "parameters": {"splits": {"train": 0.6, "test": 0.4}, **given}}
    return ingest(validate(WorldConfig, data, "mine"), "mine")


@pytest.mark.parametrize("stride", [1, 2])
def test_actions_beside_videos_act_between_the_frames_shown(tmp_path, stride):
    acted = films(tmp_path)
    for episodes in shown(tmp_path, stride=stride, clips_per_video=3).values():
        assert episodes["actions"].shape == (len(episodes), 3, 2 * stride)
        for name, frames, actions in zip(
            episodes.metadata["episodes"], episodes["frames"], episodes["actions"], strict=True
        ):
            first = round((float(frames[0].mean()) - 20 - int(name[1])) / 20)
            rows = acted[name][first : first + 3 * stride] / 3.0
            np.testing.assert_allclose(actions, rows.reshape(3, 2 * stride), rtol=0, atol=1e-12)


def test_the_last_row_of_actions_may_be_missing_and_other_films_are_left_out(tmp_path):
    films(tmp_path)
    frame = pd.read_csv(tmp_path / "f0.csv")
    frame.iloc[:-1].to_csv(tmp_path / "f0.csv", index=False)
    frame.iloc[:-3].to_csv(tmp_path / "f1.csv", index=False)
    (tmp_path / "f2.csv").unlink()
    found = shown(tmp_path)
    reasons = {s["path"]: s["reason"] for s in found["train"].metadata["skipped"]}
    assert reasons == {
        "f1.mp4": "its actions do not fit (6 rows in 'f1.csv', 9 frames)",
        "f2.mp4": "it has no actions beside it (there is no 'f2.csv')",
    }
    assert sum(map(len, found.values())) == 3


def test_faults_in_the_actions_of_videos_are_told(tmp_path):
    films(tmp_path, 3)
    assert "fps: actions are given per frame of the video" in refused(shown, tmp_path, fps=5)
    actions = [{"column": "left", "low": -1, "high": 1}]
    assert "is not in its range [-1, 1]" in refused(shown, tmp_path, actions=actions)
    assert "has no column 'up'" in refused(shown, tmp_path, actions=[{"column": "up"}])


def test_videos_without_actions_have_none(tmp_path):
    films(tmp_path, 3)
    assert "actions" not in shown(tmp_path, actions=[])["train"]
