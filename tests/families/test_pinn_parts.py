"""Parts of physics-informed networks: derivatives of a perceptron, jets, second-order methods."""

import math
from itertools import pairwise

import pytest
import torch

from tests.families.fields import by_autograd
from wm_pipelines.blocks.ensemble import EnsembleMLP
from wm_pipelines.equations import Problem
from wm_pipelines.families.pinn import jets
from wm_pipelines.families.pinn.derivatives import derivatives
from wm_pipelines.families.pinn.field_network import FieldNetwork
from wm_pipelines.families.pinn.second_order import levenberg_marquardt, minimise

SYMBOLS = ["u", "w_x", "u_t", "u_xx", "w_xt", "u_xxt", "w_xxx", "u_xxtt"]


def network(fourier=0):
    problem = Problem("box", ("x", "t"), ("u", "w"), {"x": (-1.0, 2.0), "t": (0.0, 0.5)}, {}, ())
    return FieldNetwork((7, 5), fourier, 0.8, problem, (0, 1))


def points():
    generator = torch.Generator().manual_seed(3)
    return torch.tensor([-1.0, 0.0]) + torch.tensor([3.0, 0.5]) * torch.rand(
        2, 9, 2, generator=generator, dtype=torch.float64
    )


@pytest.mark.training
@pytest.mark.parametrize("fourier", [0, 3])
def test_jets_are_the_derivatives_of_torch_func_at_every_order(fourier):
    found = network(fourier).traced(points(), SYMBOLS)
    for symbol, expected in network(fourier).values(points(), SYMBOLS).items():
        torch.testing.assert_close(found[symbol], expected, rtol=1e-9, atol=1e-10)


def test_the_slopes_of_rows_are_those_of_one_point_at_a_time():
    net, at = network(2), points()
    record = []
    values = net.traced(at, ["u", "w_x", "u_xx"], record=record)
    rows = values["u"] * values["w_x"] + values["u_xx"].sin()
    found = net.slopes(rows, record)

    for number in range(at.shape[1]):
        values = net.values(at[:, number : number + 1], ["u", "w_x", "u_xx"])
        row = values["u"] * values["w_x"] + values["u_xx"].sin()
        alone = torch.autograd.grad(row.sum(), list(net.parameters()))
        torch.testing.assert_close(found[:, number], torch.cat([slope.flatten(1) for slope in alone], 1))


def test_everything_below_an_order_is_carried():
    assert jets.closure([(2, 1)], 2) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_the_ladder_of_tanh():
    h = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_()
    rungs = jets.tanh_ladder(h, 4)
    for below, above in pairwise(rungs):
        (slope,) = torch.autograd.grad(below.sum(), h, retain_graph=True)
        torch.testing.assert_close(above, slope)


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


# ---------------------------------------------------------------- second order


def rosenbrock(x):
    x = x.detach().requires_grad_()
    value = (100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(1)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


@pytest.mark.training
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
