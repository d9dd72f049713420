"""Blocks that solve differential equations: ridge features, network derivatives, least squares, second order."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.blocks.collocation import Rows, gauss_newton, least_squares, linearise
from wm_pipelines.blocks.derivatives import derivatives
from wm_pipelines.blocks.ensemble import EnsembleMLP
from wm_pipelines.blocks.ridge import RidgeFeatures, Stretch, bell_polynomials, sin_derivatives, tanh_derivatives
from wm_pipelines.blocks.second_order import levenberg_marquardt, minimise

ORDERS = [o for o in itertools.product(range(4), repeat=2) if sum(o) <= 3]


def by_autograd(f, x, order):
    """One derivative of a pointwise function, one backward pass per order."""
    x = x.detach().requires_grad_()
    value = f(x)
    for axis, times in enumerate(order):
        for _ in range(times):
            value = torch.autograd.grad(value.sum(), x, create_graph=True)[0][..., axis]
    return value.detach()


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


def test_network_derivatives_agree_with_reverse_mode():
    net = EnsembleMLP([2, 8, 8, 3], [0, 1], "tanh")
    x = torch.rand(2, 6, 2, dtype=torch.float64)
    wanted = [(0, 0), (1, 0), (2, 0), (0, 2), (1, 1), (3, 0)]
    found = derivatives(net, x, wanted)
    assert set(found) == set(wanted)
    for order in wanted:
        for f in range(3):
            torch.testing.assert_close(found[order][..., f], by_autograd(lambda p, f=f: net(p)[..., f], x, order))


def test_network_derivatives_take_expanded_points():
    net = EnsembleMLP([1, 4, 1], [0, 1], "tanh")
    x = torch.rand(5, 1, dtype=torch.float64)
    expanded = derivatives(net, x.expand(2, -1, -1), [(2,)])[(2,)]
    assert torch.equal(expanded, derivatives(net, x.repeat(2, 1, 1), [(2,)])[(2,)])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 10), st.integers(1, 3), st.integers(0, 99))
def test_least_squares_leave_a_residual_orthogonal_to_the_columns(seeds, size, extra, targets, seed):
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(seeds, size + extra, size, generator=generator, dtype=torch.float64)
    right = torch.randn(seeds, size + extra, targets, generator=generator, dtype=torch.float64)
    left = right - design @ least_squares(design, right, 1e-15)
    assert (design.mT @ left).abs().max() < 1e-6


def test_a_column_of_zeros_gets_no_weight():
    design = torch.tensor([[[1.0, 0.0], [2.0, 0.0]]], dtype=torch.float64)
    solution = least_squares(design, torch.tensor([[[2.0], [4.0]]], dtype=torch.float64), 1e-12)
    torch.testing.assert_close(solution, torch.tensor([[[2.0], [0.0]]], dtype=torch.float64))


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


def rosenbrock(x):
    x = x.detach().requires_grad_()
    value = (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def test_self_scaled_bfgs_reaches_the_bottom_of_the_valley():
    start = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, value, _ = minimise(rosenbrock, start, 300)
    assert value.max() < 1e-20
    torch.testing.assert_close(x, torch.ones_like(x))


def test_problems_of_a_batch_do_not_see_each_other():
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    together, *_ = minimise(rosenbrock, start, 15)
    alone = torch.cat([minimise(rosenbrock, start[i : i + 1], 15)[0] for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-8)


def test_bfgs_never_ends_above_its_start():
    def wild(x):
        x = x.detach().requires_grad_()
        value = torch.sin(5 * x).sum(1) + x.abs().sum(1)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    start = torch.randn(8, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, value, _ = minimise(wild, start, 20)
    assert (value <= wild(start)[0]).all()


def test_levenberg_and_marquardt_fit_decays():
    """y = a exp(-b t), two data sets at once."""
    t = torch.linspace(0, 3, 30, dtype=torch.float64)
    truth = torch.tensor([[2.0, 1.0], [0.5, 3.0]], dtype=torch.float64)
    y = truth[:, :1] * torch.exp(-truth[:, 1:] * t)

    def rows(x):
        return x[:, :1] * torch.exp(-x[:, 1:] * t) - y

    def linearised(x):
        decay = torch.exp(-x[:, 1:] * t)
        return rows(x), torch.stack([decay, -x[:, :1] * t * decay], -1)

    x, value, _ = levenberg_marquardt(rows, linearised, torch.ones(2, 2, dtype=torch.float64), 50)
    torch.testing.assert_close(x, truth, rtol=1e-7, atol=1e-7)
    assert value.max() < 1e-15


def test_levenberg_and_marquardt_stop_where_nothing_helps():
    def rows(x):
        return torch.cat([x * 0 + 1.0, x**2], 1)

    def linearised(x):
        return rows(x), torch.stack([x * 0, 2 * x], 1)

    start = torch.zeros(1, 1, dtype=torch.float64)
    x, value, _ = levenberg_marquardt(rows, linearised, start, 100)
    assert torch.equal(x, start)
    assert float(value) == math.pow(1.0, 2)


def test_levenberg_and_marquardt_go_on_where_they_stopped():
    """Rosenbrock's valley: two calls that hand on their damping take the steps of one."""

    def rows(x):
        return torch.stack([10 * (x[:, 1] - x[:, 0] ** 2), 1 - x[:, 0]], 1)

    def linearised(x):
        one, zero = torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])
        jacobian = torch.stack([torch.stack([-20 * x[:, 0], 10 * one], 1), torch.stack([-one, zero], 1)], 1)
        return rows(x), jacobian

    start = torch.tensor([[-1.2, 1.0], [3.0, -2.0]], dtype=torch.float64)
    whole, value, _ = levenberg_marquardt(rows, linearised, start, 6)
    half, _, damping = levenberg_marquardt(rows, linearised, start, 3)
    both, _, _ = levenberg_marquardt(rows, linearised, half, 3, damping)
    assert torch.equal(both, whole)
    again, _, _ = levenberg_marquardt(rows, linearised, half, 3)
    assert not torch.equal(again, whole)
    assert float(levenberg_marquardt(rows, linearised, start, 60)[1].max()) < 1e-20
    assert value.max() < rows(start).square().sum(1).min()
