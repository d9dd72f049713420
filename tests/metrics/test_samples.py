"""Diversity of samples: 1 as in the data, 0 where nothing moves, and blind to where the starts lie."""

import numpy as np
import pytest

from wm_pipelines.metrics.samples import diversity, sample_spread


def futures(episodes=200, rows=5, seed=0):
    return np.random.default_rng(seed).standard_normal((episodes, rows, 3)).cumsum(1) * [1.0, 10.0, 0.1]


def test_samples_like_the_data_are_as_diverse_and_still_ones_are_not():
    truth = futures()
    exact = np.repeat(truth[None], 4, 0)
    assert diversity(exact, truth) == pytest.approx(1.0)
    assert sample_spread(exact, truth) == pytest.approx(0.0)
    still = np.repeat(truth[None, :, :1], 4, 0).repeat(5, 2)
    assert diversity(still, truth) == 0.0
    half = truth[:, :1] + 0.5 * (truth - truth[:, :1])
    assert diversity(half[None], truth) == pytest.approx(0.5)


def test_the_spread_of_one_start_is_that_of_its_samples_alone():
    truth = futures()
    noise = np.stack([futures(seed=s) - futures(seed=s)[:, :1] for s in range(1, 200)])
    samples = truth + 0.5 * noise
    assert sample_spread(samples, truth) == pytest.approx(0.5, abs=0.05)
    assert diversity(samples, truth) == pytest.approx(np.hypot(1.0, 0.5), abs=0.05)


def test_units_starts_and_entries_that_stay_do_not_count_and_no_number_is_no_diversity():
    truth, samples = futures(), np.stack([futures(seed=s) for s in (1, 2)])
    wanted = diversity(samples, truth)
    start = 100.0 * np.arange(200.0)[:, None, None]
    scale = np.array([1e3, 1.0, 1e-3])
    assert diversity(samples * scale, truth * scale) == pytest.approx(wanted)
    assert diversity(samples + start, truth + start) == pytest.approx(wanted, rel=1e-6)
    still = np.concatenate([truth, np.ones((200, 5, 1))], -1)
    assert diversity(np.concatenate([samples, np.ones((2, 200, 5, 1))], -1), still) == pytest.approx(wanted)
    samples[0, 0, 3] = np.nan
    assert diversity(samples, truth) == np.inf
    with pytest.raises(ValueError, match="does not move"):
        diversity(samples, np.ones_like(truth))
