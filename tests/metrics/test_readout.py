import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

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
    score = r2_score(y[400:], probe.predict(x[400:]), multioutput="raw_values")
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
        scores.append(r2_score(y, r.ridge_probe(x, y).predict(x)))
    assert scores[0] < 0.9 < 1 - 1e-9 < scores[1]
    for wrong in (0, 5):
        with pytest.raises(ValueError, match="1 ≤ width ≤ T"):
            r.windows(position, wrong)
