"""What the integrators promise: their order, symplecticity, reversibility, gradients, and honest failure."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from tests.dynamics import lyapunov_exponent, rollout_gauss_legendre
from wm_pipelines.integrators import (
    SPLITTINGS,
    IntegrationError,
    dop853,
    gauss_legendre,
    gauss_legendre_step,
    hamiltonian_field,
    prolonged_slopes,
    rollout_runge_kutta4,
    rollout_separable,
    splitting_step,
)

# A pendulum with a quartic in p, so that T is not quadratic: H = p^2/2 + p^4/12 + 1 - cos q.
QUARTIC = (lambda p: p + p**3 / 3.0, lambda q: -np.sin(q))
PENDULUM = (lambda p: p, lambda q: -np.sin(q))
START = np.array([[1.2, 0.3], [-0.7, 0.8]])


def field_of(velocity, force):
    return lambda z: np.concatenate([velocity(z[..., 1:]), force(z[..., :1])], axis=-1)


def kepler_gradient(z):
    """dH/dz of H = p^2/2 - 1/|q| in the plane."""
    q, p = z[..., :2], z[..., 2:]
    r3 = (q**2).sum(-1)[..., None] ** 1.5
    return (np if isinstance(z, np.ndarray) else torch).concatenate([q / r3, p], axis=-1)


def non_separable_gradient(z):
    """dH/dz of H = (q^2 + 1)(p^2 + 1)/2 (Tao 2016)."""
    q, p = z[..., :1], z[..., 1:]
    return np.concatenate([q * (p**2 + 1.0), p * (q**2 + 1.0)], axis=-1)


def reference(field, z0, duration):
    def flat(_, z):
        return field(z.reshape(z0.shape)).ravel()

    return solve_ivp(flat, (0.0, duration), z0.ravel(), "DOP853", rtol=1e-13, atol=1e-14).y[:, -1].reshape(z0.shape)


def slope(steps, errors):
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    ("method", "law", "counts"),
    [
        ("leapfrog", QUARTIC, (32, 64, 128)),
        ("yoshida4", QUARTIC, (32, 64, 128)),
        ("kahan_li6", QUARTIC, (16, 24, 32)),
        ("kahan_li8", QUARTIC, (12, 16, 20)),
        ("blanes_moan6", PENDULUM, (8, 12, 16)),
    ],
)
def test_splitting_has_its_order(method, law, counts):
    duration = 4.0
    exact = reference(field_of(*law), START, duration)
    errors = [np.abs(rollout_separable(START, duration / n, n, *law, method)[:, -1] - exact).max() for n in counts]
    assert slope([duration / n for n in counts], errors) == pytest.approx(SPLITTINGS[method].order, abs=0.3)


def test_nystrom_scheme_loses_its_order_where_kinetic_energy_is_not_quadratic():
    # The reason for the flag `nystrom`: a learned T(p) must not be rolled out with it.
    assert [name for name, scheme in SPLITTINGS.items() if scheme.nystrom] == ["blanes_moan6"]
    exact = reference(field_of(*QUARTIC), START, 4.0)
    errors = [
        np.abs(rollout_separable(START, 4.0 / n, n, *QUARTIC, "blanes_moan6")[:, -1] - exact).max() for n in (16, 32)
    ]
    assert math.log2(errors[0] / errors[1]) < 5.0


@pytest.mark.parametrize(("stages", "counts"), [(1, (40, 80, 160)), (2, (20, 40, 80)), (3, (12, 18, 24))])
def test_gauss_legendre_has_order_two_per_stage(stages, counts):
    field, duration = hamiltonian_field(non_separable_gradient), 2.0
    exact = reference(field, START, duration)
    errors = [
        np.abs(rollout_gauss_legendre(START, duration / n, n, field, stages)[:, -1] - exact).max() for n in counts
    ]
    assert slope([duration / n for n in counts], errors) == pytest.approx(2 * stages, abs=0.3)


def test_runge_kutta4_has_order_four():
    field = field_of(*QUARTIC)
    exact = reference(field, START, 4.0)
    errors = [np.abs(rollout_runge_kutta4(START, 4.0 / n, n, field)[:, -1] - exact).max() for n in (64, 128, 256)]
    assert slope([4.0 / n for n in (64, 128, 256)], errors) == pytest.approx(4, abs=0.3)


def test_dop853_has_order_eight():
    # A tolerance that accepts every step: from the second on, a step is as long as the spacing of the output.
    field, steps = field_of(*QUARTIC), np.array([0.5, 0.4, 0.3, 0.25, 0.2])
    exact = reference(field, START, 6.0)
    errors = [np.abs(dop853(field, START, h, round(6 / h), rtol=1e3, atol=1e3)[:, -1] - exact).max() for h in steps]
    assert slope(steps, errors) == pytest.approx(8, abs=0.3)


@given(st.floats(-2.5, 2.5), st.floats(-2.0, 2.0), st.floats(0.01, 0.3), st.sampled_from(sorted(SPLITTINGS)))
@settings(max_examples=40, deadline=None)
def test_splittings_are_symplectic(q, p, step, method):
    # J^T Omega J = Omega, which in one degree of freedom is det J = 1; the Jacobian by torch.
    def one(z):
        return torch.cat(splitting_step(z[:1], z[1:], step, lambda p: p + p**3 / 3, lambda q: -torch.sin(q), method))

    jacobian = torch.autograd.functional.jacobian(one, torch.tensor([q, p], dtype=torch.float64))
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-12)


@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0), st.floats(0.02, 0.2), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_gauss_legendre_is_symplectic_for_a_non_separable_hamiltonian(q, p, step, stages):
    def field(z):
        q, p = z[..., :1], z[..., 1:]
        return torch.cat([p * (q**2 + 1.0), -q * (p**2 + 1.0)], dim=-1)

    jacobian = torch.autograd.functional.jacobian(
        lambda z: gauss_legendre_step(z, step, field, stages), torch.tensor([q, p], dtype=torch.float64)
    )
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-11)


def test_symplecticity_of_two_degrees_of_freedom():
    # Kepler in the plane: all of J^T Omega J, not only the determinant.
    omega = torch.cat(
        [torch.cat([torch.zeros(2, 2), torch.eye(2)], 1), torch.cat([-torch.eye(2), torch.zeros(2, 2)], 1)]
    ).double()
    field = hamiltonian_field(kepler_gradient)
    z = torch.tensor([1.0, 0.1, -0.2, 0.9], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda z: gauss_legendre_step(z, 0.1, field), z)
    torch.testing.assert_close(jacobian.T @ omega @ jacobian, omega, atol=1e-12, rtol=0)


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.sampled_from(sorted(SPLITTINGS)), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_symmetric_schemes_run_backwards_to_where_they_started(q, p, method, substeps):
    there = rollout_separable(np.array([[q, p]]), 0.1, 20, *PENDULUM, method, substeps)[:, -1]
    back = rollout_separable(there, -0.1, 20, *PENDULUM, method, substeps)[:, -1]
    np.testing.assert_allclose(back, [[q, p]], atol=1e-11)


@pytest.mark.parametrize("method", sorted(SPLITTINGS))
def test_substeps_are_shorter_steps(method):
    fine = rollout_separable(START, 0.05, 40, *QUARTIC, method)[:, ::4]
    np.testing.assert_allclose(rollout_separable(START, 0.2, 10, *QUARTIC, method, substeps=4), fine, atol=1e-13)
    repeated = SPLITTINGS[method].repeated(3)
    assert sum(repeated.drifts) == pytest.approx(1.0, abs=1e-14)
    assert sum(repeated.kicks) == pytest.approx(1.0, abs=1e-14)


def test_chunks_and_leading_axes_do_not_change_a_bit():
    z0 = np.random.default_rng(0).normal(size=(3, 7, 4))
    law = (lambda p: p, lambda q: -np.sin(q))
    whole = rollout_separable(z0, 0.1, 5, *law)
    assert whole.shape == (3, 7, 6, 4)
    assert np.array_equal(whole, rollout_separable(z0, 0.1, 5, *law, chunk=2))
    assert np.array_equal(whole[1, 2], rollout_separable(z0[1, 2], 0.1, 5, *law))


def test_numpy_and_torch_take_the_same_steps():
    ours = rollout_separable(START, 0.1, 30, *PENDULUM, substeps=2)
    theirs = rollout_separable(torch.from_numpy(START), 0.1, 30, lambda p: p, lambda q: -torch.sin(q), substeps=2)
    np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-13)
    field = hamiltonian_field(kepler_gradient)
    z0 = np.array([[1.0, 0.1, -0.2, 0.9], [0.0, 0.8, 1.0, 0.3]])
    np.testing.assert_allclose(
        dop853(field, torch.from_numpy(z0), 0.5, 8).numpy(), dop853(field, z0, 0.5, 8), atol=1e-11
    )


def test_fields_whose_output_is_their_input_do_no_harm():
    # `velocity` returns the very array it was given; the in-place path must not write into it.
    z0 = START.copy()
    rollout_separable(z0, 0.1, 3, lambda p: p, lambda q: -q)
    assert np.array_equal(z0, START)


@pytest.mark.parametrize(
    "roll",
    [
        lambda z: rollout_separable(z, 0.1, 10, lambda p: p, lambda q: -torch.sin(q)),
        lambda z: rollout_gauss_legendre(z, 0.1, 10, lambda z: torch.cat([z[..., 1:], -torch.sin(z[..., :1])], -1)),
        lambda z: rollout_runge_kutta4(z, 0.1, 10, lambda z: torch.cat([z[..., 1:], -torch.sin(z[..., :1])], -1)),
        lambda z: dop853(lambda z: torch.cat([z[..., 1:], -torch.sin(z[..., :1])], -1), z, 0.1, 10),
    ],
)
def test_gradients_through_a_rollout_equal_finite_differences(roll):
    z0 = torch.tensor([[1.2, 0.3]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(roll(z0)[..., -1, 0].sum(), z0)
    h = 1e-6
    for i in range(2):
        e = torch.zeros(1, 2, dtype=torch.float64)
        e[0, i] = h
        with torch.no_grad():
            difference = (roll(z0 + e)[..., -1, 0] - roll(z0 - e)[..., -1, 0]) / (2 * h)
        assert float(gradient[0, i]) == pytest.approx(float(difference), abs=1e-8)


def test_energy_stays_in_a_band_for_ever_only_where_the_integrator_is_symplectic():
    def energy(z):
        return 0.5 * z[..., 1] ** 2 - np.cos(z[..., 0])

    z0 = np.array([[1.5, 0.0]])
    symplectic = energy(rollout_separable(z0, 0.3, 4000, *PENDULUM, "leapfrog"))
    classical = energy(rollout_runge_kutta4(z0, 0.3, 4000, field_of(*PENDULUM)))
    early, late = np.ptp(symplectic[:, :1000]), np.ptp(symplectic[:, -1000:])
    assert late < 1.05 * early
    half, whole = (abs(classical[0, k] - classical[0, 0]) for k in (2000, 4000))
    assert whole > 1.6 * half > 1e-3  # it drifts on and on


def test_dop853_keeps_to_its_tolerance_on_a_close_encounter_for_each_episode_alone():
    # Eccentricity 0.99 beside a circle: the circle's error does not depend on its neighbour.
    e = 0.99
    z0 = np.array([[1 + e, 0.0, 0.0, math.sqrt((1 - e) / (1 + e))], [1.0, 0.0, 0.0, 1.0]])
    field = hamiltonian_field(kepler_gradient)
    orbit = dop853(field, z0, 2 * math.pi, 1)
    np.testing.assert_allclose(orbit[:, -1], z0, atol=1e-8)
    np.testing.assert_array_equal(orbit[1], dop853(field, z0[1:], 2 * math.pi, 1)[0])


def test_collision_is_an_error():
    with pytest.raises(IntegrationError):
        dop853(hamiltonian_field(kepler_gradient), np.array([[1.0, 0.0, 0.0, 0.0]]), 1.0, 4)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("step", [5.0, math.inf])
def test_stage_equations_that_cannot_be_solved_are_an_error(step):
    with pytest.raises(IntegrationError, match="shorter time step"):
        gauss_legendre_step(np.array([[2.0, 2.0]]), step, hamiltonian_field(non_separable_gradient))


def test_lyapunov_exponent_of_a_saddle_is_its_eigenvalue():
    # dq/dt = p, dp/dt = 4 q: exponents +2 and -2, by the exact flow.
    def simulate(z, step, steps):
        t = step * np.arange(steps + 1)[:, None]
        q, p = z[:, None, :1], z[:, None, 1:]
        return np.concatenate(
            [q * np.cosh(2 * t) + p / 2 * np.sinh(2 * t), p * np.cosh(2 * t) + 2 * q * np.sinh(2 * t)], -1
        )

    z0 = np.array([[0.0, 0.0], [1e-3, -2e-3]])
    np.testing.assert_allclose(lyapunov_exponent(simulate, z0, 0.25, 40), 2.0, atol=1e-3)


def test_lyapunov_exponent_of_a_rotation_is_zero():
    def simulate(z, step, steps):
        t = step * np.arange(steps + 1)[:, None]
        q, p = z[:, None, :1], z[:, None, 1:]
        return np.concatenate([q * np.cos(t) + p * np.sin(t), p * np.cos(t) - q * np.sin(t)], -1)

    np.testing.assert_allclose(lyapunov_exponent(simulate, START, 0.5, 20), 0.0, atol=1e-6)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_prolonged_slopes_are_exact_for_polynomials_of_time(stages):
    # z = (t, x), dx/dt = t^(stages - 1): the slopes of the stages lie on a polynomial that their number determines
    def field(z):
        t = z[..., :1]
        return np.concatenate([np.ones_like(t), t ** (stages - 1)], axis=-1)

    z, step = np.array([[0.3, 0.0], [-1.1, 2.0]]), 0.2
    z, slopes = gauss_legendre(z, step, field, stages)
    _, following = gauss_legendre(z, step, field, stages)
    np.testing.assert_allclose(prolonged_slopes(slopes), following, atol=1e-12)


def test_a_step_from_prolonged_slopes_is_the_same_step_in_fewer_calls():
    calls = []

    def field(z):
        calls.append(len(z))
        return hamiltonian_field(non_separable_gradient)(z)

    z, slopes = gauss_legendre(np.array([[0.4, 0.3]]), 0.05, field)
    calls.clear()
    plain, _ = gauss_legendre(z, 0.05, field)
    of_plain = len(calls)
    calls.clear()
    prolonged, _ = gauss_legendre(z, 0.05, field, guess=prolonged_slopes(slopes))
    np.testing.assert_allclose(prolonged, plain, atol=1e-13)
    assert len(calls) <= of_plain - 2
