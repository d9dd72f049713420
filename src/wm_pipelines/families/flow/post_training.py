"""Post-training of a flow by reinforcement learning with a physics reward: Flow-GRPO on roll-outs of a world model.

The sampler is the policy (Liu et al., *Flow-GRPO: training flow matching models via online RL*, 2025): every step of
the SDE is a draw from a Gaussian, ``x_{k+1} ~ N(mu(x_k, t_k | c), sigma_k^2)``, so that a sample's path has a
log-probability. From every start a *group* of G roll-outs is drawn. What a roll-out earns beyond the rest of its group,
in units of the group's spread, is its advantage A (Shao et al., *DeepSeekMath*, 2024, section 4.1), and

    loss = -E[A log p(path)] + beta E[KL(N(mu, sigma^2) || N(mu_pre, sigma^2))] + anchor L_flow,

with ``KL = |mu - mu_pre|^2 / (2 sigma^2)`` in closed form, ``mu_pre`` of the pre-trained weights, and L_flow the
supervised loss.

Deviations from Flow-GRPO:

* Roll-outs are of several rows, each a sample of its own; every row has a reward, and the advantage of a row is of what
  is earned from there on, discounted.
* Every group is used for one update, at whose weights it was drawn: the ratio of probabilities is 1 and is not clipped.
* The last step of the SDE, which is deterministic in `flow_sampling.euler_maruyama`, gets a noise of its own here,
  ``exploration``: what a flow says of data that are nearly certain is decided there, and without noise what it does
  there would have no probability.
* Starts are rows of the training data, disturbed: a reward by known laws needs no data where it is asked.
* L_flow is kept up as an anchor to the data.

Shapes: ``B`` starts, ``G`` roll-outs of each, ``N = B G``, ``H`` rows, ``K`` steps of a sample, ``D`` entries of a
change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from wm_pipelines.blocks.flow_sampling import score
from wm_pipelines.mappings import Settings

_NO_SPREAD = 1e-6  # of a group's rewards, below which nothing is learned from it


class PostTraining(Settings):
    """How a flow is trained on, after it was trained on data."""

    pretrained: float = Field(0.8, gt=0, lt=1, description="share of the optimiser steps before it")
    starts: int = Field(2, ge=1, description="rows of each episode of a batch that groups start from")
    disturbance: float = Field(
        0.3, ge=0, description="noise on them, in units of the states' spread: no data are needed"
    )
    group: int = Field(16, ge=2, description="G, roll-outs from each start")
    horizon: int = Field(8, ge=1, description="H, rows of a roll-out")
    sample_steps: int = Field(4, ge=1, description="K, steps of the SDE")
    churn: float = Field(1.0, gt=0, description="how much of the noise the SDE renews")
    exploration: float = Field(0.05, gt=0, description="noise of the last step, in units of the changes' spread")
    discount: float = Field(0.9, ge=0, le=1, description="of what is earned a row later")
    weight: float = Field(1e-3, gt=0, description="of the policy's loss beside the supervised one")
    kl: float = Field(0.01, ge=0, description="beta, of the divergence from the flow as it was before")
    anchor: float = Field(1.0, ge=0, description="of the supervised loss")


@dataclass(frozen=True)
class Paths:
    """Roll-outs with all that their log-probability depends on.

    Attributes:
        condition: ``[H, N, C]`` of every row. x: points of every sample's path ``[H, K + 1, N, D]``, noise to change.
        z: what was rolled out ``[N, H + 1, D]``, start included.
    """

    condition: Tensor
    x: Tensor
    z: Tensor


def spreads(c: PostTraining) -> list[float]:
    """``sigma_k`` of the K steps: of the SDE, ``sqrt(2 churn (1 - t) / K)``, and of the last one ``exploration``."""
    return [
        math.sqrt(2.0 * c.churn * (1.0 - k / c.sample_steps) / c.sample_steps) for k in range(c.sample_steps - 1)
    ] + [c.exploration]


def mean_step(velocity: Tensor, x: Tensor, k: int, c: PostTraining) -> Tensor:
    """``mu`` of step k, of points and velocities there ``[…, D]``: that of `flow_sampling.euler_maruyama`."""
    t, h = k / c.sample_steps, 1.0 / c.sample_steps
    if k == c.sample_steps - 1:
        return x + h * velocity
    return x + h * (velocity + c.churn * (1.0 - t) * score(x, velocity, t))


@torch.no_grad()
def rolled_out(member: Any, belief: Tensor, noise: Tensor, c: PostTraining) -> Paths:
    """Roll-outs from beliefs ``[N, C, D]`` with given standard normal noise ``[H, K + 1, N, D]``."""
    sigma, conditions, paths, z = spreads(c), [], [], [belief[:, -1]]
    nothing = belief.new_zeros(len(belief), 0)
    for row in noise:
        condition = member.condition(belief, nothing)
        embedded = _embedded(member.transition, condition)
        x = [row[0]]
        for k in range(c.sample_steps):
            velocity = member.transition(x[-1], _time(x[-1], k, c), embedded)
            x.append(mean_step(velocity, x[-1], k, c) + sigma[k] * row[k + 1])
        z.append(member.moved(belief[:, -1], x[-1]))
        belief = torch.cat([belief[:, 1:], z[-1][:, None]], 1)
        conditions.append(condition)
        paths.append(torch.stack(x))
    return Paths(torch.stack(conditions), torch.stack(paths), torch.stack(z, 1))


def means(transition: Any, paths: Paths, c: PostTraining) -> Tensor:
    """``mu`` of every step of all paths, ``[H, K, N, D]``."""
    embedded = _embedded(transition, paths.condition.flatten(0, 1))
    found = []
    for k in range(c.sample_steps):
        x = paths.x[:, k].flatten(0, 1)
        found.append(
            mean_step(transition(x, _time(x, k, c), embedded), x, k, c).unflatten(0, paths.condition.shape[:2])
        )
    return torch.stack(found, 1)


def log_probability(mu: Tensor, x: Tensor, c: PostTraining) -> Tensor:
    """``log p(x_1 … x_K | x_0)`` of every row's sample, means ``[H, K, N, D]``, ``x [H, K + 1, N, D]``: ``[H, N]``."""
    sigma = _by_step(c, mu)
    each = -0.5 * ((x[:, 1:] - mu) / sigma).square() - sigma.log() - 0.5 * math.log(2.0 * math.pi)
    return each.sum((1, 3))


def divergence(mu: Tensor, mu_pre: Tensor, c: PostTraining) -> Tensor:
    """KL divergence of every row's path from that of the flow before, ``|mu - mu_pre|^2 / (2 sigma^2)``: ``[H, N]``."""
    return (0.5 * ((mu - mu_pre) / _by_step(c, mu)).square()).sum((1, 3))


def advantages(rewards: Tensor, discount: float) -> Tensor:
    """What is earned from every row on, less the group's mean, in units of its spread: ``[B, G, H] -> [B, G, H]``."""
    earned, later = [], torch.zeros_like(rewards[..., 0])
    for reward in reversed(rewards.unbind(-1)):
        later = reward + discount * later
        earned.append(later)
    from_here = torch.stack(earned[::-1], -1)
    above = from_here - from_here.mean(1, keepdim=True)
    return above / (from_here.std(1, keepdim=True) + _NO_SPREAD)


def _embedded(transition: Any, condition: Tensor) -> Tensor:
    return transition.condition(condition, torch.ones(len(condition), 1, dtype=torch.bool, device=condition.device))


def _time(x: Tensor, k: int, c: PostTraining) -> Tensor:
    return torch.full((1, 1), k / c.sample_steps).to(x)


def _by_step(c: PostTraining, like: Tensor) -> Tensor:
    """``sigma [K, 1, 1]``."""
    return torch.tensor(spreads(c)).to(like).view(-1, 1, 1)


class Frozen:
    """A velocity field with other weights ``[P]``."""

    def __init__(self, transition: Any, weights: Tensor) -> None:
        named, first = {}, 0
        for name, p in transition.named_parameters():
            named[name] = weights[first : first + p.numel()].view_as(p)
            first += p.numel()
        self.transition, self.named = transition, named

    def condition(self, *arguments: Tensor) -> Tensor:
        """Embed conditions."""
        inner = {n.removeprefix("condition."): w for n, w in self.named.items() if n.startswith("condition.")}
        found: Tensor = torch.func.functional_call(self.transition.condition, inner, arguments)
        return found

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Velocities."""
        found: Tensor = torch.func.functional_call(self.transition, self.named, arguments)
        return found
