"""What users get wrong about a table: one line that names it."""

import numpy as np
import pandas as pd
import pytest

from tests.worlds.oscillators import COLUMNS, ENERGY, HALVES, config, load, oscillator, save
from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.making import WorldConfig, ingest


def broken(frame, row, column, value):
    frame = frame.astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: broken(f, 16, "x", np.nan), r"'mine.csv', column 'x', data row 17: .* got nothing \(NaN\)"),
        (lambda f: broken(f, 16, "p", "fast"), "column 'p', data row 17: expected a finite number, got 'fast'"),
        (lambda f: broken(f, 16, "x", "1,5"), "column 'x', data row 17: expected a finite number, got '1,5'"),
        (lambda f: broken(f, 16, "x", np.inf), "column 'x', data row 17: expected a finite number, got 'inf'"),
        (lambda f: broken(f, 3, "t", 0.1), "column 't', data row 4: time does not increase"),
        (lambda f: broken(f, 3, "run", np.nan), "column 'run', data row 4: the episode is missing"),
        (lambda f: pd.concat([f[:5], f[4:]]), "data row 6: a duplicate of row 5"),
        (lambda f: f.assign(x=True), "column 'x': expected numbers, got bool"),
        (lambda f: f.drop(columns="p"), "'mine.csv' has no column 'p'; it has run, t, x"),
        (lambda f: f[:0], "'mine.csv' has no rows"),
        (lambda f: f[:22], "episode '2' has 1 rows, at least 2 are needed"),
        (lambda f: f.drop(index=30), "time steps are not all equal: 0.2 s after row 9 of episode '2'"),
        (lambda f: f[f.run < 4], r"3 episodes are too few for split 'test' \(15%\)"),
    ],
)
def test_faults_of_the_table_name_column_and_row(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        load(change(oscillator(20)), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no table at .*mine\.csv'; set `path`"),
        (b"", "cannot read table .*No columns to parse"),
        (b"\xff\xfe\x00bad", "cannot read table"),
        (b"run,t,x,p\n1,0,1,2\n1,0.1,1,2,3,4,5\n", "cannot read table .*Expected 4 fields in line 3, saw 7"),
        (b"run,t,x,p\n1,0,1,2,7\n1,0.1,1,2,7\n", "cannot read table .*Length of header"),
        (b"run;time;x;p\n1;0;1;2\n1;0.1;1;2\n", "'mine.csv' has no column 't'; it has run, time, x, p .*by semicolons"),
        (b"run,t,x,p\n1,0,1,2\n1,0.1,1\n", "column 'p', data row 2: expected a finite number, got nothing"),
        (b"run,t,x,p\n1,0,1,2\n\n1,0.1,1,2\n", "data row 2"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, message):
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        ingest(config(path))
    assert "\n" not in str(caught.value)


def test_a_truncated_parquet_file_is_one_line_wherever_it_ends(tmp_path):
    whole = save(oscillator(), tmp_path / "t.parquet").read_bytes()
    for end in np.linspace(0, len(whole) - 1, 25).astype(int):
        (tmp_path / "cut.parquet").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"cannot read table .*cut\.parquet") as caught:
            ingest(config(tmp_path / "cut.parquet"))
        assert "\n" not in str(caught.value)


def columns_with(**changes):
    return {"columns": {**COLUMNS, **changes}}


VELOCITIES = {"momenta": None, "velocities": [{"column": "p", "unit": "m/s"}]}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            columns_with(time={"column": "t", "unit": "m"}),
            r"columns': column 't': expected a time in s, got m \(length\)",
        ),
        (
            columns_with(momenta=[{"column": "p", "unit": "m/s"}]),
            r"column 'p': expected a momentum in kg\*m/s, got m/s \(velocity\)",
        ),
        (
            columns_with(coordinates=[{"column": "x", "unit": "deg"}]),
            r"column 'p': expected an angular momentum in kg\*m\^2/s, got kg\*m/s \(momentum\)",
        ),
        (columns_with(momenta=[{"column": "p", "unit": "kgg"}]), "momenta.0.unit': unknown unit 'kgg'"),
        (columns_with(momenta=[{"column": "p"}]), "momenta.0.unit': missing"),
        (columns_with(momenta=None), "give either momenta or velocities"),
        (columns_with(velocities=VELOCITIES["velocities"]), "give either momenta or velocities"),
        (columns_with(momenta=COLUMNS["momenta"] * 2), "1 coordinates but 2 momenta"),
        (columns_with(momenta=[{"column": "x", "unit": "kg*m/s"}]), "column 'x' is used twice"),
        (columns_with(**VELOCITIES), r"masses: expected 1 \(one per coordinate\), got 0"),
        ({**columns_with(**VELOCITIES), "masses": ["2 s"]}, r"masses: '2 s' \(time\) cannot be the mass of 'x'"),
        ({**columns_with(**VELOCITIES), "masses": ["2 kg*m^2"]}, r"\(moment of inertia\) cannot be the mass of 'x'"),
        ({**columns_with(**VELOCITIES), "masses": [-1]}, "masses.0: a mass must be positive, got -1"),
        ({**columns_with(**VELOCITIES), "masses": ["0 kg"]}, "masses.0: a mass must be positive, got 0"),
        ({"energy": "p1**2/(2*m1) + U"}, "unknown name 'm1'; known: q1, p1, pi"),
        ({"energy": "__import__('os')"}, "is not allowed"),
        ({"energy": ""}, "formula '': not a formula"),
        ({**ENERGY, "constants": {"k": "3 quux"}}, "constants.k.*unknown unit 'quux'"),
        ({**ENERGY, "constants": {"q1": 3}}, "constants.q1: this name is taken"),
        ({**ENERGY, "constants": {"sin": 3}}, "constants.sin: this name is taken"),
        ({**ENERGY, "constants": {"k k": 3}}, "constants.k k: this name is taken or not a name"),
        ({**ENERGY, "energy": "p1**2 + log(q1 - 100)"}, "not finite at data row 1 of 'mine.csv'"),
        ({**ENERGY, "energy": "p1**2*(1 + q1**2)", "structure": ["separable"]}, "is not separable; remove 'separable'"),
        ({**ENERGY, "energy": "p1**2 + q1", "structure": ["even"]}, "is not even; remove 'even'"),
        ({"structure": ["pairwise"]}, "structure 'pairwise' needs particles and space"),
        ({"structure": ["odd"]}, "structure.0': input should be 'separable', 'even' or 'pairwise'"),
        ({"particles": 2}, "particles and space belong together"),
        ({"particles": 2, "space": 1}, "2 particles in 1 dimensions need 2 coordinates, columns lists 1"),
        ({"particles": 0, "space": 1}, "particles': input should be greater than or equal to 1, got 0"),
        ({"angles": [1]}, r"angles \[1\]: coordinates are counted from 0 to 0"),
        ({"angles": [0]}, r"column 'x': expected an angle in rad, got m \(length\)"),
        ({"resample": "0.1 m"}, "resample': expected a time in s, got '0.1 m'"),
        ({"resample": "1 h"}, "`resample: 3600` is longer than episode '1'"),
        ({"steps": 0}, "steps': input should be greater"),
        ({"steps": 500}, "no episode of split 'train' has more than 500 rows"),
        ({"splits": {"test": 1.0}}, "splits need at least 'train'"),
        ({"splits": {"train": 1.0}}, "splits: no split to judge on; give e.g. test: 0.3"),
        ({"splits": {"train": 0.5, "../../evil": 0.5}}, r"splits: names become file names.* got '\.\./\.\./evil'"),
        ({"splits": {"train": 0.99, "test": 0.01}}, r"10 episodes are too few for split 'test' \(1%\)"),
        ({"splits": {"train": 0.8, "test": 0.8}}, "fractions add up to 1.6"),
        ({"splits": {"train": [1], "test": 0.5}}, "splits: give fractions between 0 and 1, or non-empty lists"),
        ({"splits": {"train": [1], "test": []}}, "splits: give fractions between 0 and 1, or non-empty lists"),
        ({"splits": {"train": [1, 2], "test": [2]}}, "splits: episode '2' is named twice"),
        ({"splits": {"train": [1], "test": ["99"]}}, "'mine.csv' has no episode '99', which `splits` names"),
        ({"colum": 1}, "unknown parameter 'mine.parameters.colum'"),
    ],
)
def test_parameters_that_cannot_be(tmp_path, parameters, message):
    with pytest.raises(UserError, match=message) as caught:
        load(oscillator(), tmp_path, **parameters)
    assert "\n" not in str(caught.value)


def test_what_a_table_brings_along_is_not_set_beside_it(tmp_path):
    path = save(oscillator(), tmp_path / "t.csv")
    made = config(path)
    splits = {split: {"episodes": 1, "steps": 1} for split in HALVES}
    for key, value in {"step": 0.1, "noise": 0.0, "splits": splits}.items():
        changed = validate(
            WorldConfig, {"world": "table", "parameters": made.parameters, "step": 1.0, key: value}, "mine"
        )
        with pytest.raises(UserError, match=r"'mine.*': world 'table' brings its own episodes; remove it"):
            ingest(changed, "mine")
