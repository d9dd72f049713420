"""Faults of the user's own tables: each is one line that says what, where, what to do; nothing is silently misread."""

import gzip
import lzma
import os
import subprocess
import sys
import zipfile
from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.user_files import refused, saved
from wm_pipelines.errors import validate
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts import table_files
from wm_pipelines.worlds.parts.table_files import read_columns
from wm_pipelines.worlds.parts.trajectories import Columns, check_resampling, read_trajectories, regular_step

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

    monkeypatch.setattr(table_files, "_parquet", full)
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
        "from wm_pipelines.worlds.parts.video_lists import read_list\n"
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


def test_a_table_in_which_nothing_moves_is_refused(tmp_path):
    assert "nothing moves" in refused(load, saved(tmp_path, table().assign(x=1.0, p=0.0)))


def test_numbers_beyond_the_square_root_of_the_largest_are_compared(tmp_path):
    frame = table()
    scaled = load(saved(tmp_path, frame.assign(x=1e90 * frame.x, p=1e90 * frame.p)))
    assert np.isfinite(scaled["train"]["states"]).all()


@pytest.mark.parametrize(("unit", "doubted"), [("rad", True), ("deg", False)])
def test_an_angle_that_leaps_is_asked_for_its_unit(tmp_path, caplog, unit, doubted):
    time = np.arange(400) / 30
    frame = pd.DataFrame({"run": np.repeat(np.arange(4), 100), "t": np.tile(time[:100], 4)})
    frame["angle"] = 80 * np.cos(2 * np.pi * time)  # degrees
    columns = {
        "episode": "run",
        "time": {"column": "t", "unit": "s"},
        "coordinates": [{"column": "angle", "unit": unit}],
        "velocities": "estimate",
    }
    load(saved(tmp_path, frame), columns=columns, angles=[0])
    said = [r.getMessage() for r in caplog.records if "more than half a turn" in r.getMessage()]
    assert bool(said) == doubted
    assert all("is its unit 'rad'?" in line for line in said)
