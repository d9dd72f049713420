import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score as sklearn_r2
from sklearn.neighbors import KNeighborsClassifier

from wm_pipelines.metrics import representation as r

FEATURES = arrays(np.float64, (9, 4), elements=st.floats(-5, 5, width=16))


def with_spectrum(values, n=50, seed=0):
    """Centred features ``[n, D]`` with exactly these singular values, turned at random."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(np.hstack([np.ones((n, 1)), rng.normal(size=(n, len(values)))]))[0][:, 1:]
    return u * values @ np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]


def blobs(n, classes=4, dimension=6, apart=3.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return apart * rng.normal(size=(classes, dimension))[labels] + rng.normal(size=(n, dimension)), labels


# ---------------------------------------------------------------- collapse


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
    for monitor in (r.feature_std, r.effective_rank, r.rankme, r.is_collapsed):
        with pytest.raises(ValueError, match=r"must be \[N, D\], got shape \(2, 3, 4\)"):
            monitor(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="at least two examples"):
        r.is_collapsed(np.ones((1, 3)))


def test_codebook_usage():
    used, perplexity = r.codebook_usage(np.array([[0, 1], [1, 0]]), 8)
    assert used == 0.25
    assert perplexity == pytest.approx(2.0)
    used, perplexity = r.codebook_usage(np.array([0] * 99 + [1]), 2)
    assert used == 1.0
    assert perplexity < 1.1
    for wrong in (np.array([8]), np.array([-1]), np.array([0.5]), np.empty(0, int)):
        with pytest.raises(ValueError, match="integers from 0 to 7"):
            r.codebook_usage(wrong, 8)


# ---------------------------------------------------------------- probes that classify


def test_linear_probe_agrees_with_sklearn():
    for apart, seed in ((6.0, 0), (0.7, 1)):  # separable, and not
        x, y = blobs(1200, apart=apart, seed=seed)
        x = x * np.logspace(-3, 3, 6) + 50  # units do not matter
        found = r.linear_probe(x[:800], y[:800], x[800:], y[800:], penalties=[1e-3])
        mean, std = x[:800].mean(0), x[:800].std(0)
        theirs = LogisticRegression(C=1 / (1e-3 * 800), tol=1e-8, max_iter=5000).fit((x[:800] - mean) / std, y[:800])
        expected = theirs.predict((x[800:] - mean) / std) == y[800:]
        assert found.shape == (400,)
        assert (found != expected).mean() <= 0.005
        chosen = r.linear_probe(x[:800], y[:800], x[800:], y[800:])
        assert chosen.mean() > expected.mean() - 0.03
    x, y = blobs(500, apart=9)
    assert r.linear_probe(x[:400], y[:400], x[400:], y[400:]).mean() == 1.0


def test_linear_probe_chooses_a_penalty_that_holds_back():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2500, 400)), rng.integers(0, 2, 2500)
    x += 2.0 * y[:, None] * rng.normal(size=400) / 20
    scores = [r.linear_probe(x[:500], y[:500], x[500:], y[500:], penalties=p).mean() for p in ([1e-6], [1.0, 1e-6])]
    assert scores[1] > scores[0] + 0.02


def test_labels_may_be_anything_and_constant_features_do_no_harm():
    x, y = blobs(300, classes=3)
    names = np.array(["ball", "rod", "spring"])[y]
    x = np.hstack([x, np.full((300, 1), 0.1)])
    for probe in (r.linear_probe, r.knn_probe):
        assert probe(x[:200], names[:200], x[200:], names[200:]).mean() > 0.95


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dimension", [2, 20])
def test_knn_agrees_with_sklearn(metric, dimension):
    x, y = blobs(3000, dimension=dimension, apart=0.5, seed=dimension)
    theirs = KNeighborsClassifier(5, metric={"cosine": "cosine", "l2": "euclidean"}[metric]).fit(x[:2000], y[:2000])
    expected = theirs.predict(x[2000:]) == y[2000:]
    np.testing.assert_array_equal(r.knn_probe(x[:2000], y[:2000], x[2000:], y[2000:], metric=metric), expected)


def test_knn_finds_neighbours_that_single_precision_cannot_tell_apart():
    rng = np.random.default_rng(3)
    points = 1e3 + np.cumsum(rng.uniform(0.5, 1.0, (400, 1)), axis=0) * 1e-6  # 400 points within a thousandth
    far = np.array([[0.0]])
    train = np.vstack([points, far])
    labels = np.arange(401)
    found = r.knn_probe(train, labels, points + 1e-8, labels[:400], k=1, metric="l2")
    assert found.mean() == 1.0


def test_knn_with_as_many_neighbours_as_points():
    x, y = blobs(12)
    majority = np.bincount(y).argmax()
    np.testing.assert_array_equal(r.knn_probe(x, y, x, y, k=12), y == majority)
    with pytest.raises(ValueError, match="1 ≤ k ≤ 12"):
        r.knn_probe(x, y, x, y, k=13)
    with pytest.raises(ValueError, match="'cosine' and 'l2', got 'l1'"):
        r.knn_probe(x, y, x, y, metric="l1")


def hidden_tokens(n=2400, tokens=8, dimension=8, seed=4):
    """The class stands in one token, marked, at a random place; the others shout the same words unmarked."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, tokens, dimension)) * 0.3
    words = rng.integers(0, 4, (n, tokens))
    x[np.arange(n)[:, None], np.arange(tokens), words] += 2.0
    place = rng.integers(0, tokens, n)
    x[np.arange(n), place, 5] += 3.0
    return x, words[np.arange(n), place]


def test_attention_reads_what_the_mean_has_lost():
    x, y = hidden_tokens()
    attended = r.attentive_probe(x[:2000], y[:2000], x[2000:], y[2000:], steps=300, batch=128, learning_rate=0.03)
    pooled = r.linear_probe(x[:2000].mean(1), y[:2000], x[2000:].mean(1), y[2000:])
    assert attended.shape == (400,)
    assert attended.mean() > 0.97
    assert pooled.mean() < 0.75
    again = r.attentive_probe(x[:2000], y[:2000], x[2000:], y[2000:], steps=300, batch=128, learning_rate=0.03)
    np.testing.assert_array_equal(attended, again)


def test_attention_over_one_token_is_a_linear_probe():
    x, y = blobs(900, apart=0.8)
    attended = r.attentive_probe(x[:600, None], y[:600], x[600:, None], y[600:], steps=300, learning_rate=0.03)
    assert abs(attended.mean() - r.linear_probe(x[:600], y[:600], x[600:], y[600:]).mean()) < 0.03


@pytest.mark.parametrize("probe", [r.linear_probe, r.knn_probe, r.attentive_probe])
def test_probes_refuse_what_they_cannot_learn_from_and_count_what_is_not_finite_as_wrong(probe):
    x, y = blobs(200, apart=9)
    options = {"steps": 100} if probe is r.attentive_probe else {}
    if probe is r.attentive_probe:
        x = x[:, None]
    test = x[:4].copy()
    test[1] = np.nan
    test[2, ..., 0] = np.inf
    np.testing.assert_array_equal(probe(x, y, test, y[:4], **options), [1, 0, 0, 1])
    with pytest.raises(ValueError, match="features must be"):
        probe(x, y[:-1], x, y)
    with pytest.raises(ValueError, match="features must be"):
        probe(x[..., 0], y, x[..., 0], y)
    with pytest.raises(ValueError, match="differ after the examples"):
        probe(x, y, x[..., 1:], y)
    with pytest.raises(ValueError, match="not finite"):
        probe(np.where(x > x.mean(), np.nan, x), y, x, y)
    with pytest.raises(ValueError, match="two classes"):
        probe(x, 0 * y, x, y)


# ---------------------------------------------------------------- probes that measure


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
