"""Whether workers may share the batches of a family: refused is what would come out differently."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from wm_pipelines.blocks import workers
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family
from wm_pipelines.learning.batches import BatchSource

_WHEN = (0.0, 0.5, 0.999)  # shares of training: stages differ in what they draw
_APART = 1e-6  # of the gradient's norm, in float64


def check_shared(family: Family, examples: Mapping[str, Tensor], largest: int, called: str) -> None:
    """Compare the gradient of a few examples that workers share with the one that each finds alone, in float64.

    Random numbers of a worker's own, or statistics of its part of the batch, make them differ (`blocks.workers`).

    Args:
        family: it and torch's generators are left as they are. examples: as the loop draws from them.
        largest: examples in a batch. called: what the message calls the training.

    Raises:
        UserError: they do.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    few = min(2 * world + 1, largest)  # shares that differ
    whole = BatchSource(examples, family.seeds, few).batch(0)
    own = BatchSource(examples, family.seeds, few, rank, world).batch(0)
    alone, together = (copy.deepcopy(family).double() for _ in range(2))
    for progress in _WHEN:
        wanted = _gradient(alone, whole, progress)
        with workers.sharing(few, rank, world):
            shared = _gradient(together, own, progress)
        distributed.all_reduce(shared)
        apart = float((shared / world - wanted).norm() / wanted.norm().clamp(min=1e-30))
        if apart > _APART:
            raise UserError(
                f"{called}: workers cannot share its batches: their gradient differs by {apart:.0e} of its norm from "
                "that of one worker, as what the loss draws at random or takes from the batch as a whole does not go "
                "through blocks.workers; train it with one worker"
            )


def _gradient(family: Family, batch: Mapping[str, Tensor], progress: float) -> Tensor:
    """Of all parameters, flat."""
    family.zero_grad()
    with torch.random.fork_rng():
        doubled = {name: view.double() if view.is_floating_point() else view for name, view in batch.items()}
        loss, _ = family.loss(doubled, progress)
        workers.weighed(loss.sum()).backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in family.parameters()])
