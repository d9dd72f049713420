"""Noise told from motion: levels, what is no noise, and how good the rates are."""

import numpy as np
import pytest

from tests.worlds.pendulum import OMEGA, RATE, motion
from wm_pipelines.worlds.parts.smoothing import estimate_noise, interpolating, smoothed


def swings(period, rows=None, seed=0):
    """Ten cosines of different amplitude and phase, ``period`` rows long each."""
    rng = np.random.default_rng(seed)
    rows = max(100, 4 * period) if rows is None else rows
    phase = 2 * np.pi * np.arange(rows) / period + rng.uniform(0, 6, (10, 1))
    return 0.1 * np.arange(rows), rng.uniform(0.5, 1.5, (10, 1)) * np.cos(phase), rng


def noise_of(time, columns):
    return estimate_noise([time] * len(columns), list(columns))


@pytest.mark.parametrize(
    ("period", "level"), [(10, 0.05), (20, 0.05), (40, 0.01), (40, 0.05), (200, 0.01), (1000, 0.01)]
)
def test_the_level_of_white_noise_is_found(period, level):
    time, clean, rng = swings(period)
    found = noise_of(time, clean + level * rng.standard_normal(clean.shape))
    # 1,000 rows and more: the standard deviation of a standard deviation is below 1 / sqrt(2 * 1000 * (1 - freedom)).
    assert found.deviation == pytest.approx(level, rel=0.08)
    assert found.clear


@pytest.mark.parametrize("period", [4, 6, 10, 20, 40, 200, 1000])
@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_motion_and_rounding_are_no_noise(period, level):
    time, clean, rng = swings(period)
    assert not noise_of(time, clean + level * rng.standard_normal(clean.shape)).clear


@pytest.mark.parametrize(
    "kind", ["chaos", "collisions", "switching", "random walk", "nothing but noise", "still", "line"]
)
def test_what_is_not_smooth_is_not_called_noise(kind):
    time, rng = 0.02 * np.arange(400), np.random.default_rng(0)
    chaos = [0.3]
    for _ in time[1:]:
        chaos.append(3.9 * chaos[-1] * (1 - chaos[-1]))
    column = {
        "chaos": np.array(chaos),
        "collisions": np.abs((0.7 * time) % 2 - 1),
        "switching": np.sign(np.sin(3 * time)),
        "random walk": np.cumsum(rng.standard_normal(400)),
        "nothing but noise": rng.standard_normal(400),
        "still": np.full(400, 2.5),
        "line": 1 + 2 * time,
    }[kind]
    assert not noise_of(time, [column]).clear


@pytest.mark.parametrize(("length", "duration"), [(1e-12, 1e-12), (1e12, 1.0), (1.0, 1e9)])
def test_units_do_not_matter(length, duration):
    time, clean, rng = swings(40)
    noisy = clean + 0.05 * rng.standard_normal(clean.shape)
    plain, scaled = noise_of(time, noisy), noise_of(duration * time, length * noisy)
    assert scaled.deviation == pytest.approx(length * plain.deviation, rel=1e-6)
    assert (scaled.freedom, scaled.reach) == (pytest.approx(plain.freedom, rel=1e-3), plain.reach)
    one, other = smoothed(time, noisy[0], plain), smoothed(duration * time, length * noisy[0], scaled)
    for order in range(3):
        size = length / duration**order
        np.testing.assert_allclose(other[order], size * one[order], atol=1e-4 * size * np.abs(one[order]).max())


def test_irregular_times_are_as_good():
    time, _, rng = swings(40)
    times = np.sort(rng.uniform(0, time[-1], len(time)))
    noisy = np.cos(2 * np.pi * times / 4) + 0.05 * rng.standard_normal(len(times))
    noise = noise_of(times, [noisy])
    assert noise.deviation == pytest.approx(0.05, rel=0.2)
    value, slope, _ = smoothed(times, noisy, noise)
    inner = slice(noise.reach, -noise.reach)
    assert np.std((value - np.cos(2 * np.pi * times / 4))[inner]) < 0.03
    assert np.std((slope + np.pi / 2 * np.sin(2 * np.pi * times / 4))[inner]) < 0.1 * np.pi / 2


def test_without_noise_the_curve_goes_through_the_rows_and_its_rates_are_the_motions():
    time, clean, _ = swings(40)
    value, slope, second = smoothed(time, clean[0], interpolating(noise_of(time, clean)))
    omega = 2 * np.pi / 4.0  # 40 rows of 0.1 s
    assert np.abs(value - clean[0]).max() < 1e-5
    assert np.abs(second + omega**2 * clean[0])[5:-5].max() < 1e-3 * omega**2
    assert np.ptp((slope / omega) ** 2 + clean[0] ** 2) < 2e-3 * np.ptp(clean[0])


def test_rates_of_a_filmed_pendulum_are_those_of_its_motion():
    clean = motion()
    time, rng = np.arange(clean.shape[1]) / RATE, np.random.default_rng(0)
    noisy = clean[..., 0] + np.radians(0.5) * rng.standard_normal(clean.shape[:2])
    noise = noise_of(time, noisy)
    assert np.degrees(noise.deviation) == pytest.approx(0.5, rel=0.03)
    curves = np.array([smoothed(time, column, noise) for column in noisy])[:, :, noise.reach : -noise.reach]
    inner = clean[:, noise.reach : -noise.reach]
    acceleration = -(OMEGA**2) * np.sin(inner[..., 0]) - OMEGA / 100 * inner[..., 1]
    truth = [inner[..., 0], inner[..., 1], acceleration]
    # Differences of neighbouring rows would have 25 % and 1,000 % of noise.
    for order, bound in enumerate((0.01, 0.02, 0.06)):
        assert np.std(curves[:, order] - truth[order]) < bound * np.std(truth[order])
