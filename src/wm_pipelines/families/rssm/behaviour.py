"""A policy and its value, learned in imagination (Hafner et al., *Dream to control*, ICLR 2020, section 3).

Beliefs are rolled out under the policy with a model that stands still; returns are differentiated through it. Values
are kept as mean discounted rewards, ``(1 - gamma) V``, which are of the size of one reward.

The episodes are given, and a policy may leave what the model has seen of the world, for where the model promises what
is not there: rewards are lowered by the disagreement of an ensemble that predicts the next features (Rafailov et al.,
*Offline reinforcement learning from images with latent space models*, L4DC 2021), where it exceeds what is accepted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from wm_pipelines.blocks.ensemble import EnsembleMLP
from wm_pipelines.families.rssm.networks import WorldModel, perceptron

_LARGEST = 2.0  # of a policy's mean before tanh: where that saturates, no gradient comes back
_LEAST = 0.1  # of its standard deviation there


class Actor(nn.Module):
    """Actions ``tanh(mu + sigma epsilon)``: beliefs ``[..., B]`` -> ``[..., A]``."""

    def __init__(self, belief: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.net = perceptron(belief, hidden, 2 * actions, layers=2)

    def moments(self, belief: Tensor) -> tuple[Tensor, Tensor]:
        """``mu`` and ``sigma``, each ``[..., A]``."""
        mean, spread = self.net(belief).chunk(2, -1)
        return _LARGEST * torch.tanh(mean / _LARGEST), softplus(spread) + _LEAST

    def sample(self, belief: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions, and ``log pi`` of them, ``[...]``."""
        mean, deviation = self.moments(belief)
        before = mean + deviation * noise
        # log(1 - tanh^2) without cancellation
        squashed = 2.0 * (math.log(2.0) - before - softplus(-2.0 * before))
        density = -0.5 * noise.square() - deviation.log() - 0.5 * math.log(2.0 * math.pi)
        return torch.tanh(before), (density - squashed).sum(-1)

    def mode(self, belief: Tensor) -> Tensor:
        """Without noise."""
        return torch.tanh(self.moments(belief)[0])


class Behaviour(nn.Module):
    """Policy, value, and the value's slow copy that returns are bootstrapped from (DreamerV2); an ensemble that doubts.

    Args:
        belief: size of one. hidden: width. actions: ``A``. features: ``D``. doubters: networks of the ensemble.
    """

    def __init__(self, belief: int, hidden: int, actions: int, features: int, doubters: int) -> None:
        super().__init__()
        self.count, seeds = doubters, torch.randint(2**31, (doubters,)).tolist()
        self.doubters = EnsembleMLP((belief + actions, hidden, features), seeds).float()
        self.actor = Actor(belief, hidden, actions)
        self.critic = perceptron(belief, hidden, 1, layers=2)
        self.slow = copy.deepcopy(self.critic).requires_grad_(False)

    def guesses(self, belief: Tensor, action: Tensor) -> Tensor:
        """What each of the ensemble says of the next features: ``[K, ..., D]``."""
        known = torch.cat([belief, action], -1)
        return self.doubters(known.expand(self.count, *known.shape))

    def doubt(self, belief: Tensor, action: Tensor) -> Tensor:
        """Their standard deviation, mean over features: ``[...]``."""
        return self.guesses(belief, action).var(0).add(1e-12).sqrt().mean(-1)

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """Move the slow copy."""
        torch._foreach_lerp_(list(self.slow.parameters()), list(self.critic.parameters()), rate)


class Dream(NamedTuple):
    """Beliefs ``[N, H + 1, B]`` under the policy; rewards, ``log pi`` of its actions, and doubt ``[N, H]``."""

    belief: Tensor
    rewards: Tensor
    log_policy: Tensor
    doubt: Tensor


def dream(world: WorldModel, behaviour: Behaviour, belief: Tensor, acting: Tensor, moving: Tensor) -> Dream:
    """Roll out under the policy, sampled; gradients reach the policy alone.

    Args:
        belief: to start from, ``[N, B]``. acting: noise of the actions ``[N, H, A]``. moving: of ``s``, ``[N, H, …]``.
    """
    with frozen(world), frozen(behaviour.doubters):
        path, actions, log_policy = _roll(world, behaviour, belief, acting, moving)
        return Dream(path, world.reward(path[:, 1:]), log_policy, behaviour.doubt(path[:, :-1], actions))


@torch.no_grad()
def go_on(world: WorldModel, behaviour: Behaviour, belief: Tensor, acting: Tensor, moving: Tensor) -> Tensor:
    """Beliefs ``[N, H + 1, B]`` that the policy comes to, as in `dream`: where it has to know what to do, too."""
    return _roll(world, behaviour, belief, acting, moving)[0]


def _roll(
    world: WorldModel, behaviour: Behaviour, belief: Tensor, acting: Tensor, moving: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Beliefs ``[N, H + 1, B]``, actions ``[N, H, A]`` and their ``log pi``, ``[N, H]``."""
    beliefs, actions, log_policy = [belief], [], []
    for mine, theirs in zip(acting.unbind(1), moving.unbind(1), strict=True):
        action, log_density = behaviour.actor.sample(beliefs[-1].detach(), mine)
        h = world.step(beliefs[-1], action)
        beliefs.append(torch.cat([h, world.latent.sample(world.prior(h), theirs)], -1))
        actions.append(action)
        log_policy.append(log_density)
    return torch.stack(beliefs, 1), torch.stack(actions, 1), torch.stack(log_policy, 1)


def lambda_returns(rewards: Tensor, values: Tensor, discount: float, lam: float) -> Tensor:
    """``V_t = r_t + gamma ((1 - lambda) v_{t+1} + lambda V_{t+1})``, ``V_H = v_H``.

    Args:
        rewards: ``r_0 … r_{H-1}``, ``[N, H]``. values: ``v_1 … v_H``, ``[N, H]``. discount: gamma. lam: lambda.

    Returns:
        ``V_0 … V_{H-1}``, ``[N, H]``.
    """
    found, after = [], values[:, -1]
    for reward, value in zip(reversed(rewards.unbind(1)), reversed(values.unbind(1)), strict=True):
        after = reward + discount * ((1.0 - lam) * value + lam * after)
        found.append(after)
    return torch.stack(found[::-1], 1)


def behaviour_losses(
    behaviour: Behaviour,
    dreamt: Dream,
    discount: float,
    lam: float,
    entropy: float,
    pessimism: float,
    accepted: float = 0.0,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Losses of the policy and of the value, and terms: returns as mean discounted rewards.

    Rewards are lowered by ``pessimism`` for each unit of doubt beyond what is ``accepted``.
    """
    size = dreamt.rewards.shape[1]
    rewards = (1.0 - discount) * (dreamt.rewards - pessimism * (dreamt.doubt - accepted).relu())
    values = behaviour.slow(dreamt.belief[:, 1:])[..., 0]
    returns = lambda_returns(rewards, values, discount, lam)
    weight = discount ** torch.arange(size, dtype=returns.dtype, device=returns.device)
    actor = (weight * (entropy * dreamt.log_policy - returns)).mean()
    predicted = behaviour.critic(dreamt.belief[:, :-1].detach())[..., 0]
    value = 0.5 * (weight * (predicted - returns.detach()).square()).mean()
    terms = {"imagined_return": returns, "value": value, "entropy": -dreamt.log_policy, "doubt": dreamt.doubt}
    return actor, value, {name: term.mean() for name, term in terms.items()}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module and do not reach its parameters."""
    held = [p for p in module.parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
