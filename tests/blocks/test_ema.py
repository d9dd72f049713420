"""The moving copy follows exactly, and nothing else moves it."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wm_pipelines.blocks.ema import EMA, _move, ema_schedule
from wm_pipelines.errors import UserError

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
@given(RATE, st.integers(1, 8), st.integers(1, 6))
def test_towards_a_network_at_rest_the_distance_shrinks_by_every_rate(tau, steps, done):
    start, online = network(0), network(1)
    ema = EMA(start, tau, steps)
    left = 1.0
    for k in range(done):
        ema.update_parameters(online)
        left *= ema_schedule(tau, 1.0, k / max(1, steps - 1))
    for mine, first, last in zip(ema.module.parameters(), start.parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(mine, last + left * (first - last), rtol=1e-12, atol=1e-13)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5000))
def test_the_rate_is_exactly_tau_at_first_and_one_at_last_and_never_falls(steps):
    copy_, rates = [torch.ones(1, dtype=torch.float64)], []
    for done in sorted({1, 2, steps // 2 + 1, steps - 1, steps}):
        copy_[0].fill_(1.0)
        _move(0.996, steps, copy_, [torch.zeros(1, dtype=torch.float64)], done)
        rates.append(float(copy_[0]))
    assert rates[0] == pytest.approx(0.996, rel=1e-15)
    assert rates[-1] == 1.0
    assert rates == sorted(rates)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_of_zero_and_one_copy_and_keep(dtype):
    start, online = network(0, dtype), network(1, dtype)
    ema = EMA(start, 0.0, 2)
    assert ema.drift(start) == 0.0
    ema.update_parameters(online)
    assert all(torch.equal(a, b) for a, b in zip(ema.module.parameters(), online.parameters(), strict=True))
    assert ema.drift(online) == 0.0
    ema.update_parameters(start)
    assert all(torch.equal(a, b) for a, b in zip(ema.module.parameters(), online.parameters(), strict=True))


def test_drift_is_the_relative_distance():
    start, online = network(0), network(1)
    flat = [nn.utils.parameters_to_vector(n.parameters()).detach() for n in (start, online)]
    expected = float((flat[0] - flat[1]).norm() / flat[1].norm())
    assert EMA(start, 0.9, 5).drift(online) == pytest.approx(expected, rel=1e-12)


def test_buffers_are_copied():
    online = network(0)
    ema = EMA(online, 0.9, 5)
    online(torch.randn(8, 3, dtype=torch.float64))
    ema.update_parameters(online)
    assert torch.equal(ema.module[1].running_mean, online[1].running_mean)
    assert int(ema.module[1].num_batches_tracked) == 1


def test_no_gradient_reaches_the_target():
    online = network(0)
    ema = EMA(online, 0.5, 5)
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
    ema = EMA(network(0), 0.5, 5)
    x = torch.randn(8, 3, dtype=torch.float64)
    parent = nn.ModuleList([ema]).train()
    assert parent[0].training
    assert not any(m.training for m in ema.module.modules())
    mean = ema.module[1].running_mean.clone()
    assert torch.equal(ema(x), ema(x))  # no dropout
    assert torch.equal(ema.module[1].running_mean, mean)


def test_the_state_can_be_stored():
    ema, other = EMA(network(0), 0.5, 5), EMA(network(1), 0.5, 5)
    ema.update_parameters(network(2))
    other.load_state_dict(ema.state_dict())
    assert int(other.n_averaged) == 2  # goes on at the rate where it was
    assert all(torch.equal(a, b) for a, b in zip(ema.module.parameters(), other.module.parameters(), strict=True))
