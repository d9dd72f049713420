"""Noise that a flow begins from, in training and in use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wm_pipelines.blocks import workers

Draw = Callable[[], Tensor]
"""Standard normal ``[N, K D]``, new at every call."""


class Draws:
    """Random numbers of a training step for transitions ``u [B, R, ·]``, drawn for the global batch."""

    def __init__(self, u: Tensor, generator: torch.Generator) -> None:
        self.u, self.generator = u, generator

    def normal(self) -> Tensor:
        """Standard normal ``[B R, ·]``."""
        return self._mine(torch.randn(self._shape(self.u.shape[2]), generator=self.generator))

    def uniform(self) -> Tensor:
        """Uniform in [0, 1), one for each transition: ``[B R, 1]``."""
        return self._mine(torch.rand(self._shape(1), generator=self.generator))

    def _shape(self, size: int) -> tuple[int, int, int]:
        return workers.everyone(len(self.u)), self.u.shape[1], size

    def _mine(self, drawn: Tensor) -> Tensor:
        return workers.mine(drawn).to(self.u).flatten(0, 1)


def noise_like(like: Tensor, size: int, generator: torch.Generator, same: bool = False) -> Draw:
    """Standard normal ``[N, size]`` for rows like those of ``like [N, …]``; the same for all of them, if so wished."""
    shape = (1 if same else len(like), size)
    return lambda: torch.randn(shape, generator=generator).to(like).expand(len(like), -1)
