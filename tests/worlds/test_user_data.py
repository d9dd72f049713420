"""Faults of the user's own files: each is one line that says what, where, what to do; nothing is silently misread."""

import gzip
import http.client
import lzma
import os
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.heat_1d import Heat
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.mass_spring import MassSpring
from wm_pipelines.worlds.parts import idx, trajectories, video_files
from wm_pipelines.worlds.parts.idx import FILES, read_idx
from wm_pipelines.worlds.parts.paper_files import read_paper_files
from wm_pipelines.worlds.parts.trajectories import (
    Columns,
    check_resampling,
    read_columns,
    read_trajectories,
    regular_step,
)
from wm_pipelines.worlds.parts.video_files import (
    Cut,
    Listed,
    UnusableVideoError,
    label_numbers,
    plan_clips,
    read_clips,
    read_list,
)

# ---------------------------------------------------------------- tables

COLUMNS = {
    "episode": "run",
    "time": {"column": "t", "unit": "s"},
    "coordinates": [{"column": "x", "unit": "m"}],
    "momenta": [{"column": "p", "unit": "kg*m/s"}],
}
STEP, ROWS, EPISODES = 0.1, 5, 6


def table():
    time = STEP * np.arange(ROWS * EPISODES)
    return pd.DataFrame(
        {
            "run": np.repeat(np.arange(EPISODES), ROWS),
            "t": np.tile(time[:ROWS], EPISODES),
            "x": np.cos(time),
            "p": -np.sin(time),
        }
    )


def load(path, **parameters):
    parameters = {"path": str(path), "columns": COLUMNS, "splits": {"train": 0.5, "test": 0.5}, **parameters}
    return ingest(validate(WorldConfig, {"world": "table", "parameters": parameters}, "mine"), "mine")


def saved(folder, frame, name="mine.parquet"):
    path = folder / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    return path


def refused(call, *arguments, **keywords):
    """The message of the refusal, one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("arrow", [False, True])
@pytest.mark.parametrize("declared", ["s", "ms"])
def test_durations_are_seconds_whatever_their_unit(tmp_path, unit, arrow, declared):
    frame, per_second = table(), {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    counts = np.rint(10 * frame.t * per_second).astype(np.int64)  # ten times the step: whole seconds
    kind = pd.ArrowDtype(pa.duration(unit)) if arrow else f"timedelta64[{unit}]"
    columns = {**COLUMNS, "time": {"column": "t", "unit": declared}}
    timed, plain = (
        load(saved(tmp_path, frame.assign(t=t), name), columns=c)["train"]
        for t, name, c in [
            (
                pd.array(counts, dtype=pd.ArrowDtype(pa.int64())).astype(kind) if arrow else counts.astype(kind),
                "d.parquet",
                columns,
            ),
            (10 * frame.t, "n.parquet", COLUMNS),
        ]
    )
    assert timed.spec.step == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(timed["times"], plain["times"], rtol=1e-12)


def test_durations_elsewhere_are_refused(tmp_path):
    frame = table()
    x = saved(tmp_path, frame.assign(x=pd.to_timedelta(frame.x, unit="s")))
    assert "'mine.parquet', column 'x': expected numbers, got timedelta64[" in refused(load, x)
    t = saved(tmp_path, frame.assign(t=pd.to_timedelta(frame.t, unit="s")))
    ones = {
        "time": {"column": "t", "unit": "1"},
        "coordinates": [{"column": "x", "unit": "1"}],
        "momenta": [{"column": "p", "unit": "1"}],
    }
    message = refused(load, t, columns={**COLUMNS, **ones})
    assert message == "'mine.parquet', column 't': the file holds durations, no plain numbers; declare `unit: s`"
    missing = saved(tmp_path, frame.assign(t=pd.to_timedelta(frame.t, unit="s").where(frame.index != 3)))
    assert "column 't', data row 4: expected a finite number, got nothing (NaN)" in refused(load, missing)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["run", "t", "x", "p"])
def test_a_declared_column_that_is_there_twice_is_refused(tmp_path, kind, column):
    frame = table()
    names, path = [*frame.columns, column], tmp_path / f"mine.{kind}"
    if kind == "csv":
        doubled = pd.concat([frame, frame[column]], axis=1)
        doubled.to_csv(path, index=False)
    else:
        pq.write_table(pa.table([pa.array(frame[name]) for name in names], names=names), path)
    message = refused(load, path)
    assert message == f"'{path.name}' has 2 columns '{column}'; which is meant? rename the others"


def test_the_header_is_read_as_it_is_written(tmp_path):
    frame = pd.concat([table(), table()[["t", "t"]].set_axis(["note", "note"], axis=1)], axis=1)
    plain = load(saved(tmp_path, table(), "plain.csv"))["train"].content_hash
    assert load(saved(tmp_path, frame, "mine.csv"))["train"].content_hash == plain  # nobody asks for `note`
    columns = {**COLUMNS, "coordinates": [{"column": "note.1", "unit": "m"}]}  # pandas' invention
    assert refused(load, tmp_path / "mine.csv", columns=columns).startswith("'mine.csv' has no column 'note.1'; it has")
    with_bom = tmp_path / "bom.csv"
    with_bom.write_text(table().to_csv(index=False), encoding="utf-8-sig")
    assert load(with_bom)["train"].content_hash == plain


@settings(derandomize=True, deadline=None, max_examples=30)
@given(extra=st.lists(st.sampled_from(["t", "x", "v", "note"]), max_size=4), order=st.randoms(use_true_random=False))
def test_a_column_is_read_only_where_its_name_is_unique(tmp_path_factory, extra, order):
    names = ["t", "x", *extra]
    order.shuffle(names)
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text(",".join(names) + "\n" + ",".join(str(i) for i in range(len(names))) + "\n", encoding="utf-8")
    if names.count("t") > 1 or names.count("x") > 1:
        assert "columns '" in refused(read_columns, path, ["t", "x"])
    else:
        row = read_columns(path, ["t", "x"]).iloc[0]
        assert row.tolist() == [names.index("t"), names.index("x")]


def test_two_spellings_of_one_number_are_no_two_episodes_and_not_one_either(tmp_path):
    frame = table()
    spelled = frame.assign(run=[f"{run:02d}" for run in frame.run])
    assert load(saved(tmp_path, spelled, "m.csv"), splits={"train": [1, 2], "test": [3]})
    spelled.loc[ROWS : ROWS + 1, "run"] = "1"
    message = refused(load, saved(tmp_path, spelled, "mine.csv"))
    assert message == (
        "'mine.csv', column 'run': '1' and '01' are one number; are they one episode? "
        "write them alike, or give them names"
    )
    named = frame.assign(run=[("1", "01", "a")[run % 3] for run in frame.run]).sort_values("run", kind="stable")
    named["t"] = STEP * named.groupby("run").cumcount()
    found = load(saved(tmp_path, named, "names.csv"), splits={"train": ["1", "01"], "test": ["a"]})
    assert found["train"].metadata["episodes"] == ["1", "01"]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(numbers=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5, unique=True))
def test_every_different_number_is_an_episode_of_its_own(tmp_path_factory, numbers):
    frame = pd.concat([table()[:ROWS].assign(run=n) for n in numbers])
    path = saved(tmp_path_factory.mktemp("t"), frame, "t.csv")
    assert [t.name for t in read_trajectories(path, Columns(**COLUMNS))] == [str(n) for n in numbers]


def list_typed(frame):
    return frame.assign(x=[[x] for x in frame.x])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (list_typed, "column 'x', data row 1: expected a finite number, got a list of numbers; give plain numbers"),
        (
            lambda f: f.assign(x=[{"a": x} for x in f.x]),
            "column 'x', data row 1: expected a finite number, got a structure",
        ),
        (lambda f: f.assign(run=[[r] for r in f.run]), "column 'run': expected a name or a number per row, got lists"),
        (
            lambda f: f.assign(x=[True, None] * 15),
            "column 'x', data row 1: expected a finite number, got a truth value",
        ),
        (
            lambda f: f.assign(x=[timedelta(seconds=1)] * 30),
            "column 'x': expected numbers, got timedelta64[us] (durations)",
        ),
        (lambda f: f.assign(x=pd.Timestamp("2020-01-01")), "column 'x': expected numbers, got datetime64["),
        (
            lambda f: f.assign(x=1e101),
            "column 'x', data row 1: 1e+101 m is beyond 1e+100 in SI units; mend the row or the unit",
        ),
        (
            lambda f: f.assign(t=f.t * 1e-299),
            "a time step of 1e-300 s is no physical time; mend the time column or its unit",
        ),
    ],
)
def test_what_a_parquet_column_cannot_hold(tmp_path, change, message):
    assert message in refused(load, saved(tmp_path, change(table())))


def test_an_overflow_by_the_unit_is_named(tmp_path):
    columns = {**COLUMNS, "coordinates": [{"column": "x", "unit": "km"}]}
    path = saved(tmp_path, table().assign(x=1.7e308), "mine.csv")
    assert "column 'x', data row 1: 1.7e+308 km is beyond 1e+100 in SI units" in refused(load, path, columns=columns)


def test_columns_that_once_were_an_index_and_dictionaries_are_read(tmp_path):
    plain = load(saved(tmp_path, table(), "plain.parquet"))["train"].content_hash
    table().set_index("run").to_parquet(tmp_path / "index.parquet")
    assert load(tmp_path / "index.parquet")["train"].content_hash == plain
    saved(tmp_path, table().astype({"x": "category"}), "dictionary.parquet")
    assert load(tmp_path / "dictionary.parquet")["train"].content_hash == plain


def packed(folder, kind):
    content, path = table().to_csv(index=False).encode(), folder / f"mine.csv.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mine.csv", content)
    else:
        path.write_bytes({"gz": gzip, "xz": lzma}[kind].compress(content))
    return path


@pytest.mark.parametrize("kind", ["gz", "xz", "zip"])
def test_a_packed_table_is_read_whole_or_not_at_all(tmp_path, kind):
    path = packed(tmp_path, kind)
    whole, found = path.read_bytes(), load(path)["train"].content_hash
    assert found == load(saved(tmp_path, table(), "plain.csv"))["train"].content_hash
    for end in (0, 1, 7, 20, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:end])
        message = refused(load, path)
        assert message.startswith(f"cannot read table '{path}': ")
        assert message.endswith("is it a whole CSV or Parquet file?")
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 20] = bytes(20)
    path.write_bytes(damaged)
    assert "mine.csv" in refused(load, path)


@pytest.mark.parametrize("error", [MemoryError(), pa.ArrowMemoryError("malloc of size 8589934592 failed")])
def test_too_little_memory_is_no_damage_of_a_table(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(trajectories, "_parquet", full)
    message = refused(load, saved(tmp_path, table()))
    assert message.endswith("mine.parquet' does not fit into memory; split it, or leave columns out")


def test_a_grid_that_would_fill_the_memory_is_refused_before_it_is_made(tmp_path):
    message = refused(load, saved(tmp_path, table(), "mine.csv"), resample=1e-9)
    assert message == (
        "'mine.csv': `resample: 1e-09` makes 4e+08 rows of an episode, 2.4e+09 in all (53.6 GiB), of 30 rows in "
        "the table; use at least 5e-08 s"
    )
    assert load(tmp_path / "mine.csv", resample=0.001)["train"]["states"].shape == (3, 401, 2)
    [first, *_] = read_trajectories(tmp_path / "mine.csv", Columns(**COLUMNS))
    check_resampling("mine.csv", [first], 1e-8)
    assert regular_step("mine.csv", [first]) == pytest.approx(STEP)


@pytest.mark.training
def test_files_are_utf_8_whatever_the_locale(tmp_path):
    columns = {**COLUMNS, "coordinates": [{"column": "ä²", "unit": "m"}]}
    text = table().rename(columns={"x": "ä²"}).to_csv(index=False)
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    (tmp_path / "list.csv").write_text("ä².mp4,süß\n", encoding="utf-8")
    code = (
        "import sys, locale; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "assert locale.getpreferredencoding(False).lower() not in ('utf-8', 'utf8')\n"
        "from wm_pipelines.worlds.parts.trajectories import Columns, read_trajectories\n"
        "from wm_pipelines.worlds.parts.video_files import read_list\n"
        f"assert len(read_trajectories(folder / 'mine.csv', Columns(**{columns!r}))) == {EPISODES}\n"
        "assert ascii(read_list(folder / 'list.csv', folder)[0].label) == ascii('s\\xfc\\xdf')"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = code.encode("ascii", "backslashreplace").decode("ascii")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env={**os.environ, **ascii_only})


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (
            "5",
            "energy: '5' has neither q1, q2, … nor p1, p2, … in it: no coordinate would move; complete it or set null",
        ),
        ("k", "energy: 'k' has neither q1"),
        ("k*q1**2", "energy: 'k*q1**2' has no momentum p1, p2, … in it"),
        ("p1**2/0+q1", "formula 'p1**2/0+q1': divides by zero"),
        ("p1**2/(k - k)", "divides by zero"),
        ("0*p1 + q1**2", "formula '0*p1 + q1**2' does not depend on the momenta in 'mine.csv'"),
        ("p1 - p1", "does not depend on the momenta"),
        ("p1**2 + log(q1 - 100)", "is not finite at data row 1 of 'mine.csv'"),
    ],
)
def test_what_is_no_energy_is_refused(tmp_path, energy, message):
    found = refused(load, saved(tmp_path, table(), "mine.csv"), energy=energy, constants={"k": 2})
    assert message in found


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"constants": {"k": float("inf")}}, "constants.k"),
        ({"constants": {"k": "1e300 km"}}, "constants.k': 1e+300 km is outside 1e-100 to 1e+100 in SI units"),
        ({"masses": [1e-300]}, "masses.0': 1e-300 is outside 1e-100 to 1e+100 in SI units"),
        ({"resample": 1e-300}, "resample"),
        ({"resample": float("nan")}, "resample"),
        (
            {"columns": {**COLUMNS, "coordinates": [{"column": "x", "unit": "km**200"}]}},
            "unit 'km**200' is inf SI units",
        ),
        ({"splits": {"train": float("nan"), "test": 0.5}}, "splits"),
    ],
)
def test_numbers_beyond_all_physics_are_refused(tmp_path, parameters, message):
    assert message in refused(load, saved(tmp_path, table(), "mine.csv"), **parameters)


# ---------------------------------------------------------------- measurements of fields


def measured(path, **settings):
    rod = Heat(Heat.Parameters.model_validate({"measurements": {"table": str(path), **settings}}))
    return rod.own_episodes(0)["train"]


def test_measurements_at_durations_are_at_seconds(tmp_path):
    frame = pd.DataFrame({"x": [0.25, 0.5], "t": [0.1, 0.2], "u": [1.0, 2.0]})
    plain = measured(saved(tmp_path, frame, "n.parquet"))["measurement_points"]
    timed = saved(tmp_path, frame.assign(t=(1e3 * frame.t).astype("timedelta64[ms]")), "d.parquet")
    np.testing.assert_allclose(measured(timed)["measurement_points"], plain, rtol=1e-12)
    wrong = saved(tmp_path, frame.assign(u=frame.u.astype("timedelta64[s]")), "w.parquet")
    assert "column 'u': expected numbers, got timedelta64[s] (durations)" in refused(measured, wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,t,u,u\n0.5,0.5,1,2\n", "measurements.table': 'probe.csv' has 2 columns 'u'; which is meant?"),
        ("x,t,u\n0.5,0.5,1,2\n", "cannot read table"),
        ("x,t,u\n0.5,0.5,1\n\n0.5,0.5,warm\n", "is not a number in row 2"),
        ("x,t,u\n0.5,0.5,True\n", "column 'u': expected numbers, got bool"),
        ("x,t,u\n0.5,0.5,1e200\n", "u = 1e+200 in row 1 is beyond 1e+100"),
        ("x;t;u\n0.5;0.5;1\n", "'probe.csv' has no column 'x'; it has x;t;u"),
    ],
)
def test_faults_of_measurements_are_one_line(tmp_path, text, message):
    (tmp_path / "probe.csv").write_text(text, encoding="utf-8")
    assert message in refused(measured, tmp_path / "probe.csv")


def test_list_typed_and_packed_measurements_are_one_line(tmp_path):
    frame = pd.DataFrame({"x": [0.5], "t": [0.5], "u": [[1.0]]})
    assert "got a list of numbers" in refused(measured, saved(tmp_path, frame))
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"x,t,u\n0.5,0.5,1\n")[:-10])
    assert "cannot read table" in refused(measured, tmp_path / "p.csv.gz")


@pytest.mark.parametrize("wrong", [{"count": 10**12}, {"noise": 1e300}, {"region": {"x": [0.0, float("inf")]}}])
def test_measurements_beyond_all_bounds_are_refused(wrong):
    [name] = wrong
    assert name in refused(validate, Heat.Parameters, {"measurements": {"count": 5, **wrong}}, "rod")


# ---------------------------------------------------------------- videos


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
    decoded = video_files._decoded
    monkeypatch.setattr(video_files, "_decoded", lambda p, *rest: {} if p.name == "v0.mp4" else decoded(p, *rest))
    (folder / "list.csv").write_text("v0.mp4\nno.mp4\n" + "".join(f"v{i}.mp4\n" for i in range(1, 8)), encoding="utf-8")
    skipped = made(folder)["train"].metadata["skipped"]
    assert [s["path"] for s in skipped] == ["v0.mp4", "no.mp4"]
    assert skipped[0]["reason"].startswith("it is damaged")


# ---------------------------------------------------------------- published files


def test_no_memory_and_no_permission_are_no_damage_of_idx_files(tmp_path, monkeypatch):
    name = FILES["train"]["labels"]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07"))
    assert read_idx(str(tmp_path), name).tolist() == [7]

    def full(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(idx.gzip, "decompress", full)
        assert "does not fit into memory when unpacked; is it the right file?" in refused(read_idx, str(tmp_path), name)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "ubyte.gz': Permission denied; check its permissions" in refused(read_idx, str(tmp_path), name)


def test_a_download_that_breaks_off_is_one_line(monkeypatch):
    def broken(*_, **__):
        raise http.client.IncompleteRead(b"", 10)

    monkeypatch.setattr(idx.urllib.request, "urlopen", broken)
    message = refused(read_idx, "http://nowhere", FILES["train"]["labels"])
    assert message.startswith("cannot download 'http://nowhere/")
    assert message.endswith("check the URL and the network")


def test_faults_of_the_papers_files_are_one_line(tmp_path):
    world = MassSpring(MassSpring.Parameters())
    rng, path = np.random.default_rng(0), tmp_path / "eval_spring.npz"
    np.savez(tmp_path / "spring_seed0.npz", **{n: rng.normal(size=(60, 2)) for n in ("x", "dx", "test_x", "test_dx")})
    good = {"t": np.linspace(0, 1, 3), "ref_B": np.zeros((2, 3, 2)), "ref_C": np.zeros((2, 3, 2))}
    np.savez(path, **good)
    assert set(read_paper_files(tmp_path, world)) == {"train", "validation", "B", "C"}
    path.write_bytes(b"")
    assert "eval_spring.npz' cannot be read (" in refused(read_paper_files, tmp_path, world)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "one array, no .npz" in refused(read_paper_files, tmp_path, world)
    np.savez(path, **good | {"t": np.array([0.0, np.nan, 1.0])})
    assert "eval_spring.npz', array 't': not all numbers are finite" in refused(read_paper_files, tmp_path, world)
    np.savez(path, **good | {"ref_B": np.zeros((2, 5, 2))})
    assert "files of 'spring' in" in refused(read_paper_files, tmp_path, world)
