"""A Hamiltonian by regression: what fits recover, find and keep."""

import math
import time

import numpy as np
import pytest
import torch

from tests.families.mechanics import (
    BODIES,
    CHARGES,
    COUPLED,
    MASSES,
    TWO_BODY,
    bodies_field,
    body_starts,
    coupled_energy,
    coupled_field,
    coupled_starts,
)
from tests.specs import PENDULUM, fitted, pendulum_energy, pendulum_field, rolled, simulated, tensor, without
from wm_pipelines.families.hamiltonian_regression import HamiltonianRegression
from wm_pipelines.families.hamiltonian_regression.hypotheses import QuadraticTerm
from wm_pipelines.families.hamiltonian_regression.input_noise import input_noise, integrate_samples
from wm_pipelines.families.hamiltonian_regression.symmetry import invariant_forms
from wm_pipelines.integrators import dop853


def starts(count, seed=0):
    """Amplitudes of 0.3 to 1.7 at every phase."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-math.pi, math.pi, count)
    return rng.uniform(0.3, 1.7, (count, 1)) * np.stack([np.cos(angle), np.sin(angle)], 1)


def fit(world, views, seeds=(0, 1), **config):
    return fitted("hamiltonian_regression", world, views, seeds, **config)[0]


def energy_mse(model, energy, field, start, steps=60):
    """[S]: mean squared energy error of roll-outs against the true trajectories."""
    reference = energy(dop853(field, start, 0.1, steps))
    return ((energy(rolled(model, start, steps).numpy()) - reference) ** 2).mean(axis=(1, 2))


def angular_momentum(states):
    """Of two bodies: what the sum is, and the sum of what it is made of."""
    q, p = (x.unflatten(-1, (2, 2)) for x in states.chunk(2, -1))
    parts = torch.stack([q[..., 0] * p[..., 1], -q[..., 1] * p[..., 0]])
    return parts.sum(0).sum(-1), parts.abs().sum(0).sum(-1)


def momentum(states):
    p = states.chunk(2, -1)[1].unflatten(-1, (2, 2))
    return p.sum(-2), p.abs().sum(-2)


def assert_kept(states, quantity):
    """A sum of what 100 steps of a dozen kicks add is kept up to the rounding of each."""
    value, size = quantity(states)
    assert (value - value[:, :, :1]).abs().max() < 100 * 12 * torch.finfo(torch.float64).eps * size.max()


@pytest.fixture(scope="module")
def swings():
    return simulated(pendulum_field, starts(25))


@pytest.fixture(scope="module")
def two_bodies():
    return simulated(bodies_field((1.0, 2.0), (0.0, 0.0)), body_starts((1.0, 2.0), 60))


@pytest.fixture(scope="module")
def three_bodies():
    return simulated(bodies_field(MASSES, CHARGES), body_starts(MASSES, 40), 0.05, 20)


# ---------------------------------------------------------------- fits


@pytest.mark.training
@pytest.mark.parametrize(
    ("structure", "recorded", "bar"), [("none", True, 1e-10), ("declared", True, 1e-14), ("declared", False, 1e-10)]
)
def test_the_pendulum_is_recovered(swings, structure, recorded, bar):
    """From derivatives, or from states alone by integrals between rows."""
    views = swings if recorded else without(swings, "derivatives")
    model = fit(PENDULUM, views, features=100, structure=structure)
    assert model.noise_level.abs().max() == 0
    assert energy_mse(model, pendulum_energy, pendulum_field, starts(8, 9)).max() < bar


@pytest.mark.training
@pytest.mark.parametrize(("structure", "bar"), [("none", 3e-4), ("declared", 1e-10)])
def test_noise_on_the_states_is_an_offset_per_trajectory(structure, bar):
    """Its spread is found to the uncertainty of a spread of 25 x 30 numbers, 1 / sqrt(2 x 750) = 3 %, five times."""
    noisy = simulated(pendulum_field, starts(25), noise=0.1, seed=4)
    model = fit(PENDULUM, noisy, features=40, structure=structure)
    torch.testing.assert_close(model.noise_level, torch.full((2,), 0.1, dtype=torch.float64), rtol=0.15, atol=0)
    naive = fit(PENDULUM, noisy, features=40, structure=structure, noise="none")
    ours, theirs = (energy_mse(m, pendulum_energy, pendulum_field, starts(8, 9)) for m in (model, naive))
    assert ours.max() < bar
    assert ours.max() < theirs.min() / 3


@pytest.mark.training
def test_a_declared_symmetry_finds_the_offsets_themselves(swings):
    noisy = simulated(pendulum_field, starts(25), noise=0.1)
    model = HamiltonianRegression(HamiltonianRegression.Config(features=60, structure="declared"), PENDULUM, (0,))
    with torch.no_grad():
        _, states = model._fit_closed_form(noisy)
    before = (noisy["states"] - swings["states"]).mean(1).abs().max()
    assert (states[0] - swings["states"]).abs().max() < 1e-4 * before


@pytest.mark.training
def test_no_noise_is_seen_where_there_is_none(swings):
    """Nor where forces are steep between coarse rows: the spline is wrong there, the states are not."""
    slow = body_starts((1.0, 2.0), 20) * np.array([1] * 4 + [0.4] * 4)
    for views in (swings, simulated(bodies_field((1.0, 2.0), (0, 0)), slow, 0.1, 40)):
        assert input_noise(views["times"], views["states"], views["derivatives"]) is None


def test_integrals_of_samples_are_exact_for_polynomials():
    t = torch.linspace(0, 2, 12, dtype=torch.float64)
    for times in (t, t + 0.05 * torch.sin(3 * t)):
        values = torch.stack([times**k for k in range(5)], -1)
        exact = torch.stack([(times ** (k + 1) - times[0] ** (k + 1)) / (k + 1) for k in range(5)], -1)
        torch.testing.assert_close(integrate_samples(times[None], values[None])[0], exact)


@pytest.mark.training
@pytest.mark.parametrize(("structure", "features"), [("declared", 40), ("none", 120)])
def test_two_bodies_keep_what_is_conserved_declared_or_found(two_bodies, structure, features):
    model = fit(TWO_BODY, two_bodies, features=features, structure=structure)
    assert model.separable
    start = body_starts((1.0, 2.0), 6, seed=5)
    states = rolled(model, start, 100)
    reference = tensor(dop853(bodies_field((1.0, 2.0), (0.0, 0.0)), start, 0.1, 100))
    assert (states - reference).abs().max() < 1e-4
    assert_kept(states, angular_momentum)
    if structure == "declared":
        assert_kept(states, momentum)


@pytest.mark.training
def test_gravity_and_charge_are_told_apart_by_their_couplings(three_bodies):
    model = fit(BODIES, three_bodies, features=40, structure="declared")
    assert len(model.terms[1].inputs.weights) == 3  # constant, charge and mass couplings
    start = body_starts(MASSES, 5, seed=7)
    with torch.no_grad():
        error = model.field(tensor(start).expand(2, -1, -1)) - tensor(bodies_field(MASSES, CHARGES)(start))
    assert error.abs().max() < 1e-5


@pytest.mark.training
def test_non_separable_energy_is_conserved_by_the_implicit_roll_out():
    model = fit(COUPLED, simulated(coupled_field, coupled_starts(30), steps=20), features=120, structure="declared")
    assert not model.separable
    start = 0.75 * coupled_starts(4, 1)
    assert energy_mse(model, coupled_energy, coupled_field, start, steps=50).max() < 1e-7
    learned = model.hamiltonian(rolled(model, start, 100)).detach()
    assert (learned - learned[..., :1]).abs().max() < 1e-7


# ---------------------------------------------------------------- what held-out data and symmetries tell


@pytest.mark.training
def test_separability_is_found_not_assumed(swings):
    assert fit(PENDULUM, swings, features=60).separable
    assert not fit(COUPLED, simulated(coupled_field, coupled_starts(30), steps=20), features=120).separable


@pytest.mark.training
def test_a_mechanism_whose_inertia_turns_is_recognised():
    model, run = fitted(
        "hamiltonian_regression", COUPLED, simulated(coupled_field, coupled_starts(60), steps=20), features=60
    )
    assert any(isinstance(term, QuadraticTerm) for term in model.live)
    assert all(row["residual"] < 1e-3 for row in run.curve)


@pytest.mark.training
@pytest.mark.parametrize("softening", [0.0, 0.5])
def test_held_out_data_tell_softened_forces_from_singular_ones(softening):
    def field(z):
        q, p = z[..., :4], z[..., 4:]
        r = q[..., 2:] - q[..., :2]
        force = 2 * r / ((r * r).sum(-1, keepdims=True) + softening**2) ** 1.5
        return np.concatenate([p[..., :2], p[..., 2:] / 2, force, -force], -1)

    start = body_starts((1.0, 2.0), 60) * np.array([1] * 4 + [0.2] * 4)  # slow enough to fall inwards
    model = fit(TWO_BODY, simulated(field, start, 0.1, 20), features=40, structure="declared")
    (pair,) = (term for term in model.live if term.part == "q")
    assert (pair.inputs.share > 0) == (softening > 0)
    touching = tensor([[[0.0, 0, 1e-3, 0, 0, 0, 0, 0]]]).expand(2, -1, -1)
    with torch.no_grad():
        force = model.field(touching)[..., 4].abs()
    assert (force < 1).all() if softening else (force > 10).all()


def flat(views):
    return views["states"].flatten(0, 1), views["derivatives"].flatten(0, 1)


def test_symmetries_are_found_where_there_are_some(two_bodies):
    forms = invariant_forms(*flat(two_bodies))
    assert forms is not None
    assert len(forms[0]) == 4  # r.r, p.p, r.p and r x p, in the plane of the relative motion
    assert invariant_forms(*flat(simulated(coupled_field, coupled_starts(20), steps=20))) is None


def test_invariant_forms_commute_with_the_angular_momentum_of_an_oscillator_in_the_plane():
    z = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    r, p = z[:, :2], z[:, 2:]
    dz = torch.cat([p, -r * (r * r).sum(-1, keepdim=True)], -1)  # H = p^2 / 2 + |r|^4 / 4
    forms = invariant_forms(z, dz)
    assert forms is not None
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    rotated = torch.cat([r @ turn.T, p @ turn.T], -1)
    values = [z_ @ forms[0].T + torch.einsum("awv,nw,nv->na", forms[1], z_, z_) / 2 for z_ in (z, rotated)]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(values[0]) == 4


# ---------------------------------------------------------------- behaviour


def test_the_same_seed_gives_the_same_bits_and_alone_the_same_model(swings):
    """Alone: up to the rounding of least squares with a ridge of 1e-10, 1e-16 over 1e-10 of their coefficients."""
    first, again = (fit(PENDULUM, swings, (0, 1), features=40) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    alone = fit(PENDULUM, swings, (1,), features=40)
    z = tensor(starts(7))[None]
    torch.testing.assert_close(alone.field(z)[0], first.field(z.expand(2, -1, -1))[1], rtol=1e-4, atol=1e-5)


@pytest.mark.training
@pytest.mark.parametrize("structure", ["none", "declared"])
def test_a_diverging_roll_out_is_nan_soon_and_leaves_the_others_alone(three_bodies, structure):
    model = fit(BODIES, three_bodies, (0,), features=40, structure=structure, rows=400)
    good = tensor(body_starts(MASSES, 2, seed=7))
    coincident = good[:1].clone()
    coincident[:, 2:4] = coincident[:, :2]
    lost = torch.full_like(coincident, math.nan)
    started = time.process_time()
    states = rolled(model, torch.cat([good, coincident, lost]), 20)
    assert time.process_time() - started < 20
    assert torch.isfinite(states[:, :2]).all()
    assert not torch.isinf(states).any()
    assert torch.isnan(states[:, 3, 1:]).all()
