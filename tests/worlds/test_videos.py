"""The user's own videos: the right frames, the right splits, and nothing fatal about a bad file."""

import logging
from pathlib import Path

import av
import numpy as np
import pytest

from wm_pipelines.episodes import read, write
from wm_pipelines.errors import UserError
from wm_pipelines.laws import world_of
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.video_files import Cut, UnusableVideoError, read_clips
from wm_pipelines.worlds.parts.video_lists import label_numbers, read_list

ROOT = Path(__file__).parents[2]
CODECS = {
    ".mp4": ("libx264", "yuv420p", {"crf": "4", "threads": "1"}),
    ".webm": ("libvpx-vp9", "yuv420p", {"crf": "8", "b": "0", "cpu-used": "8", "deadline": "realtime"}),
    ".gif": ("gif", "gray", {}),
    ".avi": ("mpeg4", "yuv420p", {"qmin": "1", "qmax": "2"}),
}


def film(path, frames=20, fps=10, height=32, width=32, first=0):
    """Frame ``i`` is a grey of level ``10 (first + i)`` white at the left edge and black at the right."""
    codec, form, options = CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, form
        for i in range(frames):
            picture = np.full((height, width, 3), 10 * (first + i), np.uint8)
            picture[:, : width // 8], picture[:, -(width // 8) :] = 255, 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def cut(**changes):
    return Cut(**{"frames": 4, "stride": 1, "fps": None, "clips": 1, "size": 16, "grey": True, **changes})


def numbers(clips):
    """Which frames of the film these are: ``[K, T]``, by the grey in the middle."""
    return np.rint(clips.frames[:, :, 8, 8, 0] / 10.0).astype(int).tolist()


@pytest.fixture
def folder(tmp_path):
    """Three classes of four videos each."""
    lines = []
    for i in range(12):
        film(tmp_path / f"v{i:02d}.mp4", frames=6, first=i)
        lines.append(f"v{i:02d}.mp4,{('run', 'jump', 'sit')[i % 3]}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    return tmp_path


def made(folder, seed=0, **parameters):
    parameters = {"path": str(folder / "list.csv"), "size": 16, "frames": 4, **parameters}
    return ingest(WorldConfig(world="videos", seed=seed, parameters=parameters), "my_videos")


# ---------------------------------------------------------------- clips


@pytest.mark.parametrize("kind", sorted(CODECS))
def test_every_kind_of_file_gives_its_frames_in_order(tmp_path, kind):
    clips = read_clips(film(tmp_path / f"a{kind}"), cut(frames=20))
    assert numbers(clips) == [list(range(20))]
    assert clips.step == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [[8, 9, 10, 11]]),
        ({"stride": 3}, [[5, 8, 11, 14]]),
        ({"clips": 2}, [[4, 5, 6, 7], [12, 13, 14, 15]]),
        ({"frames": 20, "clips": 3}, [list(range(20))]),
        ({"frames": 19, "clips": 9}, [list(range(19)), list(range(1, 20))]),
        ({"fps": 5.0}, [[6, 8, 10, 12]]),
        ({"fps": 5.0, "stride": 2}, [[4, 8, 12, 16]]),
        ({"fps": 20.0, "frames": 8}, None),
    ],
)
def test_clips_are_spread_evenly_and_keep_stride_and_rate(tmp_path, settings, expected):
    clips = read_clips(film(tmp_path / "a.mp4"), cut(**settings))
    if expected is not None:
        assert numbers(clips) == expected
    else:  # twice as many frames per second as there are: each is shown twice
        assert set(np.diff(numbers(clips)[0])) <= {0, 1}
        assert numbers(clips)[0][-1] - numbers(clips)[0][0] in (3, 4)
    rate = settings.get("fps", 10.0)
    assert clips.step == pytest.approx(settings.get("stride", 1) / rate)


@pytest.mark.parametrize(("height", "width"), [(32, 96), (96, 32), (40, 40), (8, 24)])
def test_the_shorter_side_is_scaled_and_the_centre_cut_out(tmp_path, height, width):
    frames = read_clips(film(tmp_path / "a.mp4", first=5, height=height, width=width), cut(grey=False)).frames
    assert frames.shape == (1, 4, 16, 16, 3)
    stripes = frames[0, 0, 8, [0, 15], 0] > 200, frames[0, 0, 8, [0, 15], 0] < 50
    cut_off = width > height
    assert stripes[0].tolist() == [not cut_off, False]
    assert stripes[1].tolist() == [False, not cut_off]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "no such file"),
        (lambda p: p.write_bytes(b""), "damaged"),
        (lambda p: p.write_bytes(b"not a film at all" * 99), "damaged"),
        (lambda p: film(p, frames=3), r"too short \(3 frames, a clip takes 4\)"),
        (lambda p: film(p, frames=1), "too short"),
        (lambda p: p.write_bytes(film(p, frames=20).read_bytes()[:-900]), "damaged"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path, make, reason):
    make(tmp_path / "a.mp4")
    with pytest.raises(UnusableVideoError, match=reason):
        read_clips(tmp_path / "a.mp4", cut())


def test_a_frame_that_cannot_be_decoded_is_damage(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for _ in range(8):
            noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    assert read_clips(path, cut(frames=8)).frames.shape[1] == 8
    pictures = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    data[pictures[4] : pictures[4] + 800] = bytes(800)
    path.write_bytes(data)
    with pytest.raises(UnusableVideoError, match="damaged"):
        read_clips(path, cut(frames=8))


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UnusableVideoError, match="it holds no video"):
        read_clips(tmp_path / "a.wav", cut())


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.mp4,run\nb/c.gif,sit\n", [("a.mp4", "run"), ("b/c.gif", "sit")]),
        ("path,label\na.mp4,3\n\n", [("a.mp4", "3")]),
        ("a.mp4 7\n/x/b.mp4 0\n", [("a.mp4", "7"), ("/x/b.mp4", "0")]),
        ('"my, film.mp4", going home\n', [("my, film.mp4", "going home")]),
        ("with blank.mp4,1\r\n", [("with blank.mp4", "1")]),
        ("a.mp4\nb.mp4\n", [("a.mp4", None), ("b.mp4", None)]),
    ],
)
def test_lists_are_read_as_people_write_them(tmp_path, text, expected):
    (tmp_path / "list.csv").write_text(text)
    found = read_list(tmp_path / "list.csv", Path("/root"))
    assert [(entry.name, entry.label) for entry in found] == expected
    assert all(entry.path == Path("/root") / entry.name for entry in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "is empty"),
        ("a.mp4,1\nb.mp4,2,3\n", "line 2: expected path,label"),
        ("a.mp4,1\n,2\n", "line 2"),
        ("a.mp4,1\nb.mp4\n", "label all or none"),
        (None, "no list of videos"),
    ],
)
def test_a_faulty_list_is_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        made(tmp_path)


def test_labels_are_their_numbers_or_their_place_in_the_alphabet(tmp_path):
    def of(*labels):
        (tmp_path / "l.csv").write_text("".join(f"{i}.mp4,{label}\n" for i, label in enumerate(labels)))
        return label_numbers(read_list(tmp_path / "l.csv", tmp_path))

    assert of("4", "0", "4") == {"4": 4, "0": 0}
    assert of("sit", "run", "sit") == {"run": 0, "sit": 1}
    assert of("7", "run") == {"7": 0, "run": 1}


# ---------------------------------------------------------------- the world


def test_no_video_is_in_two_splits_and_classes_are_shared_out_alike(folder, tmp_path):
    parts = made(folder, clips_per_video=3, splits={"train": 0.5, "validation": 0.25, "test": 0.25})
    videos = {name: list(dict.fromkeys(part.metadata["episodes"])) for name, part in parts.items()}
    assert sorted(path for part in videos.values() for path in part) == [f"v{i:02d}.mp4" for i in range(12)]
    assert {name: len(v) for name, v in videos.items()} == {"train": 6, "validation": 3, "test": 3}
    for name, part in parts.items():
        assert part["frames"].shape == (3 * len(videos[name]), 4, 16, 16, 3)
        np.testing.assert_array_equal(np.bincount(part["labels"]), 3 * [len(part) // 3])
        for path, label, frames in zip(part.metadata["episodes"], part["labels"], part["frames"], strict=True):
            number = int(path[1:3])
            assert part.metadata["label_names"][label] == ("run", "jump", "sit")[number % 3]
            assert frames[0, 8, 8, 0] / 10 == pytest.approx(number + 1, abs=1.3)
        assert part.metadata["skipped_videos"] == 0
    write(tmp_path / "train.arrow", parts["train"])
    assert read(tmp_path / "train.arrow").content_hash == parts["train"].content_hash
    again, other = (made(folder, seed=s, splits={"train": 0.5, "test": 0.5}) for s in (0, 1))
    assert again["train"].content_hash == made(folder, splits={"train": 0.5, "test": 0.5})["train"].content_hash
    assert again["train"].metadata["episodes"] != other["train"].metadata["episodes"]


def test_bad_videos_are_reported_and_left_out(folder, caplog):
    (folder / "broken.mp4").write_bytes(b"nothing")
    film(folder / "short.mp4", frames=2)
    (folder / "copy.mp4").write_bytes((folder / "v03.mp4").read_bytes())
    with (folder / "list.csv").open("a") as file:
        file.write("\nbroken.mp4,run\nmissing.mp4,sit\nshort.mp4,run\ncopy.mp4,run\nv00.mp4,run\n")
    with caplog.at_level(logging.WARNING):
        parts = made(folder)
    skipped = parts["train"].metadata["skipped"]
    assert [s["path"] for s in skipped] == ["broken.mp4", "missing.mp4", "short.mp4", "copy.mp4", "v00.mp4"]
    for word, entry in zip(["damaged", "no such", "too short", "v03.mp4", "v00.mp4"], skipped, strict=True):
        assert word in entry["reason"]
        assert any(entry["path"] in r.message and entry["reason"] in r.message for r in caplog.records)
    assert parts["test"].metadata["skipped_videos"] == 5
    assert sum(len(part) for part in parts.values()) == 12
    assert (
        "videos used: 12; 5 left out (1 damaged, 1 there is no such file, 1 too short, 2 the same video)" in caplog.text
    )


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "list.csv").write_text("a.mp4,1\nb.mp4,2\n")
    with pytest.raises(UserError, match=r"none of the 2 videos in '.*list\.csv' exists; .* looked for at '.*a\.mp4'"):
        made(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"split 'train' .* is empty: 0 usable, 2 left out"):
        made(tmp_path)
    film(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"split 'validation' .* is empty: 1 usable"):
        made(tmp_path)


def test_lists_of_ones_own_per_split(folder):
    lines = (folder / "list.csv").read_text().splitlines()
    for name, part in (("train", lines[:8]), ("test", lines[6:])):
        (folder / f"{name}.csv").write_text("\n".join(part))
    lists = {name: str(folder / f"{name}.csv") for name in ("train", "test")}
    parts = made(folder, path=lists)
    assert parts["train"].metadata["episodes"] == [f"v{i:02d}.mp4" for i in range(8)]
    assert parts["test"].metadata["episodes"] == [f"v{i:02d}.mp4" for i in range(8, 12)]
    assert [s["path"] for s in parts["test"].metadata["skipped"]] == ["v06.mp4", "v07.mp4"]
    assert world_of(parts["test"].spec).parameters.path == lists


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"frames": 1}, "frames"),
        ({"size": 4}, "size"),
        ({"fps": 0}, "fps"),
        ({"splits": {"test": 1.0}}, "at least 'train'"),
        ({"splits": {"train": 1.0}}, "splits: no split to judge on; give e.g. test: 0.3"),
        ({"path": {"train": "a.csv"}}, "splits: no split to judge on; give e.g. path: "),
        ({"splits": {"train": 0.5, "../../evil": 0.5}}, r"names become file names.* got '\.\./\.\./evil'"),
        ({"splits": {"train": 0.98, "test": 0.02}}, "split 'test' .* is empty"),
        ({"splits": {"train": 0.9, "test": 0.2}}, "add up to 1.1"),
        ({"splits": {"train": 0.9, "test": -0.2}}, "between 0 and 1"),
        ({"lenght": 3}, "unknown"),
    ],
)
def test_impossible_parameters_are_refused(folder, parameters, message):
    with pytest.raises(UserError, match=message):
        made(folder, **parameters)


@pytest.mark.training
def test_the_bundled_example_is_usable():
    import yaml

    conf = yaml.safe_load((ROOT / "conf/own_videos_example/parameters_my_videos.yml").read_text())["my_videos"]
    conf["parameters"]["path"] = str(ROOT / conf["parameters"]["path"])
    parts = ingest(WorldConfig(**conf))
    assert {name: len(part) for name, part in parts.items()} == {"train": 57, "validation": 21, "test": 18}
    for part in parts.values():
        assert part.metadata["label_names"] == ["balls", "pendulum"]
        assert part.metadata["skipped_videos"] == 0
        assert abs(np.diff(np.bincount(part["labels"]))[0]) <= 3
    assert sum(p.stat().st_size for p in (ROOT / "data/01_raw/videos_sample").iterdir()) < 300_000
