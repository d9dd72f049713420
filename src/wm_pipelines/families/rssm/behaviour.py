"""A policy and its value, learned in imagination (Hafner et al., *Dream to control*, ICLR 2020, section 3).

Beliefs are rolled out under the policy with a model that stands still; returns are differentiated through it. Values
are kept as mean discounted rewards, ``(1 - gamma) V``, which are of the size of one reward.
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
    """Policy, value, and the value's slow copy that returns are bootstrapped from (DreamerV2)."""

    def __init__(self, belief: int, hidden: int, actions: int) -> None:
        super().__init__()
        self.actor = Actor(belief, hidden, actions)
        self.critic = perceptron(belief, hidden, 1, layers=2)
        self.slow = copy.deepcopy(self.critic).requires_grad_(False)

    @torch.no_grad()
    def follow(self, rate: float) -> None:
        """Move the slow copy."""
        torch._foreach_lerp_(list(self.slow.parameters()), list(self.critic.parameters()), rate)


class Dream(NamedTuple):
    """Beliefs ``[N, H + 1, B]`` under the policy; rewards and ``log pi`` of its actions ``[N, H]``."""

    belief: Tensor
    rewards: Tensor
    log_policy: Tensor


def dream(world: WorldModel, actor: Actor, belief: Tensor, acting: Tensor, moving: Tensor) -> Dream:
    """Roll out under the policy, sampled.

    Args:
        belief: to start from, ``[N, B]``. acting: noise of the actions ``[N, H, A]``. moving: of ``s``, ``[N, H, …]``.
    """
    beliefs, log_policy = [belief], []
    for mine, theirs in zip(acting.unbind(1), moving.unbind(1), strict=True):
        action, log_density = actor.sample(beliefs[-1].detach(), mine)
        h = world.step(beliefs[-1], action)
        beliefs.append(torch.cat([h, world.latent.sample(world.prior(h), theirs)], -1))
        log_policy.append(log_density)
    path = torch.stack(beliefs, 1)
    return Dream(path, world.reward(path[:, 1:]), torch.stack(log_policy, 1))


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
    behaviour: Behaviour, dreamt: Dream, discount: float, lam: float, entropy: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Losses of the policy and of the value, and terms: returns as mean discounted rewards."""
    rewards, size = (1.0 - discount) * dreamt.rewards, dreamt.rewards.shape[1]
    values = behaviour.slow(dreamt.belief[:, 1:])[..., 0]
    returns = lambda_returns(rewards, values, discount, lam)
    weight = discount ** torch.arange(size, dtype=returns.dtype, device=returns.device)
    actor = (weight * (entropy * dreamt.log_policy - returns)).mean()
    predicted = behaviour.critic(dreamt.belief[:, :-1].detach())[..., 0]
    value = 0.5 * (weight * (predicted - returns.detach()).square()).mean()
    return actor, value, {"imagined_return": returns.mean(), "value": value, "entropy": -dreamt.log_policy.mean()}


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
