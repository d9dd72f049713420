"""Text files of the field's instruments: read where their layout is plain, else one line that names it."""

import gzip
import logging

import numpy as np
import pandas as pd
import pytest

from tests.user_files import refused
from wm_pipelines.worlds.parts.table_dialects import find_dialect
from wm_pipelines.worlds.parts.table_files import read_columns

TIME = np.arange(6) / 30
NUMBERS = np.column_stack([TIME, np.cos(TIME), -np.sin(TIME)])


def lines(separator, form="{:.9f}", comma=False, numbers=NUMBERS):
    rows = [separator.join(form.format(x) for x in row) for row in numbers]
    return [row.replace(".", ",") for row in rows] if comma else rows


def write(path, *parts):
    path.write_text("\n".join(line for part in parts for line in ([part] if isinstance(part, str) else part)) + "\n")
    return path


TRACKER = ["t\ttheta\tomega", *lines("\t")]
PHYPHOX = ['"t";"theta";"omega"', *lines(";", "{:.9E}", comma=True)]
SPICE = ["t theta omega", *lines("   ")]
COMMENTED = ["# made by a lock-in", "% t theta omega", *lines(" ")]
COMMAS = ["# t, theta, omega", *lines(", ")]
HORIZONS = [
    "*" * 79,
    "Target body name: Earth-like (1)          {source: own integration}",
    "Output units    : KM-S",
    "*" * 79,
    "            t,            Calendar Date (TDB),   theta,   omega,",
    "*" * 79,
    "$$SOE",
    *(f"{t:.9f}, A.D. 2000-Jan-01 12:00:0{i}.0000,  {q:.15E}, {v:.15E}," for i, (t, q, v) in enumerate(NUMBERS)),
    "$$EOE",
    "*" * 79,
    "Coordinate system: none, 1 2 3",
]
LAYOUTS = {
    "tracker": (TRACKER, "columns are separated by tabs"),
    "phyphox": (PHYPHOX, "columns are separated by semicolons, numbers have decimal commas"),
    "spice": (SPICE, "columns are separated by blanks"),
    "commented": (COMMENTED, "columns are separated by blanks"),
    "commas": (COMMAS, "columns are separated by commas"),
    "horizons": (HORIZONS, "columns are separated by commas"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_field_are_read(tmp_path, layout, caplog):
    text, said = LAYOUTS[layout]
    with caplog.at_level(logging.INFO, "wm_pipelines"):
        found = read_columns(write(tmp_path / "m.txt", text), ["t", "theta", "omega"])
    np.testing.assert_allclose(found.to_numpy(float), NUMBERS, atol=1e-9)
    assert said in caplog.text


def test_packed_text_is_read_alike(tmp_path):
    (tmp_path / "m.txt.gz").write_bytes(gzip.compress(("\n".join(PHYPHOX) + "\n").encode()))
    found = read_columns(tmp_path / "m.txt.gz", ["omega", "t"])
    np.testing.assert_allclose(found.to_numpy(float), NUMBERS[:, [2, 0]], atol=1e-9)


def test_a_plain_table_is_read_as_ever(tmp_path, caplog):
    path = write(tmp_path / "m.csv", "t,theta,omega", lines(",", "{!r}"))
    with caplog.at_level(logging.INFO, "wm_pipelines"):
        found = read_columns(path, ["t", "omega"])
    pd.testing.assert_frame_equal(found, pd.read_csv(path)[["t", "omega"]])
    assert not caplog.text


def test_a_header_that_names_too_few_columns_is_completed_by_the_user(tmp_path):
    rows = [f"{k} {t:.4f} {q:.6f} {v:.6f}" for k in (0, 1) for t, q, v in NUMBERS]
    path = write(tmp_path / "lipson.txt", "% o v", rows)
    message = refused(read_columns, path, ["t", "o", "v"], "trial")
    assert message == (
        "'lipson.txt': columns are separated by blanks; its header names 2 (o, v), its lines have 4; name all of them, "
        "from left to right, with `header: […]`"
    )
    found = read_columns(path, ["t", "o", "v"], "trial", header=["trial", "t", "o", "v"])
    np.testing.assert_allclose(found[["t", "o", "v"]].to_numpy(), np.tile(NUMBERS, (2, 1)), atol=1e-4)
    assert found["trial"].tolist() == [0] * 6 + [1] * 6
    assert "`header` names 3 (t, o, v), its lines have 4" in refused(read_columns, path, ["t"], header=["t", "o", "v"])


def test_a_file_without_a_header_is_named_by_the_user(tmp_path):
    path = write(tmp_path / "bare.csv", lines(","))
    assert "it has no header, its lines have 3; name all of them" in refused(read_columns, path, ["t", "q"])
    found = read_columns(path, ["t", "q"], header=["t", "q", "v"])
    np.testing.assert_allclose(found.to_numpy(), NUMBERS[:, :2], atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRACKER, "has no column 'q'; it has t, theta, omega (columns are separated by tabs)"),
        (["q;q;t", *lines(";")], "has 2 columns 'q'; which is meant? rename the others"),
        (["words", "and more words"], "has no column 't'; it has words"),
        (["t;q;v", *lines(";")[:3], "0,1;0,2;0,3;0,4"], "Expected 3 fields in line 4, saw 4"),
    ],
)
def test_what_is_missing_is_named_with_the_layout(tmp_path, text, message):
    assert message in refused(read_columns, write(tmp_path / "m.txt", text), ["t", "q"])


def test_gaps_are_kept_where_they_are(tmp_path):
    rows = lines(";", "{:.3f}", comma=True)
    rows[2] = "0,067;;0,1"
    found = read_columns(write(tmp_path / "m.csv", "t;q;v", rows), ["t", "q"])
    assert np.flatnonzero(found["q"].isna()).tolist() == [2]
    assert len(found) == 6


@pytest.mark.parametrize("text", [[], ["one line"], ["1,5", "2,5"], ["a,b", "c,d"]])
def test_what_is_no_table_has_no_dialect(text):
    found = find_dialect(text)
    assert found is None or found.width == 2
