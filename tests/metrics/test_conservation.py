import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import signal

from wm_pipelines.metrics import conservation as c

ENERGIES = arrays(np.float64, (2, 3, 9), elements=st.floats(-1e3, 1e3))


def oscillator(amplitude, time, omega=1.0):
    """Exact unit-mass oscillator ``[E, K, 2]`` and its energy."""
    q = amplitude[:, None] * np.cos(omega * time)
    p = -omega * amplitude[:, None] * np.sin(omega * time)
    return np.stack([q, p], axis=-1), lambda z: 0.5 * (z[..., 1] ** 2 + omega**2 * z[..., 0] ** 2)


def test_exact_motion_conserves_and_a_damped_one_loses_the_closed_form_amount():
    time = np.linspace(0.0, 10.0, 201)
    z, energy = oscillator(np.array([0.5, 1.0]), time)
    assert c.energy_error(energy(z[None])).max() < 1e-15
    gamma = 0.1
    damped = z[None] * np.exp(-gamma * time)[:, None]
    lost = energy(z)[:, 0] * (1 - np.exp(-2 * gamma * time[1:])).mean()
    np.testing.assert_allclose(c.energy_error(energy(damped))[0], lost, rtol=1e-12)


@given(ENERGIES, st.floats(-100, 100), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_energy_error_ignores_the_zero_of_energy_and_scales_with_the_unit(energy, offset, unit):
    base = c.energy_error(energy)
    np.testing.assert_allclose(c.energy_error(unit * energy + offset), unit * base, rtol=1e-9, atol=1e-9)


def test_drift_is_the_slope_of_a_steady_loss_and_blind_to_a_swing():
    time = np.linspace(0.0, 8.0, 401)
    steady = 3.0 - 0.25 * time
    np.testing.assert_allclose(c.energy_drift(steady[None, None], time), 0.25, rtol=1e-12)
    whole_periods = np.cos(2 * np.pi * time)  # even about the middle: no slope
    swing = c.energy_drift(whole_periods[None, None], time)
    assert swing < 1e-12 < c.energy_error(whole_periods[None, None])


@given(ENERGIES)
@settings(max_examples=50, deadline=None)
def test_drift_agrees_with_polynomial_regression(energy):
    time = np.linspace(0.0, 2.0, 9)
    expected = np.abs(np.polyfit(time, energy.reshape(-1, 9).T, 1)[0]).reshape(2, 3)
    np.testing.assert_allclose(c.energy_drift(energy, time), expected, rtol=1e-6, atol=1e-8)


def test_drift_takes_a_clock_per_episode():
    time = np.stack([np.linspace(0, 1, 5), np.linspace(0, 4, 5)])
    energy = 2.0 * time[None]
    np.testing.assert_allclose(c.energy_drift(energy, time), [[2.0, 2.0]])


def test_energy_mse_compares_at_the_same_time():
    true_energy = np.array([[1.0, 2.0, 3.0]])  # a driven system: its energy changes
    np.testing.assert_allclose(c.energy_mse(true_energy[None], true_energy), 0.0)
    np.testing.assert_allclose(c.energy_mse(true_energy[None] + [0.0, 1.0, 3.0], true_energy), 5.0)


@given(arrays(np.float64, (2, 3, 5, 3), elements=st.floats(-10, 10)), st.floats(0, 2 * np.pi))
@settings(max_examples=30, deadline=None)
def test_momentum_error_does_not_depend_on_the_axes(momentum, angle):
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    np.testing.assert_allclose(c.momentum_error(momentum @ rotation.T), c.momentum_error(momentum), atol=1e-12)


def test_momentum_error_under_a_constant_force_grows_as_its_impulse():
    time = np.linspace(0.0, 1.0, 11)
    force = np.array([3.0, 4.0])
    np.testing.assert_allclose(c.momentum_error((time[:, None] * force)[None, None]), 5.0 * time[1:].mean())
    np.testing.assert_allclose(c.angular_momentum_error(time[None, None, :, None]), time[1:].mean())


def test_violation_rate_counts_steps_outside_the_tolerance_of_any_law():
    energy = np.array([[[0.0, 0.005, 0.02, 0.02, 0.0]]])
    momentum = np.array([[[0.0, 0.0, 0.0, 0.5, 0.5]]])
    laws = {"energy": (energy, 1.0), "momentum": (momentum, 10.0)}
    np.testing.assert_allclose(c.violation_rate(laws, 0.01), 3 / 4)
    np.testing.assert_allclose(c.violation_rate({"energy": laws["energy"]}, 0.01), 2 / 4)
    with pytest.raises(ValueError, match="at least one"):
        c.violation_rate({}, 0.01)


@given(arrays(np.float64, (1, 2, 6), elements=st.floats(0, 1)), st.floats(0.01, 0.5), st.floats(1.0, 3.0))
@settings(max_examples=50, deadline=None)
def test_violation_rate_falls_with_the_tolerance(departed, tolerance, factor):
    laws = {"energy": (departed, 1.0)}
    assert (c.violation_rate(laws, tolerance * factor) <= c.violation_rate(laws, tolerance)).all()


def test_scales_survive_a_vanishing_total():
    # Two equal bodies, opposite momenta: P = 0. Energy zero put where E(0) = 0.
    truth = np.tile([1.0, 0.0, -1.0, 0.0, 0.0, 0.5, 0.0, -0.5], (1, 4, 1))
    np.testing.assert_allclose(c.momentum_scale(truth), np.sqrt(0.5))
    np.testing.assert_allclose(c.angular_momentum_scale(truth), 1.0)  # circular motion: L = Σ r p = 2 · 1 · 0.5
    kinetic = 0.25
    energy = lambda z: 0.5 * np.square(z[..., 4:]).sum(axis=-1) - kinetic  # noqa: E731
    np.testing.assert_allclose(c.energy_scale(truth, energy), kinetic)
    above = lambda z: energy(z) + 17.0  # noqa: E731
    np.testing.assert_allclose(c.energy_scale(truth, above), kinetic)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_rollout_is_an_infinite_error_and_a_violation(bad):
    time = np.linspace(0.0, 1.0, 5)
    energy = np.array([[[1.0, 1.0, bad, bad, bad], [1.0] * 5]])
    for value in (c.energy_error(energy), c.energy_drift(energy, time), c.energy_mse(energy, np.ones((2, 5)))):
        np.testing.assert_array_equal(value, [[np.inf, 0.0]])
    laws = {"energy": (c.departure(energy[..., None]), 1.0)}
    np.testing.assert_allclose(c.violation_rate(laws, 0.01), [[3 / 4, 0.0]])


# ---------------------------------------------------------------- what the truth itself loses


def damped(gamma, time, episodes=3):
    """Energy ``[E, K, 1]`` of q'' = -q - 2 gamma q', decaying with 2 gamma and wiggling twice per period."""
    phase = np.linspace(0.0, 2.0, episodes)[:, None]
    return (np.exp(-2 * gamma * time) * (1.0 + 0.3 * gamma * np.sin(2 * time + phase)))[..., None]


def test_where_the_truth_loses_energy_keeping_it_is_the_error():
    time = np.linspace(0.0, 10.0, 201)
    true = damped(0.1, time)[..., 0]
    kept = np.broadcast_to(true[:, :1], true.shape)[None]
    np.testing.assert_allclose(c.energy_error(true[None], true), 0.0)
    np.testing.assert_allclose(c.energy_error(kept, true)[0], np.abs(true - true[:, :1])[:, 1:].mean(axis=1))
    np.testing.assert_allclose(c.energy_drift(kept, time, true), c.energy_drift(true[None], time))
    departed = c.departure(kept[..., None], true[..., None])
    assert c.violation_rate({"energy": (departed, 0.5)}, 0.01).min() > 0.9


def test_a_loss_and_a_drive_are_told_from_integration_error_and_noise():
    rng, time = np.random.default_rng(0), np.linspace(0.0, 20.0, 201)
    assert c.truth_changes(damped(0.15, time), time, 1.0)
    assert c.truth_changes(damped(1e-4, time), time, 1.0)
    assert c.truth_changes(damped(2.0, time), time, 1.0), "gone at once"
    assert c.truth_changes(2.0 - damped(0.15, time), time, 1.0), "a gain"
    assert not c.truth_changes(np.ones((3, 201, 1)), time, 1.0)
    assert not c.truth_changes(1.0 + 1e-9 * time[None, :, None], time, 1.0), "a simulator's drift"
    assert not c.truth_changes(1.0 + 0.05 * rng.normal(size=(3, 201, 1)), time, 1.0), "measured"
    assert not c.truth_changes(1.0 + 0.005 * np.sin(1.3 * time)[None, :, None], time, 1.0), "a symplectic simulator"
    assert c.truth_changes(1.0 + 0.05 * np.sin(1.3 * time)[None, :, None], time, 1.0), "a drive"
    smooth = signal.savgol_filter(rng.normal(size=(3, 201, 1)), 11, 3, axis=1)
    assert not c.truth_changes(1.0 + 0.05 * smooth, time, 1.0), "measured and smoothed"
    assert not c.truth_changes(damped(0.15, time)[:, :3], time[:3], 1.0), "too short to tell"


def test_a_vector_that_decays_in_any_direction_changes():
    time, angle = np.linspace(0.0, 5.0, 50), np.linspace(0, 6, 8)[:, None]
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    assert c.truth_changes(np.exp(-0.3 * time)[:, None] * direction, time, 1.0)
    assert not c.truth_changes(np.ones((50, 1)) * direction, time, 1.0)
