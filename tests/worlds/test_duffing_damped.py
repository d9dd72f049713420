"""A damped oscillator loses exactly what friction takes, in closed form where one exists."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ellipj

from wm_pipelines.errors import UserError, validate
from wm_pipelines.integrators import IntegrationError
from wm_pipelines.worlds.duffing_damped import DuffingDamped


def world_of(**parameters):
    return DuffingDamped(validate(DuffingDamped.Parameters, parameters, "duffing_damped"))


def starts(world, episodes=6, seed=0):
    return world.sample_initial_state(np.random.default_rng(seed), episodes)


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.3, 3.0), st.just(0.0) | st.floats(1e-3, 0.8), st.floats(0.5, 5.0), st.floats(-1, 1), st.floats(-1, 1)
)
def test_without_the_cubic_term_it_is_the_damped_harmonic_oscillator(mass, damping, stiffness, q, v):
    world = world_of(mass=mass, damping=damping, stiffness=stiffness, cubic=0.0)
    t, gamma = 0.1 * np.arange(51), damping / (2 * mass)
    omega = np.sqrt(complex(stiffness / mass - gamma**2))
    exact = np.exp(-gamma * t) * (q * np.cos(omega * t) + (v + gamma * q) / omega * np.sin(omega * t))
    found = world.simulate(np.array([[q, mass * v]]), 0.1, 50)[0, :, 0]
    np.testing.assert_allclose(found, exact.real, atol=1e-9)


@pytest.mark.parametrize("amplitude", [0.1, 1.0, 3.0])
def test_without_friction_a_hardening_spring_follows_jacobis_cosine(amplitude):
    """``q = A cn(w t | m)``, ``w^2 = (k + b A^2) / mass``, ``m = b A^2 / 2 (k + b A^2)``."""
    mass, k, b = 0.7, 1.3, 0.9
    world = world_of(mass=mass, damping=0.0, stiffness=k, cubic=b)
    total = k + b * amplitude**2
    t = 0.05 * np.arange(101)
    _, cn, _, _ = ellipj(math.sqrt(total / mass) * t, b * amplitude**2 / (2 * total))
    z = world.simulate(np.array([[amplitude, 0.0]]), 0.05, 100)[0]
    np.testing.assert_allclose(z[:, 0], amplitude * cn, atol=1e-9)
    np.testing.assert_allclose(world.energy(z), world.energy(z[0]), rtol=1e-10)


def test_energy_falls_by_what_friction_takes():
    world = world_of()
    z = world.simulate(starts(world), 0.01, 1000)
    energy, power = world.energy(z), world.power(z)
    assert (np.diff(energy, axis=1) <= 0).all()
    # Simpson's rule: its error at this step is far below the bar.
    pairs = (power[:, :-2:2] + 4 * power[:, 1:-1:2] + power[:, 2::2]) * 0.01 / 3
    np.testing.assert_allclose(energy[:, 2::2] - energy[:, :1], pairs.cumsum(1), atol=1e-9)


def test_power_is_the_change_of_energy_along_the_motion():
    world = world_of(mass=0.6, damping=0.4)
    z = torch.tensor(starts(world, 50), requires_grad=True)
    (gradient,) = torch.autograd.grad(world.energy(z).sum(), z)
    along = (gradient * world.dynamics(z)).sum(-1)
    np.testing.assert_allclose(along.detach(), world.power(z.detach()), atol=1e-14)
    np.testing.assert_allclose(world.dynamics(z).detach(), world.dynamics(z.detach().numpy()), atol=1e-15)


def test_a_simulator_whose_balance_does_not_close_is_refused(monkeypatch):
    world = world_of()
    monkeypatch.setattr(DuffingDamped, "power", lambda self, z: 0.0 * z[..., 0])  # friction that takes nothing
    with pytest.raises(IntegrationError, match="duffing_damped: episode 0 fails its energy check"):
        world.simulate(starts(world), 0.1, 20)


def test_every_motion_ends_in_a_minimum():
    world = world_of(stiffness=-2.0, cubic=0.5)
    assert world.minima == (-2.0, 2.0)
    end = world.simulate(starts(world, 20), 2.0, 100)[:, -1]
    np.testing.assert_allclose(np.abs(end[:, 0]), 2.0, atol=1e-5)
    np.testing.assert_allclose(world.dynamics(np.array([2.0, 0.0])), 0.0, atol=1e-15)
    assert {-1.0, 1.0} == set(np.sign(end[:, 0]))  # in either of them


def test_motion_runs_back():
    world = world_of()
    z0 = starts(world)
    there = world.simulate(z0, 0.1, 50)[:, -1]
    np.testing.assert_allclose(world.simulate(there, -0.1, 50)[:, -1], z0, atol=1e-8)


def test_no_conservation_is_told_of_what_loses_energy():
    damped, free = world_of(), world_of(damping=0.0)
    assert damped.facts()["conserved"] == []
    assert not {"energy", "structure"} & set(damped.facts())  # there is no Hamiltonian to tell of
    assert free.facts()["conserved"] == ["energy"]
    assert damped.laws().energy is not None
    with pytest.raises(UserError, match="nothing pulls the mass back"):
        world_of(stiffness=-1.0, cubic=0.0)


def test_captions_tell_what_is_lost_and_where_it_ends():
    world = world_of()
    z = world.simulate(np.array([[1.4, 0.0]]), 0.1, 400)[0]
    side = "right" if z[-1, 0] > 0 else "left"
    assert world.describe(z).endswith(f"% of its energy and ends on the {side}.")
    assert world.describe(np.array([[1.0, 0.0]] * 3)).endswith("rests.")
