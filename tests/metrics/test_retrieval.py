"""Captions among others: ties count by chance, swapped scenes have the same words and are other scenes."""

import numpy as np

from wm_pipelines.metrics.retrieval import distinct, right_first, swapped
from wm_pipelines.worlds.captioned_scenes import draw_scenes
from wm_pipelines.worlds.parts.scene_grammar import captions

PAIRS = [(c, s) for c in range(5) for s in range(3)]


def test_the_first_list_is_there_in_any_case_and_nothing_twice():
    assert distinct([["a", "b", "a"], ["c", "b", "d"]], 3) == ["a", "b", "c"]
    assert distinct([["a", "b", "c"], ["d"]], 2) == ["a", "b", "c"]


def test_ties_are_right_by_chance():
    scores = np.array([[0.0, 1.0, 1.0, 1.0], [5.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(right_first(scores, np.array([1, 0, 3])), [1 / 3, 1, 1 / 4])
    np.testing.assert_allclose(right_first(scores, np.array([0, 1, 0])), [0, 0, 1 / 4])


def test_swapped_scenes_have_the_same_words_and_say_something_else():
    scenes = draw_scenes(np.random.default_rng(0), 200, (0.3, 0.4, 0.3), PAIRS)
    for attributes in ((0, 1, 2), (3,)):
        which, turned = swapped(scenes, attributes)
        assert len(which) > 0.9 * ((scenes[..., 0] >= 0).sum(1) > 1).sum()
        before, after = captions(scenes[which]).tolist(), captions(turned).tolist()
        for true, other in zip(before, after, strict=True):
            assert true != other
            kept = [
                word for word in true.replace(",", "").split() if word not in {"left", "right", "above", "and", "of"}
            ]
            also = [
                word for word in other.replace(",", "").split() if word not in {"left", "right", "above", "and", "of"}
            ]
            assert sorted(kept) == sorted(also)


def test_single_objects_and_twins_have_nothing_to_exchange():
    one = np.array([[[0, 1, 2, 3], [-1, -1, -1, -1]]])
    twins = np.array([[[0, 1, 2, 0], [0, 1, 2, 3]]])
    for scenes in (one, twins):
        which, turned = swapped(scenes, (0, 1, 2))
        assert which.shape == (0,)
        assert turned.shape == (0, 2, 4)
