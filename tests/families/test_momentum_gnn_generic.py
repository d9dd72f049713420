"""The particle graph network without a dictionary of laws: what it is not told, what it keeps, what it can learn."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.families.mechanics import bodies
from tests.families.pair_worlds import PairWorld, assert_momenta_stay, cluster, five_springs, gravity, near_circular
from tests.specs import fitted, rolled
from wm_pipelines.families.momentum_gnn.family import MomentumGNN, MomentumGNNConfig
from wm_pipelines.families.momentum_gnn.graphs import complete_graph
from wm_pipelines.families.momentum_gnn.particles import split_particles
from wm_pipelines.learning.config import FamilyParameters
from wm_pipelines.yaml_files import read_yaml

CONF = Path(__file__).parents[2] / "conf" / "base"
KINDS = {
    "generic": {"training": "gradient", "inputs": "distance", "hidden": (16, 16), "integrator": "leapfrog"},
    "generic_closed_form": {"inputs": "distance", "features": 60, "integrator": "leapfrog"},
    "law_dictionary": {"inputs": "laws", "features": 16, "integrator": "leapfrog"},
}
QUICK = {"steps": 60, "batch_size": 32, "learning_rate": 1e-2}


def learned(kind, world, views, **changes):
    config = KINDS[kind] | ({"schedule": QUICK} if kind == "generic" else {}) | changes
    return fitted("momentum_gnn", world.spec, views, **config)[0].eval()


def pair_force(family, distance):
    """Force on the first of two bodies along the line from the second: ``[K] -> [S, K]``."""
    q = torch.zeros(len(family.seeds), len(distance), 2, 2, dtype=torch.float64)
    q[..., 0, 0] = distance
    with torch.no_grad():
        return family.forces(q, torch.zeros_like(q))[..., 0, 0]


# ---------------------------------------------------------------- what it is told


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("form", ["conservative", "dynamical"])
def test_it_declares_a_dictionary_of_laws_iff_its_inputs_hold_one(kind, form):
    """A law is in the dictionary where it is a linear combination of the inputs, and so is within reach of one fit."""
    world, views = five_springs(episodes=4)
    family = MomentumGNN(MomentumGNNConfig(**KINDS[kind], form=form), world.spec, [0])
    if family.fit(views) is None:
        family.examples(views)
    q, p = split_particles(views["states"][None, :, 3], 5)
    edges = family.edges(q, complete_graph(q))
    seen = family.frame(edges, p, None)[2] if form == "dynamical" else family.pairs.radial(edges)[0]
    seen, rho = seen.flatten(0, 2).detach(), torch.hypot(edges.distance, getattr(family.pairs, "inner", torch.zeros(1)))
    design = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
    laws = torch.stack([rho.log(), 1 / rho, rho**2], -1).flatten(0, 2)
    laws = (laws - laws.mean(0)) / laws.std(0)
    missed = (design @ torch.linalg.lstsq(design, laws).solution - laws).square().mean(0).sqrt()
    holds = "law_dictionary" in MomentumGNN.knows(family.config)
    assert holds == (kind == "law_dictionary")
    assert bool((missed < 1e-9).all()) if holds else bool((missed > 1e-2).all())
    tails = [model.linear if kind == "generic" else model.features.counts.get("linear") for model in models(family)]
    assert all((tail is not None) == holds for tail in tails)
    assert (edges.coupling.shape[-1] > 1) == holds  # products and sums of attributes are part of the dictionary


def models(family):
    return [family.potential] + ([family.motion] if family.config.form == "dynamical" else [])


def test_every_row_of_the_table_says_which_it_is():
    """The variants that run: one with the dictionary, one without, named so."""
    parameters = FamilyParameters(**read_yaml(CONF / "parameters_momentum_gnn.yml")["momentum_gnn"])
    for variant in parameters.variants:
        config = MomentumGNNConfig(**parameters.resolve("physics", variant, "n_body"))
        told = MomentumGNN.knows(config)
        assert ("law_dictionary" in told) == ("law_dictionary" in variant)
        assert ("law_dictionary" not in told) == ("generic" in variant)
        assert told >= {"pair_forces", "particles", "space", "attributes", "conserved"}
    trainings = {v: parameters.resolve("physics", v, "n_body").get("training") for v in parameters.variants}
    assert trainings["generic"] == "gradient"


# ---------------------------------------------------------------- what it keeps


@pytest.mark.training
@pytest.mark.parametrize("kind", ["generic", "generic_closed_form"])
@pytest.mark.parametrize("form", ["conservative", "dynamical"])
@pytest.mark.parametrize("is_trained", [False, True])
def test_momenta_stay_before_and_after_training_with_other_masses_too(kind, form, is_trained):
    world, views = five_springs(episodes=6)
    if is_trained:
        family = learned(kind, world, views, form=form)
    else:
        family = MomentumGNN(MomentumGNNConfig(**KINDS[kind], form=form), world.spec, [0, 1])
    start = torch.tensor(cluster(np.random.default_rng(1), 3, world.mass))
    assert_momenta_stay(rolled(family, start, 100), 5, 1e-14, 1e-13)
    mass = (0.2, 4.0, 1.0, 0.7, 2.0, 9.0)
    other = family.transferred(bodies(mass))
    start = torch.tensor(cluster(np.random.default_rng(2), 3, mass, heat=0.1))
    states = rolled(other, start, 50)
    assert float((states[:, :, -1] - states[:, :, 0]).abs().max()) > 1e-3
    assert_momenta_stay(states, 6, 1e-14, 1e-13)


@pytest.mark.training
@pytest.mark.parametrize("kind", ["generic", "generic_closed_form"])
def test_the_force_is_minus_the_slope_of_the_learned_energy(kind):
    """Central differences of step h: error h^2 times the third derivative, and rounding 1e-16 / h of the energy."""
    world, views = five_springs(episodes=4)
    family = learned(kind, world, views)
    z, h = views["states"][None, :2, 3].expand(2, -1, -1), 1e-5
    q, p = split_particles(z, 5)
    with torch.no_grad():
        force = family.forces(q, p)
        for j in (0, 3, 8):
            shift = torch.zeros(20, dtype=torch.float64)
            shift[j] = h
            slope = (family.energy(z + shift) - family.energy(z - shift)) / (2 * h)
            torch.testing.assert_close(-slope, force[..., j % 2, j // 2], rtol=1e-6, atol=1e-6)


@pytest.mark.training
@pytest.mark.parametrize("kind", ["generic", "generic_closed_form"])
def test_names_of_particles_and_orientation_do_not_matter(kind):
    """The trained network: an edge's numbers are the same from both ends, and turn with the system."""
    world, views = five_springs(episodes=4)
    family = learned(kind, world, views, form="dynamical")
    q, p = split_particles(views["states"][None, :, 3].expand(2, -1, -1), 5)
    with torch.no_grad():
        force = family.forces(q, p)
        order = [3, 1, 4, 0, 2]
        renamed = family.transferred(bodies(world.mass[order]))
        torch.testing.assert_close(
            renamed.forces(q[..., order], p[..., order]), force[..., order], rtol=1e-9, atol=1e-10
        )
        c, s = np.cos(0.7), np.sin(0.7)
        turn = torch.tensor([[c, -s], [s, c]])
        torch.testing.assert_close(family.forces(turn @ q, turn @ p), turn @ force, rtol=1e-9, atol=1e-10)


def test_equal_attributes_say_nothing_and_different_ones_are_told_apart():
    for mass, differ in (((1.0, 1.0, 1.0), False), ((1.0, 2.0, 4.0), True)):
        world = PairWorld(bodies(mass), lambda d: d - 1.0)
        views = world.run(cluster(np.random.default_rng(3), 4, mass), 5)
        for kind in ("generic", "generic_closed_form"):
            family = MomentumGNN(MomentumGNNConfig(**KINDS[kind]), world.spec, [0, 1])
            if family.fit(views) is None:
                family.examples(views)
            q = split_particles(views["states"][None, :, 0].expand(2, -1, -1), 3)[0]
            seen = family.edges(q, complete_graph(q)).embedding.detach()
            spread = seen.std(dim=-2).amax()
            assert bool(spread > 1e-3) == differ
            assert differ or float(spread) == 0.0


# ---------------------------------------------------------------- what it learns


@pytest.mark.training
def test_springs_are_learned_from_the_distance_alone():
    world, views = five_springs()
    schedule = {"steps": 250, "batch_size": 32, "learning_rate": 2e-2}
    family = learned("generic", world, views, schedule=schedule)
    q, p = split_particles(views["states"][None, :, 7].expand(2, -1, -1), 5)
    truth = split_particles(views["derivatives"][None, :, 7], 5)[1]
    with torch.no_grad():
        assert float((family.forces(q, p) - truth).norm() / (2**0.5 * truth.norm())) < 5e-2
    closed = learned("generic_closed_form", world, views)
    assert float((closed.forces(q, p) - truth).norm() / (2**0.5 * truth.norm())) < 2e-3


@pytest.mark.training
def test_an_inverse_square_is_known_where_it_was_seen_and_nowhere_else():
    """The dictionary continues the law to a tenth of the least distance seen; without it nobody could."""
    world, views = gravity()
    distance = split_particles(views["states"], 2)[0].diff(dim=-1).square().sum(-2).sqrt()
    seen = torch.linspace(float(distance.quantile(0.05)), float(distance.quantile(0.95)), 20, dtype=torch.float64)
    near = 0.1 * distance.min()[None]
    errors = {}
    for kind in ("generic_closed_form", "law_dictionary"):
        family = learned(kind, world, views)
        errors[kind] = [float((pair_force(family, d) * d**2 + 1).abs().max()) for d in (seen, near)]
    assert errors["law_dictionary"][1] < 1e-6
    assert errors["generic_closed_form"][0] < 1e-3
    assert errors["generic_closed_form"][1] > 0.5


@pytest.mark.training
def test_it_stays_with_the_truth_for_a_turn_of_two_bodies():
    world, views = gravity()
    truth = world.run(near_circular(np.random.default_rng(5), 4), 30)["states"]
    states = rolled(learned("generic_closed_form", world, views, integrator="blanes_moan6"), truth[:, 0], 30)
    assert float((states - truth).square().mean().sqrt()) < 1e-3


# ---------------------------------------------------------------- what it costs


@pytest.mark.parametrize("kind", ["generic_closed_form", "law_dictionary"])
def test_coefficients_of_a_closed_form_are_counted_as_parameters(kind):
    """`learning.fitting` counts parameters; they move in the fit, and no gradient asks for them."""
    world, views = five_springs(episodes=4)
    family = MomentumGNN(MomentumGNNConfig(**KINDS[kind]), world.spec, [0, 1])
    (coefficients,) = family.parameters()
    assert coefficients.shape == (2, family.potential.features.size, len(family.pairs.coupling_scale))
    family.fit(views)
    assert not coefficients.requires_grad
    assert float(coefficients.abs().max()) > 0
