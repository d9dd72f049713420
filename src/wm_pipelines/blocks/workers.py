"""The workers of one training together: results do not depend on how many there are.

While a global batch is `sharing`, example ``i`` of a worker stands at position ``i * world + rank`` of it; where the
number of workers does not divide the batch, the first ones have one example more. Every worker draws the random numbers
of the global batch, from a generator in the same state, and keeps those of its own positions (`mine`). Statistics of
the global batch are `averaged` or `gathered`; gradients pass through both. What is minimised is the mean over workers
of their losses, each a mean over its own examples and weighed by how many these are (`weighed`). Of one worker all is
returned as it came, and outside `sharing` each is alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class _Share:
    """What a worker has of a global batch of ``batch`` examples."""

    batch: int
    rank: int
    world: int

    @property
    def own(self) -> int:
        return len(range(self.rank, self.batch, self.world))


_share: _Share | None = None  # not of the thread: on a GPU gradients pass in threads of their own


@contextmanager
def sharing(batch: int, rank: int, world: int) -> Iterator[None]:
    """For as long as the block lasts, examples are this worker's part of global batches of ``batch``."""
    global _share
    before, _share = _share, _Share(batch, rank, world) if world > 1 else None
    try:
        yield
    finally:
        _share = before


def world() -> int:
    """How many workers there are."""
    return 1 if _share is None else _share.world


def rank() -> int:
    """Which of them this one is, from 0."""
    return 0 if _share is None else _share.rank


def everyone(count: int) -> int:
    """How many the global batch has of what a worker has ``count`` of, as many of every example.

    Raises:
        ValueError: ``count`` is no multiple of this worker's examples.
    """
    if _share is None:
        return count
    if count % _share.own:
        raise ValueError(f"{count} are not equally many of each of the {_share.own} examples of this worker")
    return count // _share.own * _share.batch


def mine(drawn: Tensor, dim: int = 0) -> Tensor:
    """Of what was drawn for the global batch, example by example along ``dim``, the part of this worker.

    Raises:
        ValueError: ``dim`` is not that of the examples.
    """
    if _share is None:
        return drawn
    _check(drawn, dim, _share.batch, "the global batch")
    return drawn.index_select(dim, _positions(_share, drawn))


def averaged(x: Tensor) -> Tensor:
    """Mean over workers: of means over their examples the mean over the global batch."""
    return x if _share is None else _Sum.apply(x * (_share.own / _share.batch))


def gathered(x: Tensor, dim: int = 0) -> Tensor:
    """The global batch, example by example along ``dim``, of which ``x`` is this worker's part.

    Raises:
        ValueError: ``dim`` is not that of the examples.
    """
    if _share is None:
        return x
    _check(x, dim, _share.own, "this worker's part of the batch")
    shape = list(x.shape)
    shape[dim] = _share.batch
    return _Sum.apply(x.new_zeros(shape).index_copy(dim, _positions(_share, x), x))


def ratio(total: Tensor, count: Tensor) -> Tensor:
    """Sum over the global batch of ``total``, each worker's share of it, by the sum of ``count``, taken as 1 at least.

    For a mean over what examples have more and less of (words, say). The mean over workers is that of `weighed`.
    """
    if _share is None:
        return total / count.clamp(min=1)
    return total / (_Sum.apply(count).clamp(min=1) * (_share.own / _share.batch))


def weighed(loss: Tensor) -> Tensor:
    """A mean over this worker's examples, so that the mean over workers is the mean over the global batch."""
    return loss if _share is None else loss * (_share.own * _share.world / _share.batch)


def var_mean(x: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Variance (over N) and mean over the axes ``dim``, one of which is the batch's, and over all workers."""
    if _share is None:
        return torch.var_mean(x, dim, correction=0)
    mean = averaged(x.mean(dim, keepdim=True))
    variance = averaged((x - mean).square().mean(dim, keepdim=True))
    return variance.squeeze(dim), mean.squeeze(dim)


def _positions(share: _Share, like: Tensor) -> Tensor:
    return torch.arange(share.rank, share.batch, share.world, device=like.device)


def _check(x: Tensor, dim: int, wanted: int, whose: str) -> None:
    if x.shape[dim] != wanted:
        raise ValueError(f"axis {dim} of {list(x.shape)} is not that of the {wanted} examples of {whose}")


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
