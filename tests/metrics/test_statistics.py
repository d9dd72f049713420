"""Intervals contain the truth as often as they promise; tolerances are three standard errors of the simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from wm_pipelines.metrics.ranges import RATE, value_range
from wm_pipelines.metrics.statistics import pool_seeds, pooled, summarise

VALUES = arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e3, 1e3))
TRIALS, PROMISED = 8000, 0.93

DRAWS = {
    "normal": (lambda r, s: r.normal(3.0, 2.0, s), 3.0),
    "exponential": (lambda r, s: r.exponential(size=s), 1.0),
    "mirrored exponential": (lambda r, s: -r.exponential(size=s), -1.0),
    "lognormal 0.5": (lambda r, s: r.lognormal(0.0, 0.5, s), np.exp(0.125)),
    "lognormal 1": (lambda r, s: r.lognormal(0.0, 1.0, s), np.exp(0.5)),
    "squared normal": (lambda r, s: np.square(r.normal(size=s)), 1.0),
    "t4": (lambda r, s: r.standard_t(4, s), 0.0),
    "t3": (lambda r, s: r.standard_t(3, s), 0.0),
}


def at_least(covered, trials, promised=PROMISED):
    """Whether a simulated coverage is compatible with what is promised."""
    share = np.mean(covered)
    assert share > promised - 3 * np.sqrt(promised * (1 - promised) / trials), share


@pytest.mark.parametrize("name", DRAWS)
def test_twenty_values_cover_their_mean(name):
    draw, truth = DRAWS[name]
    s = summarise(draw(np.random.default_rng(11), (20, TRIALS)))
    at_least((s.ci_low <= truth) & (truth <= s.ci_high), TRIALS)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 60])
def test_normal_values_are_covered_at_any_number(n):
    s = summarise(np.random.default_rng(12).normal(size=(n, TRIALS)))
    at_least((s.ci_low <= 0) & (s.ci_high >= 0), TRIALS, 0.945)


def test_what_cannot_be_covered_is_not_promised():
    values, truth = np.random.default_rng(13).lognormal(0, 2, (20, TRIALS)), np.exp(2.0)
    s = summarise(values)
    low, high = stats.t.interval(0.95, 19, loc=s.value, scale=stats.sem(values))
    student, ours = (np.mean((a <= truth) & (truth <= b)) for a, b in ((low, high), (s.ci_low, s.ci_high)))
    assert student + 0.15 < ours < 0.9


def exact_coverage(n, p):
    """Of the interval for ``n`` answers yes or no, each yes with probability ``p``: no simulation."""
    yes = np.arange(n + 1)
    answers = (np.arange(n)[:, None] < yes).astype(float)
    s = summarise(answers, within=RATE)
    np.testing.assert_allclose(s.value, yes / n)
    inside = (s.ci_low <= p[:, None]) & (p[:, None] <= s.ci_high)
    return (stats.binom.pmf(yes, n, p[:, None]) * inside).sum(axis=1)


@pytest.mark.parametrize("n", [5, 8, 20, 60])
def test_rates_of_yes_and_no_are_covered_everywhere(n):
    assert exact_coverage(n, np.linspace(0.1, 0.9, 401)).min() > PROMISED


def test_a_rate_is_wilsons_score_interval_with_students_quantile():
    # The score interval: all p with |k/n - p| <= t √(p (1 - p) / n).
    s = summarise(np.repeat([0.0, 1.0], [13, 7]), within=RATE)
    for end in (s.ci_low, s.ci_high):
        assert abs(0.35 - end) == pytest.approx(stats.t.ppf(0.975, 19) * np.sqrt(end * (1 - end) / 20))


@pytest.mark.parametrize(("share", "truth"), [(0.1, 0.05), (0.3, 0.15), (1.0, 0.5)])
def test_rates_that_are_shares_of_steps_are_covered(share, truth):
    rng = np.random.default_rng(14)
    s = summarise((rng.random((20, TRIALS)) < share) * rng.random((20, TRIALS)), within=RATE)
    at_least((s.ci_low <= truth) & (truth <= s.ci_high), TRIALS)
    assert (s.ci_low >= 0).all()
    assert (s.ci_high <= 1).all()


def test_twenty_times_nothing_is_no_certainty():
    s = summarise(np.zeros(20), within=RATE)
    assert s.ci_low == 0
    assert 0.1 < s.ci_high < 0.2  # the rule of three says 0.15
    with pytest.raises(ValueError, match="between 0 and 1"):
        summarise([0.5, 1.2], within=RATE)


@given(VALUES)
@settings(max_examples=50, deadline=None)
def test_interval_holds_the_mean(values):
    s = summarise(values)
    assert s.n == len(values)
    np.testing.assert_allclose(s.value, values.mean(), atol=1e-9)
    assert s.ci_low <= s.value <= s.ci_high


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_episodes_changes_nothing(values, random):
    shuffled = values.copy()
    random.shuffle(shuffled)
    assert summarise(shuffled) == summarise(values)


@pytest.mark.parametrize("unit", [1e-200, 1e-12, 1.0, 1e12, 1e200])
def test_follows_a_change_of_unit(unit):
    values = np.random.default_rng(4).lognormal(size=20)
    base, changed = summarise(values), summarise(unit * values)
    np.testing.assert_allclose(changed[:3], [unit * v for v in base[:3]], rtol=1e-9)
    mirrored = summarise(-values)
    np.testing.assert_allclose(mirrored[:3], [-base.value, -base.ci_high, -base.ci_low], rtol=1e-9)


def test_symmetric_values_have_students_interval():
    values = stats.norm.ppf(np.linspace(0.02, 0.98, 25))
    low, high = stats.t.interval(0.95, 24, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(summarise(values)[1:3], [low, high], rtol=1e-6)


def test_halls_end_solves_his_equation():
    values = np.random.default_rng(2).exponential(size=20)
    s, n, skewness = summarise(values), 20, stats.skew(values, bias=False)
    w = (s.value - s.ci_high) / values.std(ddof=1)
    g = w + skewness * w**2 / 3 + skewness**2 * w**3 / 27 + skewness / (6 * n)
    assert g == pytest.approx(-stats.t.ppf(0.975, n - 1) / np.sqrt(n))
    below = s.value - stats.t.ppf(0.975, n - 1) * stats.sem(values)
    assert s.ci_low == pytest.approx(below)  # on the short side Student's end is the wider one


def test_columns_are_summarised_one_by_one():
    values = np.random.default_rng(7).normal(size=(12, 3, 4))
    together = summarise(values)
    assert together.value.shape == (3, 4)
    alone = summarise(values[:, 1, 2])
    np.testing.assert_allclose([together[i][1, 2] for i in range(3)], alone[:3], rtol=1e-12)


def test_intervals_end_where_the_metric_does():
    errors = np.array([0.0] * 18 + [1.0, 30.0])
    assert summarise(errors).ci_low < 0
    assert summarise(errors, within=value_range("mse")).ci_low == 0
    assert value_range("r2_position_probed") == (-np.inf, 1)
    assert value_range("violation_rate_probed") == value_range("linear_probe") == RATE
    assert value_range("something_new") == (-np.inf, np.inf)


@pytest.mark.parametrize("within", [(-np.inf, np.inf), RATE])
def test_one_value_says_nothing_about_spread(within):
    s = summarise([0.4], within=within)
    assert (s.value, s.n) == (0.4, 1)
    assert np.isnan([s.ci_low, s.ci_high]).all()


def test_equal_values_have_no_spread_whatever_their_rounding():
    assert summarise(np.full(7, 0.1))[:3] == (pytest.approx(0.1),) * 3
    s = summarise([0.1 + 0.2, 0.3, 0.3])
    assert s.ci_low == pytest.approx(s.ci_high, rel=1e-12)


def test_one_divergence_makes_the_mean_infinite_and_leaves_a_finite_lower_end():
    s = summarise([1.0, 2.0, 3.0, 4.0, np.inf])
    assert s.value == s.ci_high == np.inf
    assert s.ci_low == summarise([1.0, 2.0, 3.0, 4.0]).ci_low
    assert summarise([np.inf] * 5)[:3] == (np.inf, np.inf, np.inf)
    mostly = summarise([1.0, 2.0] + [np.inf] * 8)
    assert mostly.ci_low == np.inf  # to draw none of the eight in ten draws is next to impossible


@pytest.mark.parametrize("function", [summarise, pooled])
def test_nothing_and_nan_are_refused(function):
    with pytest.raises(ValueError, match="no values"):
        function(np.empty((0, 3)))
    with pytest.raises(ValueError, match="NaN"):
        function(np.array([[1.0, np.nan]]))


# ---------------------------------------------------------------- seeds and episodes


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("effect", [0.0, 1.0, 3.0])
def test_new_seeds_on_new_episodes_are_covered(seeds, effect):
    rng, trials, hits = np.random.default_rng(10), 400, np.zeros(2)
    for _ in range(trials):
        x = effect * rng.normal(size=(seeds, 1)) + rng.exponential(size=(1, 20)) - 1 + rng.normal(size=(seeds, 20))
        one = summarise(x.T)
        hits += [s.ci_low <= 0 <= s.ci_high for s in (pooled(x), pool_seeds(one.value, one.ci_low, one.ci_high))]
    for share in hits / trials:
        at_least(share, trials, 0.95)


def test_shared_episodes_are_not_independent_observations():
    rng = np.random.default_rng(9)
    shared = np.tile(rng.normal(size=20), (3, 1))
    independent = rng.normal(size=(3, 20))
    width = lambda s: s.ci_high - s.ci_low  # noqa: E731
    assert width(pooled(shared)) > 1.3 * width(summarise(independent.ravel()))
    np.testing.assert_allclose(width(pooled(shared)), width(summarise(shared[0])), rtol=1e-9)


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
