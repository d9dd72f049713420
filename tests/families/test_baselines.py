"""Persistence and oracle: the floor and the ceiling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.specs import rolled, spec
from wm_pipelines.families.base import build
from wm_pipelines.integrators import rollout_separable
from wm_pipelines.laws import Laws
from wm_pipelines.registry import families

OSCILLATOR = spec(2, simulator=True)
PASTS = hnp.arrays(np.float64, (3, 2, 2), elements=st.floats(-5, 5))


def simulate(z0, step, steps):
    """A unit oscillator, q' = p, p' = -q."""
    return rollout_separable(z0, step, steps, lambda p: p, lambda q: -q)


def built(name):
    kind = families.get(name)
    return build(kind, kind.Config(), OSCILLATOR, (0, 1), Laws(simulate=simulate))


@settings(max_examples=20, deadline=None)
@given(PASTS, st.integers(1, 7))
def test_persistence_stays_at_the_last_state(past, steps):
    states = built("persistence").predict({"states": torch.from_numpy(past)}, steps)["states"]
    assert states.shape == (2, 3, steps + 1, 2)
    assert (states == torch.from_numpy(past)[None, :, -1:]).all()


@settings(max_examples=20, deadline=None)
@given(PASTS, st.integers(1, 30))
def test_the_oracle_turns_phase_space(past, steps):
    states = built("oracle").predict({"states": torch.from_numpy(past)}, steps)["states"].numpy()
    t = 0.1 * np.arange(steps + 1)
    turn = np.stack([np.stack([np.cos(t), np.sin(t)], -1), np.stack([-np.sin(t), np.cos(t)], -1)], -2)
    exact = np.einsum("tij,ej->eti", turn, past[:, -1])
    np.testing.assert_allclose(states, np.broadcast_to(exact, states.shape), atol=1e-9)


def test_the_oracle_keeps_to_the_step_asked_for():
    end = rolled(built("oracle"), [[1.0, 0.0]], 1, np.pi / 2)[0, 0, -1]
    torch.testing.assert_close(end, torch.tensor([0.0, -1.0], dtype=torch.float64), rtol=0, atol=1e-4)


def test_no_oracle_without_a_law():
    oracle = families.get("oracle")
    assert oracle.unsuitable(spec(2), oracle.Config()) == "the law is unknown"
    assert oracle.unsuitable(OSCILLATOR, oracle.Config()) is None


@pytest.mark.parametrize("name", ["persistence", "oracle"])
def test_nothing_is_trained(name):
    family = built(name)
    assert list(family.parameters()) == []
    assert family.examples({"states": torch.zeros(1, 2, 2)}) == {}
    with pytest.raises(TypeError, match="nothing to train"):
        family.loss({}, 0.0)


@pytest.mark.parametrize("name", ["persistence", "oracle"])
def test_seeds_can_be_written_to_alone(name):
    states = rolled(built(name), torch.ones(1, 2), 2)
    states[0] = 0.0
    assert (states[1, :, 0] == 1.0).all()
