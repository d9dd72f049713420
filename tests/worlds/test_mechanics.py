"""The mechanical worlds: their laws agree with each other, with closed forms and with scipy."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import ellipj

from tests.dynamics import lyapunov_exponent
from tests.worlds.mechanics import BASE, starts, world_of
from wm_pipelines.integrators import dop853, rollout_separable
from wm_pipelines.registry import worlds
from wm_pipelines.worlds.parts.simulation import energy_drift

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(params=sorted(BASE))
def world(request):
    return world_of(request.param)


# ---------------------------------------------------------------- laws


def test_dynamics_are_hamiltons_equations_of_the_energy(world):
    z = starts(world) + 0.1 * np.random.default_rng(1).normal(size=starts(world).shape)
    d, h = z.shape[-1] // 2, 1e-5
    gradient = np.stack([(world.energy(z + h * e) - world.energy(z - h * e)) / (2 * h) for e in np.eye(2 * d)], axis=-1)
    expected = np.concatenate([gradient[:, d:], -gradient[:, :d]], axis=-1)
    np.testing.assert_allclose(world.dynamics(z), expected, atol=2e-8 * max(1.0, np.abs(expected).max()))


def test_laws_are_the_same_for_numpy_and_torch_and_differentiable(world):
    z = starts(world)
    laws, tensor = world.laws(), torch.from_numpy(z).requires_grad_()
    for law in (laws.energy, laws.dynamics, laws.momentum, laws.angular_momentum):
        if law is not None:
            np.testing.assert_allclose(law(tensor).detach().numpy(), law(z), rtol=1e-13, atol=1e-13)
    (gradient,) = torch.autograd.grad(laws.energy(tensor).sum(), tensor)
    d = z.shape[-1] // 2
    hamilton = torch.cat([gradient[:, d:], -gradient[:, :d]], dim=-1).numpy()
    np.testing.assert_allclose(hamilton, world.dynamics(z), rtol=1e-11, atol=1e-11)
    assert world.energy(torch.from_numpy(z).float()).dtype == torch.float32


def test_laws_take_any_leading_axes(world):
    z = starts(world, 6)
    stacked = z.reshape(2, 3, -1)
    np.testing.assert_array_equal(world.dynamics(stacked).reshape(z.shape), world.dynamics(z))
    assert world.energy(stacked).shape == (2, 3)


@pytest.mark.training
def test_simulation_follows_scipy(world):
    z0, step, steps = starts(world, 3), 0.05, 40
    ours = world.simulate(z0, step, steps)
    assert ours.shape == (3, steps + 1, z0.shape[-1])
    np.testing.assert_array_equal(ours[:, 0], z0)
    times = step * np.arange(steps + 1)
    for z, start in zip(ours, z0, strict=True):
        settings = {"t_eval": times, "rtol": 1e-12, "atol": 1e-13}
        path = solve_ivp(lambda _, y: world.dynamics(y), (0.0, times[-1]), start, "DOP853", **settings).y.T
        np.testing.assert_allclose(z, path, atol=1e-8)


@pytest.mark.training
def test_conserved_quantities_are_conserved(world):
    z = world.simulate(starts(world, 5), 0.1, 100)
    laws = world.laws()
    assert energy_drift(z, laws.energy, world.kinetic).max() < 1e-9
    declared = world.facts()["conserved"]
    for name in ("momentum", "angular_momentum"):
        assert (getattr(laws, name) is not None) == (name in declared)
        if name in declared:
            values = getattr(laws, name)(z)
            assert np.abs(values - values[:, :1]).max() < 1e-10 * max(1.0, np.abs(values).max())


def test_declared_structure_is_true(world):
    facts, z = world.facts(), starts(world)
    z = z + 0.2 * np.random.default_rng(5).normal(size=z.shape)
    d = z.shape[-1] // 2
    q, p, zero = z[:, :d], z[:, d:], np.zeros_like(z[:, :d])

    def energy(q, p):
        return world.energy(np.concatenate([q, p], axis=-1))

    if "even" in facts["structure"]:
        np.testing.assert_allclose(energy(-q, p), energy(q, p), rtol=1e-13)
        np.testing.assert_allclose(energy(q, -p), energy(q, p), rtol=1e-13)
    mixed = energy(q, p) + energy(q[::-1], zero) - energy(q, zero) - energy(q[::-1], p)
    assert ("separable" in facts["structure"]) == bool(np.abs(mixed).max() < 1e-9)
    for angle in facts.get("angles", ()):
        turned = q.copy()
        turned[:, angle] += 2 * math.pi
        np.testing.assert_allclose(energy(turned, p), energy(q, p), rtol=1e-12)
    if facts.get("second_order", False):  # velocities are constant multiples of momenta, coordinate by coordinate
        ratio = world.dynamics(z)[:, :d] / p
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-12)
    else:
        assert world.name == "double_pendulum"
    if "pairwise" in facts["structure"]:
        assert d == facts["particles"] * facts["space"]
        assert len(facts["attributes"]["mass"]) == facts["particles"]


def test_start_states_come_from_the_seed_alone(world):
    np.testing.assert_array_equal(starts(world, 3, seed=4), starts(world, 3, seed=4))
    assert np.abs(starts(world, 3, seed=4) - starts(world, 3, seed=5)).max() > 1e-3


# ---------------------------------------------------------------- closed forms


@given(st.floats(0.1, 5.0), st.floats(0.1, 50.0), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
@settings(max_examples=25, deadline=None)
def test_mass_spring_is_periodic_and_keeps_its_energy(mass, stiffness, q, p):
    world = world_of("mass_spring", mass=mass, stiffness=stiffness)
    period = 2 * math.pi * math.sqrt(mass / stiffness)
    z = world.simulate(np.array([[q, p]]), period / 4, 4)[0]
    np.testing.assert_allclose(z[4], z[0], atol=1e-12 * (1 + abs(q) + abs(p)))
    # A quarter later all of the potential energy is kinetic and the other way round.
    assert world.kinetic(z[1]) == pytest.approx(0.5 * stiffness * q * q, abs=1e-12 * (1 + float(world.energy(z[0]))))


def exact_pendulum(frequency, amplitude, times):
    """Released at rest from ``amplitude``: ``sin(q/2) = k cd(w t | k^2)``, by Jacobi's functions."""
    k = math.sin(amplitude / 2)
    _, cn, dn, _ = ellipj(frequency * times, k * k)
    return 2.0 * np.arcsin(k * cn / dn)


@pytest.mark.parametrize("amplitude", [0.01, 1.0, 2.0, 2.8])
def test_pendulum_follows_jacobis_elliptic_functions(amplitude):
    world = world_of("pendulum")
    z = world.simulate(np.array([[amplitude, 0.0]]), 0.1, 100)[0]
    expected = exact_pendulum(world.frequency, amplitude, 0.1 * np.arange(101))
    np.testing.assert_allclose(z[:, 0], expected, atol=1e-11)


@pytest.mark.training
@given(st.floats(-3.0, 3.0), st.floats(-12.0, 12.0), st.floats(-0.4, 0.4).filter(lambda h: abs(h) > 0.01))
@settings(max_examples=30, deadline=None)
def test_exact_flow_of_the_pendulum_is_the_flow_of_its_hamiltonian(q, p, step):
    # Below the top and over it, forwards and backwards, beside an independent symplectic integrator.
    world = world_of("pendulum")
    z0 = np.array([[q, p]])
    assume(abs(float(world.energy(z0)[0]) - 2 * world.torque) > 0.1)  # on the separatrix every rounding error grows
    slow = rollout_separable(z0, step, 10, world.velocity, world.force, "kahan_li8", substeps=20)
    np.testing.assert_allclose(world.simulate(z0, step, 10), slow, atol=1e-8)


def test_exact_flow_stays_exact_for_twenty_thousand_steps_and_sees_every_turn():
    world = world_of("pendulum")
    z = world.simulate(np.array([[2.0, 0.0], [0.0, 20.0]]), 0.1, 20_000)
    assert energy_drift(z, world.energy, world.kinetic).max() < 1e-10
    sparse = world.simulate(np.array([[0.0, 20.0]]), 10.0, 5)[0]  # thirty turns from row to row
    np.testing.assert_allclose(sparse[:, 0], z[1, :501:100, 0], rtol=1e-10)


@pytest.mark.parametrize(("q", "p"), [(1.0, 0.0), (2.9, 0.5), (0.0, 7.0), (0.3, -9.0)])
def test_pendulum_returns_after_its_period(q, p):
    world = world_of("pendulum")
    period = world.period(float(world.energy(np.array([q, p]))))
    z = world.simulate(np.array([[q, p]]), period, 1)[0, -1]
    turns = 0.0 if abs(p) < 6 else math.copysign(2 * math.pi, p)
    np.testing.assert_allclose(z, [q + turns, p], atol=1e-7)


def test_pendulum_hamiltonians_of_the_paper():
    z = np.random.default_rng(0).normal(size=(20, 2))
    spring = world_of("mass_spring", mass=0.5, stiffness=2.0)
    np.testing.assert_allclose(spring.energy(z), z[:, 0] ** 2 + z[:, 1] ** 2, rtol=1e-14)
    pendulum = world_of("pendulum", mass=0.5, length=1.0, gravity=6.0)
    np.testing.assert_allclose(pendulum.energy(z), 3 * (1 - np.cos(z[:, 0])) + z[:, 1] ** 2, rtol=1e-12)


def test_double_pendulum_with_a_light_lower_bob_is_a_pendulum():
    world = world_of("double_pendulum", masses=[1.0, 1e-9], lengths=[1.0, 1.0])
    z = world.simulate(np.array([[1.0, 1.0, 0.0, 0.0]]), 0.1, 30)[0]
    np.testing.assert_allclose(z[:, 0], exact_pendulum(math.sqrt(9.81), 1.0, 0.1 * np.arange(31)), atol=1e-6)


def test_double_pendulum_small_oscillations_have_the_textbook_frequencies():
    # Equal masses and rods: omega^2 = (2 -+ sqrt 2) g / l.
    world = world_of("double_pendulum", masses=[1.0, 1.0], lengths=[1.0, 1.0])
    jacobian = torch.autograd.functional.jacobian(world.dynamics, torch.zeros(4, dtype=torch.float64)).numpy()
    frequencies = np.sort(np.abs(np.linalg.eigvals(jacobian).imag))[::2]
    np.testing.assert_allclose(
        frequencies, [math.sqrt((2 - math.sqrt(2)) * 9.81), math.sqrt((2 + math.sqrt(2)) * 9.81)]
    )


def kepler_orbit(axis, e, gm, times):
    """Relative position at times after the pericentre on the x axis, by Newton's iteration on Kepler's equation."""
    mean = math.sqrt(gm / axis**3) * times
    E = mean + e * np.sin(mean)
    for _ in range(50):
        E -= (E - e * np.sin(E) - mean) / (1 - e * np.cos(E))
    return np.stack([axis * (np.cos(E) - e), axis * math.sqrt(1 - e * e) * np.sin(E)], axis=-1)


@pytest.mark.training
@given(st.floats(0.0, 0.9), st.floats(0.2, 3.0), st.floats(0.2, 3.0), st.floats(0.5, 2.0))
@settings(max_examples=12, deadline=None)
def test_two_bodies_follow_kepler(e, m1, m2, axis):
    world = world_of("two_body", masses=[m1, m2])
    gm, mu = m1 + m2, m1 * m2 / (m1 + m2)
    near = axis * (1 - e)
    p = mu * math.sqrt(gm / axis * (1 + e) / (1 - e))
    z0 = np.array([[near * m2 / gm, 0, -near * m1 / gm, 0, 0, p, 0, -p]])
    found_axis, found_e = world.elements(z0)
    assert float(found_axis[0]) == pytest.approx(axis, rel=1e-9)
    assert float(found_e[0]) == pytest.approx(e, abs=1e-6)
    z = world.simulate(z0, 0.5, 16)[0]
    q = world.positions(z)
    np.testing.assert_allclose(q[:, 0] - q[:, 1], kepler_orbit(axis, e, gm, 0.5 * np.arange(17)), atol=1e-7)


def test_three_equal_bodies_circle_as_lagranges_triangle():
    world = world_of(
        "three_body", masses=[1.0, 1.0, 1.0], initial={"law": "near_circular", "radius": [1.0, 1.0], "noise": 0.0}
    )
    z0 = starts(world, 1)
    period = 2 * math.pi * math.sqrt(math.sqrt(3.0) ** 3 / 3.0)  # n^2 = G M / a^3, side a = sqrt(3) r
    z = world.simulate(z0, period / 6, 2)[0]
    # A third of a turn later every body is where its neighbour was.
    np.testing.assert_allclose(world.positions(z[2]), np.roll(world.positions(z0[0]), -1, axis=0), atol=1e-8)


def test_many_springs_of_rest_length_zero_are_one_oscillator():
    # V = k/2 sum r_ij^2 = k N / 2 sum q_i^2 about the centre of mass: every body oscillates with w^2 = k N / m.
    world = world_of("n_body", bodies=100, rest_length=0.0, stiffness=0.3)
    z0 = starts(world, 1)
    period = 2 * math.pi / math.sqrt(0.3 * 100)
    z = world.simulate(z0, period / 2, 2)
    np.testing.assert_allclose(z[:, 1], -z0, atol=1e-8)
    np.testing.assert_allclose(z[:, 2], z0, atol=1e-8)


def test_newtons_third_law_holds_to_the_last_bit():
    world = world_of("n_body gravity", bodies=2, masses=[0.3, 2.7])
    f = world.force(np.random.default_rng(0).normal(size=(50, 6)))
    np.testing.assert_array_equal(f[:, :3], -f[:, 3:])


def test_hundreds_of_bodies():
    world = world_of("n_body", force="gravity", bodies=300, softening=0.3)
    z = world.simulate(starts(world, 1), 0.02, 3)
    assert z.shape == (1, 4, 1200)
    assert world.distances(z[:, 0])[0] > 0.5  # jitter of a quarter on either side of a unit lattice


# ---------------------------------------------------------------- start states


def test_start_states_are_bound_and_well_separated():
    for name in ("n_body charges", "n_body gravity", "two_body", "three_body"):
        world = world_of(name)
        z = starts(world, 50)
        assert (world.energy(z) < 0).all()
        assert world.distances(z).min() > 0.4
    for name in ("n_body springs", "n_body charges", "n_body gravity"):
        world = world_of(name)
        z = starts(world, 10)
        np.testing.assert_allclose(world.momentum(z), 0.0, atol=1e-12)
        centre = np.average(world.positions(z), axis=1, weights=world.masses)
        np.testing.assert_allclose(centre, 0.0, atol=1e-12)


def test_annulus_and_quadrants_are_the_papers_laws():
    annulus = {"law": "annulus", "radius": [1.3, 2.3], "direction": "square"}
    z = starts(world_of("pendulum", initial=annulus), 4000)
    radius, angle = np.hypot(*z.T), np.arctan2(*z.T)
    assert radius.min() > 1.3
    assert radius.max() < 2.3
    assert radius.mean() == pytest.approx(1.8, abs=0.02)
    # Directions of points in a square crowd towards its corners: the mean of cos(4 angle) is 3 - pi, in a circle 0.
    assert np.cos(4 * angle).mean() == pytest.approx(3 - math.pi, abs=0.04)
    z = starts(world_of("mass_spring", initial={"law": "quadrants", "size": [0.2, 1.0]}), 1000)
    assert np.abs(z).min() > 0.2
    assert np.abs(z).max() < 1.0
    np.testing.assert_allclose(np.sign(z).mean(0), 0.0, atol=0.12)


def test_near_circular_orbits_are_circles_without_noise():
    world = world_of(
        "two_body", initial={"law": "near_circular", "radius": [0.5, 1.5], "noise": 0.0, "positions": "square"}
    )
    z = starts(world, 100)
    axis, e = world.elements(z)
    np.testing.assert_allclose(e, 0.0, atol=1e-7)
    half = 0.5 * (world.positions(z)[:, 0] - world.positions(z)[:, 1])
    assert half.min() > 0.5  # each coordinate of half the separation is uniform in the interval
    assert half.max() < 1.5
    np.testing.assert_allclose(axis, 2 * np.linalg.norm(half, axis=-1), rtol=1e-12)


def test_an_overlay_may_choose_another_law_without_clearing_the_old_one():
    world = world_of("pendulum", initial={"law": "annulus", "radius": [1.0, 1.0], "q": [2.0], "p": [2.0]})
    np.testing.assert_allclose(np.linalg.norm(starts(world), axis=-1), 1.0)


# ---------------------------------------------------------------- chaos


def test_lyapunov_exponent_of_lagranges_triangle_is_rouths():
    # Routh (1875): for equal masses the triangle is unstable with exponent n / sqrt 2, n the angular velocity.
    world = world_of(
        "three_body", masses=[1.0, 1.0, 1.0], initial={"law": "near_circular", "radius": [1.0, 1.0], "noise": 0.0}
    )
    n = math.sqrt(3.0 / math.sqrt(3.0) ** 3)
    # The unstable mode spirals with angular velocity n: the counted four fifths are three of its turns.
    found = lyapunov_exponent(world.simulate, starts(world, 4), 3 * 2 * math.pi / n / 40, 50)
    np.testing.assert_allclose(found, n / math.sqrt(2.0), rtol=0.05)


@pytest.mark.training
@pytest.mark.parametrize(("name", "repeats"), [("double_pendulum", 50), ("three_body", 25)])
def test_reported_lyapunov_time_is_the_computed_one(name, repeats):
    World = worlds.get(name)
    world = World(World.Parameters())

    def simulate(z, step, steps):
        return dop853(world.dynamics, z, step, steps, 1e-10, 1e-10)

    exponent = lyapunov_exponent(simulate, starts(world, 64), 0.4, repeats).mean()
    assert world.laws().lyapunov_time == pytest.approx(1.0 / exponent, rel=0.02)


def test_lyapunov_time_is_not_claimed_where_it_was_not_computed():
    assert world_of("double_pendulum").laws().lyapunov_time is None
    wilder = {"law": "near_circular", "radius": [0.9, 1.2], "noise": 0.2}
    assert world_of("three_body", initial=wilder).laws().lyapunov_time is None
    World = worlds.get("double_pendulum")
    slow, fast = (World(World.Parameters(gravity=g)).laws().lyapunov_time for g in (9.81, 4 * 9.81))
    assert slow == pytest.approx(2 * fast)


# ---------------------------------------------------------------- parameter files


def _merged(base, overlay):
    for key, value in overlay.items():
        base[key] = _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return base


@pytest.mark.parametrize("name", ["mass_spring", "pendulum", "two_body", "three_body"])
def test_paper_overlays_give_worlds_and_the_papers_times(name):
    files = [CONF / env / f"parameters_{name}.yml" for env in ("base", "greydanus2019")]
    merged = _merged(*(yaml.safe_load(file.read_text())[name] for file in files))
    last = {"mass_spring": 3.0, "pendulum": 3.0, "two_body": 20.0, "three_body": 5.0}[name]
    test_last = {"mass_spring": 20.0, "pendulum": 20.0, "two_body": 25.0, "three_body": 3.0}[name]
    assert merged["step"] * merged["splits"]["train"]["steps"] == pytest.approx(last, abs=1e-12)
    assert merged["splits"]["test"]["step"] * merged["splits"]["test"]["steps"] == pytest.approx(test_last, abs=1e-12)
    for split in filter(None, merged["splits"].values()):  # what is null is not made
        world = world_of(name, **_merged({**merged["parameters"]}, split.get("parameters", {})))
        assert starts(world, 2).shape[0] == 2
