import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wm_pipelines.metrics.prediction import mse, mse_by_step, state_error

FINITE = st.floats(-1e3, 1e3, allow_nan=False)
STATES = arrays(np.float64, (2, 3, 4, 6), elements=FINITE)
TRUTH = arrays(np.float64, (3, 4, 6), elements=FINITE)


def test_constant_offset_gives_its_square_and_leaves_the_start_out():
    truth = np.random.default_rng(0).normal(size=(3, 5, 2))
    predicted = np.repeat(truth[None], 2, axis=0)
    predicted[:, :, 1:] += 0.5
    np.testing.assert_allclose(mse(predicted, truth), 0.25)
    np.testing.assert_allclose(mse_by_step(predicted, truth)[..., 0], 0.0)


def test_error_growing_linearly_has_the_closed_form_mean_of_squares():
    steps = 7
    truth = np.zeros((1, steps + 1, 2))
    predicted = np.arange(steps + 1.0)[None, None, :, None] * np.ones(2)
    # Σ_{t=1..T} t² / T = (T+1)(2T+1)/6
    np.testing.assert_allclose(mse(predicted, truth), (steps + 1) * (2 * steps + 1) / 6)


@given(STATES, TRUTH, st.floats(0.01, 100.0))
@settings(max_examples=50, deadline=None)
def test_scales_with_the_square_of_the_unit_and_ignores_a_shift(predicted, truth, unit):
    base = mse(predicted, truth)
    np.testing.assert_allclose(mse(unit * predicted, unit * truth), unit**2 * base, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mse(predicted + 7.0, truth + 7.0), base, rtol=1e-6, atol=1e-6)


@given(STATES, TRUTH, st.permutations(range(3)))
@settings(max_examples=30, deadline=None)
def test_episodes_are_judged_independently(predicted, truth, order):
    np.testing.assert_array_equal(mse(predicted[:, order], truth[order]), mse(predicted, truth)[:, order])


@given(TRUTH, st.integers(-3, 3))
@settings(max_examples=30, deadline=None)
def test_a_whole_turn_is_no_error_for_an_angle_and_one_for_a_length(truth, turns):
    predicted = truth[None].copy()
    predicted[..., 0] += 2 * np.pi * turns
    np.testing.assert_allclose(mse(predicted, truth, angles=(0,)), 0.0, atol=1e-20)
    np.testing.assert_allclose(mse(predicted, truth), (2 * np.pi * turns) ** 2 / 6, rtol=1e-9)


def test_wrapped_error_never_exceeds_half_a_turn_and_keeps_its_sign():
    truth = np.zeros((1, 3, 2))
    predicted = np.zeros((1, 1, 3, 2))
    predicted[0, 0, :, 0] = [0.0, 0.25, 2 * np.pi - 0.25]
    np.testing.assert_allclose(state_error(predicted, truth, (0,))[0, 0, :, 0], [0.0, 0.25, -0.25], atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("angles", [(), (0,)])
def test_a_diverged_rollout_has_infinite_error_and_spoils_no_other(bad, angles):
    truth = np.zeros((2, 4, 2))
    predicted = np.zeros((1, 2, 4, 2))
    predicted[0, 1, 2:, 0] = bad
    np.testing.assert_array_equal(mse(predicted, truth, angles), [[0.0, np.inf]])
    np.testing.assert_array_equal(mse_by_step(predicted, truth, angles)[0, 1], [0.0, 0.0, np.inf, np.inf])


def test_shapes_that_do_not_fit_and_empty_rollouts_are_refused():
    with pytest.raises(ValueError, match="differ after the seed axis"):
        mse(np.zeros((1, 2, 4, 2)), np.zeros((1, 4, 2)))
    with pytest.raises(ValueError, match="at least one predicted step"):
        mse(np.zeros((1, 2, 1, 2)), np.zeros((2, 1, 2)))
