import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel

from wm_pipelines.metrics import distances as d

SAMPLES = arrays(np.float64, (7, 3), elements=st.floats(-5, 5))


def with_moments(rng, mean, covariance, n):
    """``n`` examples whose sample mean and covariance are exactly those asked for."""
    x = rng.normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + x @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_commuting_covariances_has_a_closed_form():
    rng = np.random.default_rng(0)
    mean_a, mean_b, std_a, std_b = (
        np.zeros(4),
        np.array([1, 0, -2, 0.5]),
        np.array([1, 2, 3, 4.0]),
        np.array([2, 2, 1, 0.5]),
    )
    a, b = with_moments(rng, mean_a, np.diag(std_a**2), 50), with_moments(rng, mean_b, np.diag(std_b**2), 30)
    expected = np.square(mean_a - mean_b).sum() + np.square(std_a - std_b).sum()
    np.testing.assert_allclose(d.frechet_distance(a, b), expected, rtol=1e-12)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    np.testing.assert_allclose(d.frechet_distance(a @ turn, b @ turn), expected, rtol=1e-12)


def test_frechet_distance_agrees_with_the_matrix_root():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), 1.0 + rng.normal(size=(90, 6)) @ rng.normal(size=(6, 6))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    np.testing.assert_allclose(d.frechet_distance(a, b), expected, rtol=1e-9)


def test_fewer_examples_than_features():
    rng = np.random.default_rng(2)
    low_a, low_b = rng.normal(size=(12, 3)), 0.5 + 2 * rng.normal(size=(9, 3))
    into = np.linalg.qr(rng.normal(size=(400, 3)))[0].T  # an isometry changes no distance
    np.testing.assert_allclose(
        d.frechet_distance(low_a @ into, low_b @ into), d.frechet_distance(low_a, low_b), rtol=1e-9
    )
    a = rng.normal(size=(12, 400))
    assert d.frechet_distance(a, a) < 1e-9
    # Spread in directions that share nothing adds up.
    halves = np.hstack([a[:, :200], np.zeros((12, 200))]), np.hstack([np.zeros((12, 200)), a[:, 200:]])
    expected = np.square(a.mean(0)).sum() + a.var(axis=0, ddof=1).sum()
    np.testing.assert_allclose(d.frechet_distance(*halves), expected, rtol=1e-12)


@given(SAMPLES, SAMPLES, st.floats(-10, 10), st.floats(0.1, 10))
@settings(max_examples=50, deadline=None)
def test_frechet_distance_is_a_symmetric_squared_distance(a, b, shift, unit):
    value = d.frechet_distance(a, b)
    assert value >= 0
    np.testing.assert_allclose(d.frechet_distance(b, a), value, atol=1e-9)
    np.testing.assert_allclose(d.frechet_distance(unit * a, unit * b), unit**2 * value, rtol=1e-6, atol=1e-9 * unit**2)
    np.testing.assert_allclose(d.frechet_distance(a, a + shift), 3 * shift**2, rtol=1e-9, atol=1e-9)


def test_mmd_agrees_with_its_definition(monkeypatch):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(23, 5)), 0.5 + rng.normal(size=(17, 5))

    def u_statistic(a, b, degree, offset):
        aa, bb, ab = (polynomial_kernel(*pair, degree, None, offset) for pair in ((a, a), (b, b), (a, b)))
        within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (aa, bb)]
        return sum(within) - 2 * ab.mean()

    monkeypatch.setattr(d, "_ROWS", 10)
    for degree, offset in ((3, 1.0), (2, 0.0)):
        value, error = d.mmd(a, b, degree, offset)
        np.testing.assert_allclose(value, u_statistic(a, b, degree, offset), rtol=1e-12)
        left_a = np.array([u_statistic(np.delete(a, i, 0), b, degree, offset) for i in range(23)])
        left_b = np.array([u_statistic(a, np.delete(b, i, 0), degree, offset) for i in range(17)])
        np.testing.assert_allclose(error**2, 22 * left_a.var() + 16 * left_b.var(), rtol=1e-9)


def test_the_error_of_an_mmd_counts_episodes_and_not_their_parts():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(40, 4)), 0.5 + rng.normal(size=(40, 4))
    alone, thrice = d.mmd(a, b, of_one_episode=1), d.mmd(np.repeat(a, 3, 0), np.repeat(b, 3, 0), of_one_episode=3)
    assert alone.value == d.mmd(a, b).value
    np.testing.assert_allclose(alone.standard_error, d.mmd(a, b).standard_error, rtol=0.2)  # a and b are independent
    np.testing.assert_allclose(thrice.standard_error, alone.standard_error, rtol=0.1)
    assert d.mmd(np.repeat(a, 3, 0), np.repeat(b, 3, 0)).standard_error < 0.7 * alone.standard_error
    # What makes an episode unlike others does so in both: the distance hardly feels which episodes were drawn.
    shared = np.array([d.mmd(x + 1.0, x, of_one_episode=1) for x in rng.normal(size=(200, 40, 4))])
    assert 0.7 < shared[:, 1].mean() / shared[:, 0].std() < 1.4
    with pytest.raises(ValueError, match="not 3 each"):
        d.mmd(a, b, of_one_episode=3)


def test_mmd_is_zero_on_average_under_equality_and_its_error_is_honest_otherwise():
    rng = np.random.default_rng(4)
    equal = np.array([d.mmd(rng.normal(size=(30, 4)), rng.normal(size=(40, 4))).value for _ in range(400)])
    assert (equal < 0).any()
    assert abs(equal.mean()) < 3 * equal.std() / 20
    different = np.array([d.mmd(rng.normal(size=(40, 4)), 0.5 + rng.normal(size=(40, 4))) for _ in range(400)])
    assert different[:, 0].mean() > 0
    assert 0.85 < np.sqrt(np.square(different[:, 1]).mean()) / different[:, 0].std() < 1.25


def test_distances_of_what_is_not_finite_are_infinite_and_of_the_wrong_shape_refused():
    a = np.ones((5, 3))
    assert d.frechet_distance(a, np.full((5, 3), np.nan)) == np.inf
    assert d.mmd(a, np.full((5, 3), np.nan)) == (np.inf, np.inf)
    for distance in (d.frechet_distance, d.mmd):
        with pytest.raises(ValueError, match="with one D are needed"):
            distance(a, np.ones((5, 4)))
        with pytest.raises(ValueError, match="needs at least"):
            distance(a, a[:1])
    with pytest.raises(ValueError, match="degree 1 or more"):
        d.mmd(a, a, degree=0)


# ---------------------------------------------------------------- estimates of few examples


def test_pseudo_values_take_the_bias_of_few_episodes_away():
    """Of equal distributions the distance is above 0, the more so of the fewer; the pseudo-values' mean is about 0."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(5000, 6))
    plain, corrected = [], []
    for _ in range(60):
        x = rng.normal(size=(40, 6))
        plain.append(d.frechet_distance(reference, x))
        corrected.append(d.frechet_pseudo_values(reference, x).mean())
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert np.mean(plain) > 0.2
    assert abs(np.mean(corrected)) < 0.1 * np.mean(plain) + 3 * error


def test_the_spread_of_pseudo_values_is_that_of_the_estimate():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(2000, 3))
    values = [d.frechet_pseudo_values(reference, 1.0 + 0.7 * rng.normal(size=(50, 3))) for _ in range(200)]
    told = np.mean([v.std(ddof=1) / np.sqrt(len(v)) for v in values])
    assert told == pytest.approx(np.std([v.mean() for v in values]), rel=0.15)


def test_examples_of_one_episode_are_left_out_together():
    rng = np.random.default_rng(2)
    reference, x = rng.normal(size=(50, 2)), rng.normal(size=(12, 2))
    (first, *_) = found = d.frechet_pseudo_values(reference, x, 3)
    assert found.shape == (4,)
    expected = 4 * d.frechet_distance(reference, x) - 3 * d.frechet_distance(reference, x[3:])
    assert first == pytest.approx(expected)
    assert np.isinf(d.frechet_pseudo_values(reference, np.full((6, 2), np.nan))).all()
    with pytest.raises(ValueError, match="three episodes or more"):
        d.frechet_pseudo_values(reference, x, 6)


def moving_squares(count, speed, seed=0, rows=5, size=16):
    rng = np.random.default_rng(seed)
    frames = np.zeros((count, rows, size, size, 1), np.uint8)
    for clip, start in zip(frames, rng.integers(0, size, (count, 2)), strict=True):
        for t, frame in enumerate(clip):
            at = (start + speed * t) % size
            frame[np.ix_((at[0] + np.arange(4)) % size, (at[1] + np.arange(4)) % size)] = 255
    return frames


def test_video_features_tell_motion_sharpness_and_nothing_else_apart():
    true = moving_squares(200, 2)
    features = d.VideoFeatures(true)
    np.testing.assert_allclose(features.reference.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(features.reference.std(0), 1, rtol=1e-6)
    others = moving_squares(200, 2, seed=1)
    same = d.frechet_distance(features.reference, features(others))
    still = d.frechet_distance(features.reference, features(np.repeat(others[:, :1], 5, 1)))
    blurred = (others + np.roll(others, 1, 2) * 1.0 + np.roll(others, 1, 3)) / 3 / 255
    assert same < 0.2
    assert min(still, d.frechet_distance(features.reference, features(blurred))) > 5 * same
    np.testing.assert_allclose(features(others), features(others / 255), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(features(others[:3]), d.VideoFeatures(true)(others)[:3], rtol=1e-3, atol=1e-4)


def test_clips_without_differences_have_no_features():
    with pytest.raises(ValueError, match="all alike"):
        d.VideoFeatures(np.zeros((4, 3, 16, 16, 1), np.uint8))
    with pytest.raises(ValueError, match="two or more"):
        d.VideoFeatures(np.zeros((1, 3, 16, 16, 1), np.uint8))
