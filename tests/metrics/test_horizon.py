import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wm_pipelines.metrics.horizon import horizon, relative_error_by_step, spread

ERRORS = arrays(np.float64, (2, 3, 8), elements=st.floats(0, 10) | st.just(np.nan) | st.just(np.inf))


def by_definition(error, time, threshold):
    """max{t : error(s) < threshold for all s <= t}, spelled out."""
    good = [time[k] - time[0] for k in range(len(time)) if all(e < threshold for e in error[: k + 1])]
    return max(good, default=0.0)


@given(ERRORS, st.floats(0.1, 9.0))
@settings(max_examples=100, deadline=None)
def test_matches_its_definition(error, threshold):
    time = np.linspace(2.0, 9.0, 8)
    expected = [[by_definition(e, time, threshold) for e in row] for row in error]
    np.testing.assert_allclose(horizon(error, time, threshold), expected)


@given(ERRORS, st.floats(0.1, 3.0), st.floats(1.0, 3.0))
@settings(max_examples=50, deadline=None)
def test_a_looser_threshold_never_shortens_it(error, threshold, factor):
    time = np.arange(8.0)
    assert (horizon(error, time, threshold * factor) >= horizon(error, time, threshold)).all()


def test_exponential_growth_crosses_after_the_lyapunov_estimate():
    rate, start, threshold = 0.9, 1e-6, 0.4
    time = np.linspace(0.0, 20.0, 20001)
    measured = horizon((start * np.exp(rate * time))[None, None], time, threshold)[0, 0]
    assert abs(measured - np.log(threshold / start) / rate) < 2e-3


def test_trust_once_lost_stays_lost_and_full_length_is_the_most():
    time = np.arange(5.0)
    error = np.array([[[0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]], dtype=float)
    np.testing.assert_array_equal(horizon(error, time, 0.5), [[0.0, 4.0, 0.0]])


def test_takes_a_clock_per_episode():
    time = np.stack([np.arange(4.0), 10.0 * np.arange(4.0)])
    error = np.tile([0.0, 0.0, 1.0, 1.0], (1, 2, 1))
    np.testing.assert_array_equal(horizon(error, time, 0.5), [[1.0, 10.0]])


@pytest.mark.parametrize("threshold", [0.0, -1.0, np.nan])
def test_threshold_must_be_positive(threshold):
    with pytest.raises(ValueError, match="positive"):
        horizon(np.zeros((1, 1, 3)), np.arange(3.0), threshold)


def test_spread_of_a_sine_and_of_stillness():
    t = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    moving = np.stack([2 * np.sin(t), 3 * np.cos(t)], axis=-1)[None]
    np.testing.assert_allclose(spread(moving), [np.sqrt(2), 3 / np.sqrt(2)])
    np.testing.assert_array_equal(spread(np.ones((2, 5, 4))), np.ones(4))


def test_relative_error_does_not_depend_on_units_or_axes():
    rng = np.random.default_rng(3)
    truth, predicted = rng.normal(size=(4, 6, 4)), rng.normal(size=(2, 4, 6, 4))
    base = relative_error_by_step(predicted, truth)
    units = np.array([100.0, 100.0, 0.02, 0.02])
    np.testing.assert_allclose(relative_error_by_step(predicted * units, truth * units), base)
    turn = np.kron(np.eye(2), np.array([[0.6, -0.8], [0.8, 0.6]]))
    np.testing.assert_allclose(relative_error_by_step(predicted @ turn.T, truth @ turn.T), base)


def test_guessing_the_mean_scores_one():
    truth = np.random.default_rng(0).normal(size=(500, 40, 2))
    guess = np.broadcast_to(truth.mean(axis=(0, 1)), (1, *truth.shape)).copy()
    mean_square = np.square(relative_error_by_step(guess, truth)).mean()
    np.testing.assert_allclose(mean_square, 1.0, rtol=1e-12)


def test_a_winding_angle_is_judged_like_a_uniform_one():
    t = np.linspace(0, 100.0, 5000)
    rotor = np.stack([t, np.ones_like(t)], axis=-1)[None]
    np.testing.assert_allclose(spread(rotor, angles=(0,))[0], np.pi / np.sqrt(3))
    assert spread(rotor)[0] > 20
