import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score as sklearn_r2

from wm_pipelines.metrics.explained import explained_variance


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 4))
def test_explained_variance_is_that_of_scikit_learn(seed, episodes, columns):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((episodes, 5, columns)) * rng.uniform(0.5, 3, columns)
    predicted = truth + rng.standard_normal(truth.shape)
    found = explained_variance(predicted, truth, resamples=50)
    # scikit-learn centres every column for itself, as we do, and weighs columns by their variance, as pooling does.
    expected = sklearn_r2(truth.reshape(-1, columns), predicted.reshape(-1, columns), multioutput="variance_weighted")
    assert float(found.value) == pytest.approx(expected)
    assert found.ci_low <= found.value <= found.ci_high
    assert found.n == episodes


def test_a_lost_prediction_explains_nothing():
    truth = np.random.default_rng(0).standard_normal((4, 3, 1))
    predicted = truth.copy()
    predicted[2, 1] = np.nan
    assert explained_variance(predicted, truth).value == -np.inf
    with pytest.raises(ValueError, match=r"\[E, M, Q\]"):
        explained_variance(truth[0], truth[0])
