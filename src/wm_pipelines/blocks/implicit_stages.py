"""Fields for implicit steps of many seeds: all stages evaluated at once, failing rows told apart from the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class WatchedField:
    """A field on ``[S, E, 2d]`` or, all stages, ``[G, S, E, 2d]``, at rest where not ``alive``; it notes changes."""

    def __init__(self, field: Callable[[Tensor], Tensor], z: Tensor, alive: Tensor) -> None:
        self.field, self.alive, self.before, self.last = field, alive, z, z

    def __call__(self, x: Tensor) -> Tensor:
        """The field, zero where not alive."""
        slope = torch.where(self.alive, stages_last(self.field, x), 0.0)
        self.before, self.last = self.last, slope
        return slope

    @property
    def change(self) -> Tensor:
        """How far the slopes were in the last call from those in the call before it, ``[S, E, 1]``."""
        change = (self.last - self.before).abs().amax(-1, keepdim=True)
        return change if change.ndim == 3 else change.amax(0)


def stages_last(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a field whose first axis is the seeds to ``[S, B, D]`` or ``[G, S, B, D]``."""
    return field(x) if x.ndim == 3 else field(x.movedim(0, 1)).movedim(1, 0)
