"""The black box learns laws it is shown and knows nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.specs import PENDULUM, episodes, fitted, pendulum, rolled, simulated, spec, tensor, without
from wm_pipelines.blocks.vector_field import VectorField, cut_rows, cut_windows, substeps_for
from wm_pipelines.errors import UserError
from wm_pipelines.families.mlp import MLP, MLPConfig, SecondOrderField
from wm_pipelines.integrators import rollout_separable
from wm_pipelines.registry import families

SCHEDULE = {"steps": 400, "batch_size": 64, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def by_derivative():
    return fitted("mlp", PENDULUM, pendulum(), schedule=SCHEDULE)


def rollout_error(family):
    truth = pendulum(8, 30, seed=1)["states"]
    return (rolled(family, truth[:, 0], 30) - truth).square().mean((1, 2, 3)).sqrt()


@pytest.mark.training
def test_derivative_matching_learns_the_pendulum(by_derivative):
    family, run = by_derivative
    losses = [row["loss"] for row in run.curve if row["seed"] == 0]
    assert losses[-1] < 0.05 * losses[0]
    assert (rollout_error(family) < 0.05).all()


@pytest.mark.training
def test_pairs_alone_teach_the_field_through_the_integrator():
    views = without(pendulum(), "derivatives")
    family, _ = fitted("mlp", PENDULUM, views, schedule=SCHEDULE | {"steps": 150}, hidden=(32, 32))
    assert (rollout_error(family) < 0.1).all()


@pytest.mark.training
def test_pairs_teach_the_field_and_not_the_finite_difference():
    """Over a long step the mean slope differs from the slope at the start; only the latter is the law."""
    start = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    views = simulated(lambda z: z[..., ::-1] * [1, -1], start, 1.0, 1, derivatives=False)
    family, _ = fitted("mlp", spec(2, 1.0), views, schedule=SCHEDULE | {"steps": 200}, hidden=(32, 32))
    law = tensor(start[:, ::-1] * [1, -1])
    field = family.f(tensor(start).expand(2, -1, -1)).detach()
    assert (field - law).square().mean() < 0.1 * (field - views["states"].diff(dim=1)[:, 0]).square().mean()


@pytest.mark.training
def test_the_same_seed_gives_the_same_bits(by_derivative):
    again, _ = fitted("mlp", PENDULUM, pendulum(), schedule=SCHEDULE)
    for a, b in zip(by_derivative[0].state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.training
def test_a_checkpoint_carries_the_scales(by_derivative):
    family, _ = by_derivative
    fresh = MLP(family.config, PENDULUM, family.seeds)
    fresh.load_state_dict(family.state_dict())
    assert torch.equal(rolled(fresh, [[0.5, 0.1]], 5), rolled(family, [[0.5, 0.1]], 5))


@pytest.mark.training
@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2), st.integers(-3, 3))
def test_an_angle_has_no_seam(by_derivative, q, p, turns):
    """Up to the rounding of a sine of an angle of 20, and what a steep network makes of it."""
    family, _ = by_derivative
    z = torch.tensor([[[q, p]]], dtype=torch.float64)
    turned = z + torch.tensor([2 * torch.pi * turns, 0.0], dtype=torch.float64)
    slopes = [family.f(x.expand(2, -1, -1)).detach() for x in (z, turned)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-9)


def test_angles_recorded_with_a_seam_teach_the_same_field():
    """A turning pendulum whose table jumps from pi to -pi."""
    z = rollout_separable(np.array([[0.0, 3.0]]), 0.1, 60, lambda p: p, lambda q: -np.sin(q))
    wrapped = z.copy()
    wrapped[..., 0] = np.remainder(z[..., 0] + np.pi, 2 * np.pi) - np.pi
    assert np.abs(np.diff(wrapped[..., 0])).max() > 6
    losses = []
    for states in (z, wrapped):
        family = MLP(MLPConfig(), PENDULUM, [0])
        batch = {k: v[None] for k, v in family.examples(episodes(states)).items()}
        losses.append(family.loss(batch, 0.0)[0].detach())
    torch.testing.assert_close(*losses, rtol=1e-8, atol=0)


@pytest.mark.training
def test_rollouts_converge_with_the_fourth_order_of_their_integrator(by_derivative):
    family, _ = by_derivative
    ends = []
    for substeps in (1, 2, 4, 32):
        finer = MLP(family.config.model_copy(update={"substeps": substeps}), PENDULUM, family.seeds)
        finer.load_state_dict(family.state_dict())
        ends.append(rolled(finer, [[0.8, 0.1]], 10)[0, 0, -1])
    errors = [float((end - ends[-1]).norm()) for end in ends[:-1]]
    assert errors[0] / errors[1] > 10
    assert errors[1] / errors[2] > 10


@pytest.mark.training
def test_a_rollout_out_of_bounds_ends_in_nan_and_not_in_an_error(by_derivative):
    states = rolled(by_derivative[0], [[float("inf"), 1.0], [0.1, 0.0]], 20)
    assert states[:, 0, 1:].isnan().any(-1).all()
    assert states[:, 1].isfinite().all()


def test_an_unstable_field_grows_and_does_not_raise():
    family = MLP(MLPConfig(hidden=(4,)), spec(2), [0])
    family.f = VectorField(2, [4], [0])
    family.f.slope_scale.fill_(1e200)
    states = rolled(family, torch.ones(1, 2), 50)
    assert not states[0, 0, -1].isfinite().all() or states.abs().max() > 1e150


def test_a_component_that_never_changes_is_no_division_by_zero():
    z = np.zeros((3, 11, 2))
    z[..., 0], z[..., 1] = 0.2 * np.arange(11), 2.0
    family = MLP(MLPConfig(hidden=(8,)), spec(2), [0])
    batch = {k: v[None] for k, v in family.examples(episodes(z)).items()}
    loss, terms = family.loss(batch, 0.0)
    assert loss.isfinite().all()
    assert terms["prediction"].shape == (1,)


def test_derivatives_that_were_not_recorded_cannot_be_matched():
    with pytest.raises(UserError, match="no derivatives"):
        MLP(MLPConfig(target="derivative"), PENDULUM, [0]).examples(without(pendulum(2, 2), "derivatives"))


@pytest.mark.parametrize("name", ["mlp", "physics_informed", "momentum_gnn"])
def test_the_budget_is_kept_where_steps_go_through_the_integrator(name):
    """Equal seconds ask for fewer steps there: ``integrator_share`` of them."""
    kind, schedule = families.get(name), {"steps": 200}
    extra = {"training": "gradient"} if name == "momentum_gnn" else {}
    facts = {"particles": 2, "space": 1, "attributes": {"mass": [1.0, 1.0]}, "structure": {}}
    own = spec(4, energy=lambda z: z.sum(-1), **facts)
    bare = replace(own, views={n: v for n, v in own.views.items() if n != "derivatives"})
    steps = [
        kind(kind.Config(schedule=schedule, integrator_share=share, **extra), world, [0]).schedule.steps
        for world, share in ((own, 0.2), (bare, 0.2), (bare, 1.0))
    ]
    assert steps == [200, 40, 200]


def test_single_rows_cannot_be_paired():
    with pytest.raises(UserError, match="two rows"):
        MLP(MLPConfig(), PENDULUM, [0]).examples(episodes(np.zeros((4, 1, 2))))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(1, 12))
def test_windows_are_the_consecutive_rows(count, rows, window):
    states = torch.arange(count * rows * 2, dtype=torch.float64).reshape(count, rows, 2)
    times = torch.cumsum(torch.rand(count, rows, dtype=torch.float64) + 0.1, 1)
    cut = cut_windows({"states": states, "times": times}, window)
    width = min(window, rows - 1)
    assert cut["state"].shape == (count * (rows - width), width + 1, 2)
    for n, (e, t) in enumerate((e, t) for e in range(count) for t in range(rows - width)):
        assert torch.equal(cut["state"][n], states[e, t : t + width + 1])
        assert torch.equal(cut["step"][n], times[e, t : t + width + 1].diff())


def test_rows_keep_state_and_derivative_together():
    rows = cut_rows(pendulum(3, 4))
    torch.testing.assert_close(rows["derivative"][:, 0], rows["state"][:, 1])
    torch.testing.assert_close(rows["derivative"][:, 1], -rows["state"][:, 0].sin())


@given(st.floats(1e-3, 10.0), st.floats(1e-3, 10.0), st.integers(1, 8))
def test_substeps_are_never_longer_than_asked(step, reference, substeps):
    count = substeps_for(step, reference, substeps)
    assert step / count <= reference / substeps * (1 + 1e-6)
    assert count == 1 or step / (count - 1) > reference / substeps * (1 - 1e-6)


# ---------------------------------------------------------------- what it may be told

LINE = spec(4, name="line", second_order=True)
MASSES = np.array([0.5, 3.0])


def coupled_masses(derivatives=True, seed=0):
    """Two unequal masses on a line, a spring between them and one to the wall; p, not velocities."""
    start = np.random.default_rng(seed).uniform(-1, 1, (12, 4))

    def field(z):
        q, p = z[..., :2], z[..., 2:]
        force = np.stack([-q[..., 0] - (q[..., 0] - q[..., 1]), q[..., 0] - q[..., 1]], -1)
        return np.concatenate([p / MASSES, force], -1)

    return simulated(field, start, derivatives=derivatives)


@pytest.mark.parametrize("derivatives", [True, False])
def test_second_order_finds_the_masses_in_the_data(derivatives):
    family = MLP(MLPConfig(second_order=True), LINE, [0, 1])
    views = coupled_masses(derivatives)
    family.examples(views)
    assert isinstance(family.f, SecondOrderField)
    torch.testing.assert_close(family.f.inverse_mass, tensor(1 / MASSES), rtol=1e-12 if derivatives else 1e-4, atol=0)
    # The kinematic half holds whatever the network says.
    z = views["states"][:, 3].expand(2, -1, -1)
    assert torch.equal(family.f(z)[..., :2], family.f.inverse_mass * z[..., 2:])


def test_the_mass_of_a_pendulum_is_found_across_the_seam_of_its_angle():
    z = rollout_separable(np.array([[0.0, 3.0], [0.5, 2.5]]), 0.1, 60, lambda p: p / 0.7, lambda q: -np.sin(q))
    z[..., 0] = np.remainder(z[..., 0] + np.pi, 2 * np.pi) - np.pi
    family = MLP(MLPConfig(second_order=True), PENDULUM, [0])
    family.examples(episodes(z))
    assert float(family.f.inverse_mass) == pytest.approx(1 / 0.7, rel=1e-3)


def test_a_coordinate_that_never_moves_has_no_mass_to_find():
    views = coupled_masses()
    views["states"][..., [1, 3]] = 0.0
    views["derivatives"][..., [1, 3]] = 0.0
    family = MLP(MLPConfig(second_order=True), LINE, [0])
    family.examples(views)
    assert family.f.inverse_mass.tolist() == pytest.approx([2.0, 0.0])


@pytest.mark.training
def test_second_order_learns_the_pendulum():
    family, _ = fitted("mlp", PENDULUM, pendulum(), schedule=SCHEDULE, second_order=True)
    assert (rollout_error(family) < 0.05).all()


def test_second_order_is_for_worlds_whose_velocities_are_multiples_of_momenta():
    def reason(facts, **config):
        told = spec(4, **facts).told(MLP.knows(MLPConfig(**config)), "mlp")
        return MLP.unsuitable(told, MLPConfig(**config))

    assert "no constant multiples" in reason({}, second_order=True)
    assert reason({"second_order": True}, second_order=True) is None
    assert reason({}) is None


def test_what_a_variant_is_told():
    def told(**config):
        return MLP.knows(MLPConfig(**config))

    assert told() == {"angles"}
    assert told(angles=False) == set()
    assert told(second_order=True) == {"angles", "second_order"}
    z = torch.tensor([[[0.3, 0.1]]], dtype=torch.float64)
    turned = z + torch.tensor([2 * torch.pi, 0.0], dtype=torch.float64)
    fields = [MLP(MLPConfig(angles=angles), PENDULUM, [0]).f for angles in (True, False)]
    assert [bool(torch.allclose(f(z), f(turned))) for f in fields] == [True, False]


def test_without_angles_to_be_told_of_there_is_nothing_in_it():
    """Where a world has no angles the two variants are the same to the last bit."""
    a, b = (MLP(MLPConfig(angles=angles), LINE, [0, 1]) for angles in (True, False))
    for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y)
