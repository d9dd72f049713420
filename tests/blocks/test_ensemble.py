"""A batched ensemble is nothing but its members side by side."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.blocks.ensemble import ACTIVATIONS, EnsembleLinear, EnsembleMLP, generators

SEEDS = st.lists(st.integers(0, 10_000), min_size=1, max_size=4, unique=True)
ACTIVATION = st.sampled_from(sorted(ACTIVATIONS))


def train(net, x, y, steps=20):
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - y).square().flatten(1).mean(1).sum().backward()
        optimizer.step()
    return net


@settings(max_examples=15, deadline=None)
@given(SEEDS, ACTIVATION, st.integers(0, 3))
def test_a_member_is_the_network_of_its_seed(seeds, activation, salt):
    together = EnsembleMLP([3, 8, 8, 2], seeds, activation, salt)
    x = torch.randn(len(seeds), 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i, seed in enumerate(seeds):
        alone = EnsembleMLP([3, 8, 8, 2], [seed], activation, salt)
        torch.testing.assert_close(together(x)[i : i + 1], alone(x[i : i + 1]), rtol=1e-12, atol=1e-14)


def test_a_member_trained_in_the_ensemble_equals_the_same_network_trained_alone():
    """Gradients of 1e-6 at least, known to 1e-17, make steps of 1e-2 known to 1e-13; 20 of them, tenfold for growth."""
    seeds = [3, 1, 4]
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 32, 4, dtype=torch.float64, generator=draw)
    y = torch.randn(3, 32, 2, dtype=torch.float64, generator=draw)
    together = train(EnsembleMLP([4, 16, 16, 2], seeds), x, y)
    for i, seed in enumerate(seeds):
        alone = train(EnsembleMLP([4, 16, 16, 2], [seed]), x[i : i + 1], y[i : i + 1])
        for a, b in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-9, atol=2e-11)


@settings(max_examples=15, deadline=None)
@given(SEEDS.filter(lambda s: len(s) > 1), st.data())
def test_gradients_of_one_seed_do_not_reach_another(seeds, data):
    net = EnsembleMLP([3, 8, 2], seeds)
    loss = net(torch.randn(len(seeds), 6, 3, dtype=torch.float64)).square().flatten(1).mean(1)
    chosen = data.draw(st.integers(0, len(seeds) - 1))
    loss[chosen].backward()
    for parameter in net.parameters():
        norms = parameter.grad.flatten(1).norm(dim=1)
        assert norms[chosen] > 0
        assert norms[[i for i in range(len(seeds)) if i != chosen]].max() == 0


def test_any_axes_between_seed_and_feature_are_a_batch():
    net = EnsembleMLP([3, 8, 2], [0, 1])
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(net(x)[:, 2, 3], net(x[:, 2, 3]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("width", [16, 256])
def test_weights_keep_the_variance_of_their_input(width):
    layer = EnsembleLinear(width, 4000, generators([0]))
    x = torch.randn(1, 50, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float(layer(x).detach().std()) == pytest.approx(float(x.std()), rel=0.1)


@settings(max_examples=10, deadline=None)
@given(SEEDS, ACTIVATION)
def test_without_a_last_bias_it_is_the_same_network_up_to_a_constant(seeds, activation):
    """Bit by bit: an energy does not change where its constant is left out."""
    nets = [EnsembleMLP([3, 8, 1], seeds, activation, last_bias=kept) for kept in (True, False)]
    x = torch.randn(len(seeds), 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(net(x) for net in nets))
    names = [{name for name, _ in net.named_parameters()} for net in nets]
    assert names[0] - names[1] == {"layers.1.bias"}


def test_streams_of_different_purposes_differ():
    assert generators([7], salt=0)[0].initial_seed() != generators([7], salt=1)[0].initial_seed()
    assert not torch.equal(*(EnsembleLinear(3, 3, generators([7], salt)).weight for salt in (0, 1)))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_chain_rule_by_hand_is_the_one_of_autograd(activation):
    mlp = EnsembleMLP([3, 8, 8, 2], (0, 1), activation)
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    along = torch.randn(2, 5, 2, dtype=torch.float64)
    (expected,) = torch.autograd.grad((mlp(x) * along).sum(), x)
    with torch.no_grad():
        assert torch.equal(mlp.pulled_back(x, along), expected)
