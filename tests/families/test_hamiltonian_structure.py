"""What declared structure guarantees of H, whatever was learned and however it is fitted; and symplectic roll-outs."""

import math

import pytest
import torch

from tests.families.mechanics import BODIES, COUPLED, TWO_BODY, bodies_field, body_starts
from tests.specs import PENDULUM, fitted, pendulum, pendulum_starts, rolled, simulated, spec
from wm_pipelines.blocks.hamiltonian_terms import Distances, Forms
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import FORM_WORDS
from wm_pipelines.families.hamiltonian_regression.closed_form import WIDEST_SYMMETRY
from wm_pipelines.families.hamiltonian_regression.hypotheses import QuadraticTerm
from wm_pipelines.registry import families
from wm_pipelines.spec import FACTS

FAMILIES = ("hnn", "hamiltonian_regression")
SMALL = {"hnn": {"hidden": (8,)}, "hamiltonian_regression": {"features": 12}}
JOINTS = spec(4, name="joints", angles=[1])
every_family = pytest.mark.parametrize("name", FAMILIES)


def random_states(world, count=7, seed=0):
    return torch.randn(2, count, world.state_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def any_model(name, world, structure):
    """A model with random coefficients or weights: structure must hold whatever was learned."""
    kind = families.get(name)
    model = kind(kind.Config(structure=structure, **SMALL[name]), world, (0, 1))
    states = random_states(world, 40, 1)
    model._calibrate(states)
    if name == "hamiltonian_regression":
        model.chosen[:] = 1.0
        model._draw(states)
        for term in model.terms:
            shape = term.coefficients.shape
            term.coefficients.data = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return model


@pytest.mark.parametrize(
    ("world", "structure"),
    [
        (PENDULUM, "none"),
        (PENDULUM, "declared"),
        (COUPLED, ("even",)),
        (COUPLED, ("separable",)),
        (BODIES, "declared"),
        (JOINTS, ("periodic",)),
    ],
    ids=lambda x: x if isinstance(x, str) else getattr(x, "name", None),
)
@every_family
def test_the_field_is_the_symplectic_gradient_of_the_learned_energy(name, world, structure):
    model = any_model(name, world, structure)
    z = random_states(world).requires_grad_()
    (g,) = torch.autograd.grad(model.hamiltonian(z).sum(), z)
    d = world.dof
    torch.testing.assert_close(model.field(z), torch.cat([g[..., d:], -g[..., :d]], -1))


@every_family
def test_even_means_unchanged_under_either_reflection(name):
    model, z = any_model(name, COUPLED, ("even",)), random_states(COUPLED)
    for sign in ([-1, -1, 1, 1], [1, 1, -1, -1]):
        torch.testing.assert_close(model.hamiltonian(z * torch.tensor(sign)), model.hamiltonian(z))


@every_family
def test_separable_means_velocities_do_not_depend_on_positions(name):
    model, z = any_model(name, COUPLED, ("separable",)), random_states(COUPLED)
    moved = z + torch.tensor([0.7, -0.4, 0.0, 0.0])
    torch.testing.assert_close(model.field(moved)[..., :2], model.field(z)[..., :2])
    assert not torch.allclose(model.field(moved)[..., 2:], model.field(z)[..., 2:])


@every_family
def test_periodic_angles_repeat_after_a_turn_and_other_coordinates_do_not(name):
    model, z = any_model(name, JOINTS, ("periodic",)), random_states(JOINTS)
    turn = 2 * math.pi * torch.tensor([[0.0, 1, 0, 0], [1.0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(model.hamiltonian(z + turn[0]), model.hamiltonian(z))
    assert not torch.allclose(model.hamiltonian(z + turn[1]), model.hamiltonian(z))


@every_family
def test_pairwise_forces_obey_newtons_third_law_and_have_no_torque(name):
    """Up to the rounding of sums of two forces, and of six products."""
    model, z = any_model(name, BODIES, "declared"), random_states(BODIES)
    force = model.field(z)[..., 6:].reshape(2, -1, 3, 2).detach()
    q = z[..., :6].reshape(2, -1, 3, 2)
    rounding = torch.finfo(torch.float64).eps * force.abs().max()
    assert force.sum(-2).abs().max() <= 4 * rounding
    torque = (q[..., 0] * force[..., 1] - q[..., 1] * force[..., 0]).sum(-1)
    assert torque.abs().max() <= 12 * q.abs().max() * rounding


@pytest.mark.parametrize(
    ("structure", "facts"),
    [
        ("none", set()),
        (("periodic",), {"angles"}),
        (("separable", "even"), {"structure"}),
        (("pairwise",), {"structure", "particles", "space", "attributes"}),
        ("declared", {"angles", "structure", "particles", "space", "attributes"}),
    ],
)
@every_family
def test_a_structure_is_knowledge(name, structure, facts):
    kind = families.get(name)
    knows = kind.knows(kind.Config(structure=structure))
    assert knows & FACTS == facts
    assert ("log_distance" in knows) == ("particles" in facts)


def contained(name, world, **settings):
    kind = families.get(name)
    config = kind.Config(**settings)
    assert kind.contains(config, world) <= kind.knows(config) & set(FORM_WORDS)
    return kind.contains(config, world), kind(config, world, (0,))


@pytest.mark.parametrize("world", [PENDULUM, COUPLED, BODIES, TWO_BODY], ids=lambda world: world.name)
@pytest.mark.parametrize("structure", ["none", "declared"])
@pytest.mark.parametrize("offers", [True, False])
def test_what_its_terms_contain_is_declared(world, structure, offers):
    """Word by word against the terms that the family makes on that world."""
    words, model = contained("hamiltonian_regression", world, structure=structure, offers=offers)
    inputs = [term.inputs for term in model.terms]
    assert ("log_distance" in words) == any(isinstance(i, Distances) for i in inputs)
    assert ("power_laws" in words) == any("power" in term.features.counts for term in model.terms)
    assert ("kinetic_form" in words) == any(isinstance(term, QuadraticTerm) for term in model.terms)
    chosen = {tuple(model.terms[k].part for k in h) for h in model.hypotheses}
    assert ("separable_form" in words) == (len(chosen) > 1 and ("p", "q") in chosen)
    sought = offers and isinstance(inputs[0], Forms) and world.state_size <= WIDEST_SYMMETRY
    assert ("log_terms" in words) == sought


@pytest.mark.parametrize("world", [PENDULUM, COUPLED, BODIES], ids=lambda world: world.name)
def test_a_perceptron_contains_logarithms_of_distances_where_forces_are_pairwise(world):
    for structure in ("none", "declared"):
        words, model = contained("hnn", world, structure=structure)
        assert words == {"hamiltonian"} | ({"log_distance"} if "pairwise" in model.structure else set())


@pytest.mark.training
def test_a_generic_hamiltonian_is_random_features_of_the_state_and_nothing_else():
    """Two bodies: symmetries are there to be found, and their invariant's logarithm is what makes `plain` exact."""
    views = simulated(bodies_field((1.0, 2.0), (0.0, 0.0)), body_starts((1.0, 2.0), 30), steps=20)
    fits = {
        offers: fitted("hamiltonian_regression", TWO_BODY, views, features=80, offers=offers, tail=int(offers))[0]
        for offers in (True, False)
    }
    (term,) = fits[False].terms
    assert (term.part, term.features.counts) == ("z", {"tanh": 80})
    assert not bool(term.inputs.quadratic.any())
    assert not bool(term.inputs.logarithmic)
    assert families.get("hamiltonian_regression").contains(fits[False].config, TWO_BODY) == {"hamiltonian"}
    assert any(bool(term.inputs.quadratic.any()) for term in fits[True].live)


@every_family
def test_pairwise_forces_need_particles(name):
    kind = families.get(name)
    with pytest.raises(UserError, match="needs particles with masses"):
        kind(kind.Config(structure=("pairwise",)), PENDULUM, (0,))


# ---------------------------------------------------------------- roll-outs


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    quick = {"hnn": {"schedule": {"steps": 5}, "hidden": (16, 16)}, "hamiltonian_regression": {"features": 40}}
    return fitted(request.param, PENDULUM, pendulum(25, 20), **quick[request.param])[0]


@pytest.mark.training
def test_roll_outs_start_at_the_last_state_of_the_past_for_every_seed(model):
    past = pendulum(4, 2, seed=3)["states"]
    states = model.predict({"states": past}, 5)["states"]
    assert states.shape == (2, 4, 6, 2)
    assert torch.equal(states[:, :, 0], past[:, 2].expand(2, -1, -1))


@pytest.mark.training
def test_half_steps_end_where_whole_steps_end(model):
    """Up to 20 steps of the tolerance 1e-6, which is relative to states of size 1."""
    start = pendulum_starts(4, 5)
    torch.testing.assert_close(
        rolled(model, start, 40, 0.05)[:, :, ::2], rolled(model, start, 20), rtol=0, atol=20 * model.config.tolerance
    )


@pytest.mark.training
def test_the_learned_energy_shows_no_drift(model):
    states = rolled(model, pendulum_starts(6, 5), 60)
    energy = model.hamiltonian(states).detach()
    unit = (states[:, :, 0] * model.gradient(states[:, :, 0])).abs().sum(-1).mean(1)[:, None, None].detach()
    assert ((energy - energy[..., :1]).abs() / unit).max() < 100 * model.config.tolerance


@pytest.mark.training
def test_a_checkpoint_holds_all_that_a_prediction_needs(model):
    restored = type(model)(model.config, PENDULUM, (0, 1))
    restored.load_state_dict(model.state_dict())
    assert torch.equal(rolled(restored, pendulum_starts(3), 20), rolled(model, pendulum_starts(3), 20))


@pytest.mark.training
def test_stage_equations_without_a_solution_end_that_episode_only(model):
    class Steep(type(model)):
        def field_function(self):
            learned = super().field_function()
            return lambda z: torch.where(z[..., :1] > 50, 1e6 * torch.sin(1e6 * z), learned(z))

    steep = Steep(model.config, PENDULUM, (0, 1))
    steep.load_state_dict(model.state_dict())
    z = torch.tensor([[0.5, 0.0], [100.0, 0.0]], dtype=torch.float64).expand(2, -1, -1)
    states = steep._roll_implicit(z, 0.1, 5, 1)
    assert torch.isfinite(states[:, 0]).all()
    assert torch.isnan(states[:, 1, 1:]).all()


@every_family
def test_one_row_teaches_nothing(name):
    with pytest.raises(UserError, match="at least 2"):
        fitted(name, PENDULUM, {k: v[:, :1] for k, v in pendulum(4, 2).items()})
