"""Which variants of a family run where."""

import pytest

from wm_pipelines.learning.config import FamilyParameters


def test_the_world_has_the_last_word_on_a_variant():
    parameters = FamilyParameters(
        variants={"plain": {}, "told": {}},
        tasks={"physics": {"variants": {"told": None}}},
        worlds={"pendulum": {"variants": {"told": {"angles": True}}}, "spring": {"variants": {"plain": None}}},
    )
    assert parameters.variants_for("physics", "pendulum") == ["plain", "told"]
    assert parameters.variants_for("physics", "orbit") == ["plain"]
    assert parameters.variants_for("physics", "spring") == []
    assert parameters.variants_for("videos", "orbit") == ["plain", "told"]


def test_a_variant_that_is_null_runs_nowhere():
    parameters = FamilyParameters(
        variants={"plain": {}, "long": None}, worlds={"spring": {"variants": {"long": {"steps": 3}}}}
    )
    assert parameters.variants_for("physics", "spring") == parameters.variants_for("physics", "orbit") == ["plain"]
    with pytest.raises(ValueError, match="at least one variant"):
        FamilyParameters(variants={"plain": None})
