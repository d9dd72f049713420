"""Data sets of Minari and of LeRobot: what is in their files is what is shown, window by window."""

import json
import logging
import sys
from io import BytesIO

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.user_files import refused
from tests.worlds.test_own_films import film
from wm_pipelines.episodes import read, write
from wm_pipelines.errors import validate
from wm_pipelines.worlds.making import WorldConfig, ingest

SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-2.0, 0.0], "high": [2.0, 4.0]}


def made(world, path, **parameters):
    data = {"world": world, "parameters": {"path": str(path), "steps": 4, "splits": SPLITS, "size": 8, **parameters}}
    return ingest(validate(WorldConfig, data, "mine"), "mine")


def by_name(splits):
    """Windows of every recording, in order: ``{name: [(split, place), …]}``."""
    found = {}
    for split, episodes in splits.items():
        for place, name in enumerate(episodes.metadata["episodes"]):
            found.setdefault(name, []).append((split, place))
    return found


# ---------------------------------------------------------------- Minari


def minari(folder, episodes=5, steps=13, space=BOX, old=False, parts=False, pictures=False, seed=0):
    """A data set as Minari writes it, and what is in it by episode."""
    rng, content = np.random.default_rng(seed), {}
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for k in range(episodes):
            group = file.create_group(f"episode_{k}")
            one = {
                "observations": rng.standard_normal((steps + 1, 3)),
                "actions": rng.integers(1, 4, steps)
                if space.get("type") == "Discrete"
                else rng.uniform([-2, 0], [2, 4], (steps, 2)).astype(np.float32),
                "rewards": rng.standard_normal(steps),
                "terminations": np.zeros(steps, bool),
                "truncations": np.arange(steps) == steps - 1,
            }
            content[f"episode_{k}"] = one
            for name, values in one.items():
                if name != "observations" or not (parts or pictures):
                    group.create_dataset(name, data=values, chunks=True)
            if parts or pictures:
                seen = group.create_group("observations")
                seen.create_dataset("goal", data=one["observations"][:, :1])
                seen.create_group("robot").create_dataset("place", data=one["observations"][:, 1:])
                seen.create_dataset("words", data=["go"] * (steps + 1))
            if pictures:
                one["pictures"] = np.repeat(np.arange(steps + 1, dtype=np.uint8)[:, None, None, None], 8, 1)
                one["pictures"] = np.broadcast_to(one["pictures"], (steps + 1, 8, 12, 3)).copy()
                seen.create_dataset("camera", data=one["pictures"])
        if old:
            file.attrs["action_space"] = json.dumps(space)
    if not old:
        metadata = {"total_episodes": episodes, "data_format": "hdf5", "action_space": json.dumps(space)}
        (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return content


@pytest.mark.parametrize("old", [False, True])
def test_minari_as_it_is_written(tmp_path, old):
    content = minari(tmp_path / "set", old=old)
    splits = made("minari", tmp_path / "set", step=0.02)
    windows = by_name(splits)
    assert sorted(windows) == sorted(content)
    for name, places in windows.items():
        assert len({split for split, _ in places}) == 1  # a recording is in one split
        assert len(places) == 3  # of four steps each, one is left over
        for w, (split, place) in enumerate(places):
            views, one = {n: v[place] for n, v in splits[split].views.items()}, content[name]
            np.testing.assert_array_equal(views["states"], one["observations"][4 * w : 4 * w + 5])
            acted = one["actions"][4 * w : 4 * w + 4]
            np.testing.assert_allclose(views["actions"], acted / 2.0 - [0.0, 1.0], rtol=0, atol=1e-7)
            np.testing.assert_array_equal(views["rewards"], one["rewards"][4 * w : 4 * w + 4])
            np.testing.assert_allclose(views["times"], 0.02 * np.arange(5))
    assert splits["train"].spec.step == 0.02
    assert splits["train"].metadata["action_range"] == [[-2.0, 0.0], [2.0, 4.0]]
    assert [len(splits[s]) for s in SPLITS] == [9, 3, 3]


def test_windows_of_minari_survive_the_disk_and_come_back_the_same(tmp_path):
    minari(tmp_path / "set", pictures=True)
    first, again = (made("minari", tmp_path / "set")["train"] for _ in range(2))
    write(tmp_path / "train.arrow", first)
    assert read(tmp_path / "train.arrow").content_hash == first.content_hash == again.content_hash


def test_parts_of_observations_are_chosen_and_pictures_shown(tmp_path):
    content = minari(tmp_path / "set", pictures=True)
    splits = made("minari", tmp_path / "set", observations=["robot/place", "goal"])
    (split, place), *_ = by_name(splits)["episode_3"]
    states = content["episode_3"]["observations"][:5]
    np.testing.assert_array_equal(splits[split]["states"][place], states[:, [1, 2, 0]])
    assert splits[split]["frames"].shape[1:] == (5, 8, 8, 3)
    np.testing.assert_array_equal(splits[split]["frames"][place, :, 0, 0, 0], np.arange(5))
    assert "frames" not in made("minari", tmp_path / "set", frames=None)["train"]
    assert made("minari", tmp_path / "set")["train"].spec.views["states"].shape == (3,)


def test_with_a_stride_all_that_is_done_between_two_rows_is_told(tmp_path):
    content = minari(tmp_path / "set", steps=12)
    splits = made("minari", tmp_path / "set", stride=3, step=0.02)
    assert splits["train"].spec.step == pytest.approx(0.06)
    (split, place), *more = by_name(splits)["episode_0"]
    assert not more
    one = content["episode_0"]
    np.testing.assert_array_equal(splits[split]["states"][place], one["observations"][::3])
    scaled = (one["actions"] / 2.0 - [0.0, 1.0]).reshape(4, 6)
    np.testing.assert_allclose(splits[split]["actions"][place], scaled, rtol=0, atol=1e-7)
    np.testing.assert_allclose(splits[split]["rewards"][place], one["rewards"].reshape(4, 3).sum(1))


def test_discrete_actions_are_one_entry_per_choice(tmp_path):
    content = minari(tmp_path / "set", space={"type": "Discrete", "n": 3, "start": 1})
    splits = made("minari", tmp_path / "set")
    (split, place), *_ = by_name(splits)["episode_1"]
    expected = np.eye(3)[content["episode_1"]["actions"][:4] - 1]
    np.testing.assert_array_equal(splits[split]["actions"][place], expected)


def test_a_range_that_is_not_declared_is_that_of_training(tmp_path, caplog):
    content = minari(tmp_path / "set", space={**BOX, "low": [-np.inf] * 2, "high": [np.inf] * 2})
    with caplog.at_level(logging.INFO):
        splits = made("minari", tmp_path / "set")
    assert "-1 and 1 are the smallest and the largest actions to train on" in caplog.text
    names = set(splits["train"].metadata["episodes"])
    taken = np.concatenate([content[name]["actions"] for name in names])
    low, high = splits["train"].metadata["action_range"]
    np.testing.assert_array_equal([low, high], [taken.min(0), taken.max(0)])
    assert splits["test"].metadata["action_range"] == [low, high]
    for episodes in splits.values():
        assert np.abs(episodes["actions"]).max() <= 1.0
    with caplog.at_level(logging.WARNING):
        given = made("minari", tmp_path / "set", action_range=[[-1.0, 1.0]])
    assert "beyond their range and cut" in caplog.text
    assert given["train"]["actions"].max() == 1.0


def test_short_recordings_are_left_out(tmp_path, caplog):
    minari(tmp_path / "set")
    with h5py.File(tmp_path / "set" / "data" / "main_data.hdf5", "a") as file:
        for name in ("observations", "actions", "rewards"):
            values = file["episode_2"][name][:4]
            del file["episode_2"][name]
            file["episode_2"][name] = values[: len(values) - (name != "observations")]
    splits = made("minari", tmp_path / "set")
    assert "episode_2" not in by_name(splits)
    assert "1 of 5 recordings are left out: shorter than a window" in caplog.text
    assert "split 'train' is empty: 0 recordings of at least 50 steps" in refused(
        made, "minari", tmp_path / "set", steps=50
    )


def test_faults_of_minari_are_told(tmp_path, monkeypatch):
    assert "there is no data/main_data.hdf5" in refused(made, "minari", tmp_path)
    minari(tmp_path / "set", parts=True)
    assert "no vector 'arm'; there are goal, robot/place" in refused(
        made, "minari", tmp_path / "set", observations=["arm"]
    )
    assert "no pictures 'camera'; there are none" in refused(made, "minari", tmp_path / "set", frames="camera")
    assert "3 pairs for 2 entries" in refused(made, "minari", tmp_path / "set", action_range=[[-1, 1]] * 3)
    assert "expected [low, high]" in refused(made, "minari", tmp_path / "set", action_range=[[1, 1]])
    assert "more than 1" in refused(made, "minari", tmp_path / "set", splits={"train": 0.9, "test": 0.3})
    minari(tmp_path / "tuple", space={"type": "Tuple", "subspaces": []})
    assert "actions of the kind Tuple are not read" in refused(made, "minari", tmp_path / "tuple")
    (tmp_path / "set" / "data" / "main_data.hdf5").write_bytes(b"no HDF5")
    assert "is the data set whole?" in refused(made, "minari", tmp_path / "set")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'wm_pipelines[minari]'" in refused(made, "minari", tmp_path / "set")


# ---------------------------------------------------------------- LeRobot


def lerobot(folder, episodes=5, rows=13, version="v2.1", kept="video", cameras=("observation.images.top",), seed=0):
    """A data set as LeRobot 2 writes it, and what is in it by episode; its pictures get brighter row by row."""
    rng, content = np.random.default_rng(seed), {}
    (folder / "meta").mkdir(parents=True)
    lines = []
    for k in range(episodes):
        chunk = k // 3
        one = {
            "observation.state": rng.standard_normal((rows, 4)).astype(np.float32),
            "action": rng.uniform(-90, 90, (rows, 2)).astype(np.float32),
            "next.reward": rng.standard_normal(rows).astype(np.float32),
        }
        content[str(k)] = one
        pictures = [np.full((24, 32, 3), 20 + 15 * i, np.uint8) for i in range(rows)]
        table = {
            "observation.state": pa.array(list(one["observation.state"])),
            "action": pa.FixedSizeListArray.from_arrays(pa.array(one["action"].ravel()), 2),
            "next.reward": pa.array(one["next.reward"]),
            "timestamp": pa.array(np.arange(rows, dtype=np.float32) / 10),
            "frame_index": pa.array(np.arange(rows)),
            "episode_index": pa.array(np.full(rows, k)),
        }
        for camera in cameras:
            if kept == "image":
                packed = []
                for picture in pictures:
                    Image.fromarray(picture).save(data := BytesIO(), "PNG")
                    packed.append({"bytes": data.getvalue(), "path": None})
                table[camera] = pa.array(packed)
            else:
                film(folder / f"videos/chunk-{chunk:03d}/{camera}/episode_{k:06d}.mp4", pictures)
        place = folder / f"data/chunk-{chunk:03d}/episode_{k:06d}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), place)
        lines.append({"episode_index": k, "tasks": [f"pick up {k % 2}"], "length": rows})
    features = {name: {"dtype": "float32", "shape": [1]} for name in ("observation.state", "action", "next.reward")}
    features |= {camera: {"dtype": kept, "shape": [24, 32, 3]} for camera in cameras}
    info = {
        "codebase_version": version,
        "fps": 10,
        "chunks_size": 3,
        "total_episodes": episodes,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return content


@pytest.mark.parametrize(
    ("version", "kept", "stride"), [("v2.0", "video", 1), ("v2.1", "video", 3), ("v2.1", "image", 1)]
)
def test_lerobot_as_it_is_written(tmp_path, version, kept, stride):
    content = lerobot(tmp_path, version=version, kept=kept)
    given = [[-90.0, 90.0]]
    splits = made("lerobot", tmp_path, action_range=given, stride=stride, captions=True)
    windows, span = by_name(splits), 4 * stride
    assert sorted(windows) == sorted(content)
    for name, places in windows.items():
        assert len({split for split, _ in places}) == 1
        assert len(places) == 12 // span
        for w, (split, place) in enumerate(places):
            views, one = {n: v[place] for n, v in splits[split].views.items()}, content[name]
            rows = slice(w * span, (w + 1) * span + 1, stride)
            np.testing.assert_allclose(views["states"], one["observation.state"][rows])
            acted = one["action"][w * span : (w + 1) * span] / 90.0
            np.testing.assert_allclose(views["actions"], acted.reshape(4, 2 * stride), rtol=0, atol=1e-6)
            earned = one["next.reward"][w * span : (w + 1) * span].reshape(4, stride).sum(1)
            np.testing.assert_allclose(views["rewards"], earned, atol=1e-6)
            light = 20 + 15 * np.arange(13)[rows]
            assert np.abs(views["frames"].mean(axis=(1, 2, 3)) - light).max() < 4  # half a step of brightness is 7
            assert views["captions"] == f"pick up {int(name) % 2}"
    assert splits["train"].spec.step == pytest.approx(0.1 * stride)
    assert splits["train"]["frames"].shape[2:] == (8, 8, 3)


def test_the_range_of_a_robots_actions_is_that_of_training(tmp_path):
    content = lerobot(tmp_path, cameras=())
    splits = made("lerobot", tmp_path)
    assert set(splits["train"].views) == {"times", "states", "actions", "rewards"}
    taken = np.concatenate([content[name]["action"][:-1] for name in set(splits["train"].metadata["episodes"])])
    np.testing.assert_array_equal(splits["test"].metadata["action_range"], [taken.min(0), taken.max(0)])
    assert splits["train"]["actions"].max() == pytest.approx(1.0)
    assert "states" not in made("lerobot", tmp_path, observation=None)["train"]


def test_faults_of_lerobot_are_told(tmp_path):
    assert "there is no meta/info.json" in refused(made, "lerobot", tmp_path / "none")
    lerobot(tmp_path / "new", version="v3.0", episodes=1, cameras=())
    assert "has version v3.0; v2.0 and v2.1 are read" in refused(made, "lerobot", tmp_path / "new")
    two = ("observation.images.top", "observation.images.wrist")
    lerobot(tmp_path / "two", cameras=two, rows=9)
    assert "name one, or set null" in refused(made, "lerobot", tmp_path / "two")
    assert made("lerobot", tmp_path / "two", frames=two[1])["train"]["frames"].shape[1:] == (5, 8, 8, 3)
    assert "no feature 'torque'; there are observation.state, action" in refused(
        made, "lerobot", tmp_path / "two", action="torque", frames=None
    )
    short = tmp_path / "two" / f"videos/chunk-000/{two[0]}/episode_000001.mp4"
    film(short, [np.zeros((24, 32, 3), np.uint8)] * 6)
    assert "too short (6 frames for 9 rows)" in refused(made, "lerobot", tmp_path / "two", frames=two[0])
    short.unlink()
    assert "No such file" in refused(made, "lerobot", tmp_path / "two", frames=two[0])
    (tmp_path / "two" / "data/chunk-000/episode_000000.parquet").write_bytes(b"no table")
    assert "is the data set whole?" in refused(made, "lerobot", tmp_path / "two", frames=None)
    (tmp_path / "two" / "meta" / "episodes.jsonl").write_text("{no json")
    assert "is the data set whole?" in refused(made, "lerobot", tmp_path / "two", frames=None)
