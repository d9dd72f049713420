"""What is lost of an energy per second, against laws whose loss is known."""

import numpy as np
import pytest

from tests.worlds.pendulum import OMEGA, RATE, energy, motion
from wm_pipelines.integrators import dop853
from wm_pipelines.worlds.parts.energy_balance import energy_loss, estimated_energy


def times(z, step=1 / RATE):
    return [step * np.arange(z.shape[1])] * len(z)


def estimate(z, step=1 / RATE, angles=()):
    """Of states ``[E, K, 2d]`` with unit masses."""
    q, p = np.split(z, 2, axis=-1)
    return estimated_energy(times(z, step), list(q), list((p**2).sum(-1) / 2), angles)


@pytest.mark.parametrize("rate", [0.3, 0.02, 1e-4, 0.0, -0.05])
def test_the_rate_of_an_exponential_decay_is_its_exponent(rate):
    t = np.linspace(0, 20, 401)
    found = energy_loss([t, t], [3.0 + 2.0 * np.exp(-rate * t), 3.0 + 5.0 * np.exp(-rate * t)], 3.0)
    assert found.rate == pytest.approx(rate, rel=1e-3, abs=1e-12)
    assert found.lost == pytest.approx(1 - np.exp(-20 * rate), rel=1e-3, abs=1e-9)
    assert found.clear == (abs(rate) > 1e-3)


def test_an_energy_that_only_scatters_is_not_lost():
    t, rng = np.linspace(0, 20, 401), np.random.default_rng(0)
    found = energy_loss([t], [1.0 + 0.05 * rng.standard_normal(401)], 0.0)
    assert found.scatter == pytest.approx(0.05, rel=0.1)
    assert not found.clear


def test_a_still_system_has_no_loss():
    t = np.linspace(0, 1, 11)
    assert energy_loss([t], [np.zeros(11)], 0.0) is None
    assert estimated_energy([t], [np.zeros((11, 1))], [np.zeros(11)], ()) is None


@pytest.mark.parametrize("quality", [30.0, 100.0, np.inf])
@pytest.mark.parametrize("angles", [(), (0,)])
def test_the_energy_of_a_pendulum_is_found_from_its_motion(quality, angles):
    z = motion(quality)
    found = estimate(z, angles=angles)
    truth = energy_loss(times(z), list(energy(z)), 0.0)
    # Up to one constant, the energy of the deepest place seen.
    np.testing.assert_allclose(np.concatenate(found), energy(z).ravel(), atol=2e-3 * energy(z).max())
    assert energy_loss(times(z), found, 0.0).rate == pytest.approx(truth.rate, rel=0.01, abs=1e-6)


def test_two_coupled_oscillators_with_friction():
    K, gamma = np.array([[3.0, -1.0], [-1.0, 2.0]]), 0.1

    def law(z):
        return np.concatenate([z[..., 2:], -z[..., :2] @ K - gamma * z[..., 2:]], axis=-1)

    z = dop853(law, np.random.default_rng(0).standard_normal((8, 4)), 0.05, 200)
    found = energy_loss(times(z, 0.05), estimate(z, 0.05), 0.0)
    assert found.rate == pytest.approx(gamma, rel=0.02)  # the mean of 2 T is the mean of E
    assert found.clear


def test_a_motion_that_no_potential_explains_has_no_energy():
    t = 0.02 * np.arange(500)
    pushed = np.stack([np.sin(t) + 0.2 * np.sin(np.pi * t**1.3), np.cos(t) + 0.3 * np.cos(7 * t)], axis=-1)
    assert estimate(pushed[None], 0.02) is None


def test_the_scale_of_the_loss_is_that_of_the_units():
    z = motion()
    plain = energy_loss(times(z), estimate(z), 0.0)
    z = z * [1.0, 1e12]  # picoseconds
    scaled = energy_loss(times(z, 1e-12 / RATE), estimate(z, 1e-12 / RATE), 0.0)
    assert scaled.rate == pytest.approx(1e12 * plain.rate, rel=1e-6)
    assert scaled.lost == pytest.approx(plain.lost, rel=1e-6)
    assert pytest.approx(plain.rate, rel=0.05) == OMEGA / 100
