"""Pair forces of known laws are found again: which power, which coupling, which rest length."""

import numpy as np
import pytest

from wm_pipelines.metrics.pair_force import PairForces

MASSES = np.array([1.0, 2.0, 0.5, 4.0])
COUPLINGS = {"1": np.ones((4, 4)), "mass": np.outer(MASSES, MASSES)}


def forces(q, kappa, radial):
    """``F_i = Σ_j κ_ij f(r_ij) e_ij``."""
    apart = q[:, :, None] - q[:, None]
    distance = np.linalg.norm(apart, axis=-1) + np.eye(q.shape[1])
    weight = kappa * radial(distance) / distance * (1 - np.eye(q.shape[1]))
    return (weight[..., None] * apart).sum(axis=2)


@pytest.fixture(scope="module")
def positions():
    return np.random.default_rng(0).uniform(-2, 2, (40, 4, 2))


@pytest.fixture(scope="module")
def pairs(positions):
    return PairForces(positions, COUPLINGS)


@pytest.mark.parametrize("exponent", [-3.0, -2.0, -1.37, 0.5, 1.0])
@pytest.mark.parametrize("coupling", ["1", "mass"])
def test_a_power_of_the_distance_is_found_with_its_coupling(pairs, positions, exponent, coupling):
    found = pairs.fit(forces(positions, COUPLINGS[coupling], lambda r: -0.7 * r**exponent))
    assert (found.coupling, found.explained) == (coupling, pytest.approx(1.0, abs=1e-6))
    if exponent != 1.0:  # a spring without a rest length, too
        assert found.kind == "power"
        assert found.constant == pytest.approx(exponent, abs=1e-3)
    assert found.strength == pytest.approx(-0.7, rel=1e-3)


def test_a_spring_is_found_with_its_rest_length(pairs, positions):
    found = pairs.fit(forces(positions, COUPLINGS["1"], lambda r: -3.0 * (r - 1.25)))
    assert (found.kind, found.coupling) == ("spring", "1")
    assert (found.strength, found.constant) == (pytest.approx(-3.0), pytest.approx(1.25))


def test_equal_masses_need_no_coupling():
    q = np.random.default_rng(0).uniform(-2, 2, (40, 3, 2))
    ones = np.ones((3, 3))
    found = PairForces(q, {"1": ones, "mass": 4 * ones}).fit(forces(q, ones, lambda r: -(r**-2.0)))
    assert found.coupling == "1"


def test_origin_and_axes_do_not_matter(pairs, positions):
    f = forces(positions, COUPLINGS["mass"], lambda r: -r / (r**2 + 0.25) ** 1.5)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    moved = PairForces(positions @ turn.T + 5.0, COUPLINGS).fit(f @ turn.T)
    found = pairs.fit(f)
    assert moved.constant == pytest.approx(found.constant, abs=1e-4)
    assert (found.kind, found.coupling) == ("power", "mass")
    assert (found.constant, found.softening) == (pytest.approx(-2.0, abs=1e-3), pytest.approx(0.5, abs=1e-3))


def test_a_softening_is_found_only_where_it_is_worth_a_constant_more(pairs, positions):
    rng = np.random.default_rng(3)
    exact = forces(positions, COUPLINGS["mass"], lambda r: -(r**-1.0))
    noisy = exact + 0.05 * np.abs(exact).mean() * rng.normal(size=exact.shape)
    assert pairs.fit(noisy).softening == 0.0
    assert pairs.power(noisy, "mass").constant == pytest.approx(-1.0, abs=0.05)
    # What is learned of softened gravity without its core: the same form, so that exponents compare.
    core = forces(positions, COUPLINGS["mass"], lambda r: -r / (r**2 + 0.25) ** 1.5)
    assert pairs.power(core, "mass").constant > -1.5
    assert pairs.power(core, "mass", softened=True).constant == pytest.approx(-2.0, abs=1e-3)


def test_forces_between_no_pairs_are_explained_badly_and_none_at_all_not(pairs, positions):
    assert pairs.fit(np.random.default_rng(1).normal(size=positions.shape)).explained < 0.2
    assert pairs.fit(np.zeros_like(positions)) is None
    assert pairs.fit(np.full_like(positions, np.nan)) is None


def test_bodies_in_one_place_and_a_single_body_are_refused():
    with pytest.raises(ValueError, match="different places"):
        PairForces(np.zeros((3, 2, 2)), {"1": np.ones((2, 2))})
    with pytest.raises(ValueError, match="at least two"):
        PairForces(np.ones((3, 1, 2)), {"1": np.ones((1, 1))})
