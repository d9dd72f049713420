"""The black box learns laws it is shown and knows nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.errors import UserError
from wm_pipelines.families import get_family
from wm_pipelines.families.mlp import MLPConfig
from wm_pipelines.integrators import rollout_separable
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.nets.vector_field import VectorField, cut_rows, cut_windows, substeps_for
from wm_pipelines.system import System

STEP = 0.1
PENDULUM = System(name="pendulum", dof=1, step=STEP, angles=(0,))
FREE = System(name="free", dof=1, step=STEP)


def pendulum(episodes=20, steps=40, seed=0, derivative=True):
    """A unit pendulum: q' = p, p' = -sin q."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(-1.5, 1.5, (episodes, 2)) * [1.0, 0.5]
    z = rollout_separable(start, STEP, steps, lambda p: p, lambda q: -np.sin(q))
    return as_episodes(z, np.concatenate([z[..., 1:], -np.sin(z[..., :1])], axis=-1) if derivative else None)


def as_episodes(z, derivative=None):
    time = torch.arange(z.shape[1], dtype=torch.float64).mul(STEP).expand(z.shape[:2])
    episodes = {"state": torch.from_numpy(z), "time": time}
    return episodes if derivative is None else episodes | {"derivative": torch.from_numpy(derivative)}


def fitted(episodes, system=PENDULUM, seeds=(0, 1), **config):
    config = MLPConfig(**{"schedule": {"steps": 400, "batch_size": 64, "learning_rate": 1e-2}, **config})
    family = get_family("mlp")(config, system, seeds)
    run = train(family, episodes, LearningConfig(progress=False))
    return family, run


@pytest.fixture(scope="module")
def by_derivative():
    return fitted(pendulum())


def rollout_error(family):
    truth = pendulum(episodes=8, steps=30, seed=1)["state"]
    return (family.predict(truth[:, :1], 30).states - truth).square().mean((1, 2, 3)).sqrt()


def test_derivative_matching_learns_the_pendulum(by_derivative):
    family, run = by_derivative
    losses = [row["loss"] for row in run.curve if row["seed"] == 0]
    assert losses[-1] < 0.05 * losses[0]
    assert (rollout_error(family) < 0.05).all()


def test_pairs_alone_teach_the_field_through_the_integrator():
    family, _ = fitted(pendulum(derivative=False), schedule={"steps": 200, "batch_size": 64, "learning_rate": 1e-2})
    assert (rollout_error(family) < 0.1).all()


def test_pairs_teach_the_field_and_not_the_finite_difference():
    """Over a long step the mean slope differs from the slope at the start; only the latter is the law."""
    rng = np.random.default_rng(0)
    z0 = rng.uniform(-1, 1, (200, 2))
    z = rollout_separable(z0, 1.0, 1, lambda p: p, lambda q: -q)
    episodes = as_episodes(z) | {"time": torch.tensor([0.0, 1.0], dtype=torch.float64).expand(200, 2)}
    system = System(name="oscillator", dof=1, step=1.0)
    family, _ = fitted(episodes, system, schedule={"steps": 200, "batch_size": 64, "learning_rate": 1e-2}, substeps=2)
    x = torch.from_numpy(z0)
    law = torch.stack([x[:, 1], -x[:, 0]], -1)
    difference = torch.from_numpy(z[:, 1] - z[:, 0])
    field = family.f(x.expand(2, -1, -1)).detach()
    assert (field - law).square().mean() < 0.1 * (field - difference).square().mean()


def test_the_same_seed_gives_the_same_bits(by_derivative):
    family, _ = by_derivative
    again, _ = fitted(pendulum())
    for a, b in zip(family.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_carries_the_scales(by_derivative):
    family, _ = by_derivative
    fresh = get_family("mlp")(family.config, PENDULUM, family.seeds)
    fresh.load_state_dict(family.state_dict())
    start = torch.tensor([[[0.5, 0.1]]], dtype=torch.float64)
    assert torch.equal(fresh.predict(start, 5).states, family.predict(start, 5).states)


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2), st.integers(-3, 3))
def test_an_angle_has_no_seam(by_derivative, q, p, turns):
    family, _ = by_derivative
    z = torch.tensor([[[q, p]]], dtype=torch.float64)
    turned = z + torch.tensor([2 * torch.pi * turns, 0.0], dtype=torch.float64)
    slopes = [family.f(x.expand(2, -1, -1)).detach() for x in (z, turned)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-9)


def test_angles_recorded_with_a_seam_teach_the_same_field():
    """A turning pendulum whose table jumps from pi to -pi."""
    z = rollout_separable(np.array([[0.0, 3.0]]), STEP, 60, lambda p: p, lambda q: -np.sin(q))
    wrapped = z.copy()
    wrapped[..., 0] = np.remainder(z[..., 0] + np.pi, 2 * np.pi) - np.pi
    assert np.abs(np.diff(wrapped[..., 0])).max() > 6
    fields = []
    for states in (z, wrapped):
        family = get_family("mlp")(MLPConfig(), PENDULUM, [0])
        batch = {k: v[None] for k, v in family.examples(as_episodes(states)).items()}
        loss, _ = family.loss(batch, 0.0)
        fields.append(loss.detach())
    torch.testing.assert_close(*fields, rtol=1e-8, atol=0)


def test_rollouts_converge_with_the_fourth_order_of_their_integrator(by_derivative):
    family, _ = by_derivative
    start = torch.tensor([[[0.8, 0.1]]], dtype=torch.float64)
    ends = []
    for substeps in (1, 2, 4, 32):
        family.config = family.config.model_copy(update={"substeps": substeps})
        ends.append(family.predict(start, 10).states[0, 0, -1])
    family.config = family.config.model_copy(update={"substeps": 2})
    errors = [float((end - ends[-1]).norm()) for end in ends[:-1]]
    assert errors[0] / errors[1] > 10
    assert errors[1] / errors[2] > 10


def test_a_rollout_out_of_bounds_ends_in_nan_and_not_in_an_error(by_derivative):
    family, _ = by_derivative
    states = family.predict(torch.tensor([[[float("inf"), 1.0]], [[0.1, 0.0]]], dtype=torch.float64), 20).states
    assert states[:, 0, 1:].isnan().any(-1).all()
    assert states[:, 1].isfinite().all()


def test_an_unstable_field_grows_and_does_not_raise():
    field = VectorField(2, [4], [0])
    field.slope_scale.fill_(1e200)
    family = get_family("mlp")(MLPConfig(hidden=(4,)), FREE, [0])
    family.f = field
    states = family.predict(torch.ones(1, 1, 2, dtype=torch.float64), 50).states
    assert not states[0, 0, -1].isfinite().all() or states.abs().max() > 1e150


def test_a_component_that_never_changes_is_no_division_by_zero():
    z = np.zeros((3, 11, 2))
    z[..., 0], z[..., 1] = 2.0 * STEP * np.arange(11), 2.0
    family = get_family("mlp")(MLPConfig(hidden=(8,)), FREE, [0])
    batch = {k: v[None] for k, v in family.examples(as_episodes(z)).items()}
    loss, terms = family.loss(batch, 0.0)
    assert loss.isfinite().all()
    assert terms["prediction"].shape == (1,)


def test_derivatives_that_were_not_recorded_cannot_be_matched():
    family = get_family("mlp")(MLPConfig(target="derivative"), PENDULUM, [0])
    with pytest.raises(UserError, match="no derivatives"):
        family.examples(pendulum(derivative=False))


def test_single_rows_cannot_be_paired():
    family = get_family("mlp")(MLPConfig(), PENDULUM, [0])
    with pytest.raises(UserError, match="two rows"):
        family.examples(as_episodes(np.zeros((4, 1, 2))))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(1, 12))
def test_windows_are_the_consecutive_rows(episodes, rows, window):
    state = torch.arange(episodes * rows * 2, dtype=torch.float64).reshape(episodes, rows, 2)
    time = torch.cumsum(torch.rand(episodes, rows, dtype=torch.float64) + 0.1, 1)
    cut = cut_windows({"state": state, "time": time}, window)
    width = min(window, rows - 1)
    assert cut["state"].shape == (episodes * (rows - width), width + 1, 2)
    for n, (e, t) in enumerate((e, t) for e in range(episodes) for t in range(rows - width)):
        assert torch.equal(cut["state"][n], state[e, t : t + width + 1])
        assert torch.equal(cut["step"][n], time[e, t : t + width + 1].diff())


def test_rows_keep_state_and_derivative_together():
    episodes = pendulum(episodes=3, steps=4)
    rows = cut_rows(episodes)
    torch.testing.assert_close(rows["derivative"][:, 0], rows["state"][:, 1])
    torch.testing.assert_close(rows["derivative"][:, 1], -rows["state"][:, 0].sin())


@given(st.floats(1e-3, 10.0), st.floats(1e-3, 10.0), st.integers(1, 8))
def test_substeps_are_never_longer_than_asked(step, reference, substeps):
    count = substeps_for(step, reference, substeps)
    assert step / count <= reference / substeps * (1 + 1e-6)
    assert count == 1 or step / (count - 1) > reference / substeps * (1 - 1e-6)
