"""Modes found, their mass, and what is at none, of samples whose shares are known."""

import numpy as np
import pytest

from wm_pipelines.metrics.multimodal import all_found, mass_error, mode_shares, off_mode

MODES = np.array([[[0.0, 0.0], [0.0, 0.0]], [[4.0, 0.0], [0.0, 8.0]]])  # two modes, two conditions
CHANCES = np.array([[0.75, 0.5], [0.25, 0.5]])


def samples(*per_condition):
    return np.stack([np.array(points, float) for points in per_condition], 1)


def test_shares_count_what_is_near():
    first = [[0, 0], [0.9, 0], [0, 0.9], [4, 0.5]]  # all within 1 = 4 / 4 of a mode
    second = [[0, 1.9], [0, 2.1], [0, 8], [0, 4]]  # within 2 = 8 / 4: the first and the third
    shares = mode_shares(samples(first, second), MODES)
    np.testing.assert_allclose(shares, [[0.75, 0.25], [0.25, 0.25]])
    np.testing.assert_allclose(mass_error(shares, CHANCES), [0.0, 0.25])
    np.testing.assert_allclose(off_mode(shares), [0.0, 0.5])


def test_a_mode_is_found_with_a_part_of_its_mass():
    shares = np.array([[0.96, 0.94], [0.04, 0.06]])
    assert all_found(shares, np.array([[0.75, 0.75], [0.25, 0.25]])).tolist() == [False, True]
    assert not all_found(np.array([[1.0], [0.0]]), np.array([[1.0], [0.0]])).any()


def test_a_gaussian_between_two_modes_is_at_none_of_them():
    draws = np.random.default_rng(0).normal(2.0, 0.3, (500, 1, 1)) * [1.0, 0.0]
    shares = mode_shares(np.repeat(draws, 2, 1), np.repeat(MODES[:, :1], 2, 1))
    np.testing.assert_allclose(off_mode(shares), 1.0, atol=0.02)


def test_units_make_no_difference():
    draws = np.random.default_rng(1).normal(0, 2, (100, 2, 2))
    np.testing.assert_array_equal(mode_shares(draws, MODES), mode_shares(1e3 * draws + 5, 1e3 * MODES + 5))


def test_what_is_not_finite_is_at_no_mode():
    shares = mode_shares(np.full((4, 2, 2), np.nan), MODES)
    np.testing.assert_array_equal(off_mode(shares), 1.0)


def test_impossible_questions_are_refused():
    with pytest.raises(ValueError, match="the same"):
        mode_shares(np.zeros((1, 2, 2)), np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="between 0 and"):
        mode_shares(np.zeros((1, 2, 2)), MODES, radius=0.5)
