"""Metrics of fields against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm_pipelines.metrics import fields as m

X, T = np.linspace(0, np.pi, 101), np.linspace(0, 1, 51)


@given(st.floats(-3, 3), st.floats(0.1, 10))
def test_relative_l2_of_a_scaled_field_is_the_scale(scale, size):
    reference = size * np.stack([np.sin(X), np.cos(X)], 1)
    error = m.relative_l2(np.stack([reference, (1 + scale) * reference]), reference)
    np.testing.assert_allclose(error, [[0, 0], [abs(scale)] * 2], atol=1e-12)


def test_a_field_that_should_vanish_is_measured_in_its_own_unit():
    assert m.relative_l2(np.full((1, 4, 1), 0.5), np.zeros((4, 1))) == pytest.approx(1.0)


def test_what_is_not_finite_is_an_infinite_error():
    broken = np.full((1, 3, 1), np.nan)
    assert m.relative_l2(broken, np.ones((3, 1))) == np.inf
    assert m.rms(broken[..., 0]) == np.inf
    assert m.boundary_error(broken[..., 0], np.ones(3)) == np.inf
    assert m.balance_error(np.arange(3.0), broken[..., 0], np.ones((1, 3))) == np.inf
    assert m.coefficient_error(np.array([np.nan]), 1.0) == np.inf
    assert m.covers(np.array([np.nan]), np.array([np.nan]), 1.0) == 0


def test_the_norm_of_a_residual_is_its_root_mean_square():
    wave = np.sin(np.linspace(0, 2 * np.pi, 1000, endpoint=False))
    assert m.rms(np.stack([wave, 3 * wave])) == pytest.approx([0.5**0.5, 3 * 0.5**0.5])
    assert m.residual_norm([np.full((1, 5), 3.0), np.full((1, 9), 4.0)]) == pytest.approx(12.5**0.5)
    with pytest.raises(ValueError, match="at least one equation"):
        m.residual_norm([])


def test_boundary_error_is_relative_to_what_was_given():
    given_values = np.array([3.0, 4.0])
    assert m.boundary_error(np.array([[3.3, 4.4]]), given_values) == pytest.approx(0.1)
    assert m.boundary_error(np.array([[0.3, 0.4]]), np.zeros(2)) == pytest.approx(0.125**0.5)


def test_content_is_the_integral():
    density = np.sin(X)[None, :, None] * np.ones((2, 1, 3))
    np.testing.assert_allclose(m.content(density, [X]), 2.0, rtol=1e-7)
    square = np.sin(X)[None, :, None] * np.sin(X)[None, None, :]
    np.testing.assert_allclose(m.content(square, [X, X]), 4.0, rtol=1e-6)


@given(st.floats(0.1, 3.0))
def test_the_energy_of_a_cooling_rod_balances(alpha):
    """u = exp(-alpha t) sin x: ∫u²/2 = pi/4 exp(-2 alpha t), production -2 alpha times that."""
    stored = np.pi / 4 * np.exp(-2 * alpha * T)[None]
    assert m.balance_error(T, stored, -2 * alpha * stored) < 1e-5
    # Energy that leaks at a tenth of its rate without being accounted for.
    leak = m.balance_error(T, stored, -1.8 * alpha * stored)
    assert leak == pytest.approx(0.1 * (1 - np.exp(-2 * alpha)), rel=1e-3)


def test_a_steady_field_produces_nothing():
    assert m.steady_balance_error(np.array([0.02]), np.array([2.0])) == pytest.approx(0.01)
    assert m.steady_balance_error(np.array([0.02]), np.array([0.0])) == np.inf


def test_coefficients_and_their_intervals():
    value = np.array([0.9, 1.1])
    np.testing.assert_allclose(m.coefficient_error(value, 1.0), 0.1)
    np.testing.assert_array_equal(m.covers(value - 0.05, value + 0.15, 1.0), [1, 0])
