"""A user's own films, as they are kept: folders, phones, uneven frame rates, lists with labels in one split only."""

import logging
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from tests.user_files import refused
from wm_pipelines.errors import validate
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.video_files import Cut, read_clips
from wm_pipelines.worlds.parts.video_lists import find_videos, read_list

# Stored pictures, by what a display matrix does to them: rotation counter-clockwise in degrees, mirrored after it.
ORIENTATIONS = [(degrees, mirrored) for degrees in (0, 90, 180, 270) for mirrored in (False, True)]


def scene(rows=48, columns=64):
    """A picture that no turn or reflection leaves as it is: dark on top, and a bright corner at the top left."""
    picture = np.full((rows, columns, 3), 150, np.uint8)
    picture[: rows // 3] = 20
    picture[: rows // 3, : columns // 4] = 250
    return picture


def film(path, pictures, times=None, rate=10, degrees=0, mirrored=False, aspect=None):
    """A film of these pictures; ``times`` in milliseconds, default: evenly by the rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "4", "threads": "1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if degrees or mirrored:
            stream.set_display_rotation(degrees, hflip=mirrored)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def greys(count, first=0, step=10):
    return [np.full((32, 32, 3), first + step * i, np.uint8) for i in range(count)]


def cut(**changes):
    return Cut(**{"frames": 4, "stride": 1, "fps": None, "clips": 1, "size": 48, "grey": False, **changes})


def made(path, **parameters):
    parameters = {"path": path if isinstance(path, dict) else str(path), "size": 16, "frames": 4, **parameters}
    if isinstance(path, (str, Path)):
        parameters.setdefault("splits", {"train": 0.6, "test": 0.4})
    return ingest(validate(WorldConfig, {"world": "videos", "parameters": parameters}, "kitchen"), "kitchen")


# ---------------------------------------------------------------- shown as they are meant


@pytest.mark.parametrize(("degrees", "mirrored"), ORIENTATIONS)
def test_a_film_is_shown_as_it_is_meant_whatever_its_orientation(tmp_path, degrees, mirrored):
    stored = scene()[:, ::-1] if mirrored else scene()  # undo what the player is told to do, last first
    stored = np.rot90(stored, -degrees // 90)
    clips = read_clips(film(tmp_path / "a.mp4", [stored] * 4, degrees=degrees, mirrored=mirrored), cut())
    assert clips.turned == (bool(degrees) or mirrored)
    assert clips.shown == (64, 48)
    picture = clips.frames[0, 0].astype(int)
    expected = scene()[:, 8:-8]
    assert np.abs(picture - expected).mean() < 6


def test_a_phone_held_upright_shows_a_ball_that_falls(tmp_path):
    """As on the phone: the dark third on top, and the ball goes down (rows 8.8, 18.6, 31.3, 45.6 there)."""

    def ball(t):
        picture = np.full((64, 48, 3), (151, 151, 170), np.uint8)
        picture[:21] = (18, 20, 90)
        row = 6 + int(3 * t)
        picture[row : row + 6, 20:26] = (250, 60, 40)
        return np.rot90(picture, 1)  # stored on its side

    clips = read_clips(film(tmp_path / "a.mp4", [ball(t) for t in range(16)], degrees=-90), cut(frames=16))
    assert clips.shown == (48, 64)
    picture = clips.frames[0].astype(int)
    np.testing.assert_allclose(picture[0, :6, 30:].mean((0, 1)), (18, 20, 90), atol=12)
    assert picture[0, -6:, :].mean() > 140
    rows = [np.argwhere(p[..., 0] - p[..., 2] > 100)[:, 0].mean() for p in picture[::5]]
    assert np.all(np.diff(rows) > 8)


def test_pixels_that_are_no_squares_are_stretched(tmp_path):
    clips = read_clips(film(tmp_path / "a.mp4", [scene(48, 32)] * 4, aspect="2/1"), cut())
    assert clips.shown == (64, 48)
    assert np.abs(clips.frames[0, 0].astype(int) - scene()[:, 8:-8]).mean() < 8


# ---------------------------------------------------------------- frame rates


def test_frames_that_are_not_evenly_apart_are_taken_from_an_even_grid(tmp_path):
    """Ten frames 20 ms apart, then ten 180 ms apart: the grey is then a bent function of time, and stays that."""
    times = np.concatenate([20 * np.arange(10), 200 + 180 * np.arange(10)])
    path = film(tmp_path / "a.mp4", greys(20), times)
    clips = read_clips(path, cut(frames=19, size=16, grey=True))
    assert clips.uneven
    assert clips.step == pytest.approx(times[-1] / 19 / 1000, rel=1e-3)
    found = np.rint(clips.frames[0, :, 8, 8, 0] / 10.0)
    assert clips.step * 18 <= times[-1] / 1000 + 1e-9
    at = 1000 * clips.step * np.arange(20)
    nearest = np.abs(times[:, None] - at).argmin(0)
    assert found.tolist() in ([*nearest[:19]], [*nearest[1:]])
    even = read_clips(film(tmp_path / "b.mp4", greys(20)), cut(frames=19, size=16, grey=True))
    assert not even.uneven


def test_rounded_time_stamps_are_even(tmp_path):
    """33, 33 and 34 ms of 30 frames per second: no other frames than before, and no word of it."""
    times = np.rint(1000 * np.arange(20) / 30).astype(int)
    clips = read_clips(film(tmp_path / "a.mp4", greys(20), times), cut(frames=20, size=16, grey=True))
    assert not clips.uneven
    assert np.rint(clips.frames[0, :, 8, 8, 0] / 10.0).tolist() == list(range(20))


def by_the_world(caplog):
    """Records of the world itself, not of how episodes are counted."""
    return [record for record in caplog.records if record.name == "wm_pipelines.worlds.videos"]


def test_films_of_different_rates_are_named(tmp_path, caplog):
    for i in range(4):
        film(tmp_path / f"v{i}.mp4", greys(8, first=10 * i), rate=(10, 25)[i % 2])
    with caplog.at_level(logging.INFO):
        made(tmp_path)
        said = [r.getMessage() for r in by_the_world(caplog) if r.levelno == logging.WARNING]
        assert said == [
            "kitchen: 10 to 25 frames per second: clips of different videos span different times; set `fps` to take "
            "all at one rate"
        ]
        caplog.clear()
        made(tmp_path, fps=25)
    assert not [r for r in by_the_world(caplog) if r.levelno == logging.WARNING]


def test_what_was_estimated_is_told_in_one_line(tmp_path, caplog):
    for i in range(4):
        film(tmp_path / f"v{i}.mp4", greys(8, first=10 * i))
    film(tmp_path / "turned.mp4", greys(8, first=60), degrees=90)
    film(tmp_path / "uneven.mp4", greys(8, first=70), times=[0, 10, 20, 30, 400, 500, 600, 700])
    with caplog.at_level(logging.INFO):
        parts = made(tmp_path)
    (line,) = [r.getMessage() for r in by_the_world(caplog) if r.levelno == logging.INFO]
    assert line == (
        "kitchen: 6 videos: 10 frames per second by their time stamps, 0.1 s between frames of a clip; 1 with frames "
        "not evenly apart, taken from an even grid of times; 32 × 32 pixels as shown; 1 turned as the file says"
    )
    assert parts["train"].metadata["turned_videos"] == parts["train"].metadata["uneven_videos"] == 1


# ---------------------------------------------------------------- folders, patterns, lists


@pytest.fixture
def films(tmp_path):
    """Five films in a folder and one below it, in either case, with blanks; and what is none."""
    names = ["a.mp4", "b two.MP4", "c.mov", "d.webm.mp4", "e.mp4", "more films/f (1).mp4"]
    for i, name in enumerate(names):
        film(tmp_path / "my films" / name, greys(6, first=20 * i))
    (tmp_path / "my films" / "notes.txt").write_text("no film")
    (tmp_path / "my films" / "._a.mp4").write_bytes(b"a shadow of a.mp4")
    return tmp_path / "my films"


def test_a_folder_is_a_world_by_a_few_lines(films):
    written = f"kitchen:\n  world: videos\n  parameters:\n    path: {films}\n    frames: 4\n"
    parts = ingest(validate(WorldConfig, yaml.safe_load(written)["kitchen"], "kitchen"), "kitchen")
    names = sorted(name for part in parts.values() for name in part.metadata["episodes"])
    assert names == ["a.mp4", "b two.MP4", "c.mov", "d.webm.mp4", "e.mp4", "more films/f (1).mp4"]
    assert all("labels" not in part.views and part.metadata["skipped_videos"] == 0 for part in parts.values())
    again = ingest(validate(WorldConfig, yaml.safe_load(written)["kitchen"], "kitchen"), "kitchen")
    assert again["train"].content_hash == parts["train"].content_hash
    assert again["train"].metadata["source_sha256"] == parts["train"].metadata["source_sha256"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.mp4", ["a.mp4", "d.webm.mp4", "e.mp4"]),
        ("**/*.mp4", ["a.mp4", "d.webm.mp4", "e.mp4", "more films/f (1).mp4"]),
        ("[ab]*", ["a.mp4", "b two.MP4"]),
        ("b two.MP4", ["b two.MP4"]),
    ],
)
def test_a_pattern_is_a_list_of_what_fits(films, pattern, names):
    assert [entry.name for entry in find_videos(films / pattern, None)] == names
    assert all(entry.label is None and entry.path.is_file() for entry in find_videos(films / pattern, None))


def test_a_folder_per_split(films):
    parts = made({"train": str(films / "*.mp4"), "test": str(films / "more films")})
    assert parts["train"].metadata["episodes"] == ["a.mp4", "d.webm.mp4", "e.mp4"]
    assert parts["test"].metadata["episodes"] == ["f (1).mp4"]


def test_nothing_found_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no videos in '" in refused(made, tmp_path / "empty")
    assert "no videos fit '" in refused(made, tmp_path / "*.mp4")
    assert "no list of videos at '" in refused(made, tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my film.mp4\nb.MOV\n", [("my film.mp4", None), ("b.MOV", None)]),
        ('"my film.mp4"\n"b.MOV"\n', [("my film.mp4", None), ("b.MOV", None)]),
        ("my film.mp4,\nb.MOV,\n", [("my film.mp4", None), ("b.MOV", None)]),
        ("path,label\nmy film.mp4,\n", [("my film.mp4", None)]),
        ("my film.mp4;\nb.MOV;\n", [("my film.mp4", None), ("b.MOV", None)]),
        ("my film.mp4 run\nb.MOV sit\n", [("my film.mp4", "run"), ("b.MOV", "sit")]),
        ("shot, one\n", [("shot, one", None)]),
    ],
)
def test_labels_may_be_empty_and_paths_may_hold_blanks(tmp_path, text, expected):
    (tmp_path / "list.csv").write_text(text)
    (tmp_path / "shot, one").write_bytes(b"a file without an ending")
    assert [(e.name, e.label) for e in read_list(tmp_path / "list.csv", tmp_path)] == expected


def test_labels_in_one_split_only_are_missing_in_the_other(tmp_path, caplog):
    """The layout of UCF101: training lists have labels, the test list has none."""
    lists = {"train": "v0.mp4 1\nv1.mp4 2\nv2.mp4 1\n", "validation": "v3.mp4 2\n", "test": "v4.mp4\nv5.mp4\n"}
    for i in range(6):
        film(tmp_path / f"v{i}.mp4", greys(6, first=20 * i))
    for name, text in lists.items():
        (tmp_path / f"{name}list.txt").write_text(text)
    parts = made({name: str(tmp_path / f"{name}list.txt") for name in lists})
    assert parts["train"]["labels"].tolist() == [1, 2, 1]
    assert parts["validation"]["labels"].tolist() == [2]
    assert "labels" not in parts["test"].views
    assert len(parts["test"]) == 2
    (said,) = [r.getMessage() for r in by_the_world(caplog) if r.levelno >= logging.WARNING]
    assert said == (
        "kitchen: no labels in testlist.txt, unlike trainlist.txt, validationlist.txt; they are taken as missing "
        "there, and classes are judged only where both train and test have labels"
    )
