"""Hénon and Heiles: symmetry, saddles, the separatrix in closed form, and where its starts lie."""

import math

import numpy as np
import pytest

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.henon_heiles import _SADDLES, HenonHeiles


def world_of(**parameters):
    return HenonHeiles(validate(HenonHeiles.Parameters, parameters, "henon_heiles"))


def starts(world, episodes, seed=0):
    return world.sample_initial_state(np.random.default_rng(seed), episodes)


@pytest.mark.parametrize("coupling", [1.0, 0.5, 3.0])
def test_saddles_are_at_rest_at_the_escape_energy(coupling):
    world = world_of(coupling=coupling)
    assert world.escape == pytest.approx(1 / (6 * coupling**2))
    for corner in _SADDLES / coupling:
        z = np.concatenate([corner, [0.0, 0.0]])
        assert float(world.energy(z)) == pytest.approx(world.escape, rel=1e-12)
        np.testing.assert_allclose(world.dynamics(z), 0.0, atol=1e-15 / coupling)


def test_the_separatrix_is_the_exact_one():
    """On the axis of symmetry ``u = 1 - y`` obeys ``u'' = u - u^2``: ``u = 3/2 sech^2(t / 2)`` ends in the saddle."""
    world, t = world_of(), 0.1 * np.arange(61)
    z = world.simulate(np.array([[0.0, -0.5, 0.0, 0.0]]), 0.1, 60)[0]
    np.testing.assert_allclose(z[:, 1], 1.0 - 1.5 / np.cosh(t / 2) ** 2, atol=1e-7)
    np.testing.assert_array_equal(z[:, 0], 0.0)


def test_a_third_of_a_turn_changes_nothing():
    world, angle = world_of(), 2 * math.pi / 3
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    z0 = starts(world, 4)
    turned = np.concatenate([z0[:, :2] @ turn.T, z0[:, 2:] @ turn.T], axis=-1)
    z, there = world.simulate(z0, 0.2, 50), world.simulate(turned, 0.2, 50)
    np.testing.assert_allclose(there[..., :2], z[..., :2] @ turn.T, atol=1e-8)


def test_motion_runs_back():
    world = world_of()
    z0 = starts(world, 4)
    there = world.simulate(z0, 0.2, 60)[:, -1]
    np.testing.assert_allclose(world.simulate(there, -0.2, 60)[:, -1], z0, atol=1e-7)


def test_nobody_leaves_the_triangle():
    world = world_of()
    z0 = starts(world, 20)
    share = world.energy(z0) / world.escape
    assert share.min() >= 0.5
    assert share.max() <= 0.95
    assert world.bound(z0).all()
    assert world.bound(world.simulate(z0, 0.2, 200)).all()
    assert not world.bound(np.array([[0.0, 1.3, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])).any()


def test_starts_are_microcanonical():
    """Far below the escape energy the well is a circle: places uniform in a disc, half of the energy kinetic."""
    world = world_of(initial={"law": "microcanonical", "energy": [1e-4, 1e-4]})
    z = starts(world, 4000)
    energy = world.energy(z)
    np.testing.assert_allclose(energy, 1e-4 * world.escape, rtol=1e-12)
    r2 = (z[:, :2] ** 2).sum(-1) / (2 * energy)
    quantiles = np.quantile(r2, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles, [0.25, 0.5, 0.75], atol=0.04)  # four standard errors; the cubic terms are 1 %
    assert (world.kinetic(z) / energy).mean() == pytest.approx(0.5, abs=0.03)
    direction = np.arctan2(z[:, 3], z[:, 2])
    assert abs(np.exp(1j * direction).mean()) < 0.06


def test_a_start_that_can_escape_is_refused():
    outside = {"law": "given", "states": [[0.0, 0.1, 0.0, 0.0], [0.0, 1.2, 0.0, 0.0]]}
    with pytest.raises(UserError, match="start state 1 can escape"):
        starts(world_of(initial=outside), 2)
    with pytest.raises(UserError, match="swap them"):
        world_of(initial={"law": "microcanonical", "energy": [0.9, 0.2]})


def test_what_is_told():
    world = world_of()
    assert world.facts()["conserved"] == ["energy"]
    assert "even" not in world.facts()["structure"]  # x^2 y - y^3 / 3 changes its sign
    assert world.laws().lyapunov_time is None
    z = world.simulate(starts(world, 1), 0.2, 20)[0]
    assert "of the escape energy" in world.describe(z)
