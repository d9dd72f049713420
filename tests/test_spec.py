"""Specs: plain data that come back from JSON; facts that may be read, and those that may not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.specs import PENDULUM, pendulum_energy, pendulum_starts, spec
from wm_pipelines.laws import laws_of
from wm_pipelines.spec import Facts, Space, Spec, UndeclaredFact

names = st.text("abcdefgh_", min_size=1, max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
spaces = st.builds(
    Space,
    st.sampled_from(["vector", "frames", "text"]),
    st.lists(st.integers(1, 9), max_size=3).map(tuple),
    st.sampled_from(["float64", "uint8", "str"]),
    st.sampled_from(["row", "transition", "episode"]),
)
specs = st.builds(
    Spec,
    names,
    st.floats(1e-3, 9),
    st.dictionaries(names, spaces, max_size=3),
    st.integers(1, 99),
    st.dictionaries(names, plain, max_size=3).map(Facts),
    st.dictionaries(names, plain, max_size=2),
)


@given(specs)
def test_a_spec_comes_back_from_json(made):
    found = Spec.from_json(json.loads(json.dumps(made.to_json())))
    assert found.to_json() == made.to_json()
    assert (found.views, found.rows, found.step, found.name) == (made.views, made.rows, made.step, made.name)


@given(specs, st.sets(names, max_size=3))
def test_what_is_told_is_what_is_declared_and_never_the_way_to_the_laws(made, declared):
    told = made.told(declared, "somebody")
    assert told.facts.plain() == {n: v for n, v in made.facts.plain().items() if n in declared}
    assert (set(told.facts), len(told.facts)) == (set(told.facts.plain()), len(told.facts.plain()))
    assert told.origin == {}
    assert told.views == made.views
    assert Spec.from_json(told.to_json()).facts.plain() == told.facts.plain()  # nothing untold is written either
    for name in set(made.facts) - declared:
        with pytest.raises(UndeclaredFact, match=f"somebody read the fact '{name}'"):
            told.facts[name]
        with pytest.raises(UndeclaredFact, match=f"somebody asked for the fact '{name}'"):
            name in told.facts  # noqa: B015
        with pytest.raises(UndeclaredFact):
            told.facts.get(name)


def test_a_fact_that_was_declared_and_does_not_exist_is_missing_and_not_forbidden():
    told = spec(2).told({"angles"}, "somebody")
    assert "angles" not in told.facts
    assert told.facts.get("angles", ()) == ()
    with pytest.raises(KeyError):
        told.facts["angles"]


def test_telling_again_never_tells_more():
    told = PENDULUM.told({"angles", "energy"}, "first").told({"structure", "energy"}, "second")
    assert set(told.facts) == {"energy"}
    assert told.facts["energy"](pendulum_starts(5)).shape == (5,)
    for name in ("angles", "structure"):
        with pytest.raises(UndeclaredFact, match="second"):
            told.facts[name]


def test_a_law_that_is_told_is_resolved_where_it_is_read():
    told = PENDULUM.told({"energy"}, "somebody")
    z = pendulum_starts(5)
    assert told.facts["energy"](z) == pytest.approx(pendulum_energy(z))
    assert json.loads(json.dumps(told.to_json()))["facts"] == {"energy": {"law": "energy"}}
    assert laws_of(told).energy is None


def test_what_decides_a_training_is_not_where_the_world_comes_from():
    other = Spec(PENDULUM.name, PENDULUM.step, PENDULUM.views, PENDULUM.rows, PENDULUM.facts, {"world": "elsewhere"})
    assert other.identity() == PENDULUM.identity()
    assert PENDULUM.told({"angles"}, "").identity() != PENDULUM.told({"angles", "structure"}, "").identity()
    assert PENDULUM.showing(["states"]).identity() != PENDULUM.identity()


def test_sizes_of_a_state_and_of_a_view():
    assert (spec(6).state_size, spec(6).dof, PENDULUM.showing(["times"]).state_size) == (6, 3, 0)
    assert [Space("x", (2,), per=per).leading(5, 7) for per in ("row", "transition", "episode")] == [
        (5, 7),
        (5, 6),
        (5,),
    ]
