"""Persistence and oracle: the floor and the ceiling."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wm_pipelines.families import get_family
from wm_pipelines.integrators import rollout_separable
from wm_pipelines.system import System


def simulate(z0, step, steps):
    """A unit oscillator, q' = p, p' = -q."""
    return rollout_separable(z0, step, steps, lambda p: p, lambda q: -q)


OSCILLATOR = System(name="oscillator", dof=1, step=0.1, simulate=simulate)
CONTEXTS = hnp.arrays(np.float64, (3, 2, 2), elements=st.floats(-5, 5))


def build(name, system=OSCILLATOR, seeds=(0, 1)):
    family = get_family(name)
    return family(family.Config(), system, seeds)


@settings(max_examples=20, deadline=None)
@given(CONTEXTS, st.integers(1, 7))
def test_persistence_stays_at_the_last_state(context, steps):
    states = build("persistence").predict(torch.from_numpy(context), steps).states
    assert states.shape == (2, 3, steps + 1, 2)
    assert (states == torch.from_numpy(context)[None, :, -1:]).all()


@settings(max_examples=20, deadline=None)
@given(CONTEXTS, st.integers(1, 30))
def test_the_oracle_turns_phase_space(context, steps):
    states = build("oracle").predict(torch.from_numpy(context), steps).states.numpy()
    t = 0.1 * np.arange(steps + 1)
    turn = np.stack([np.stack([np.cos(t), np.sin(t)], -1), np.stack([-np.sin(t), np.cos(t)], -1)], -2)
    exact = np.einsum("tij,ej->eti", turn, context[:, -1])
    np.testing.assert_allclose(states, np.broadcast_to(exact, states.shape), atol=1e-9)


def test_the_oracle_keeps_to_the_step_asked_for():
    context = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    end = build("oracle").predict(context, 1, step=np.pi / 2).states[0, 0, -1]
    torch.testing.assert_close(end, torch.tensor([0.0, -1.0], dtype=torch.float64), rtol=0, atol=1e-4)


def test_no_oracle_without_a_law():
    unknown = System(name="table", dof=1, step=0.1)
    assert "unknown" in get_family("oracle").unsuitable(unknown)
    assert get_family("oracle").unsuitable(OSCILLATOR) is None


@pytest.mark.parametrize("name", ["persistence", "oracle"])
def test_nothing_is_trained(name):
    family = build(name)
    assert list(family.parameters()) == []
    assert family.examples({"state": torch.zeros(1, 2, 2)}) == {}
    with pytest.raises(TypeError, match="nothing to train"):
        family.loss({}, 0.0)


@pytest.mark.parametrize("name", ["persistence", "oracle"])
def test_seeds_can_be_written_to_alone(name):
    states = build(name).predict(torch.ones(1, 1, 2, dtype=torch.float64), 2).states
    states[0] = 0.0
    assert (states[1, :, 0] == 1.0).all()
