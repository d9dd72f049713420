"""Which examples each seed sees at each step: a pure function of (seed, step), so a loader has no state to lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wm_pipelines.errors import UserError


class BatchSource:
    """Shuffled passes over the examples, every seed in an order of its own.

    ``batch(step)`` depends on nothing but the seeds and the step: the same batch comes whether the run was killed
    before it or not. With several workers each takes its share of the batch, see `blocks.workers`.

    Args:
        examples: tensors of equal first length N. seeds: one order per seed. batch_size: examples per seed and step.
        rank, world: this worker's number and how many there are, from torch.distributed.

    Raises:
        UserError: there are no examples, examples are not equally many, or fewer than workers make a batch.
    """

    def __init__(
        self, examples: Mapping[str, Tensor], seeds: Sequence[int], batch_size: int, rank: int = 0, world: int = 1
    ) -> None:
        lengths = {name: len(tensor) for name, tensor in examples.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise UserError(f"training examples must be of one length and not empty, got {lengths}")
        self.examples, self.seeds = examples, tuple(seeds)
        self.length = next(iter(lengths.values()))
        self.batch_size = min(batch_size, self.length)
        if self.batch_size < world:
            raise UserError(
                f"a batch of {self.batch_size} examples is too small for {world} workers; train with fewer, or raise "
                "schedule.batch_size"
            )
        self.share = slice(rank, None, world)
        self.shares = self.batch_size / len(range(rank, self.batch_size, world))  # of this size make a batch
        self._passes: dict[int, Tensor] = {}

    def _order(self, number: int) -> Tensor:
        """The order of pass ``number`` for every seed: ``[S, N]``; the two latest passes are kept."""
        if number not in self._passes:
            generators = [torch.Generator().manual_seed(7_368_787 * (seed + 1) + number) for seed in self.seeds]
            if len(self._passes) > 1:
                self._passes.pop(min(self._passes))
            self._passes[number] = torch.stack([torch.randperm(self.length, generator=g) for g in generators])
        return self._passes[number]

    def indices(self, step: int) -> Tensor:
        """Example numbers ``[S, B]`` of a step."""
        first = step * self.batch_size
        number, offset = divmod(first, self.length)
        rows = self._order(number)[:, offset : offset + self.batch_size]
        missing = self.batch_size - rows.shape[1]
        return torch.cat([rows, self._order(number + 1)[:, :missing]], dim=1) if missing else rows

    def batch(self, step: int) -> dict[str, Tensor]:
        """This worker's examples of a step, each ``[S, B / world, …]``; the first workers may have one more."""
        rows = self.indices(step)[:, self.share]
        return {name: tensor[rows.to(tensor.device)] for name, tensor in self.examples.items()}
