"""Faults of the user's own videos and of the list beside them: one line each."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.user_files import refused
from wm_pipelines.errors import validate
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts import video_files
from wm_pipelines.worlds.parts.video_files import Cut, UnusableVideoError, plan_clips, read_clips
from wm_pipelines.worlds.parts.video_lists import Listed, label_numbers, read_list


def film(path, first=0, width=32):
    """Six grey frames of level ``10 (first + i)``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, 32, "yuv420p"
        for i in range(6):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((32, width, 3), 10 * (first + i), np.uint8), "rgb24"))
            )
        container.mux(stream.encode())
    return path


def cut(**changes):
    return Cut(**{"frames": 4, "stride": 1, "fps": None, "clips": 1, "size": 16, "grey": True, **changes})


@pytest.fixture
def folder(tmp_path):
    for i in range(8):
        film(tmp_path / f"v{i}.mp4", first=i)
    (tmp_path / "list.csv").write_text("".join(f"v{i}.mp4,{('1', '01')[i % 2]}\n" for i in range(8)), encoding="utf-8")
    return tmp_path


def made(folder, **parameters):
    parameters = {"path": str(folder / "list.csv"), "size": 16, "frames": 4, **parameters}
    parameters.setdefault("splits", {"train": 0.5, "test": 0.5})
    return ingest(validate(WorldConfig, {"world": "videos", "parameters": parameters}, "my_videos"), "my_videos")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path;label\na.mp4;run\nb c.mp4;sit\n", [("a.mp4", "run"), ("b c.mp4", "sit")]),
        ("my, film.mp4;run\nb.mp4;sit\n", [("my, film.mp4", "run"), ("b.mp4", "sit")]),
        ("my film.mp4\tgoing home\nb.mp4\tsit\n", [("my film.mp4", "going home"), ("b.mp4", "sit")]),
        ("a;1.mp4,run\nb;2.mp4,sit\n", [("a;1.mp4", "run"), ("b;2.mp4", "sit")]),
        ("käse²/ä.mp4,süß\n", [("käse²/ä.mp4", "süß")]),
    ],
)
def test_the_separator_of_a_list_is_found(tmp_path, text, expected):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    assert [(e.name, e.label) for e in read_list(tmp_path / "list.csv", tmp_path)] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.mp4;1\nb.mp4;2;3\n", "line 2: expected path,label, got 'b.mp4;2;3'"),
        (b"a.mp4," + b"1" * 200_000, "line 1: field larger than field limit (131072); expected path,label"),
        ("ä.mp4,1\n".encode("latin-1"), "it is not in UTF-8; save it so"),
        (b"a.mp4,1\nb.mp4,2\n", "none of the 2 videos in "),
        (b"a.mp4|1\n", "a.mp4|1': mend the paths, or set `folder`"),
    ],
)
def test_a_faulty_list_is_one_line_for_all_its_videos(tmp_path, caplog, content, message):
    (tmp_path / "list.csv").write_bytes(content)
    assert message in refused(made, tmp_path)
    assert not caplog.records


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    labels=st.lists(
        st.one_of(st.from_regex(r"\A[0-9]{1,7}\Z"), st.sampled_from(["run", "1", "01", "9" * 5000])), min_size=1
    )
)
def test_different_labels_are_different_classes(labels):
    numbers = label_numbers([Listed("a", Path("a"), label) for label in labels])
    assert numbers.keys() == set(labels)
    assert len(set(numbers.values())) == len(numbers)


def test_one_and_zero_one_are_two_classes_and_the_user_hears_of_it(folder, caplog):
    for part in made(folder).values():
        assert part.metadata["label_names"] == ["01", "1"]
        for path, label in zip(part.metadata["episodes"], part["labels"], strict=True):
            assert label == 1 - int(path[1]) % 2
    assert "labels '01' and '1' are taken as two classes; write them alike if they are one" in caplog.text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fps": float("inf")}, "fps"),
        ({"fps": 1e12}, "fps': input should be less than or equal to 1000000, got 1000000000000"),
        ({"clips_per_video": 10**10}, "clips_per_video': input should be less than or equal to 1000000"),
        ({"size": 10**6}, "size': input should be less than or equal to 16000, got 1000000"),
        (
            {"size": 16_000, "frames": 6},
            "8 videos: 8 clips of 6 frames of 16000 × 16000 pixels need 68.7 GiB of memory, there are 60 GiB; set a "
            "smaller `size`, `frames` or `clips_per_video`",
        ),
    ],
)
def test_sizes_beyond_all_memory_are_refused(folder, monkeypatch, parameters, message):
    monkeypatch.setattr(video_files, "memory", lambda: 60 * 2**30)
    assert message in refused(made, folder, **parameters)


def test_too_little_memory_is_said_before_anything_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(video_files, "memory", lambda: 2 * 8 * 2 * 4 * 16 * 16 * 3 - 1)
    monkeypatch.setattr(video_files, "_decoded", lambda *_: pytest.fail("decoded"))
    assert refused(made, folder, clips_per_video=2) == (
        "8 videos: 16 clips of 4 frames of 16 × 16 pixels need 96 KiB of memory, there are 96 KiB; "
        "set a smaller `size`, `frames` or `clips_per_video`"
    )


@pytest.mark.parametrize("error", [MemoryError(), av.error.MemoryError(12, "Cannot allocate memory", "a.mp4")])
def test_no_memory_while_decoding_is_no_damage(folder, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(video_files, "_scaled", full)
    message = refused(made, folder)
    assert message.startswith("not enough memory to decode '")
    assert message.endswith("v0.mp4'; set a smaller `size`, `frames` or `clips_per_video`")


def test_what_is_no_fault_of_the_file_is_not_called_damage(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", width=96)
    with pytest.raises(
        UnusableVideoError, match=r"too large when scaled \(60000 × 20000 pixels\); set a smaller `size`"
    ):
        plan_clips(path, cut(size=20_000))
    with pytest.raises(UnusableVideoError, match="no such file"):
        read_clips(tmp_path / ("a" * 5000), cut())

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(video_files, "_stamps", forbidden)
    with pytest.raises(UnusableVideoError, match=r"cannot be read \(Permission denied\)"):
        read_clips(path, cut())


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    count=st.integers(2, 60),
    frames=st.integers(2, 9),
    stride=st.integers(1, 4),
    clips=st.integers(1, 300),
    fps=st.sampled_from([None, 3.0, 10.0, 25.0]),
)
def test_clips_are_where_the_plain_formula_puts_them(count, frames, stride, clips, fps):
    """The formula with the whole grid in memory."""
    time, wanted = 0.1 * np.arange(count), cut(frames=frames, stride=stride, clips=clips, fps=fps)
    grid, step = np.arange(count), 0.1
    if fps is not None:
        grid = np.searchsorted(0.5 * (time[1:] + time[:-1]), time[0] + np.arange(int(time[-1] * fps + 1e-6) + 1) / fps)
        step = 1 / fps
    room = len(grid) - 1 - (frames - 1) * stride
    if room < 0:
        with pytest.raises(UnusableVideoError, match="too short"):
            video_files._starts(time, wanted)
        return
    starts = np.unique(np.rint((np.arange(clips) + 0.5) / clips * room).astype(int))
    found, seconds = video_files._starts(time, wanted)
    np.testing.assert_array_equal(found, starts)
    assert seconds == pytest.approx(step * stride)
    chosen = video_files._chosen(time, found, wanted)
    np.testing.assert_array_equal(chosen, grid[starts[:, None] + stride * np.arange(frames)])


def test_videos_left_out_are_reported_in_the_order_of_the_list(folder, monkeypatch):
    """A video that turns out damaged only when it is decoded stands where the list has it."""
    decoded, nothing = video_files._decoded, ({}, video_files._Seen())
    monkeypatch.setattr(video_files, "_decoded", lambda p, *rest: nothing if p.name == "v0.mp4" else decoded(p, *rest))
    (folder / "list.csv").write_text("v0.mp4\nno.mp4\n" + "".join(f"v{i}.mp4\n" for i in range(1, 8)), encoding="utf-8")
    skipped = made(folder)["train"].metadata["skipped"]
    assert [s["path"] for s in skipped] == ["v0.mp4", "no.mp4"]
    assert skipped[0]["reason"].startswith("it is damaged")
