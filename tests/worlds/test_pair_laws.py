"""Forces between two bodies: slopes of their potentials, exact motions, and the limits that other laws are."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.making import WorldConfig, build_world
from wm_pipelines.worlds.n_body import NBody
from wm_pipelines.worlds.parts.pair_laws import InverseDistance, Morse, Springs, Yukawa
from wm_pipelines.worlds.parts.simulation import energy_drift

CONF = Path(__file__).resolve().parents[2] / "conf/base"
C = np.array([[0.0, -0.7], [-0.7, 0.0]])
LAWS = {
    "gravity": lambda eps: InverseDistance(C, eps),
    "springs": lambda eps: Springs(1.3, 0.8, eps),
    "morse": lambda eps: Morse(0.9, 1.7, 1.1, eps),
    "yukawa": lambda eps: Yukawa(C, 1.4, eps),
}


def two_bodies(force, masses=(1.0, 1.0), **parameters):
    settings = {"force": force, "bodies": 2, "masses": list(masses), "softening": 0.0, **parameters}
    return NBody(validate(NBody.Parameters, settings, "n_body"))


@pytest.mark.parametrize("softening", [0.0, 0.3])
@pytest.mark.parametrize("name", LAWS)
def test_tension_is_the_slope_of_the_potential_over_the_distance(name, softening):
    law, h = LAWS[name](softening), 1e-6
    for r in np.linspace(0.2, 4.0, 20):
        r2 = np.full((2, 2), r * r)
        up, down = (law.potential(np.full((2, 2), x * x))[0, 1] for x in (r + h, r - h))
        assert law.tension(r2)[0, 1] == pytest.approx((up - down) / (2 * h) / r, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("softening", [0.05, 0.3])
@pytest.mark.parametrize("name", ["gravity", "yukawa"])
def test_no_pair_is_stiffer_than_its_curvature_says(name, softening):
    law, h = LAWS[name](softening), 1e-4
    r = np.linspace(1e-3, 3.0, 2000)

    def phi(x):
        return np.array([law.potential(np.full((2, 2), y * y))[0, 1] for y in x])

    found = np.abs(phi(r + h) - 2 * phi(r) + phi(r - h)) / h**2
    assert found.max() <= law.curvature(2) * (1 + 1e-3)


# ---------------------------------------------------------------- Morse


def test_a_morse_bond_is_deepest_at_its_rest_length_and_breaks():
    law = Morse(0.9, 1.7, 1.1)
    at = {r: float(law.potential(np.full((2, 2), r * r))[0, 1]) for r in (1.05, 1.1, 1.15, 50.0)}
    assert at[1.1] == pytest.approx(-0.9, rel=1e-15)
    assert min(at, key=at.get) == 1.1
    assert at[50.0] == pytest.approx(0.0, abs=1e-15)
    assert law.tension(np.full((2, 2), 1.1**2))[0, 1] == 0.0


@pytest.mark.training
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_two_bodies_vibrate_as_morses_exact_solution(share):
    """``exp(a x) = (1 + sqrt(s) sin(w t)) / (1 - s)``, ``w^2 = 2 a^2 D (1 - s) / mu``, s D above the bottom."""
    depth, a, length, masses = 0.9, 1.7, 1.1, (1.0, 0.4)
    world = two_bodies("morse", masses, depth=depth, steepness=a, rest_length=length)
    mu = masses[0] * masses[1] / sum(masses)
    omega = a * math.sqrt(2 * depth * (1 - share) / mu)
    phase = -math.pi / 2 + omega * 0.1 * np.arange(81)  # from the inner turning point, at rest
    apart = length + np.log((1 + math.sqrt(share) * np.sin(phase)) / (1 - share)) / a
    x1, x2 = apart[0] * masses[1] / sum(masses), -apart[0] * masses[0] / sum(masses)
    z = world.simulate(np.array([[x1, 0, x2, 0, 0, 0, 0, 0]]), 0.1, 80)[0]
    q = world.positions(z)
    np.testing.assert_allclose(q[:, 0, 0] - q[:, 1, 0], apart, atol=1e-8)


# ---------------------------------------------------------------- Yukawa


@pytest.mark.training
@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_two_screened_charges_circle_where_attraction_is_centripetal(radius):
    coupling, screening, masses = 0.8, 1.4, (1.0, 0.4)
    world = two_bodies("yukawa", masses, charges=[coupling, -1.0], screening_length=screening)
    mu = masses[0] * masses[1] / sum(masses)
    pull = coupling * math.exp(-radius / screening) * (1 / radius + 1 / screening) / radius
    omega = math.sqrt(pull / (mu * radius))
    share = np.array([masses[1], -masses[0]]) / sum(masses)
    p = mu * omega * radius
    z0 = np.array([[radius * share[0], 0, radius * share[1], 0, 0, p, 0, -p]])
    q = world.positions(world.simulate(z0, math.pi / (2 * omega), 4)[0])  # a quarter turn a row
    expected = radius * np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [1, 0]], float)
    np.testing.assert_allclose(q[:, 0] - q[:, 1], expected, atol=1e-7)


def test_screened_over_a_very_long_way_charges_are_charges():
    r2 = np.linspace(0.1, 9.0, 50)[:, None, None] * np.ones((2, 2))
    near, far = InverseDistance(C, 0.2), Yukawa(C, 1e9, 0.2)
    np.testing.assert_allclose(far.tension(r2), near.tension(r2), rtol=1e-8)
    np.testing.assert_allclose(far.potential(r2), near.potential(r2), rtol=1e-8)
    screened = Yukawa(C, 1.0, 0.2)
    assert (np.abs(screened.potential(r2)) < np.abs(near.potential(r2)))[..., 0, 1].all()


# ---------------------------------------------------------------- the worlds that run


@pytest.mark.training
@pytest.mark.parametrize("name", ["n_body_morse", "n_body_yukawa"])
def test_bodies_of_the_parameter_files_stay_together_and_come_back(name):
    config = WorldConfig(**yaml.safe_load((CONF / f"parameters_{name}.yml").read_text())[name])
    world = build_world(config, where=name)
    assert len(set(world.masses)) == world.bodies  # no two alike
    z0 = world.sample_initial_state(np.random.default_rng(0), 6)
    z = world.simulate(z0, config.step, 200)
    assert (world.energy(z0) < 0).all()
    assert energy_drift(z, world.energy, world.kinetic).max() < 1e-9
    assert np.linalg.norm(world.positions(z), axis=-1).max() < 8.0 * world.reach
    for law in (world.momentum, world.angular_momentum):
        assert np.abs(law(z) - law(z[:, :1])).max() < 1e-11
    back = world.simulate(z[:, 40], -config.step, 40)[:, -1]
    np.testing.assert_allclose(back, z0, atol=1e-9)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"depth": 0.0}, "depth"), ({"steepness": "2 m"}, "steepness"), ({"screening_length": -1.0}, "screening_length")],
)
def test_bonds_and_screening_are_positive_and_have_units(parameters, message):
    with pytest.raises(UserError, match=message):
        two_bodies("morse", **parameters)


def test_captions_tell_what_joins_the_bodies():
    for force, words in (("morse", "bonds that can break"), ("yukawa", "screened charges")):
        world = two_bodies(force, (1.0, 0.4), softening=0.2)
        z = world.simulate(world.sample_initial_state(np.random.default_rng(0), 1), 0.1, 3)[0]
        assert words in world.describe(z)
