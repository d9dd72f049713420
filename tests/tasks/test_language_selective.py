"""Selective decoding at equal accuracy: rules whose cost and accuracy are known."""

import numpy as np
import pytest

from wm_pipelines.tasks.language.selective import as_right, compare, fewer, nearest, unit

CLIPS, FRAMES = 40, 30


def used(made, right, clips=5):
    """Every clip alike: captions made and right frames by setting."""
    return np.repeat(np.stack([made, right])[:, :, None].astype(float), clips, axis=2)


def test_a_rule_costs_what_meets_the_share_exactly():
    rule = used(np.array([0.1, 0.2, 0.4]), np.array([0.4, 0.6, 0.8]))
    for wanted, cost in ((0.4, 0.1), (0.5, 0.15), (0.6, 0.2), (0.7, 0.3), (0.8, 0.4)):
        made, right = as_right(rule, wanted)
        assert made.mean() == pytest.approx(cost)
        assert right.mean() == pytest.approx(wanted)


def test_settings_that_cost_more_than_a_mixture_of_others_are_passed_by():
    rule = used(np.array([0.1, 0.35, 0.3]), np.array([0.4, 0.5, 0.8]))
    made, _ = as_right(rule, 0.5)
    assert made.mean() == pytest.approx(0.1 + 0.25 * 0.2)


def test_where_no_setting_is_right_that_often_the_best_one_counts():
    made, right = as_right(used(np.array([0.1, 1.0]), np.array([0.4, 0.7])), 0.9)
    assert (made.mean(), right.mean()) == (1.0, 0.7)


def test_the_ratio_is_that_of_the_costs_and_certain_where_all_clips_are_alike():
    found = fewer(used(np.array([0.1, 0.2, 0.4]), np.array([0.4, 0.6, 0.8])), np.full((2, 5), [[0.05], [0.7]]))
    assert found.value == pytest.approx(6.0)
    assert (found.ci_low, found.ci_high) == (pytest.approx(6.0), pytest.approx(6.0))
    assert found.n == 5


def test_the_interval_contains_the_truth_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        base = rng.gamma(8.0, 1 / 8.0, (2, 30))
        own = np.stack([0.05 * base[0], np.full(30, 0.7)])
        rule = np.stack([[0.1 * base[1], 0.2 * base[1]], np.full((2, 30), [[0.6], [0.8]])])
        found = fewer(rule, own)
        inside += found.ci_low <= 3.0 <= found.ci_high
    assert 0.9 <= inside / 200 <= 0.99


def changing_clips(seed=0):
    """True captions that change with 0.05 per frame, embeddings that tell them, pixels that also drift."""
    rng = np.random.default_rng(seed)
    true = np.cumsum(rng.random((CLIPS, FRAMES)) < 0.05, axis=1) % 7
    places = rng.standard_normal((7, 8))
    features = places[true] + 0.05 * rng.standard_normal((CLIPS, FRAMES, 8))
    pixels = np.concatenate([features, np.cumsum(rng.standard_normal((CLIPS, FRAMES, 8)), axis=1)], axis=2)
    return features, pixels, true


def test_who_tells_changes_from_drift_makes_fewer_captions_than_both_others():
    features, pixels, true = changing_clips()
    found = compare(features, pixels, true, true, 0.95)
    changed = found["scene_changes"].mean()
    assert found["decodes_embedding"].mean() < 1 / FRAMES + 1.2 * changed
    for rule in ("stride", "pixels"):
        assert found[f"right_{rule}"].mean() == pytest.approx(found["right_embedding"].mean(), abs=1e-9)
        assert found[f"fewer_than_{rule}"].value == pytest.approx(
            found[f"decodes_{rule}"].mean() / found["decodes_embedding"].mean()
        )
        assert found[f"fewer_than_{rule}"].ci_low > 1.3


def test_embeddings_that_tell_nothing_are_no_better_than_regular_intervals():
    _, pixels, true = changing_clips()
    noise = np.random.default_rng(3).standard_normal((CLIPS, FRAMES, 8))
    found = compare(noise, pixels, true, true, 0.8)
    assert found["fewer_than_stride"].value < 1.1


def test_the_nearest_text_is_that_of_the_same_direction():
    texts = np.eye(3)
    assert nearest(np.array([[0.1, 5.0, 0.2], [2.0, 1.0, 0.0]]), 7.0 * texts).tolist() == [1, 0]
    np.testing.assert_allclose(np.linalg.norm(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), axis=1), [1.0, 0.0])
