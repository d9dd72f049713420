"""Codes and what they mean: against scikit-learn, against known shares, under their null distribution."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score, normalized_mutual_info_score

from wm_pipelines.metrics import latent_actions as m

RNG = np.random.default_rng(0)
ANY = RNG.integers(4, size=(20, 60))


def test_use_of_codes():
    codes = np.array([[0] * 97 + [1] * 2 + [2]])
    np.testing.assert_allclose(m.shares(codes, 4), [0.97, 0.02, 0.01, 0.0])
    assert m.used(codes, 4) == 2  # one in a hundred is not more than one per cent
    assert m.perplexity(np.zeros((2, 5), int), 4) == 1.0
    assert m.perplexity(np.arange(8).reshape(2, 4), 8) == pytest.approx(8.0)


def test_classes_of_displacements():
    moved = np.array([-9.0, -2.0, -0.5, 0.0, 0.5, 2.0, 9.0])
    assert m.directions(moved, 1.0).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert m.displacements(moved, 1.0, 5.0).tolist() == [0, 1, 2, 2, 2, 3, 4]


def test_information_is_scikit_learns():
    other = np.where(RNG.random(ANY.shape) < 0.5, ANY, RNG.integers(3, size=ANY.shape))
    flat = other.ravel(), ANY.ravel()
    assert m.adjusted_mutual_information(ANY, other) == pytest.approx(adjusted_mutual_info_score(*flat))
    assert m.normalised_mutual_information(ANY, other) == pytest.approx(normalized_mutual_info_score(*flat))
    nothing = np.zeros_like(ANY)
    assert m.conditional_information(ANY, other, nothing) == pytest.approx(mutual_info_score(*flat))
    # the chain rule: I(c; class, given) = I(c; given) + I(c; class | given)
    given = RNG.integers(3, size=ANY.shape)
    both = mutual_info_score((3 * other + given).ravel(), ANY.ravel())
    alone = mutual_info_score(given.ravel(), ANY.ravel())
    assert m.conditional_information(ANY, other, given) == pytest.approx(both - alone)


def test_the_interval_is_over_episodes_and_the_parts_have_the_score_as_their_mean():
    """Of scores that are means of episodes the jackknife gives their own spread."""

    def mean(codes, classes):
        return float((codes == classes).mean())

    same = RNG.random((20, 60)) < RNG.random((20, 1))
    classes = np.where(same, ANY, 9)
    summary, parts = m.with_interval(mean, ANY, classes)
    assert summary.n == 20
    np.testing.assert_allclose(parts, same.mean(1), atol=1e-12)
    assert summary.ci_low < same.mean() < summary.ci_high
    assert np.isnan(m.with_interval(mean, ANY[:1], classes[:1])[0].ci_low)


def test_the_null_keeps_what_is_smooth_in_time():
    """Codes and classes that hardly change agree by chance more often than shuffled transitions do; codes that mean
    something stand above both."""
    slow = np.repeat(RNG.integers(3, size=(20, 3)), 20, axis=1)
    other = np.repeat(RNG.integers(3, size=(20, 3)), 20, axis=1)
    null = m.null_scores(m.adjusted_mutual_information, slow, other)
    assert null.shape == (19,)
    assert np.quantile(null, 0.975) > 0.01
    assert m.adjusted_mutual_information(slow, slow) == pytest.approx(1.0)
    shuffled = RNG.permutation(other.ravel()).reshape(other.shape)
    assert abs(m.adjusted_mutual_information(slow, shuffled)) < 0.01


def test_codes_of_the_agent_and_codes_of_a_distractor_are_told_apart():
    """Even where the agent follows the distractor half of the time."""
    distractor = RNG.integers(3, size=(20, 60))
    agent = np.where(RNG.random((20, 60)) < 0.5, distractor, RNG.integers(3, size=(20, 60)))
    assert m.distractor_share(agent, agent, distractor) < 0.02
    assert m.distractor_share(distractor, agent, distractor) > 0.98
    half = np.where(RNG.random((20, 60)) < 0.5, agent, distractor)
    assert 0.3 < m.distractor_share(half, agent, distractor) < 0.7
    assert m.information_beyond(RNG.integers(8, size=(20, 60)), distractor, agent) < 0.01
    assert np.isnan(m.distractor_share(np.zeros_like(agent), agent, distractor))


def test_consistency_is_the_share_that_does_what_its_code_means_elsewhere():
    codes, classes = np.array([[0, 0, 0, 1, 1]]), np.array([[2, 2, 1, 0, 0]])
    meaning = m.meanings(codes, classes, 3)
    assert meaning.tolist() == [
        2,
        0,
        0,
    ]  # code 2 never occurs: the class that is most frequent of all
    assert m.consistency(codes, classes, meaning).tolist() == [0.8]
    assert m.consistency(np.array([[1, 1], [0, 1]]), np.array([[0, 2], [2, 0]]), meaning).tolist() == [0.5, 1.0]
