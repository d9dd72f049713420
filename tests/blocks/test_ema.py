"""The moving copy follows exactly, and nothing else moves it."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wm_pipelines.errors import UserError
from wm_pipelines.blocks.ema import EMA, ema_schedule
from wm_pipelines.blocks.vit import VisionTransformer

RATE = st.floats(0.0, 1.0)


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).to(dtype)


@settings(max_examples=200, deadline=None)
@given(RATE, RATE, st.lists(st.floats(-0.1, 1.1), min_size=2, max_size=8))
def test_the_schedule_rises_from_its_start_to_its_end(a, b, progress):
    tau0, tau1 = sorted((a, b))
    assert ema_schedule(tau0, tau1, 0.0) == tau0
    assert ema_schedule(tau0, tau1, 1.0) == tau1
    taus = [ema_schedule(tau0, tau1, p) for p in sorted(progress)]
    assert all(tau0 <= x <= y <= tau1 for x, y in itertools.pairwise(taus))


def test_the_schedule_is_half_a_cosine():
    assert ema_schedule(0.996, 1.0, 1.0) == 1.0
    assert ema_schedule(0.996, 1.0, 0.5) == pytest.approx(0.998, abs=1e-15)
    taus = [ema_schedule(0.996, 1.0, k / 1000) for k in range(1001)]
    assert taus == sorted(taus)
    for wrong in ((0.9, 0.8), (-0.1, 1.0), (0.5, 1.1)):
        with pytest.raises(UserError, match="tau0 <= tau1"):
            ema_schedule(*wrong, 0.5)


@settings(max_examples=25, deadline=None)
@given(RATE, st.integers(1, 6))
def test_towards_a_network_at_rest_the_distance_shrinks_by_tau(tau, steps):
    start, online = network(0), network(1)
    ema = EMA(start)
    for _ in range(steps):
        ema.update(online, tau)
    for mine, first, last in zip(ema.target.parameters(), start.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(mine, last + tau**steps * (first - last), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_of_zero_and_one_copy_and_keep(dtype):
    start, online = network(0, dtype), network(1, dtype)
    ema = EMA(start)
    assert ema.drift(start) == 0.0
    ema.update(online, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(ema.target.parameters(), start.parameters(), strict=True))
    ema.update(online, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(ema.target.parameters(), online.parameters(), strict=True))
    assert ema.drift(online) == 0.0


def test_drift_is_the_relative_distance():
    start, online = network(0), network(1)
    flat = [nn.utils.parameters_to_vector(n.parameters()).detach() for n in (start, online)]
    assert EMA(start).drift(online) == pytest.approx(float((flat[0] - flat[1]).norm() / flat[1].norm()), rel=1e-12)


def test_buffers_are_copied():
    online = network(0)
    ema = EMA(online)
    online(torch.randn(8, 3, dtype=torch.float64))
    ema.update(online, 0.9)
    assert torch.equal(ema.target[1].running_mean, online[1].running_mean)
    assert int(ema.target[1].num_batches_tracked) == 1


def test_no_gradient_reaches_the_target():
    online = network(0)
    ema = EMA(online)
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    aim = ema(x)
    assert not aim.requires_grad
    (online(x) - aim).square().mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in ema.parameters())
    assert all(p.grad is not None for p in online.parameters())
    before = copy.deepcopy(ema.state_dict())
    torch.optim.SGD([p for p in [*online.parameters(), *ema.parameters()] if p.requires_grad], 0.1).step()
    assert all(torch.equal(before[k], v) for k, v in ema.state_dict().items())


def test_the_target_stays_in_evaluation_mode():
    ema = EMA(network(0))
    x = torch.randn(8, 3, dtype=torch.float64)
    parent = nn.ModuleList([ema]).train()
    assert parent[0].training
    assert not any(m.training for m in ema.target.modules())
    mean = ema.target[1].running_mean.clone()
    assert torch.equal(ema(x), ema(x))  # no dropout
    assert torch.equal(ema.target[1].running_mean, mean)


def test_the_state_can_be_stored():
    ema, other = EMA(network(0)), EMA(network(1))
    ema.update(network(2), 0.5)
    other.load_state_dict(ema.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ema.target.parameters(), other.target.parameters(), strict=True))


def test_a_target_of_clips_follows_an_encoder_that_saw_longer_ones():
    encoder = VisionTransformer(16, 8, frames=2, width=24, depth=1, heads=2)
    ema = EMA(encoder)
    encoder(torch.rand(1, 6, 16, 16, 3))
    ema.update(encoder, 0.5)
    assert ema(torch.rand(1, 2, 16, 16, 3)).shape == (1, 8, 24)
