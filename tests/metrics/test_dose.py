"""Errors of laws, trends and places on known curves, rank correlations on data of known correlation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from wm_pipelines.metrics.dose import Judged, energy_error, law_error, place, rank_correlations, scale, trend


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---------------------------------------------------------------- the error of a law


def test_the_mean_of_the_truth_has_a_law_error_of_one_and_units_do_not_matter(rng):
    truth = rng.standard_normal((4000, 3, 2)) * [0.1, 50.0] + [3.0, -7.0]
    mean = np.broadcast_to(truth.mean((0, 1)), truth[:, 0].shape)
    error = law_error(mean, truth[:, 0], scale(truth))
    assert np.sqrt((error**2).mean()) == pytest.approx(1.0, abs=0.03)
    scaled = truth * [1e3, 1e-3]
    np.testing.assert_allclose(law_error(mean * [1e3, 1e-3], scaled[:, 0], scale(scaled)), error, rtol=1e-9)


def test_the_truth_has_none_and_what_is_not_a_number_is_infinitely_wrong():
    truth = np.array([[[1.0, 0.0], [2.0, 0.0]], [[3.0, 0.0], [5.0, 0.0]]])
    assert scale(truth)[1] == 1.0  # nothing moves there
    found = truth[:, 1].copy()
    assert (law_error(found, truth[:, 1], scale(truth)) == 0).all()
    found[0, 1] = np.nan
    assert law_error(found, truth[:, 1], scale(truth)).tolist() == [np.inf, 0.0]


def test_energy_errors_are_in_spreads_of_the_true_energy(rng):
    truth = rng.standard_normal((50, 8, 2))

    def energy(z):
        return 0.5 * (z**2).sum(-1)

    found = truth[:, -1] * 2.0  # four times the energy
    expected = 3.0 * energy(truth[:, -1]) / energy(truth).std()
    np.testing.assert_allclose(energy_error(found, truth[:, -1], truth, energy), expected)


# ---------------------------------------------------------------- dose and response


def falling(rng, by, starts=100, spread=10.0, noise=0.5):
    """Scores of starts that differ much, and fall by so much with each dose."""
    return rng.normal(0, spread, starts) - np.asarray(by)[:, None] + noise * rng.standard_normal((len(by), starts))


def test_pairs_show_a_fall_that_the_spread_of_starts_would_hide(rng):
    found = trend(falling(rng, [0, 0.5, 1, 1.5]))
    assert found.falls
    assert found.monotone
    assert all(step.ci_high < 0 for step in found.steps)
    assert found.misfit == 0.0
    assert np.all(np.diff(found.isotonic) <= 0)


def test_a_rise_beyond_its_interval_is_told_and_one_within_it_is_not(rng):
    assert not trend(falling(rng, [0, 2, 1, 3])).monotone
    assert trend(falling(rng, [0, 2, 1.99, 3])).monotone


def test_no_response_is_monotone_but_does_not_fall():
    rng = np.random.default_rng(0)
    found = [trend(falling(rng, np.zeros(6))) for _ in range(200)]
    assert np.mean([t.monotone for t in found]) >= 0.95  # five steps together
    assert np.mean([t.falls for t in found]) <= 0.05


def test_a_model_stands_between_two_doses(rng):
    doses, errors = np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.2, 0.6])
    scores = falling(rng, [0, 4, 8], noise=0.0)
    own = np.stack([scores[1] - 2 + 1.5, scores[1] - 2 + 0.5])  # one above what the curve says at 0.4
    found = place(doses, errors, scores, 0.4, own)
    assert found.dose == pytest.approx(1.5)
    assert found.score == pytest.approx(scores[1].mean() - 2)
    assert float(found.gap.value) == pytest.approx(1.0)
    assert found.gap.ci_low < 1.0 < found.gap.ci_high


@pytest.mark.parametrize("error", [0.7, np.inf, np.nan])
def test_beyond_the_doses_a_model_has_no_place(rng, error):
    assert place(np.arange(3.0), np.array([0, 0.2, 0.6]), falling(rng, [0, 1, 2]), error, np.zeros((1, 100))) is None


# ---------------------------------------------------------------- which error foretells success


def population(rng, worlds, families, seeds, r):
    """Models of which success and predictor correlate by ``r`` at every level: of families, in worlds, of seeds."""

    def both(count):
        first = rng.standard_normal(count)
        return np.stack([first, r * first + np.sqrt(1 - r * r) * rng.standard_normal(count)])

    world = np.repeat(np.arange(worlds), families * seeds)
    family = np.tile(np.repeat(np.arange(families), seeds), worlds)
    everywhere, there, own = both(families), both(worlds * families), both(len(world))
    total = np.sqrt(0.5) * (everywhere[:, family] + there[:, world * families + family]) + 0.5 * own
    return Judged(world, family, total[0], {"predictor": total[1]})


def test_one_world_gives_scipys_tau(rng):
    ties = rng.integers(0, 4, 12).astype(float)
    other = ties + rng.integers(0, 3, 12)
    judged = Judged(np.zeros(12, int), np.arange(12), ties, {"p": other})
    assert float(rank_correlations(judged)["p"].value) == pytest.approx(stats.kendalltau(ties, other).statistic)


def test_models_of_different_worlds_are_not_compared(rng):
    own = np.arange(6.0)
    shifted = np.concatenate([own, own + 100])  # the second world has larger scores and smaller predictions
    judged = Judged(np.repeat([0, 1], 6), np.tile(np.arange(6), 2), shifted, {"p": np.concatenate([own + 100, own])})
    found = rank_correlations(judged)["p"]
    assert float(found.value) == 1.0
    assert found.n == 12


def test_what_is_known_of_few_families_is_left_out(rng):
    judged = population(rng, 1, 5, 2, 0.5)
    some = np.where(judged.family < 3, 1.0, np.nan)
    found = rank_correlations(Judged(judged.world, judged.family, judged.success, {**judged.predictors, "few": some}))
    assert set(found) == {"predictor"}


def test_equal_draws_give_equal_intervals(rng):
    judged = population(rng, 2, 6, 3, 0.5)
    assert rank_correlations(judged) == rank_correlations(judged)


@pytest.mark.parametrize(("worlds", "r"), [(1, 0.0), (1, 0.7), (3, 0.7)])
def test_tau_is_unbiased_and_its_interval_covers(worlds, r):
    """Of a bivariate normal, tau is ``2 / pi arcsin r`` (Kruskal 1958)."""
    rng, tau = np.random.default_rng(1), 2 / np.pi * np.arcsin(r)
    found = [rank_correlations(population(rng, worlds, 8, 3, r), draws=200, seed=k)["predictor"] for k in range(200)]
    values = np.array([float(f.value) for f in found])
    assert values.mean() == pytest.approx(tau, abs=0.05)
    assert np.mean([f.ci_low <= tau <= f.ci_high for f in found]) >= 0.91
    # As wide as estimates spread, or somewhat wider.
    assert 0.8 < np.mean([f.ci_high - f.ci_low for f in found]) / (4 * values.std()) < 1.6
