import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from wm_pipelines.metrics.surprise import auc, worst_surprise

SCORES = arrays(np.float64, st.integers(1, 12), elements=st.integers(-3, 3).map(float))


@given(SCORES, SCORES)
@settings(max_examples=40, deadline=None)
def test_agrees_with_sklearn_ties_included_and_lies_in_its_interval(possible, impossible):
    found = auc(possible, impossible)
    truth = np.repeat([0, 1], [len(possible), len(impossible)])
    np.testing.assert_allclose(found.value, roc_auc_score(truth, np.concatenate([possible, impossible])), atol=1e-12)
    assert 0 <= found.ci_low <= found.value <= found.ci_high <= 1
    assert found.ci_low < found.ci_high
    assert found.n == len(truth)
    swapped = auc(impossible, possible)
    np.testing.assert_allclose([swapped.ci_low, swapped.ci_high], [1 - found.ci_high, 1 - found.ci_low], atol=1e-6)


def test_perfect_separation_is_not_certainty():
    few, many = (auc(np.zeros(n), np.ones(n)) for n in (5, 100))
    assert few[0] == few[2] == many[0] == many[2] == 1.0
    assert few.ci_low < many.ci_low < 1.0
    assert 0.4 < few.ci_low < 0.8


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        found = auc(rng.normal(size=25), 1.0 + rng.normal(size=25))
        covered += found.ci_low <= 0.7602499 <= found.ci_high  # Φ(1/√2)
    assert 0.92 <= covered / 300 <= 0.985


def test_a_score_that_is_no_number_counts_against_the_model():
    assert auc(np.array([0.0, np.nan]), np.array([1.0, 1.0])).value == 0.5
    assert auc(np.array([0.0, 0.0]), np.array([1.0, np.nan])).value == 0.5
    assert auc(np.array([0.0]), np.array([np.inf])).value == 1.0
    for wrong in (np.empty(0), np.zeros((2, 2))):
        with pytest.raises(ValueError, match="two non-empty lists"):
            auc(wrong, np.ones(2))


def test_worst_surprise_is_the_largest():
    surprise = np.array([[[0.0, 3.0, 1.0], [np.nan, 0.0, 0.0]]])
    np.testing.assert_array_equal(worst_surprise(surprise), [[3.0, np.inf]])
    with pytest.raises(ValueError, match="at least one step"):
        worst_surprise(np.zeros((2, 0)))
