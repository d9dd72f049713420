import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import r2_score as sklearn_r2

from wm_pipelines.metrics import readout as r


@pytest.mark.parametrize(("n", "dimension"), [(200, 12), (15, 40)])
def test_ridge_solves_the_normal_equations(n, dimension):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, dimension)) * np.logspace(-2, 2, dimension) + 5
    y = (x - 5) / np.logspace(-2, 2, dimension) @ rng.normal(size=(dimension, 3)) + rng.normal(size=(n, 3)) - 7
    probe = r.ridge_probe(x, y)
    z = (x - x.mean(0)) / x.std(0)
    unit = np.square(np.linalg.svd(z, compute_uv=False)[: min(n - 1, dimension)]).mean()
    test = rng.normal(size=(4, dimension))
    for q in range(3):
        shrink = np.sqrt(probe.penalty[q] * unit) * np.eye(dimension)  # zᵀz + shrink², without squaring its condition
        centred = np.concatenate([y[:, q] - y[:, q].mean(), np.zeros(dimension)])
        weights = np.linalg.lstsq(np.vstack([z, shrink]), centred)[0]
        expected = (test - x.mean(0)) / x.std(0) @ weights + y[:, q].mean()
        np.testing.assert_allclose(probe.predict(test)[:, q], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n", "dimension"), [(80, 6), (20, 30)])
def test_ridge_takes_the_penalty_of_least_generalised_cross_validation(n, dimension):
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(n, dimension)), rng.normal(size=(n, 2))
    y[:, 0] += x[:, 0]
    z = (x - x.mean(0)) / x.std(0)
    unit = np.square(np.linalg.svd(z, compute_uv=False)[: min(n - 1, dimension)]).mean()
    grid = np.logspace(-12, 6, 73)
    score = np.empty((len(grid), 2))
    for i, penalty in enumerate(grid):
        hat = z @ np.linalg.solve(z.T @ z + penalty * unit * np.eye(dimension), z.T) + 1 / n
        score[i] = np.square(y - hat @ y).sum(0) / (n - np.trace(hat)) ** 2
    chosen = [np.flatnonzero(np.isclose(grid, penalty))[0] for penalty in r.ridge_probe(x, y).penalty]
    usable = grid > 1e-6  # below, the normal equations are mere rounding where n < dimension
    for q in range(2):
        assert score[chosen[q], q] <= score[usable, q].min() * (1 + 1e-6)


def test_ridge_recovers_what_is_there_exactly_and_ignores_what_is_not():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(500, 8))
    x[:, 7] = 3.0  # constant
    x[:, 6] = x[:, 5]  # twice
    y = np.stack([x[:, 0] - 2 * x[:, 5] + 4, rng.normal(size=500)], axis=1)
    probe = r.ridge_probe(x[:400], y[:400])
    score = r.r2_score(probe.predict(x[400:]), y[400:])
    assert score[0] > 1 - 1e-12
    assert -0.1 < score[1] < 0.1
    assert probe.predict(x.reshape(5, 100, 8)).shape == (5, 100, 2)
    assert not np.isfinite(probe.predict(np.full((1, 8), np.nan))).any()
    assert r.ridge_probe(np.ones((5, 2)), y[:5]).predict(np.ones((1, 2))) == pytest.approx(y[:5].mean(0)[None])


def test_ridge_refuses_what_does_not_fit():
    x, y = np.ones((5, 2)), np.ones((5, 1))
    for a, b, message in (
        (x, y[:, 0], "quantities"),
        (x, y[:4], "quantities"),
        (x[:2], y[:2], "at least 3"),
        (x * np.nan, y, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            r.ridge_probe(a, b)
    with pytest.raises(ValueError, match="fitted to 2 features"):
        r.ridge_probe(x, y).predict(np.ones((1, 3)))


@given(
    arrays(np.float64, (6, 3), elements=st.integers(-9, 9).map(float)),
    arrays(np.float64, (6, 3), elements=st.integers(-9, 9).map(float)),
)
@settings(max_examples=50, deadline=None)
def test_r2_agrees_with_sklearn(predicted, truth):
    np.testing.assert_allclose(r.r2_score(predicted, truth), sklearn_r2(truth, predicted, multioutput="raw_values"))
    pooled = r.r2_score(predicted, truth, [[0, 1, 2], [1]])
    if truth.var(axis=0).min() > 0:
        np.testing.assert_allclose(pooled[0], sklearn_r2(truth, predicted, multioutput="variance_weighted"))
    np.testing.assert_allclose(pooled[1], r.r2_score(predicted, truth)[1])


def test_r2_of_the_mean_of_the_undefined_and_of_the_wrong_shape():
    truth = np.random.default_rng(8).normal(size=(30, 2))
    np.testing.assert_allclose(r.r2_score(np.tile(truth.mean(0), (30, 1)), truth), 0.0, atol=1e-12)
    broken = truth.copy()
    broken[3, 1] = np.nan
    np.testing.assert_array_equal(r.r2_score(broken, truth), [1.0, -np.inf])
    np.testing.assert_array_equal(r.r2_score(broken, truth, [[0, 1]]), [-np.inf])
    still = np.full((30, 1), 0.1)
    np.testing.assert_array_equal(r.r2_score(np.hstack([still, still + 1e-3]), np.hstack([still, still])), [1.0, 0.0])
    np.testing.assert_array_equal(r.r2_score(np.nan * still, still), [-np.inf])
    with pytest.raises(ValueError, match="two arrays"):
        r.r2_score(truth[:, :1], truth)
    with pytest.raises(ValueError, match="not finite"):
        r.r2_score(truth, broken)
    for groups in ([[]], [[2]]):
        with pytest.raises(ValueError, match="columns from 0 to 1"):
            r.r2_score(truth, truth, groups)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), st.data())
@settings(max_examples=40, deadline=None)
def test_windows_are_the_runs(episodes, steps, dimension, data):
    width = data.draw(st.integers(1, steps))
    latents = np.arange(episodes * steps * dimension, dtype=float).reshape(episodes, steps, dimension)
    found = r.windows(latents, width)
    assert found.shape == (episodes, steps - width + 1, width * dimension)
    for t in range(steps - width + 1):
        np.testing.assert_array_equal(found[:, t], latents[:, t : t + width].reshape(episodes, -1))


def test_a_window_holds_the_velocity_that_a_frame_does_not():
    rng = np.random.default_rng(9)
    start, velocity = rng.normal(size=(200, 1, 1)), rng.normal(size=(200, 1, 1))
    position = start + velocity * np.arange(4).reshape(1, 4, 1)
    target = np.broadcast_to(velocity, (200, 4, 1))
    scores = []
    for width in (1, 2):
        x = r.windows(position, width).reshape(-1, width)
        y = target[:, width - 1 :].reshape(-1, 1)
        scores.append(r.r2_score(r.ridge_probe(x, y).predict(x), y)[0])
    assert scores[0] < 0.9 < 1 - 1e-9 < scores[1]
    for wrong in (0, 5):
        with pytest.raises(ValueError, match="1 ≤ width ≤ T"):
            r.windows(position, wrong)
