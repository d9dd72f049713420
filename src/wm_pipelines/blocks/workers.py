"""The workers of one training together: results do not depend on how many there are.

World size and rank are those of `torch.distributed`. Example ``i`` of a worker stands at position ``i * world + rank``
of the global batch. Every worker draws the random numbers of the global batch, from a generator in the same state, and
keeps those of its own positions (`mine`). Statistics of the global batch are `averaged` or `gathered`; gradients pass
through both, and the gradient of a training is the mean of the workers' own. Of one worker all is returned as it came.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def world() -> int:
    """How many workers there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if world() > 1 else 0


def everyone(count: int) -> int:
    """Examples in the global batch, of which each worker has ``count``."""
    return count * world()


def mine(drawn: Tensor, dim: int = 0) -> Tensor:
    """Of what was drawn for the global batch, along ``dim``, the part of this worker."""
    if world() == 1:
        return drawn
    return drawn.index_select(dim, torch.arange(rank(), drawn.shape[dim], world()))


def averaged(x: Tensor) -> Tensor:
    """Mean over workers: of means over their examples the mean over the global batch."""
    return x if world() == 1 else _Sum.apply(x) / world()


def gathered(x: Tensor, dim: int = 0) -> Tensor:
    """The global batch, along ``dim``, of which ``x`` is this worker's part."""
    if world() == 1:
        return x
    shape = list(x.shape)
    shape[dim] = everyone(shape[dim])
    positions = torch.arange(rank(), shape[dim], world(), device=x.device)
    return _Sum.apply(x.new_zeros(shape).index_copy(dim, positions, x))


def var_mean(x: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Variance (over N) and mean over the axes ``dim``, one of which is the batch's, and over all workers."""
    if world() == 1:
        return torch.var_mean(x, dim, correction=0)
    mean = averaged(x.mean(dim, keepdim=True))
    variance = averaged((x - mean).square().mean(dim, keepdim=True))
    return variance.squeeze(dim), mean.squeeze(dim)


class _Sum(torch.autograd.Function):
    """Sum over workers; each is sent the sum of all gradients by it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        total = x.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return _Sum.apply(gradient)
