"""Parts of random-feature collocation: ridge features, stretched coordinates, Gauss-Newton."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.fields import by_autograd
from wm_pipelines.families.random_feature_collocation.gauss_newton import Rows, gauss_newton, linearise
from wm_pipelines.families.random_feature_collocation.ridge import (
    RidgeFeatures,
    Stretch,
    bell_polynomials,
    sin_derivatives,
    tanh_derivatives,
)

ORDERS = [o for o in itertools.product(range(4), repeat=2) if sum(o) <= 3]


@pytest.mark.parametrize(("family", "function"), [(tanh_derivatives, torch.tanh), (sin_derivatives, torch.sin)])
def test_derivatives_of_the_activations(family, function):
    a = torch.linspace(-3, 3, 41, dtype=torch.float64)[:, None]
    for order, value in enumerate(family(a[:, 0], 5)):
        torch.testing.assert_close(value, by_autograd(lambda x: function(x[:, 0]), a, (order,)), rtol=1e-9, atol=1e-9)


def test_bell_polynomials_count_the_partitions():
    """With all derivatives one, B_{n,k} is the number of ways to part n things into k groups (Stirling)."""
    ones = [torch.ones((), dtype=torch.float64)] * 5
    assert [float(b) for b in bell_polynomials(ones, 4)] == [0, 1, 7, 6, 1]
    assert [float(b) for b in bell_polynomials(ones, 5)] == [0, 1, 15, 25, 10, 1]


@pytest.mark.training
@pytest.mark.parametrize("activation", ["tanh", "sin"])
@pytest.mark.parametrize("stretched", [False, True])
def test_features_have_exact_derivatives_of_any_order(activation, stretched):
    features = RidgeFeatures(2, 7, (2, 3), activation)
    features.draw([0, 1], torch.tensor([2.0, 1.0], dtype=torch.float64))
    at = [(0, 2), (1, 2)]
    if stretched:
        profile = 1 + 20 * torch.exp(-50 * torch.linspace(-1, 1, 201, dtype=torch.float64) ** 2)
        for model in at:
            features.stretch.fit(model, 0, profile, grading=2.0, smoothing=4.0)
    x = 2 * torch.rand(2, 9, 2, dtype=torch.float64) - 1
    found = features.derivatives(x, at, ORDERS)
    for k, order in itertools.product(range(7), ORDERS):
        expected = by_autograd(lambda p, k=k: features.derivatives(p, at, [(0, 0)])[(0, 0)][..., k], x, order)
        torch.testing.assert_close(
            found[order][..., k], expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()) + 1e-10
        )


def test_features_depend_on_their_own_seed_alone():
    together, alone = RidgeFeatures(2, 5, (2, 1)), RidgeFeatures(2, 5, (1, 1))
    together.draw([3, 8], torch.ones(2, dtype=torch.float64))
    alone.draw([8], torch.ones(2, dtype=torch.float64))
    assert torch.equal(together.weight[1], alone.weight[0])
    assert not torch.equal(together.weight[0], together.weight[1])


@settings(max_examples=25, deadline=None)
@given(st.floats(-0.9, 0.9), st.floats(1.0, 300.0), st.floats(0.5, 5.0))
def test_a_stretching_is_a_monotone_map_onto_the_interval_and_dense_at_the_layer(centre, height, grading):
    x = torch.linspace(-1, 1, 401, dtype=torch.float64)
    stretch = Stretch((1,), 1)
    stretch.fit((0,), 0, height * torch.exp(-(((x - centre) * height) ** 2)), grading, smoothing=4.0)
    value, slope = (d[0, :, 0] for d in stretch(x[None, :, None], [(0,)], 1))
    torch.testing.assert_close(value[[0, -1]], torch.tensor([-1.0, 1.0], dtype=torch.float64))
    assert (slope > 0).all()
    if height > 20:
        assert abs(float(x[slope.argmax()]) - centre) < 0.1
    back = stretch.inverse(value[None, :, None], [(0,)])[0, :, 0]
    assert (back - x).abs().max() < 0.01


def test_a_linearised_equation_has_the_jacobian_of_the_nonlinear_one():
    """R = u u_x - nu u_xx as a function of all coefficients and of nu."""
    generator = torch.Generator().manual_seed(0)
    phi = {s: torch.randn(2, 5, 4, generator=generator, dtype=torch.float64) for s in ("u", "u_x", "v_xx")}
    field_of = {"u": 0, "u_x": 0, "v_xx": 1}
    coefficients = torch.randn(2, 2, 4, generator=generator, dtype=torch.float64)
    nu = torch.rand(2, 1, generator=generator, dtype=torch.float64)

    def equation(values, unknown):
        return values["u"] * values["u_x"] - unknown[..., 0] * values["v_xx"]

    rows = linearise(equation, phi, field_of, coefficients, nu)

    def residual(c, n):
        values = {s: (p @ c[:, field_of[s], :, None])[..., 0] for s, p in phi.items()}
        return equation(values, n[:, None].expand(-1, 5, -1))

    by_c, by_n = torch.autograd.functional.jacobian(residual, (coefficients, nu))
    for s in range(2):
        torch.testing.assert_close(rows.jacobian[s], by_c[s, :, s].flatten(1))
        torch.testing.assert_close(rows.by_parameter[s], by_n[s, :, s])
    torch.testing.assert_close(rows.residual, residual(coefficients, nu))


def test_gauss_newton_finds_roots_and_how_they_depend_on_the_parameter():
    """c² = a for a = 4, 9 at once: c = 2, 3, and dc/da = 1 / (2 c)."""
    a = torch.tensor([[4.0], [9.0]], dtype=torch.float64)

    def rows_at(c):
        c = c.flatten(1)
        return Rows(c**2 - a, 2 * c[..., None], -torch.ones(2, 1, 1, dtype=torch.float64))

    start = torch.full((2, 1, 1), 1.0, dtype=torch.float64)
    root, sensitivity, rms = gauss_newton(rows_at, start, 0.0, 30, tolerance=1.1)
    torch.testing.assert_close(root.flatten(), torch.tensor([2.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close(
        sensitivity.flatten(), torch.tensor([1 / 4, 1 / 6], dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert rms.max() < 1e-9
