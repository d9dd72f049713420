"""Captions are compared as scenes; perplexities have intervals that cover."""

import numpy as np
import pytest

from wm_pipelines.metrics.captions import captions_right, others_of_their_kind, perplexity, scenes_of
from wm_pipelines.metrics.descriptions import LANGUAGE_METRICS, LANGUAGE_RATES
from wm_pipelines.metrics.ranges import RATE, value_range
from wm_pipelines.metrics.registry import described
from wm_pipelines.worlds.parts.scene_grammar import scene, scenes

ONE = "a small red circle at the top left"
TWO = "a small red circle at the top left, above a large blue square at the bottom left"


def test_what_is_no_sentence_is_wrong_in_everything_and_hurts_nobody_else():
    wanted = scenes([TWO, ONE, ONE])
    right = captions_right([TWO, "a small red", ""], scene, wanted)
    assert {name: value.tolist() for name, value in right.items()} == {name: [True, False, False] for name in right}
    assert set(right) == {
        "sentence", "count", "size", "colour", "shape", "place", "combination", "exact", "exact_places",
    }  # fmt: skip
    found, sentence = scenes_of(["no", "none"], scene)
    assert found.shape == (2, 1, 4)
    assert not sentence.any()


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (ONE.replace("red", "blue"), {"colour", "combination", "exact", "exact_places"}),
        (ONE.replace("circle", "square"), {"shape", "combination", "exact", "exact_places"}),
        (ONE.replace("small", "large"), {"size", "exact", "exact_places"}),
        (ONE.replace("left", "right"), {"place", "exact_places"}),
    ],
)
def test_one_wrong_word_is_one_wrong_attribute(said, wrong):
    right = captions_right([said], scene, scenes([ONE]))
    assert {name for name, value in right.items() if not value[0]} == wrong


def test_colours_that_change_places_are_wrong_combinations_alone():
    said = TWO.replace("red", "x").replace("blue", "red").replace("x", "blue")
    right = captions_right([said], scene, scenes([TWO]))
    assert right["colour"][0]
    assert right["shape"][0]
    assert not right["combination"][0]


def test_perplexity_is_that_of_all_tokens_and_its_parts_add_up():
    rng = np.random.default_rng(0)
    units = rng.integers(5, 30, 200).astype(float)
    nats = units * rng.uniform(0.1, 0.5, 200)
    found, parts = perplexity(nats, units)
    assert found.value == pytest.approx(np.exp(nats.sum() / units.sum()))
    assert parts.mean() == pytest.approx(float(found.value))
    assert found.ci_low < found.value < found.ci_high
    certain, _ = perplexity(np.zeros(3), np.ones(3))
    assert (certain.value, certain.ci_low, certain.ci_high) == (1, 1, 1)
    with pytest.raises(ValueError, match="two texts or more"):
        perplexity(np.ones(1), np.ones(1))


def test_its_interval_covers():
    rng, covered = np.random.default_rng(1), 0
    for _ in range(400):
        units = rng.integers(5, 30, 60).astype(float)
        found, _ = perplexity(units * 0.4 + rng.normal(0, 2, 60), units)
        covered += bool(found.ci_low <= np.exp(0.4) <= found.ci_high)
    assert 0.92 <= covered / 400 <= 0.98


def test_others_are_of_the_same_kind_and_somebody_else():
    kind = np.array([1, 2, 1, 3, 2, 1])
    others = others_of_their_kind(kind)
    assert (kind[others] == kind).all()
    assert sorted(others) == list(range(6))
    assert [k for k in range(6) if others[k] == k] == [3]


def test_every_metric_is_described_and_has_a_range():
    for name, known in LANGUAGE_METRICS.items():
        assert described(name) is known
        assert known.description
        assert (value_range(name) == RATE) == (name in LANGUAGE_RATES)
        neither = name in ("retrieval_of", "scene_changes", "text_parameters") or name.endswith(("_spread", "_rank"))
        more_is_better = name in LANGUAGE_RATES or name.startswith("fewer_than_")
        assert known.lower_is_better == (None if neither else not more_is_better)
