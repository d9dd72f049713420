"""A policy that learns from imagination alone: returns, densities, doubt."""

import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from tests.families.driven import PUSHED, pushed
from tests.families.images import resumes, seeds_are_independent
from tests.families.state_space import KINDS, SMALL, batch, built, drawn
from wm_pipelines.families.rssm.behaviour import (
    Actor,
    Behaviour,
    Dream,
    behaviour_losses,
    dream,
    frozen,
    go_on,
    lambda_returns,
)
from wm_pipelines.families.rssm.family import Rssm, RssmConfig


def test_lambda_returns_are_the_weighted_mean_of_returns_of_n_steps():
    """``(1 - lambda) sum_n lambda^(n-1) G_n + lambda^(N-1) G_N``, ``G_n = sum_k gamma^k r_k + gamma^n v_n``."""
    rewards, values, gamma, lam = drawn(3, 6), drawn(3, 6, seed=3), 0.9, 0.7
    found = lambda_returns(rewards, values, gamma, lam)
    for t in range(6):
        left = 6 - t
        n_step = [
            sum(gamma**k * rewards[:, t + k] for k in range(n)) + gamma**n * values[:, t + n - 1]
            for n in range(1, left + 1)
        ]
        mean = (
            sum((1 - lam) * lam ** (n - 1) * g for n, g in enumerate(n_step[:-1], 1)) + lam ** (left - 1) * n_step[-1]
        )
        torch.testing.assert_close(found[:, t], mean)


def test_the_policys_density_is_that_of_a_squashed_normal():
    actor, belief, noise = Actor(5, 16, 2).double(), drawn(7, 5), drawn(7, 2, seed=3)
    action, density = actor.sample(belief, noise)
    squashed = TransformedDistribution(Normal(*actor.moments(belief)), [TanhTransform()])
    torch.testing.assert_close(density, squashed.log_prob(action).sum(-1))
    assert float(actor.mode(belief).abs().max()) < 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_behaviour_learns_through_the_world_model_and_does_not_change_it(kind):
    family = built(behaviour=True, **kind)
    member = family.members[0]
    belief = drawn(4, 3, member.world.deterministic + member.world.latent.features)
    actor, value, _ = family._imagined_losses(member, belief, torch.Generator().manual_seed(0))
    (actor + value).backward()
    assert all(p.grad is None and p.requires_grad for p in member.world.parameters())
    assert all(p.grad is None and p.requires_grad for p in member.behaviour.doubters.parameters())
    assert all(p.grad is None and not p.requires_grad for p in member.behaviour.slow.parameters())
    assert all(float(p.grad.abs().max()) > 0 for p in member.behaviour.actor.parameters())
    assert all(float(p.grad.abs().max()) > 0 for p in member.behaviour.critic.parameters())
    by_value = torch.autograd.grad(
        family._imagined_losses(member, belief, torch.Generator().manual_seed(0))[1],
        list(member.behaviour.actor.parameters()),
        allow_unused=True,
    )
    assert by_value == (None,) * len(by_value)  # the value judges the policy, it does not move it


def test_the_gradient_of_the_bound_is_the_same_with_behaviour():
    with_it, without = built(behaviour=True, behaviour_from=0.0), built()
    with_it.members[0].world.load_state_dict(without.members[0].world.state_dict())
    for family in (with_it, without):
        family.member_loss(family.members[0], batch(), torch.Generator().manual_seed(0), 0.5)[0].backward()
    pairs = zip(with_it.members[0].world.parameters(), without.members[0].world.parameters(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_gradient_of_the_return_is_its_slope():
    """Differentiated through policy and dynamics: the slope of the return along a direction of the policy's weights."""
    family = built(behaviour=True, entropy=0.0)
    member, (acting, moving) = family.members[0], (drawn(6, 5, 2), drawn(6, 5, 4, seed=3))
    belief, weight = 0.5 * drawn(6, 14, seed=4), member.behaviour.actor.net[-1].weight

    def loss():
        return behaviour_losses(
            member.behaviour, dream(member.world, member.behaviour, belief, acting, moving), 0.9, 0.8, 0.0, 2.0
        )[0]

    direction = drawn(*weight.shape, seed=6)
    # The policy does not look at where its own beliefs come from: of one step there is nothing else.
    acting, moving = acting[:, :1], moving[:, :1]
    (slope,) = torch.autograd.grad(loss(), weight)
    with torch.no_grad():
        weight += 1e-5 * direction
        above = loss()
        weight -= 2e-5 * direction
        below = loss()
    torch.testing.assert_close((slope * direction).sum(), (above - below) / 2e-5, rtol=1e-6, atol=1e-10)


def test_of_a_still_world_model_only_policy_and_value_learn():
    family = built(behaviour=True, world_share=0.5)
    views = family.examples(batch(rows=21))
    member, now = family.members[0], {name: torch.cat([view, view]) for name, view in views.items()}
    for progress, learns in ((0.4, True), (0.6, False)):
        family.zero_grad()
        loss, _ = family.member_loss(member, now, torch.Generator().manual_seed(0), progress)
        loss.backward()
        assert all((p.grad is not None) == learns for p in member.world.parameters())
        assert all((p.grad is not None) == learns for p in member.behaviour.doubters.parameters())
        assert all(p.grad is not None for p in member.behaviour.actor.parameters())
        assert all(p.grad is not None for p in member.behaviour.critic.parameters())


def test_a_still_world_model_believes_of_training_rows_what_it_would_on_the_way():
    family = built(behaviour=True, world_share=0.5)
    views = batch(rows=6)
    family.examples(views)
    belief = family.start({"states": views["states"][:, 0]}, 0)
    for k in range(1, 6):
        belief = family.update(belief, views["actions"][:, k - 1], {"states": views["states"][:, k]}, 0)
    torch.testing.assert_close(family._known(family.members[0]).beliefs[:, -1], belief)


def test_doubt_as_in_training_lowers_no_return():
    """Rewards are lowered by ``pessimism (doubt - accepted)`` where that is positive."""
    member = built(behaviour=True).members[0]
    dreamt = dream(member.world, member.behaviour, drawn(6, 14, seed=4), drawn(6, 5, 2), drawn(6, 5, 4, seed=3))

    def told(doubt, pessimism, accepted):
        return behaviour_losses(member.behaviour, dreamt._replace(doubt=doubt), 0.9, 0.8, 0.0, pessimism, accepted)[:2]

    torch.testing.assert_close(told(dreamt.doubt, 3.0, float(dreamt.doubt.max())), told(dreamt.doubt, 0.0, 0.0))
    torch.testing.assert_close(told(dreamt.doubt + 0.5, 3.0, 0.5), told(dreamt.doubt, 3.0, 0.0))


def test_what_is_accepted_is_a_share_of_the_doubt_in_training():
    family = built(behaviour=True, world_share=0.5, accepted_doubt=0.9)
    views = family.examples(batch(rows=21))
    known = family._known(family.members[0])
    with torch.no_grad():
        doubt = family.members[0].behaviour.doubt(known.beliefs[:, :-1], views["actions"].to(known.beliefs))
    assert float((doubt <= known.accepted).double().mean()) == pytest.approx(0.9, abs=1 / doubt.numel() + 1e-9)


def test_a_policy_goes_on_as_it_dreams_and_learns_from_there():
    member, (acting, moving) = built(behaviour=True).members[0], (drawn(6, 5, 2), drawn(6, 5, 4, seed=3))
    belief = drawn(6, 14, seed=4)
    path = go_on(member.world, member.behaviour, belief, acting, moving)
    assert not path.requires_grad
    torch.testing.assert_close(path, dream(member.world, member.behaviour, belief, acting, moving).belief)


@pytest.mark.parametrize("goes_on", [0, 4])
def test_a_policy_that_learns_alone_resumes_to_the_same_bits_and_seeds_are_independent(tmp_path, goes_on):
    """Killed after three of eight steps, the last six of which are the policy's alone."""
    schedule = {"steps": 8, "batch_size": 2, "learning_rate": 1e-3, "warmup": 0}

    def made(seeds=(0,)):
        alone = {"world_share": 0.25, "goes_on": goes_on, "accepted_doubt": 0.5}
        return Rssm(RssmConfig(**SMALL, **alone, behaviour=True, schedule=schedule), PUSHED, seeds)

    resumes(made, tmp_path, pushed(4))
    seeds_are_independent(made, pushed(4))


def test_values_converge_to_the_mean_discounted_reward():
    """Of a constant reward ``r``, ``V = r / (1 - gamma)``: kept as r itself."""
    torch.manual_seed(0)
    behaviour, optimizer_rate = Behaviour(3, 16, 1, 2, 2).double(), 0.02
    optimizer = torch.optim.Adam(behaviour.critic.parameters(), optimizer_rate)
    flat = torch.zeros(32, 5).double()
    dreamt = Dream(drawn(32, 6, 3), flat + 0.7, flat, flat)
    for _ in range(400):
        _, value, _ = behaviour_losses(behaviour, dreamt, 0.9, 0.95, 0.0, 1.0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        behaviour.follow(0.1)
    torch.testing.assert_close(
        behaviour.critic(dreamt.belief[:, 0]), torch.full((32, 1), 0.7).double(), rtol=0, atol=0.02
    )


def test_doubt_is_the_spread_of_the_ensemble_and_lowers_rewards():
    behaviour, belief, action = Behaviour(3, 16, 1, 2, 4).double(), drawn(5, 3), drawn(5, 1, seed=3)
    guesses = behaviour.guesses(belief, action)
    assert guesses.shape == (4, 5, 2)
    torch.testing.assert_close(behaviour.doubt(belief, action), guesses.std(0).mean(-1))
    flat = torch.zeros(5, 4).double()
    doubted = Dream(drawn(5, 5, 3), flat + 1.0, flat, flat + 0.2)
    lower = Dream(doubted.belief, flat + 0.4, flat, flat)
    terms = [behaviour_losses(behaviour, d, 0.9, 0.8, 0.0, 3.0)[2]["imagined_return"] for d in (doubted, lower)]
    torch.testing.assert_close(*terms)


def test_what_is_frozen_lets_gradients_pass_and_is_trained_again_afterwards():
    net, x = torch.nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    net.bias.requires_grad_(False)
    with frozen(net):
        net(x).sum().backward()
    assert x.grad is not None
    assert net.weight.grad is None
    assert net.weight.requires_grad
    assert not net.bias.requires_grad
