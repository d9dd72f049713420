"""A reward used at prediction instead of in training: the best of several candidates, and guidance.

*Best of N*: of one prediction from the centre of the noise and N - 1 samples the one with the highest reward.

*Guidance*: the flow follows ``v + w grad R(E[x_1 | x])``, with the expected data ``E[x_1 | x] = x + (1 - t) v`` (Chung
et al., *Diffusion posterior sampling*, ICLR 2023; Bansal et al., *Universal guidance for diffusion models*, 2023).
Deviation: the gradient is taken by the expected data and not through the network.

Both cost time at every prediction and leave the weights alone. Shapes: ``N`` rows, ``D`` entries of a change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wm_pipelines.blocks.flow_sampling import Velocity

Score = Callable[[Tensor], Tensor]
"""Rewards ``[N]`` of changes ``[N, D]``."""


def best(candidates: Sequence[Tensor], reward: Score) -> Tensor:
    """Row by row the candidate ``[N, D]`` with the highest reward; of equals the first."""
    chosen = torch.stack([reward(u) for u in candidates]).argmax(0)
    return torch.stack([*candidates])[chosen, torch.arange(len(chosen))]


def rewarded(velocity: Velocity, reward: Score, weight: float) -> Velocity:
    """The velocity, drawn to where rewards are higher."""

    def v(x: Tensor, t: float) -> Tensor:
        found = velocity(x, t)
        with torch.enable_grad():
            data = (x + (1.0 - t) * found).detach().requires_grad_()
            (slope,) = torch.autograd.grad(reward(data).sum(), data)
        return found + weight * slope.to(found)

    return v
