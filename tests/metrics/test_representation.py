import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wm_pipelines.metrics import representation as r

FEATURES = arrays(np.float64, (9, 4), elements=st.floats(-5, 5, width=16))


def with_spectrum(values, n=50, seed=0):
    """Centred features ``[n, D]`` with exactly these singular values, turned at random."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(np.hstack([np.ones((n, 1)), rng.normal(size=(n, len(values)))]))[0][:, 1:]
    return u * values @ np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]


@pytest.mark.parametrize(
    ("values", "rank"), [([1, 1, 1, 1], 4), ([5, 5, 0, 0], 2), ([7, 0, 0, 0], 1), ([2, 1, 1], 2**1.5)]
)
def test_effective_rank_of_known_spectra(values, rank):
    features = with_spectrum(np.array(values, float))
    np.testing.assert_allclose(r.effective_rank(features), rank, rtol=1e-9)
    np.testing.assert_allclose(r.effective_rank(1e-3 * features + 17), rank, rtol=1e-9)  # neither scale nor mean
    np.testing.assert_allclose(r.rankme(features), rank, rtol=1e-4)
    np.testing.assert_allclose(r.effective_rank(features.T @ np.eye(50)), r.effective_rank(features.T))
    assert r.rankme(features + 1e4) < 1.1 < rank + 0.2  # the mean counts


def test_rankme_is_its_formula_and_takes_more_features_than_examples():
    x = np.random.default_rng(0).normal(size=(20, 60))
    sigma = np.linalg.svd(x, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    np.testing.assert_allclose(r.rankme(x), np.exp(-(p * np.log(p)).sum()), rtol=1e-9)
    assert r.effective_rank(x) <= 19


@given(FEATURES, st.floats(0.01, 100))
@settings(max_examples=50, deadline=None)
def test_monitors_are_finite_bounded_and_scale_as_they_should(features, unit):
    assert 0 <= r.effective_rank(features) <= 4 + 1e-9
    assert 0 <= r.rankme(features) <= 4 + 1e-4
    np.testing.assert_allclose(r.effective_rank(unit * features), r.effective_rank(features), rtol=1e-6)
    np.testing.assert_allclose(r.feature_std(unit * features), unit * r.feature_std(features), atol=1e-12)
    assert r.is_collapsed(unit * features) == r.is_collapsed(features)


def test_collapse_is_seen_under_every_normalisation():
    rng = np.random.default_rng(1)
    healthy = rng.normal(size=(500, 64))
    constant = np.ones((500, 1)) * rng.normal(size=64)
    few = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 64))
    nearly = constant + 0.02 * healthy
    layer_norm = lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)  # noqa: E731
    batch_norm = lambda x: (x - x.mean(0)) / x.std(0)  # noqa: E731
    for good in (
        healthy,
        1e-4 * healthy,
        healthy + 2,
        layer_norm(healthy),
        batch_norm(healthy),
        np.maximum(healthy, 0),
    ):
        assert not r.is_collapsed(good)
    for bad in (constant, few, nearly, layer_norm(nearly), batch_norm(few), 1e6 * few, 0 * healthy, np.nan * healthy):
        assert r.is_collapsed(bad)
        assert r.is_collapsed(bad.astype(np.float32))
    # Standard deviation alone would not have seen it.
    np.testing.assert_allclose(r.feature_std(batch_norm(few)), 1.0)


def test_features_that_are_not_finite_or_constant_have_no_rank():
    for features in (np.full((5, 3), np.nan), np.zeros((5, 3))):
        assert r.rankme(features) == r.effective_rank(features) == 0.0
        np.testing.assert_array_equal(r.feature_std(features), 0.0)
    assert r.effective_rank(np.full((1000, 7), 0.1)) == 0.0  # rounding is no dimension
    for monitor in (
        r.feature_std,
        r.effective_rank,
        r.rankme,
        r.is_collapsed,
    ):
        with pytest.raises(ValueError, match=r"must be \[N, D\], got shape \(2, 3, 4\)"):
            monitor(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="at least two examples"):
        r.is_collapsed(np.ones((1, 3)))
