"""Flows that are known exactly: what is symplectic, what is reversible, which force acts."""

import numpy as np
import pytest
from scipy.linalg import expm

from wm_pipelines.metrics import flow

STEP = 0.3
UNIT = np.array([2.0, 3.0])  # spread of q and of p


def linear_flow(matrix, step=STEP):
    exact = expm(step * np.asarray(matrix))
    return lambda z: z @ exact.T


def damped_oscillator(gamma):
    return [[0.0, 1.0], [-4.0, -gamma]]


def pendulum_leapfrog(z, step=STEP):
    """Kick, drift, kick: symplectic and reversible, and wrong in the third order."""
    q, p = z[..., 0], z[..., 1]
    p = p - 0.5 * step * np.sin(q)
    q = q + step * p
    return np.stack([q, p - 0.5 * step * np.sin(q)], axis=-1)


def runge_kutta4(field, z, step=STEP):
    a = field(z)
    b = field(z + 0.5 * step * a)
    c = field(z + 0.5 * step * b)
    return z + step / 6 * (a + 2 * b + 2 * c + field(z + step * c))


def symplecticity(phi, states, unit, count=99):
    directions = flow.random_directions(states.shape[-1], count)
    images = phi(flow.displaced(states, directions, unit))[None]
    errors = [
        flow.symplecticity_error(x, directions) for x in flow.directional_derivatives(images, len(directions), unit)
    ]
    return errors[0][0], np.abs(errors[0] - errors[1]).max()


STATES = np.random.default_rng(0).normal(size=(7, 2))


def test_exact_conservative_flows_and_symplectic_schemes_have_no_error():
    for phi in (linear_flow(damped_oscillator(0.0)), pendulum_leapfrog, lambda z: z):
        error, resolution = symplecticity(phi, STATES, UNIT)
        assert error.max() < 1e-9
        assert resolution < 1e-5


def test_a_damped_flow_shrinks_areas_by_its_divergence():
    gamma = 0.5
    error, _ = symplecticity(linear_flow(damped_oscillator(gamma)), STATES, UNIT)
    np.testing.assert_allclose(error, 1.0 - np.exp(-gamma * STEP), rtol=1e-7)


def test_runge_kutta_is_symplectic_to_its_order_only():
    field = lambda z: np.stack([z[..., 1], -np.sin(z[..., 0])], axis=-1)  # noqa: E731
    coarse, fine = (
        symplecticity(lambda z, step=step: runge_kutta4(field, z, step), STATES, UNIT)[0].mean() for step in (0.8, 0.4)
    )
    assert coarse > 1e-4
    assert 4.5 < np.log2(coarse / fine) < 6.5


def test_units_of_coordinates_and_momenta_do_not_matter():
    gamma, kilo = 0.5, np.array([1e3, 1e-3])
    phi = linear_flow(damped_oscillator(gamma))
    scaled = symplecticity(lambda z: kilo * phi(z / kilo), kilo * STATES, kilo * UNIT)[0]
    np.testing.assert_allclose(scaled, symplecticity(phi, STATES, UNIT)[0], rtol=1e-6)


def test_some_directions_estimate_what_all_say_without_bias():
    rng = np.random.default_rng(1)
    jacobian = np.eye(8) + 0.1 * rng.normal(size=(8, 8))
    omega = np.block([[np.zeros((4, 4)), np.eye(4)], [-np.eye(4), np.zeros((4, 4))]])
    exact = np.linalg.norm(jacobian.T @ omega @ jacobian - omega) / np.linalg.norm(omega)

    def estimate(count, seed):
        directions = flow.random_directions(8, count, seed)
        return flow.symplecticity_error((directions @ jacobian.T)[None, None], directions).item()

    assert estimate(8, 0) == pytest.approx(exact, rel=1e-12)
    squares = np.mean([estimate(4, seed) ** 2 for seed in range(2000)])
    assert np.sqrt(squares) == pytest.approx(exact, rel=0.03)


def test_a_reversible_scheme_runs_back_and_a_damped_flow_does_not():
    def there_and_back(phi, steps=5):
        z = STATES
        for _ in range(steps):
            z = phi(z)
        z = flow.turned_back(z)
        for _ in range(steps):
            z = phi(z)
        return flow.reversal_error(flow.turned_back(z)[None], STATES, UNIT)[0]

    assert there_and_back(pendulum_leapfrog).max() < 1e-13
    assert there_and_back(linear_flow(damped_oscillator(0.0))).max() < 1e-13
    # The momentum decays on both ways: exp(-gamma t) in all.
    lost = there_and_back(linear_flow([[0.0, 0.0], [0.0, -0.2]]))
    expected = np.abs(STATES[:, 1]) * (1 - np.exp(-0.2 * 2 * 5 * STEP)) / UNIT[1] / np.sqrt(2)
    np.testing.assert_allclose(lost, expected)


def test_one_turn_of_an_angle_is_no_error():
    there = STATES + np.array([2 * np.pi, 0.0])
    assert flow.reversal_error(there[None], STATES, UNIT, angles=(0,)).max() < 1e-12
    assert flow.reversal_error(there[None], STATES, UNIT).min() > 1.0


@pytest.mark.filterwarnings("error")
def test_what_diverged_is_an_infinite_error():
    images = np.full((1, 4 * 2 * 7, 2), np.inf)
    pushed, _ = flow.directional_derivatives(images, 2, UNIT)
    assert np.isinf(flow.symplecticity_error(pushed, np.eye(2))).all()
    assert np.isinf(flow.reversal_error(np.full((1, 7, 2), np.nan), STATES, UNIT)).all()
    assert np.isinf(flow.force_error(np.full((1, 7, 1), np.nan), STATES[:, 1:])).all()


def test_the_slope_at_the_start_is_of_fourth_order():
    def error(step):
        time = step * np.arange(5)
        return abs(flow.initial_slope(np.exp(2 * time)[:, None], step).item() - 2.0)

    assert error(0.02) < 1e-5
    assert 3.7 < np.log2(error(0.02) / error(0.01)) < 4.3


def test_force_error_is_one_without_any_force_and_scales_with_the_force():
    truth = np.random.default_rng(0).normal(size=(50, 3))
    root_mean_square = np.sqrt((flow.force_error(np.zeros((1, 50, 3)), truth) ** 2).mean())
    assert root_mean_square == pytest.approx(1.0)
    np.testing.assert_allclose(flow.force_error(truth[None], truth), 0.0)
    weak = flow.force_error(0.9 * truth[None], truth)
    np.testing.assert_allclose(weak, flow.force_error(0.9e6 * truth[None], 1e6 * truth))
    with pytest.raises(ValueError, match="a force acts"):
        flow.force_error(truth[None], 0.0 * truth)
