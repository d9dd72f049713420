"""A table compared with itself: units of rates, wrapped coordinates, a declared energy that does not fit."""

import logging

import numpy as np
import pandas as pd
import pytest

from tests.user_files import refused
from tests.worlds.oscillators import COLUMNS, ENERGY, HALVES, MASS, STEP, load, oscillator
from wm_pipelines.laws import laws_of
from wm_pipelines.spec import Spec


def said(caplog, level=logging.WARNING):
    of_table = [record for record in caplog.records if record.name == "wm_pipelines.worlds.table"]
    return [record.getMessage() for record in of_table if record.levelno == level]


def swinging(factor=1.0):
    """An angle in degrees and its rate, ``factor`` times the true one in rad/s."""
    frame = oscillator()
    return frame.assign(x=np.degrees(frame.x), p=factor * frame.p / MASS)


ANGLE = {
    "momenta": None,
    "coordinates": [{"column": "x", "unit": "deg"}],
    "velocities": [{"column": "p", "unit": "rad/s"}],
}


def test_a_rate_in_another_unit_is_found(tmp_path, caplog):
    columns = {**COLUMNS, **ANGLE}
    load(swinging(), tmp_path, columns=columns, masses=[1.0])
    assert said(caplog) == []
    load(swinging(180 / np.pi), tmp_path, columns=columns, masses=[1.0])
    assert said(caplog) == ["'mine.csv': slopes of 'x' are 0.0175 times 'p': its unit seems to be deg/s, not rad/s."]


def test_lengths_and_signs_too(tmp_path, caplog):
    columns = {**COLUMNS, "momenta": None, "velocities": [{"column": "p", "unit": "m/s"}]}
    frame = oscillator().assign(p=lambda f: 100 * f.p / MASS)
    load(frame, tmp_path, columns=columns, masses=[MASS])
    load(frame.assign(p=-frame.p / 100), tmp_path, columns=columns, masses=[MASS])
    load(frame.assign(p=np.random.default_rng(0).permutation(frame.p)), tmp_path, columns=columns, masses=[MASS])
    unit, sign, shuffled = (line for line in said(caplog) if "slopes" in line or "explains" in line)
    assert unit.endswith("slopes of 'x' are 0.01 times 'p': its unit seems to be cm/s, not m/s.")
    assert "slopes of 'x' are -1 times 'p': look at its unit and at the masses" in sign
    assert "'p' explains 0% of the steps of 'x': is it its rate, and do rows lie close enough together?" in shuffled


def test_a_declared_energy_that_moves_the_coordinates_otherwise_is_named(tmp_path, caplog):
    load(oscillator(), tmp_path, **ENERGY, splits=HALVES)
    assert said(caplog) == []
    load(oscillator(), tmp_path, **{**ENERGY, "masses": ["1 kg"]}, splits=HALVES)
    [line, *_] = said(caplog)
    assert line.startswith("'mine.csv': slopes of 'x' are 0.5 times dH/dp1 of the declared energy (which explains 100%")


def test_a_declared_energy_that_varies_without_a_trend_is_named(tmp_path, caplog):
    load(oscillator(rows=200), tmp_path, **{**ENERGY, "constants": {"k": "6 N/m"}}, splits=HALVES)
    [line] = said(caplog)
    assert "the declared energy varies by" in line
    assert line.endswith("within an episode, without a trend: look at the formula, its constants and the units.")


# ---------------------------------------------------------------- jumps


BOX = 6.0
PLANE = {
    "episode": "run",
    "time": {"column": "t", "unit": "ps"},
    "coordinates": [{"column": "x1", "unit": "angstrom"}, {"column": "y1", "unit": "angstrom"}],
    "velocities": [{"column": "vx1", "unit": "angstrom/ps"}, {"column": "vy1", "unit": "angstrom/ps"}],
}


def wrapped():
    """Free flight in a periodic box of 6 angstrom, positions written back into the box."""
    t, start, v = 0.05 * np.arange(200), np.array([5.7, 3.0]), np.array([1.0, 0.4])
    q = start + t[:, None] * v
    columns = {"run": 0, "t": t, "x1": q[:, 0] % BOX, "y1": q[:, 1] % BOX, "vx1": v[0], "vy1": v[1]}
    return pd.DataFrame(columns), q


def test_a_coordinate_written_back_into_its_box_is_refused_and_unwrapped_on_request(tmp_path):
    frame, q = wrapped()
    message = refused(load, frame, tmp_path, columns=PLANE, masses=[1.0, 1.0], splits=HALVES)
    assert message == (
        "'mine.csv': 'x1' jumps by -5.95 angstrom after row 6 of episode '0' while 'vx1' says +0.05: wrapped into a "
        "box? unwrap it, or declare `period: {x1: 6 angstrom, y1: 6 angstrom}`"
    )
    for period in ({"x1": 6.0, "y1": "0.6 nm"}, {"x1": "6 angstrom", "y1": "6e-10 m"}):
        found = load(frame, tmp_path, columns=PLANE, masses=[1.0, 1.0], splits=HALVES, period=period)
        states = np.concatenate([found[split]["states"][0] for split in HALVES])
        np.testing.assert_allclose(states[:, :2], 1e-10 * q, rtol=1e-9)
    assert "'y1' jumps" in refused(
        load, frame, tmp_path, columns=PLANE, masses=[1.0, 1.0], splits=HALVES, period={"x1": 6.0}
    )


@pytest.mark.parametrize(
    ("period", "message"),
    [
        ({"x2": 6.0}, "period: 'x2' is no coordinate; known here: x1, y1"),
        ({"x1": "6 ps"}, "period.x1: expected a length in angstrom, got 6 ps"),
        ({"x1": -6.0}, "period.x1: a length must be positive, got -6"),
    ],
)
def test_periods_that_cannot_be(tmp_path, period, message):
    assert message in refused(load, wrapped()[0], tmp_path, columns=PLANE, masses=[1.0, 1.0], period=period)


def test_an_undeclared_angle_that_turns_over_is_refused(tmp_path):
    t = 0.05 * np.arange(200)
    frame = pd.DataFrame({"t": t, "x": (np.degrees(3 * t) + 180) % 360 - 180, "p": 3.0})
    columns = {"time": COLUMNS["time"], **ANGLE}
    message = refused(load, frame, tmp_path, columns=columns, masses=[1.0], splits=HALVES)
    assert "wrapped into a box? unwrap it, or declare `angles: [0]` or `period: {x: 360 deg}`" in message
    assert load(frame, tmp_path, columns=columns, masses=[1.0], splits=HALVES, angles=[0])


@pytest.mark.parametrize("rows_per_period", [2, 3, 5, 50])
def test_coarse_rows_are_no_jumps(tmp_path, rows_per_period):
    k = np.arange(300)
    turn = 2 * np.pi / rows_per_period
    frame = pd.DataFrame({"t": STEP * k, "x": np.cos(turn * k), "v": -turn / STEP * np.sin(turn * k)})
    columns = {**COLUMNS, "episode": None, "momenta": None, "velocities": [{"column": "v", "unit": "m/s"}]}
    assert load(frame, tmp_path, columns=columns, masses=[1.0], splits=HALVES)


def test_collisions_are_no_jumps(tmp_path):
    t = 0.05 * np.arange(400)
    frame = pd.DataFrame({"t": t, "x": np.abs((t + 0.013) % 2 - 1), "v": -np.sign((t + 0.013) % 2 - 1) * -1.0})
    columns = {**COLUMNS, "episode": None, "momenta": None, "velocities": [{"column": "v", "unit": "m/s"}]}
    assert load(frame, tmp_path, columns=columns, masses=[1.0], splits=HALVES)


# ---------------------------------------------------------------- energy that is lost


def damped(gamma=0.3, rows=201):
    """q'' = -4 q - gamma q', m = 1: exact."""
    t, rng = 0.1 * np.arange(rows), np.random.default_rng(0)
    root = np.sqrt(4 - gamma**2 / 4)
    parts = []
    for run in range(10):
        a, phase = rng.uniform(0.5, 1.5), rng.uniform(0, 6)
        decay, turn = a * np.exp(-gamma * t / 2), root * t + phase
        x = decay * np.cos(turn)
        p = -gamma / 2 * x - root * decay * np.sin(turn)
        parts.append(pd.DataFrame({"run": run, "t": t, "x": x, "p": p}))
    return pd.concat(parts)


DECLARED = {"energy": "p1**2/(2*m1) + 2*q1**2", "masses": [1.0]}


def test_a_declared_energy_that_is_lost_is_said_and_not_called_conserved(tmp_path, caplog):
    lost = load(damped(), tmp_path, **DECLARED)["train"]
    [line] = said(caplog)
    assert line.startswith("'mine.csv': the declared energy loses 30")  # gamma, on average over a period
    assert "conserving it is no merit here" in line
    assert lost.spec.facts["conserved"] == []
    kept = load(damped(0.0), tmp_path, **DECLARED)["train"]
    assert kept.spec.facts["conserved"] == ["energy"]


def test_without_a_formula_the_loss_is_estimated(tmp_path, caplog):
    columns = {**COLUMNS, "momenta": None, "velocities": [{"column": "p", "unit": "m/s"}]}
    load(damped(0.05), tmp_path, columns=columns, masses=[1.0])
    [line] = said(caplog)
    assert line.startswith("'mine.csv': an energy estimated from the motion loses 5.0")


def test_momenta_alone_tell_no_energy(tmp_path, caplog):
    load(damped(), tmp_path)  # p may be any canonical momentum
    assert said(caplog) == []


# ---------------------------------------------------------------- pixels


def test_pixels_become_lengths_by_what_one_of_them_shows(tmp_path):
    """400 pixels per metre: 2.5 mm each."""
    frame = oscillator()
    pixels = frame.assign(x=400 * frame.x, p=400 * frame.p / MASS)
    plain = load(frame, tmp_path, **ENERGY)["test"]["states"]

    def columns(*units):
        q, v = ([{"column": name, **unit}] for name, unit in zip("xp", units, strict=True))
        return {"columns": {**COLUMNS, "momenta": None, "coordinates": q, "velocities": v}, **ENERGY}

    message = refused(load, pixels, tmp_path, **columns({"unit": "px"}, {"unit": "px/s"}))
    assert "unit 'px': a pixel has no length; give metres per pixel (`unit: 2.5 mm`, what one pixel shows)" in message
    for units in (
        ({"unit": "2.5 mm"}, {"unit": "2.5 mm/s"}),
        ({"unit": "mm", "scale": 2.5}, {"unit": "2.5e-3 m/s"}),
    ):
        found = load(pixels, tmp_path, **columns(*units))["test"]
        np.testing.assert_allclose(found["states"], plain, rtol=1e-12, atol=1e-14)
        again = laws_of(Spec.from_json(found.spec.to_json()))  # the scale is part of what the world is rebuilt from
        np.testing.assert_allclose(again.simulate(plain[:, 0], STEP, 5), plain[:, :6], atol=1e-9)
    wrong = columns({"unit": "2.5 mm", "scale": 2.0}, {"unit": "2.5 mm/s"})
    assert "the unit '2.5 mm' has a scale; remove `scale`" in refused(load, pixels, tmp_path, **wrong)
