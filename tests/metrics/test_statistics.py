import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from wm_pipelines.metrics.statistics import pooled, summarise

VALUES = arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e3, 1e3))


@given(VALUES)
@settings(max_examples=50, deadline=None)
def test_interval_holds_the_mean_and_stays_within_the_data(values):
    s = summarise(values)
    assert s.n == len(values)
    np.testing.assert_allclose(s.value, values.mean(), atol=1e-9)
    assert values.min() - 1e-9 <= s.ci_low <= s.value <= s.ci_high <= values.max() + 1e-9


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_episodes_changes_nothing(values, random):
    shuffled = values.copy()
    random.shuffle(shuffled)
    assert summarise(shuffled) == summarise(values)


@given(VALUES, st.floats(0.1, 10.0), st.floats(-100.0, 100.0))
@settings(max_examples=50, deadline=None)
def test_follows_a_change_of_unit(values, unit, offset):
    base, changed = summarise(values), summarise(unit * values + offset)
    np.testing.assert_allclose(changed[:3], [unit * v + offset for v in base[:3]], atol=1e-6)


def test_covers_as_promised():
    rng = np.random.default_rng(11)
    trials = 2000
    for n, promised in ((8, 0.92), (20, 0.93), (60, 0.935)):
        s = summarise(rng.normal(loc=3.0, size=(n, trials)))
        covered = np.mean((s.ci_low <= 3.0) & (s.ci_high >= 3.0))
        assert promised < covered < 0.975, (n, covered)


def test_is_close_to_student_t_for_normal_values():
    values = np.random.default_rng(5).normal(size=40)
    low, high = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    s = summarise(values, resamples=20000)
    np.testing.assert_allclose([s.ci_low, s.ci_high], [low, high], atol=0.05 * (high - low))


def test_is_close_to_scipy_bootstrap_for_many_values():
    values = np.random.default_rng(6).exponential(size=400)
    reference = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0), n_resamples=5000)
    s = summarise(values, resamples=5000)
    width = reference.confidence_interval.high - reference.confidence_interval.low
    np.testing.assert_allclose([s.ci_low, s.ci_high], list(reference.confidence_interval), atol=0.06 * width)


def test_columns_are_summarised_one_by_one():
    values = np.random.default_rng(7).normal(size=(12, 3, 4))
    together = summarise(values)
    assert together.value.shape == (3, 4)
    alone = summarise(values[:, 1, 2])
    np.testing.assert_allclose([together[i][1, 2] for i in range(3)], alone[:3], rtol=1e-12)


def test_one_value_says_nothing_about_spread():
    s = summarise([4.0])
    assert (s.value, s.n) == (4.0, 1)
    assert np.isnan([s.ci_low, s.ci_high]).all()


def test_one_divergence_makes_the_mean_infinite_and_leaves_a_finite_lower_end():
    s = summarise([1.0, 2.0, 3.0, 4.0, np.inf])
    assert s.value == s.ci_high == np.inf
    assert np.isfinite(s.ci_low)
    assert summarise([np.inf] * 5)[:3] == (np.inf, np.inf, np.inf)


@pytest.mark.parametrize("function", [summarise, pooled])
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_undefined_values_and_emptiness_are_refused(function, bad):
    with pytest.raises(ValueError, match="failed roll-out"):
        function(np.array([[1.0, bad], [1.0, 2.0]]))
    with pytest.raises(ValueError, match="no values"):
        function(np.zeros((0, 3)))


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(8).normal(size=(3, 25))
    assert pooled(values) == pooled(values)
    assert pooled(values)[:3] != pooled(values, seed=1)[:3]


def test_pooling_sees_that_seeds_share_their_episodes():
    # All seeds agree: three seeds know no more about the episodes than one does.
    rng = np.random.default_rng(9)
    shared = np.tile(rng.normal(size=20), (3, 1))
    independent = rng.normal(size=(3, 20))
    width = lambda s: s.ci_high - s.ci_low  # noqa: E731
    assert width(pooled(shared)) > 1.3 * width(summarise(independent.ravel()))
    np.testing.assert_allclose(width(pooled(shared)), width(summarise(shared[0])), rtol=0.25)


def test_pooling_covers_when_episodes_dominate():
    rng = np.random.default_rng(10)
    hits = 0
    for _ in range(150):
        s = pooled(rng.normal(size=(1, 20)) + 0.3 * rng.normal(size=(3, 1)) + rng.normal(size=(3, 20)), resamples=500)
        hits += s.ci_low <= 0.0 <= s.ci_high
    assert hits / 150 > 0.88


def test_pooling_one_seed_is_summarising_its_episodes():
    values = np.random.default_rng(12).normal(size=(1, 15))
    assert pooled(values) == summarise(values[0])


def test_pooling_keeps_an_infinity():
    values = np.ones((3, 10))
    values[1, 4] = np.inf
    s = pooled(values)
    assert s.value == s.ci_high == np.inf
    assert s.ci_low == pytest.approx(1.0)
    assert s.n == 30
