"""Momentum-conserving graph network: the laws it must keep by construction, and the laws it must learn."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.mechanics import bodies
from tests.families.pair_worlds import (
    PairWorld,
    assert_momenta_stay,
    cluster,
    five_springs,
    gravity,
    near_circular,
)
from tests.specs import episodes, fitted, rolled, spec, without
from wm_pipelines.errors import UserError
from wm_pipelines.families.momentum_gnn.family import MomentumGNN, MomentumGNNConfig
from wm_pipelines.families.momentum_gnn.graphs import complete_graph, neighbour_graph
from wm_pipelines.families.momentum_gnn.particles import cross, join_particles, observations, split_particles
from wm_pipelines.spec import Facts

FORMS = {
    "conservative": {},
    "dynamical": {"form": "dynamical", "messages": 3},
    "spin": {"form": "dynamical", "spin": True},
}
FORMS |= {f"generic {name}": {**form, "inputs": "distance"} for name, form in FORMS.items()}


def untrained(world, form, seeds=(0, 1), **changes):
    """A network with random weights and scales as after a calibration: laws that hold by construction need no more."""
    config = MomentumGNNConfig(training="gradient", hidden=(16,), **FORMS[form], **changes)
    family = MomentumGNN(config, world, seeds)
    rng = np.random.default_rng(5)
    z = cluster(rng, 12, world.facts["attributes"]["mass"], world.facts["space"])
    family.examples(episodes(z[:, None], derivatives=rng.standard_normal(z.shape)[:, None]))
    return family


# ---------------------------------------------------------------- by construction


@pytest.mark.training
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    form=st.sampled_from(sorted(FORMS)),
    space=st.sampled_from([2, 3]),
    masses=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
def test_third_law_bit_by_bit(seed, form, space, masses):
    family = untrained(bodies(masses, space), form)
    generator = torch.Generator().manual_seed(seed)
    q, p = torch.randn(2, 2, 3, space, 2, generator=generator, dtype=torch.float64)
    spin = torch.randn(2, 3, 1 if space == 2 else 3, 2, generator=generator, dtype=torch.float64)
    spin = spin if "spin" in form else None
    edges = family.edges(q, complete_graph(q))
    with torch.no_grad():
        force = family.forces(q, p, spin)
        torque = None if spin is None else edges.graph.symmetric(family.moving_force(edges, p, spin)[1])
    assert float(force.abs().max()) > 0
    assert torch.equal(force[..., 0], -force[..., 1])
    orbital = cross(q, force).sum(-1)
    total = orbital if torque is None else orbital + torque.sum(-1)
    size = (q.square().sum(-2) * force.square().sum(-2)).sqrt().sum(-1)[..., None]
    assert float((total.abs() / size).max()) < 1e-14
    if "spin" in form:  # without the account of torques it would be lost
        assert float((orbital.abs() / size).max()) > 1e-9


@pytest.mark.training
@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("space", [2, 3])
def test_symmetries_of_the_force(form, space):
    mass = (1.0, 2.0, 0.5, 3.0)
    family = untrained(bodies(mass, space), form)
    z = torch.tensor(cluster(np.random.default_rng(6), 5, mass, space)).expand(2, 5, -1)
    q, p = split_particles(z, 4)
    spin = torch.ones(2, 5, 1 if space == 2 else 3, 4, dtype=torch.float64) if "spin" in form else None
    force = family.forces(q, p, spin)

    moved = family.forces(q + 3.0, p + 0.7 * family.mass, spin)  # a shift, and a moving observer
    torch.testing.assert_close(moved, force, rtol=1e-9, atol=1e-10)

    rotation = torch.linalg.qr(torch.randn(space, space, generator=torch.Generator().manual_seed(7)).double()).Q
    rotation = rotation * torch.linalg.det(rotation).sign() if space == 3 else rotation
    if space == 2 and float(torch.linalg.det(rotation)) < 0:
        rotation = rotation[[1, 0]]
    turned_spin = None if spin is None else (rotation @ spin if space == 3 else spin)
    turned = family.forces(rotation @ q, rotation @ p, turned_spin)
    torch.testing.assert_close(turned, rotation @ force, rtol=1e-9, atol=1e-10)

    order = [2, 0, 3, 1]
    renamed = family.transferred(bodies([mass[i] for i in order], space))
    swapped = renamed.forces(q[..., order], p[..., order], None if spin is None else spin[..., order])
    torch.testing.assert_close(swapped, force[..., order], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", ["dynamical", "spin", "generic dynamical", "generic spin"])
def test_frame_is_continuous_as_the_motion_stops(form):
    family = untrained(bodies((1.0, 2.0, 0.5)), form)
    z = torch.tensor(cluster(np.random.default_rng(8), 4, (1.0, 2.0, 0.5))).expand(2, 4, -1)
    q, p = split_particles(z, 3)
    spin = torch.zeros(2, 4, 1, 3, dtype=torch.float64) if "spin" in form else None
    at_rest = family.forces(q, torch.zeros_like(p), spin).detach()
    scale = float(at_rest.abs().max())
    for direction in (p, -p, torch.flip(p, (-2,))):
        for slow in (1e-4, 1e-8):
            change = family.forces(q, slow * direction, spin).detach() - at_rest
            assert 0 < float(change.abs().max()) < 100 * scale * slow
    moving = torch.zeros_like(p, requires_grad=True)
    family.forces(q, moving, spin).square().sum().backward()
    assert moving.grad is not None
    assert bool(moving.grad.isfinite().all())


@pytest.mark.training
@pytest.mark.parametrize("training", ["closed_form", "gradient"])
@pytest.mark.parametrize("cutoff", [None, 2.0])
def test_conservative_force_is_minus_the_gradient_of_the_energy(training, cutoff):
    world, views = five_springs(episodes=4)
    family = MomentumGNN(MomentumGNNConfig(training=training, cutoff=cutoff, features=8), world.spec, [0, 1])
    if family.fit(views) is None:
        family.examples(views)
    z = views["states"][None, :, 3].expand(2, -1, -1).clone().requires_grad_()
    (slope,) = torch.autograd.grad(family.energy(z).sum(), z)
    force, velocity = split_particles(slope, 5)
    q, p = split_particles(z, 5)
    torch.testing.assert_close(-force, family.forces(q, p), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(velocity, p / family.mass)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_neighbour_list_gives_the_forces_of_all_pairs(form):
    mass = np.random.default_rng(9).uniform(0.5, 2.0, 60)
    family = untrained(bodies((1.0, 2.0, 0.7)), form, cutoff=2.0).transferred(bodies(mass))
    z = torch.tensor(cluster(np.random.default_rng(10), 2, mass)).expand(2, 2, -1)
    q, p = split_particles(z, 60)
    spin = torch.ones(2, 2, 1, 60, dtype=torch.float64) if "spin" in form else None
    expected, actual = family.forces(q, p, spin), family.forces(q, p, spin, neighbour_graph(q, 2.4))
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def test_force_fades_to_zero_at_the_cutoff():
    family = untrained(bodies((1.0, 1.0)), "conservative", cutoff=1.5)

    def at(distance):
        q = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
        q[..., 0, 1] = distance
        return float(family.forces(q, q).detach().abs().max())

    assert at(1.5) == at(2.0) == 0.0
    assert 0 < at(1.5 - 1e-4) < 1e-6 * at(0.75)


@pytest.mark.training
@pytest.mark.parametrize("form", sorted(FORMS))
def test_momenta_of_a_roll_out_with_random_weights(form):
    mass = (1.0, 3.0, 0.4, 2.0)
    family = untrained(bodies(mass, step=0.05), form)
    with torch.no_grad():
        family.force_scale.mul_(0.03)
        if "spin" in form:  # random weights may drive as well as brake, without bound: rub everywhere alike
            for weights in family.motion.parameters():
                weights.zero_()
            family.motion.mlp.layers[-1].bias[..., len(family.pairs.coupling_scale)] = -1.0
    start = torch.tensor(cluster(np.random.default_rng(11), 3, mass))
    prediction = family.predict({"states": start[:, None]}, 60)
    spin = 0.0
    if "spin" in form:
        spins = prediction["latents"].unflatten(-1, (1, 4))
        assert float(spins.abs().max()) > 1e-2
        spin = spins.sum(-1)
    assert_momenta_stay(prediction["states"], 4, 1e-14, 1e-13, spin)


# ---------------------------------------------------------------- learned from data


@pytest.fixture(scope="module")
def kepler():
    world, views = gravity()
    family = MomentumGNN(MomentumGNNConfig(features=32), world.spec, [0, 1, 2])
    return world, family, family.fit(views)


@pytest.mark.training
def test_two_bodies_learned_to_the_last_digits(kepler):
    world, family, losses = kepler
    assert set(losses) == {"force"}
    assert losses["force"].shape == (3,)
    truth = world.run(near_circular(np.random.default_rng(12), 6), 100)["states"]
    states = rolled(family, truth[:, 0], 100)
    assert states.shape == (3, 6, 101, 8)
    assert float((states - truth).square().mean()) < 1e-12


@pytest.mark.training
def test_two_bodies_over_ten_thousand_steps(kepler):
    world, trained, _ = kepler
    config = trained.config.model_copy(update={"integrator": "leapfrog", "substeps": 1})
    family = MomentumGNN(config, dataclasses.replace(world.spec, step=0.05), trained.seeds)
    family.load_state_dict(trained.state_dict())
    start = torch.tensor(near_circular(np.random.default_rng(13), 4))
    # Seen from a moving frame, so that the totals that must stay are not zero.
    start[:, :4] += torch.tensor([1.0, 2.0, 1.0, 2.0])
    start[:, 4:] += torch.tensor([0.02, 0.01, 0.02, 0.01])
    states = rolled(family, start, 10_000)
    q, p = split_particles(states, 2)
    distance = (q[..., 0] - q[..., 1]).square().sum(-1).sqrt()
    energy = p.square().sum((-1, -2)) / 2 - 1 / distance
    assert float((energy / energy[..., :1] - 1).abs().max()) < 1e-3
    assert_momenta_stay(states, 2)


@pytest.mark.training
@pytest.mark.parametrize("form", ["conservative", "dynamical"])
def test_trained_on_five_it_runs_on_fifty_and_a_thousand(form):
    world, views = five_springs()
    config = MomentumGNNConfig(form=form, features=16, cutoff=2.5, integrator="leapfrog", substeps=2)
    family = MomentumGNN(config, world.spec, [0, 1])
    family.fit(views)
    for n, steps in ((5, 60), (50, 40), (1000, 12)):
        mass = np.random.default_rng(n).uniform(0.5, 2.0, n)
        start = torch.tensor(cluster(np.random.default_rng(14), 1, mass, spacing=1.0, heat=0.2))
        states = rolled(family.transferred(bodies(mass, step=0.02)), start, steps)
        assert float((states[:, :, -1] - states[:, :, 0]).abs().max()) > 1e-3
        assert_momenta_stay(states, n)


def test_masses_and_numbers_never_seen_follow_the_law():
    soft, given = 0.3, (1.0, 2.0, 0.6, 1.5)

    def slope(d):
        return d / (d**2 + soft**2) ** 1.5

    world = PairWorld(bodies(given), slope, np.outer(given, given))
    family = MomentumGNN(MomentumGNNConfig(features=16), world.spec, [0])
    family.fit(world.run(cluster(np.random.default_rng(15), 20, world.mass), 20))
    assert float(family.pairs.inner) == pytest.approx(soft, rel=1e-3)
    mass = (0.3, 5.0, 1.0, 2.5, 0.8, 1.1, 4.0)
    other = PairWorld(bodies(mass), slope, np.outer(mass, mass))
    z = cluster(np.random.default_rng(16), 10, mass, spacing=0.8)
    q, p = split_particles(torch.tensor(z)[None], 7)
    force = join_particles(family.transferred(other.spec).forces(q, p), p)[0, :, :14]
    truth = torch.tensor(other.force(z[:, :14]))
    assert float((force - truth).norm() / truth.norm()) < 1e-6


def test_charges_are_told_from_masses():
    charge = (1.0, -1.0, 1.0, -1.0)
    charged = bodies((1.0, 2.0, 0.6, 1.5), charge=charge, step=0.05)
    world = PairWorld(charged, lambda d: -d / (d**2 + 0.25) ** 1.5, np.outer(charge, charge))
    family = MomentumGNN(MomentumGNNConfig(features=16), charged, [0])
    views = world.run(cluster(np.random.default_rng(17), 20, world.mass), 20)
    assert float(family.fit(views)["force"]) < 1e-6
    mirrored = family.transferred(bodies((9.0, 1.0, 1.0, 1.0), charge=[-c for c in charge]))
    q, p = split_particles(views["states"][None, :, 0], 4)
    torch.testing.assert_close(mirrored.forces(q, p), family.forces(q, p), rtol=1e-5, atol=1e-5)


def test_equal_masses_leave_the_simplest_coupling():
    world, views = gravity(steps=3)
    family = MomentumGNN(MomentumGNNConfig(features=4), world.spec, [0])
    family.fit(views)
    assert family.pairs.coupling_scale.tolist() == [
        1.0,
        0.0,
        0.0,
    ]  # 1, not m_i m_j or m_i + m_j: constant too


@pytest.mark.training
def test_a_law_outside_the_tail_is_learned_by_the_features():
    five = bodies(np.random.default_rng(3).uniform(0.5, 2.0, 5), step=0.05)
    world = PairWorld(five, lambda d: 6 * (np.exp(-3 * (d - 1.2)) - np.exp(-6 * (d - 1.2))))  # Morse
    family = MomentumGNN(MomentumGNNConfig(), five, [0, 1])
    error = family.fit(world.run(cluster(np.random.default_rng(18), 30, world.mass), 30))["force"]
    assert float(error.max()) < 1e-4


@pytest.mark.training
def test_drag_is_seen_by_the_dynamical_form_alone():
    world, views = five_springs(drag=0.5)
    errors = {
        form: float(MomentumGNN(MomentumGNNConfig(form=form), world.spec, [0]).fit(views)["force"])
        for form in ("conservative", "dynamical")
    }
    assert errors["dynamical"] < 1e-5 < 1e-2 < errors["conservative"]


@pytest.mark.training
def test_dissipating_roll_out_follows_the_truth_and_keeps_momenta():
    world, views = five_springs(drag=0.5)
    family = MomentumGNN(MomentumGNNConfig(form="dynamical", substeps=2), world.spec, [0])
    family.fit(views)
    truth = world.run(cluster(np.random.default_rng(19), 4, world.mass), 40)["states"]
    states = rolled(family, truth[:, 0], 40)[0]
    assert float((states - truth).square().mean()) < 1e-5
    assert float((truth[:, -1] - truth[:, 0]).square().mean()) > 1e-1
    assert_momenta_stay(states[None], 5)


def test_pairs_of_rows_without_derivatives():
    world, views = five_springs()
    rows = without(views, "derivatives")
    family = MomentumGNN(MomentumGNNConfig(features=16), world.spec, [0])
    family.fit(rows)
    q, p = split_particles(views["states"][None, :, 5], 5)
    truth = split_particles(views["derivatives"][None, :, 5], 5)[1]
    assert float((family.forces(q, p) - truth).norm() / truth.norm()) < 2e-3


def test_mean_forces_between_rows_are_exact_for_a_constant_force():
    t = torch.tensor([[0.0, 0.3, 1.0]])
    q, p = 0.5 * 3.0 / 2.0 * t**2, 3.0 * t  # F = 3 N on 2 kg
    views = episodes(torch.stack([q, -q, p, -p], dim=-1), times=t.double())
    seen = observations(views, torch.tensor([2.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(seen.target[:, 0], torch.tensor([[3.0, -3.0]] * 2).double(), rtol=1e-6, atol=1e-6)
    node = 0.3 * (0.5 - 0.15**0.5)
    assert float(seen.state[0, 0, 0]) == pytest.approx(0.75 * node**2, rel=1e-6)
    assert float(seen.weight.sum()) == pytest.approx(1.0)


@pytest.mark.training
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_trained_by_gradient_on_forces_or_through_the_integrator(form, recorded):
    world, views = gravity(steps=20)
    views = views if recorded else without(views, "derivatives")
    schedule = {"steps": 150 if recorded else 40, "batch_size": 64, "learning_rate": 1e-2}
    config = {"training": "gradient", "hidden": (16, 16), "integrator": "leapfrog", "substeps": 2, **FORMS[form]}
    family, run = fitted("momentum_gnn", world.spec, views, schedule=schedule, **config)
    untrained = MomentumGNN(family.config, world.spec, family.seeds)
    batch = {name: x[None].expand(2, *x.shape) for name, x in untrained.examples(views).items()}
    assert set(batch) == ({"state", "derivative"} if recorded else {"state", "next", "interval"})
    before = untrained.loss(batch, 0.0)[0].detach()
    assert all(row["loss"] < 0.05 * before[row["seed"]] for row in run.curve[-2:])


# ---------------------------------------------------------------- contract


def test_same_seed_same_bits_and_seeds_do_not_meet():
    world, views = five_springs(episodes=6)

    def weights(seeds):
        family = MomentumGNN(MomentumGNNConfig(features=8, equations=600), world.spec, seeds)
        family.fit(views)
        return family.potential.coefficients, rolled(family, views["states"][:2, 0], 5)

    first, again, alone = weights([4, 7]), weights([4, 7]), weights([7])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.testing.assert_close(alone[1][0], first[1][1], rtol=1e-6, atol=1e-8)
    assert not torch.equal(first[0][0], first[0][1])


@pytest.mark.training
def test_a_diverging_roll_out_is_nan_and_stops_early():
    family = untrained(bodies((1.0, 1.0, 1.0)), "conservative", seeds=[0])
    with torch.no_grad():
        family.force_scale.mul_(1e200)
    counted, force = [], family.central_force
    family.central_force = lambda edges: (counted.append(1), force(edges))[1]
    start = torch.tensor(cluster(np.random.default_rng(20), 2, (1.0, 1.0, 1.0)))
    states = rolled(family, start, 100_000)
    assert bool(states[:, :, 0].isfinite().all())
    assert bool(states[:, :, 100:].isnan().all())
    assert len(counted) < 2000


def test_step_longer_than_the_data_takes_more_sub_steps(kepler):
    world, family, _ = kepler
    start = torch.tensor(near_circular(np.random.default_rng(21), 3))
    fine = rolled(family, start, 8)[:, :, ::4]
    coarse = rolled(family, start, 2, 4 * world.spec.step)
    torch.testing.assert_close(coarse, fine, rtol=1e-12, atol=1e-12)


def test_what_it_cannot_model():
    config, two = MomentumGNNConfig(), bodies((1.0, 1.0))
    held = dataclasses.replace(two, facts=Facts(two.facts.plain() | {"conserved": ["energy"]}))
    assert "particles" in MomentumGNN.unsuitable(spec(2), config)
    assert "two particles" in MomentumGNN.unsuitable(bodies((1.0,)), config)
    assert "momentum" in MomentumGNN.unsuitable(held, config)
    assert MomentumGNN.unsuitable(two, config) is None
    with pytest.raises(UserError, match="generalised coordinates"):
        MomentumGNN(config, spec(2), [0])


def test_mistakes_are_told_in_one_line():
    two = bodies((1.0, 1.0))
    with pytest.raises(UserError, match="one positive mass per particle"):
        MomentumGNN(MomentumGNNConfig(), bodies((1.0, -1.0)), [0])
    with pytest.raises(UserError, match="same attributes"):
        MomentumGNN(MomentumGNNConfig(), two, [0]).transferred(bodies((1.0, 1.0), charge=(1.0, -1.0)))
    with pytest.raises(UserError, match="states have 8 entries"):
        rolled(MomentumGNN(MomentumGNNConfig(), bodies((1.0,) * 3), [0]), torch.zeros(1, 8), 2)
    with pytest.raises(UserError, match="coincide"):
        MomentumGNN(MomentumGNNConfig(), two, [0]).fit(episodes(torch.zeros(2, 3, 8), derivatives=torch.ones(2, 3, 8)))
    with pytest.raises(ValueError, match="dynamical"):
        MomentumGNNConfig(spin=True)
    with pytest.raises(UserError, match="two or three dimensions"):
        MomentumGNN(MomentumGNNConfig(form="dynamical", spin=True), bodies((1.0, 1.0), space=1), [0])
