import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score as sklearn_r2

from wm_pipelines.metrics.explained import explained_by_episode, explained_variance


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 4))
def test_explained_variance_is_that_of_scikit_learn(seed, episodes, columns):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((episodes, 5, columns)) * rng.uniform(0.5, 3, columns)
    predicted = truth + rng.standard_normal(truth.shape)
    found = explained_variance(predicted, truth)
    # scikit-learn centres every column for itself, as we do, and weighs columns by their variance, as pooling does.
    expected = sklearn_r2(truth.reshape(-1, columns), predicted.reshape(-1, columns), multioutput="variance_weighted")
    assert float(found.value) == pytest.approx(expected)
    assert found.ci_low <= found.value <= found.ci_high <= 1
    assert found.n == episodes
    assert explained_by_episode(predicted, truth).mean() == pytest.approx(expected)


ERRORS = {  # with their variance
    "normal": (lambda r, s: r.normal(size=s), 1.0),
    "exponential": (lambda r, s: r.exponential(size=s), 2.0),
    "t5": (lambda r, s: r.standard_t(5, s), 5 / 3),
    "lognormal scale": (lambda r, s: r.normal(size=s) * r.lognormal(0, 0.5, (s[0], 1, 1)), np.exp(0.5)),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("shared", [False, True])
def test_twenty_episodes_cover_the_true_share(name, shared):
    draw, variance = ERRORS[name]
    rng, trials, hits = np.random.default_rng(5), 600, 0
    for _ in range(trials):
        # Episodes differ in level: their steps resemble each other.
        truth = rng.normal(size=(20, 6, 1)) + rng.normal(size=(20, 1, 1))
        found = explained_variance(truth + 0.5 * draw(rng, (20, 1 if shared else 6, 1)), truth)
        hits += found.ci_low <= 1 - 0.25 * variance / 2 <= found.ci_high
    assert hits / trials > 0.93 - 3 * np.sqrt(0.93 * 0.07 / trials)


def test_differences_by_episode_are_those_of_the_influence_of_an_episode():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(30, 4, 2))
    predicted = truth + rng.normal(size=truth.shape) * rng.lognormal(size=(30, 1, 1))
    whole, parts = explained_variance(predicted, truth), explained_by_episode(predicted, truth)
    for left_out in range(3):
        kept = np.delete(np.arange(30), left_out)
        around = truth.mean((0, 1))  # held fixed, as in the linearisation
        left = np.square(predicted[kept] - truth[kept]).sum() / np.square(truth[kept] - around).sum()
        # Leaving one of n out moves a mean by (mean - part) / (n - 1), up to the second order.
        moved = (whole.value - parts[left_out]) / 29
        assert 1 - left - whole.value == pytest.approx(moved, rel=0.1, abs=1e-4)


def test_a_lost_prediction_explains_nothing():
    truth = np.random.default_rng(0).standard_normal((4, 3, 1))
    predicted = truth.copy()
    predicted[2, 1] = np.nan
    assert explained_variance(predicted, truth).value == -np.inf
    assert list(np.isneginf(explained_by_episode(predicted, truth))) == [False, False, True, False]
    with pytest.raises(ValueError, match=r"\[E, M, Q\]"):
        explained_variance(truth[0], truth[0])


def test_what_is_perfect_or_does_not_vary_has_no_spread():
    truth = np.random.default_rng(0).standard_normal((4, 3, 1))
    assert explained_variance(truth, truth)[:3] == (1.0, 1.0, 1.0)
    still = explained_variance(truth, np.zeros_like(truth))
    assert still.value == 0
    assert np.isnan(still.ci_low)
