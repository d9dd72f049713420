"""Jets against torch.func and against finite differences."""

from itertools import pairwise

import pytest
import torch

from wm_pipelines.fields import FieldSystem
from wm_pipelines.blocks import jets
from wm_pipelines.blocks.field_network import FieldNetwork

SYMBOLS = ["u", "w_x", "u_t", "u_xx", "w_xt", "u_xxt", "w_xxx", "u_xxtt"]


def network(fourier=0):
    system = FieldSystem("box", ("x", "t"), ("u", "w"), {"x": (-1.0, 2.0), "t": (0.0, 0.5)}, {}, ())
    return FieldNetwork((7, 5), fourier, 0.8, system, (0, 1))


def points():
    generator = torch.Generator().manual_seed(3)
    return torch.tensor([-1.0, 0.0]) + torch.tensor([3.0, 0.5]) * torch.rand(
        2, 9, 2, generator=generator, dtype=torch.float64
    )


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
