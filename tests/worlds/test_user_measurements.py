"""Faults of measurements of fields: one line each."""

import gzip

import numpy as np
import pandas as pd
import pytest

from tests.user_files import refused, saved
from wm_pipelines.errors import validate
from wm_pipelines.worlds.heat_1d import Heat


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
        ("x;v;u\n0.5;0.5;1\n0.5;0.6;1\n", "has no column 't'; it has x, v, u (columns are separated by semicolons)"),
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
