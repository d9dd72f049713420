import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from wm_pipelines.metrics import probes as r


def blobs(n, classes=4, dimension=6, apart=3.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return apart * rng.normal(size=(classes, dimension))[labels] + rng.normal(size=(n, dimension)), labels


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
def test_knn_is_the_majority_of_the_nearest(metric, dimension):
    x, y = blobs(500, dimension=dimension, apart=0.5, seed=dimension)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    distance = np.linalg.norm(unit[300:, None] - unit[:300], axis=-1)
    votes = y[:300][np.argsort(distance, axis=1)[:, :5]]
    majority = np.array([np.bincount(row).argmax() for row in votes])
    np.testing.assert_array_equal(r.knn_probe(x[:300], y[:300], x[300:], y[300:], metric=metric), majority == y[300:])


def test_knn_with_as_many_neighbours_as_points():
    x, y = blobs(12)
    majority = np.bincount(y).argmax()
    np.testing.assert_array_equal(r.knn_probe(x, y, x, y, k=12), y == majority)
    with pytest.raises(ValueError, match="1 ≤ k ≤ 12"):
        r.knn_probe(x, y, x, y, k=13)
    with pytest.raises(ValueError, match="'cosine' and 'l2', got 'l1'"):
        r.knn_probe(x, y, x, y, metric="l1")


def hidden_tokens(n=1200, tokens=8, dimension=8, seed=4):
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
    half = x[:1000], y[:1000], x[1000:], y[1000:]
    attended = r.attentive_probe(*half, steps=150, batch=128, learning_rate=0.05)
    pooled = r.linear_probe(x[:1000].mean(1), y[:1000], x[1000:].mean(1), y[1000:])
    assert attended.shape == (200,)
    assert attended.mean() > 0.95
    assert pooled.mean() < 0.75
    short = [r.attentive_probe(*half, steps=5) for _ in range(2)]
    np.testing.assert_array_equal(*short)


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
