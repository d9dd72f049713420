import numpy as np
import pytest
from scipy import stats

from wm_pipelines.metrics.comparison import best_set, overlapping_set, paired_difference
from wm_pipelines.metrics.statistics import summarise

ERROR, SHARE = (0.0, np.inf), (-np.inf, 1.0)


def test_pairs_see_what_unpaired_episodes_hide():
    rng = np.random.default_rng(0)
    hard = rng.lognormal(0, 2, 20)
    a, b = 1.1 * hard + 0.01 * rng.random(20), hard
    s = paired_difference(a, b)
    assert 0 < s.ci_low < s.value < s.ci_high
    assert s.value == pytest.approx((a - b).mean())
    assert s.n == 20
    assert stats.ttest_ind(a, b).pvalue > 0.5
    np.testing.assert_allclose(paired_difference(b, a)[:3], [-s.value, -s.ci_high, -s.ci_low])


def test_one_seed_is_the_interval_of_the_differences():
    a, b = np.random.default_rng(1).normal(size=(2, 15))
    assert paired_difference(a, b)[:3] == summarise(a - b)[:3]


@pytest.mark.parametrize("seeds", [1, 3])
def test_new_episodes_and_new_seeds_are_covered(seeds):
    rng, trials, hits = np.random.default_rng(2), 400, 0
    for _ in range(trials):
        hard = rng.exponential(size=20)
        a, b = (
            hard + rng.exponential(size=20) + (seeds > 1) * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, 20))
            for _ in range(2)
        )
        s = paired_difference(a, b)
        hits += s.ci_low <= 0 <= s.ci_high
    assert hits / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_episodes_on_which_models_were_lost():
    b = np.linspace(1.0, 2.0, 10)
    a = b + 1.0 + 0.1 * np.arange(10) % 3
    a[3] = np.inf
    s = paired_difference(a, b)
    assert s.value == s.ci_high == np.inf
    assert 0 < s.ci_low < 2
    mirrored = paired_difference(b, a)
    assert (mirrored.value, mirrored.ci_low, mirrored.ci_high) == (-np.inf, -np.inf, -s.ci_low)
    b[3] = np.inf  # both lost there: no difference
    assert np.isfinite(paired_difference(a, b)[:3]).all()
    b[5] = np.inf
    a[3], b[3] = np.inf, 1.0  # each lost where the other was not
    s = paired_difference(a, b)
    assert np.isnan(s.value)
    assert (s.ci_low, s.ci_high) == (-np.inf, np.inf)


def test_pairs_need_the_same_episodes():
    with pytest.raises(ValueError, match="same episodes"):
        paired_difference(np.ones(3), np.ones(4))


def models(rng, seeds=3, episodes=20, **factors):
    hard = rng.lognormal(0, 1, (1, episodes))
    return {
        name: factor * hard * rng.lognormal(0, 0.3, (seeds, 1)) * rng.lognormal(0, 0.3, (seeds, episodes))
        for name, factor in factors.items()
    }


def test_the_set_holds_who_cannot_be_told_from_the_best_and_leaves_out_who_can():
    values = models(np.random.default_rng(3), a=1e-9, b=1.05e-9, c=1e-2, d=1.0)
    assert best_set(values, True, ERROR) == ["a", "b"]
    assert best_set({name: 1 - v for name, v in values.items()}, False, SHARE)[-1] != "d"
    assert best_set({}, True) == []
    assert best_set({"alone": np.ones((2, 3))}, True) == ["alone"]


def test_seeds_that_scatter_by_factors_are_told_by_their_logarithms():
    values = {"a": np.full((3, 20), 1e-9), "b": np.full((3, 20), 0.1)}
    for name, factors in (("a", (0.8, 1.0, 1.3)), ("b", (0.3, 1.0, 2.0))):
        values[name] = values[name] * np.reshape(factors, (3, 1))
    assert best_set(values, True, ERROR) == ["a"]
    # On the scale of the errors themselves Student's t of three seeds does not exclude that b is as good.
    assert best_set(values, True) == ["a", "b"]


def test_errors_that_are_nothing_at_times_do_not_hide_that_others_are_large():
    values = models(np.random.default_rng(7), a=1e-5, b=1.0, c=30.0)
    values["c"][2] *= 20.0  # a bad seed, beside which on the scale of errors all others look alike
    assert "b" not in best_set(values, True, ERROR)
    values["a"][:, ::4] = 0.0
    assert best_set(values, True, ERROR) == ["a"]
    values["b"][:, ::4] = 0.0  # both are right in a quarter of the episodes, b never better
    assert best_set(values, True, ERROR) == ["a"]
    nothing = {name: np.zeros((3, 20)) for name in "ab"}
    assert best_set(nothing, True, ERROR) == ["a", "b"]


def test_models_that_run_away_do_not_hide_that_others_are_large():
    values = models(np.random.default_rng(9), a=1e-5, b=1.0, c=2.0, d=3.0, e=4.0, f=5.0)
    assert best_set(values, True, ERROR) == ["a"]
    for name in "ef":
        values[name] *= np.reshape([1.0, 1e60, 1e20], (3, 1))
    assert "b" not in best_set(values, True, ERROR)


@pytest.mark.parametrize(
    ("best", "others"), [(0.0, (0.78, 0.9, 0.95)), (0.0, (1e3, 1.5e3, 3e3)), (1.0, (0.2, 0.1, 0.15))]
)
def test_a_model_on_the_limit_itself_is_told_from_those_far_from_it(best, others):
    rng = np.random.default_rng(0)
    values = {f"m{i}": x * (1 + 0.03 * rng.standard_normal((3, 20))) for i, x in enumerate(others)}
    within = (0.0, 1.0) if best or others[0] < 1 else (0.0, np.inf)
    found = best_set({"best": np.full((3, 20), best), **values}, lower_is_better=best == 0.0, within=within)
    assert found == ["best"]


def test_a_model_is_not_kept_because_it_explodes():
    rng = np.random.default_rng(1)
    episodes = np.exp(0.3 * rng.standard_normal((3, 20)))
    values = {f"m{i}": 0.01 * 2**i * episodes * np.exp(0.2 * rng.standard_normal((3, 1))) for i in range(8)}
    values["wild"] = (
        np.array([[0.08 * 10], [1e10], [1e22]]) * episodes
    )  # even its best seed is far worse than all of m0's
    assert "wild" not in best_set(values, True, (0.0, np.inf))


def test_several_that_run_away_do_not_hide_that_others_are_large():
    rng = np.random.default_rng(2)
    episodes = np.exp(0.3 * rng.standard_normal((3, 20)))
    values = {f"m{i}": 10.0 ** (i - 3) * episodes * np.exp(rng.standard_normal((3, 1))) for i in range(15)}
    values |= {f"wild{i}": 10.0 ** np.array([[2], [10 + i], [25]]) * episodes for i in range(4)}
    found = best_set(values, True, (0.0, np.inf))
    assert found[0] == "m0"
    assert not {f"m{i}" for i in range(6, 15)} & set(found)  # a million times worse


def test_among_thirty_models_one_that_is_worse_everywhere_is_told():
    rng = np.random.default_rng(8)
    lost = 1.0 + 4.0 * rng.exponential(1.0, 20)  # by one at least, in some episodes by much
    values = {"best": np.full((3, 20), 10.0), "worse": 10.0 - lost * np.reshape((0.95, 1.0, 1.05), (3, 1))}
    values |= {f"other {i}": 2.0 + rng.uniform(-0.5, 0.5, (3, 20)) for i in range(28)}
    assert best_set(values, False) == ["best"]


def test_seeds_alone_can_leave_it_open():
    episodes = np.linspace(1.0, 2.0, 20)
    a, b = (episodes * np.reshape(seeds, (3, 1)) for seeds in ((0.5, 1.0, 2.0), (0.6, 1.2, 2.4)))
    assert best_set({"a": a, "b": b}, True, ERROR) == ["a", "b"]
    assert best_set({"a": a[:1], "b": b[:1]}, True, ERROR) == ["a"]  # of these two trainings a is better


@pytest.mark.parametrize(("seeds", "scatter"), [(1, 0.0), (3, 0.0), (3, 1.0), (2, 0.5)])
def test_who_is_best_in_truth_is_rarely_left_out(seeds, scatter):
    rng, trials, hits = np.random.default_rng(4), 100, 0
    for _ in range(trials):
        hard = rng.lognormal(0, 1, (1, 20))
        values = {
            str(i): (1 if i else 0.98)
            * hard
            * rng.lognormal(0, scatter, (seeds, 1))
            * rng.lognormal(0, 0.5, (seeds, 20))
            for i in range(6)
        }
        hits += "0" in best_set(values, True, ERROR)
    assert hits / trials > 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_the_set_does_not_depend_on_names_or_their_order():
    values = models(np.random.default_rng(5), a=1.0, b=1.02, c=3.0, d=1.5)
    backwards = dict(reversed(values.items()))
    assert set(best_set(values, True, ERROR)) == set(best_set(backwards, True, ERROR))


def test_a_diverged_model_is_not_compared_by_its_seeds():
    values = models(np.random.default_rng(6), a=1.0, b=50.0)
    values["b"][1, 2] = np.inf
    assert best_set(values, True, ERROR) == ["a"]


def test_intervals_that_meet_that_of_the_best():
    values = {"a": (1.0, 0.8, 1.5), "b": (1.4, 1.45, 2.0), "c": (3.0, 1.6, 4.0), "d": (1.2, np.nan, np.nan)}
    assert overlapping_set(values, True) == ["a", "b", "d"]
    assert overlapping_set(values, False) == ["b", "c"]
    assert overlapping_set({}, True) == []
