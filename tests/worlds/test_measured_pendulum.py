"""A measured pendulum: an angle at 30 Hz, half a degree of noise, Q = 100, three decimals, no velocity."""

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.user_files import refused
from tests.worlds.oscillators import HALVES, load, oscillator
from tests.worlds.pendulum import COLUMNS, OMEGA, RATE, energy, measured, motion
from wm_pipelines.errors import validate
from wm_pipelines.metrics.horizon import horizon, relative_error_by_step
from wm_pipelines.pipelines.judging import about
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.energy_balance import energy_loss
from wm_pipelines.worlds.parts.trajectories import Columns, last_digit, read_trajectories, regular_step

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clean():
    return motion()


def own(frame, tmp_path, **parameters):
    return load(frame, tmp_path, columns=COLUMNS, **parameters)


def logged(caplog, level, by="wm_pipelines.worlds.table"):
    return [record.getMessage() for record in caplog.records if (record.levelno, record.name) == (level, by)]


def true_loss(z):
    return energy_loss([np.arange(z.shape[1]) / RATE] * len(z), list(energy(z)), 0.0)


# ---------------------------------------------------------------- states and rates


def test_states_and_derivatives_are_those_of_the_motion(tmp_path, clean):
    found = own(measured(clean), tmp_path)
    left_out = found["train"].metadata["rows_left_out_at_each_end"]
    assert found["train"].metadata["smoothed"]["angle"]["unit"] == "deg"
    assert found["train"].metadata["smoothed"]["angle"]["noise"] == pytest.approx(0.5, rel=0.05)
    assert 1 <= left_out <= 10
    for split in ("train", "validation", "test"):
        runs = [int(name) - 1 for name in found[split].metadata["episodes"]]
        truth = clean[runs, left_out:-left_out]
        slopes = np.stack([truth[..., 1], -(OMEGA**2) * np.sin(truth[..., 0]) - OMEGA / 100 * truth[..., 1]], -1)
        assert found[split].spec.step == pytest.approx(1 / RATE, rel=1e-4)
        for view, true, bounds in (("states", truth, (0.01, 0.02)), ("derivatives", slopes, (0.02, 0.06))):
            error = np.std(found[split][view] - true, axis=(0, 1)) / np.std(true, axis=(0, 1))
            assert (error < bounds).all(), (split, view, error)


def test_without_noise_rates_are_exact_and_nothing_is_lost(tmp_path, caplog):
    z = motion(quality=np.inf)
    with caplog.at_level(logging.INFO, "wm_pipelines"):
        found = own(measured(z, noise=0.0, decimals=9), tmp_path, splits=HALVES, masses=["0.02 kg*m^2"])
    assert logged(caplog, logging.WARNING) == []
    assert "an energy estimated from the motion is kept over an episode" in caplog.text
    left_out = found["test"].metadata["rows_left_out_at_each_end"]
    runs = [int(name) - 1 for name in found["test"].metadata["episodes"]]
    truth = z[runs, left_out:-left_out] * [1.0, 0.02]
    np.testing.assert_allclose(found["test"]["states"], truth, atol=1e-3 * np.abs(truth[..., 1]).max())


def test_noise_is_learned_from_the_training_split_alone(tmp_path, clean):
    frame = measured(clean)
    splits = {"train": list(range(1, 9)), "test": [9, 10, 11, 12]}
    one = own(frame, tmp_path, splits=splits)
    louder = frame.assign(angle=frame.angle + np.where(frame.run > 8, 3.0 * np.sin(40 * frame.t**2), 0.0))
    other = own(louder, tmp_path, splits=splits)
    assert one["train"].content_hash == other["train"].content_hash
    assert one["test"].metadata["smoothed"] == other["test"].metadata["smoothed"]


def test_one_recording_is_split_by_time(tmp_path, clean):
    found = own(measured(clean[-1:], decimals=4), tmp_path)
    assert found["test"].metadata["split_by"] == "time"
    assert found["train"]["derivatives"].shape == found["train"]["states"].shape


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize("quality", [100.0, 300.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_of_energy_is_reported_within_a_tenth(tmp_path, caplog, quality, seed):
    z = motion(quality)
    with caplog.at_level(logging.INFO, "wm_pipelines"):
        own(measured(z, seed=seed), tmp_path)
    [line] = logged(caplog, logging.WARNING)
    assert line.startswith("'mine.csv': an energy estimated from the motion loses ")
    assert "models that conserve an energy cannot follow it" in line
    percent = float(line.split("loses ")[1].split("%")[0])
    assert percent / 100 == pytest.approx(true_loss(z).rate, rel=0.1)
    assert percent / 100 == pytest.approx(OMEGA / quality, rel=0.12)  # the exponent of a small swing's energy
    noise, masses = logged(caplog, logging.INFO)[:2]
    assert " deg on 'angle' is taken out by a smoothing spline" in noise
    assert float(noise.split("deviation) of ")[1].split()[0]) == pytest.approx(0.5, rel=0.05)
    assert "velocities are its slopes" in noise
    assert "no masses are given: momenta are velocities" in masses


def test_a_declared_energy_takes_part(tmp_path, clean, caplog):
    formula = {"energy": "p1**2/(2*m1) + m1*w2*(1 - cos(q1))", "constants": {"w2": f"{float(OMEGA**2)!r} 1/s^2"}}
    found = own(measured(clean), tmp_path, masses=["0.02 kg*m^2"], **formula)
    [line] = logged(caplog, logging.WARNING)
    assert "the declared energy loses" in line
    assert " W (" in line
    assert found["train"].spec.facts["conserved"] == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"smoothing": "never"}, "smoothing: velocities are estimated by smoothing; set auto, or give velocities"),
        ({"masses": ["2 kg"]}, "'2 kg' (mass) cannot be the mass of 'angle'; a length takes kg, an angle kg*m^2"),
        ({"particles": 1, "space": 1}, "masses: expected 1 (one per particle), got 0"),
    ],
)
def test_what_estimated_velocities_cannot_be_with(tmp_path, clean, parameters, message):
    assert message in refused(own, measured(clean[:4, :50]), tmp_path, **parameters)


def test_too_few_rows_are_refused(tmp_path, clean):
    assert "episode '1' has 11 rows, at least 12 are needed" in refused(own, measured(clean[:, :11]), tmp_path)


# ---------------------------------------------------------------- the time grid


RATES_AND_DECIMALS = [(r, n) for r in (24, 29.97, 30, 59.94, 240) for n in (2, 3, 4) if r < 10**n]


@pytest.mark.parametrize(("rate", "decimals"), RATES_AND_DECIMALS)
def test_rounded_times_lie_on_a_regular_grid(tmp_path, decimals, rate):
    time = np.arange(600) / rate
    frame = pd.DataFrame({"run": 0, "t": time.round(decimals), "angle": np.cos(4 * time)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = read_trajectories(tmp_path / "t.csv", Columns(**{**COLUMNS}))
    assert table[0].digit == pytest.approx(10.0**-decimals)
    assert regular_step("t.csv", table) == pytest.approx(1 / rate, rel=10.0**-decimals * rate / 500)


def test_times_that_their_digits_do_not_tell_apart_are_refused(tmp_path):
    time = np.arange(600) / 240
    frame = pd.DataFrame({"run": 0, "t": time.round(2), "angle": np.cos(4 * time)})
    assert "data row 2: time does not increase (0 s to 0 s)" in refused(own, frame, tmp_path)


def test_a_frame_that_is_missing_or_late_is_not_rounding(tmp_path, clean):
    frame = measured(clean[:2])
    late = frame.t.where((frame.index != 300) | (frame.run != 1), frame.t + 0.002)
    assert "time steps are not all equal" in refused(own, frame.assign(t=late), tmp_path)
    missing = frame[(frame.index != 300) | (frame.run != 1)]
    assert "0.066 s after row 300 of episode '1', usually 0.033 s" in refused(own, missing, tmp_path)
    few = frame.t.iloc[:21] * 30 / 10  # tenths, of which the last digit is one whole step
    assert "after row 11" in refused(own, frame[:21].assign(t=few.round(1)).drop(index=11), tmp_path)


@pytest.mark.parametrize(
    ("numbers", "digit"),
    [
        ([0.0, 0.033, 0.067, 0.1], 1e-3),
        ([float(f"{k / 30:.6e}") for k in range(600)], 1e-5),  # seven significant digits of 10 s and more
        ([0, 1, 2, 3], 1.0),
        ([0.5, 1.0, 1.5], 0.1),
        ([0.0], 0.0),
    ],
)
def test_the_last_printed_digit(numbers, digit):
    assert last_digit(pd.Series(numbers)) == pytest.approx(digit)


# ---------------------------------------------------------------- noise beside rates that were measured


def noisy_oscillator(level, seed=0):
    rng = np.random.default_rng(seed)
    frame = oscillator(12, rows=201)
    return frame, frame.assign(
        x=frame.x + level * rng.standard_normal(len(frame)), p=frame.p + level * rng.standard_normal(len(frame))
    )


def test_clear_noise_is_said_and_taken_out(tmp_path, caplog):
    frame, noisy = noisy_oscillator(0.05)
    found = load(noisy, tmp_path)["train"]
    line = logged(caplog, logging.WARNING)[0]
    assert re.search(r"deviation\) of 0.0(49|5|51) m on 'x', 0.0(49|5|51) kg\*m/s on 'p' is taken out", line)
    assert "`smoothing: never` keeps the rows as they are" in line
    left_out = found.metadata["rows_left_out_at_each_end"]
    clean = frame[frame.run.isin([int(e) for e in found.metadata["episodes"]])][["x", "p"]].to_numpy()
    clean = clean.reshape(len(found), 201, 2)[:, left_out:-left_out]
    assert np.std(found["states"] - clean) < 0.5 * 0.05
    slopes = np.stack([clean[..., 1] / 2.0, -3.0 * clean[..., 0]], -1)
    assert np.std(found["derivatives"] - slopes) < 0.06 * np.std(slopes)


def test_rows_are_kept_on_request_and_where_there_is_no_clear_noise(tmp_path, caplog):
    frame, noisy = noisy_oscillator(0.05)
    kept = load(noisy, tmp_path, smoothing="never", splits={"train": [1], "test": [2]})["train"]
    np.testing.assert_array_equal(kept["states"][0], noisy[noisy.run == 1][["x", "p"]])
    assert "is left in: smoothing is off" in caplog.text
    caplog.clear()
    clear = load(frame, tmp_path, splits={"train": [1], "test": [2]})["train"]
    np.testing.assert_array_equal(clear["states"][0], frame[frame.run == 1][["x", "p"]])
    assert set(clear.views) == {"times", "states"}
    assert logged(caplog, logging.WARNING) == []
    assert "derivatives" in load(frame, tmp_path, smoothing="always")["train"]


# ---------------------------------------------------------------- the bundled example


@pytest.fixture
def example():
    file = ROOT / "conf/own_pendulum_example/parameters_measured_pendulum.yml"
    return validate(WorldConfig, yaml.safe_load(file.read_text())["measured_pendulum"], "measured_pendulum")


def test_the_bundled_pendulum_is_read_by_a_few_lines(example, caplog):
    with caplog.at_level(logging.INFO, "wm_pipelines"):
        found = ingest(example, "measured_pendulum")
    assert [len(e) for e in found.values()] == [10, 3, 2]
    assert "noise (standard deviation) of 0.5 deg" in caplog.text
    assert "an energy estimated from the motion loses 4." in caplog.text
    assert (ROOT / "data/01_raw/measured_pendulum.csv").stat().st_size < 200_000


@pytest.mark.training
def test_the_black_box_follows_the_bundled_pendulum_to_its_end(example):
    import torch

    from wm_pipelines.families.mlp import MLP, MLPConfig
    from wm_pipelines.learning.config import LearningConfig
    from wm_pipelines.learning.loop import train

    episodes = ingest(example, "measured_pendulum")
    settings = yaml.safe_load((ROOT / "conf/base/parameters_mlp.yml").read_text())["mlp"]
    settings = {key: value for key, value in settings.items() if key not in ("variants", "worlds", "tasks")}
    model = MLP(MLPConfig.model_validate(settings), episodes["train"].spec, [0])
    views = {name: torch.tensor(view) for name, view in episodes["train"].views.items()}
    train(model, views, LearningConfig(precision="64-true", progress=False))
    states, times = episodes["test"]["states"], episodes["test"]["times"]
    with torch.no_grad():
        found = model.predict({"states": torch.tensor(states[:, :1])}, states.shape[1] - 1)["states"].numpy()
    trusted = horizon(relative_error_by_step(found, states, [0]), times[0], 0.4)
    assert trusted.mean() >= 0.9 * times[0, -1]
    # And it loses energy on the way, which no Hamiltonian does.
    start, end = (energy(found[0, :, rows]).mean(1) for rows in (slice(60), slice(-60, None)))
    assert (end < 0.8 * start).all()


def test_what_was_found_stays_with_the_episodes_and_too_few_to_judge_on_are_warned_of(tmp_path, clean, caplog):
    caplog.set_level(logging.INFO)
    file = tmp_path / "own.csv"
    measured(clean).to_csv(file, index=False)
    names = [str(i + 1) for i in range(len(clean))]
    splits = {"train": names[:-4], "validation": names[-4:-2], "test": names[-2:]}
    parameters = {"path": str(file), "columns": COLUMNS, "angles": [0], "splits": splits}
    found = ingest(WorldConfig(world="table", parameters=parameters), "mine")
    lines = found["test"].metadata["found"]
    assert [level for level, line in lines if "smoothing spline" in line] == ["INFO"]
    assert all(f"{line}." in caplog.messages for _, line in lines)
    assert f"'mine': {len(names)} episodes: {len(names) - 4} train, 2 validation, 2 test." in caplog.messages
    (few,) = logged(caplog, logging.WARNING, "wm_pipelines.worlds.making")
    assert few.startswith("'mine': split 'test' has 2 episodes: ")
    assert "`splits.test`" in few
    assert "`steps:`" in few
    told = about(found)
    assert told["counts"] == {"train": len(names) - 4, "validation": 2, "test": 2}
    assert (told["split_by"], told["found"]) == ("episode", lines)
