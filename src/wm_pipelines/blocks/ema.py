"""A slowly moving copy of a network, the target of self-distillation."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wm_pipelines.errors import UserError


def ema_schedule(tau0: float, tau1: float, progress: float) -> float:
    """Half a cosine from exactly ``tau0`` at progress 0 to exactly ``tau1`` at 1 (a target that stands still if 1)."""
    if not 0.0 <= tau0 <= tau1 <= 1.0:
        raise UserError(f"EMA rates must satisfy 0 <= tau0 <= tau1 <= 1, got {tau0} and {tau1}")
    if progress <= 0.0:
        return tau0
    if progress >= 1.0:
        return tau1
    tau = tau1 - (tau1 - tau0) * (1.0 + math.cos(math.pi * progress)) / 2.0
    return min(max(tau, tau0), tau1)


class EMA(nn.Module):
    """Holds the moving copy ``target`` of an online network: never trained by gradient, always in evaluation mode."""

    def __init__(self, online: nn.Module) -> None:
        super().__init__()
        self.target = copy.deepcopy(online).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> EMA:
        """Switch the mode of this module; the copy stays in evaluation mode."""
        super().train(mode)
        self.target.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the copy, without gradients."""
        with torch.no_grad():
            return self.target(*args, **kwargs)

    def _pairs(self, online: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Parameters of copy and online network, by type and device."""
        kinds: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
        for mine, theirs in zip(self.target.parameters(), online.parameters(), strict=True):
            lists = kinds.setdefault((mine.dtype, mine.device), ([], []))
            lists[0].append(mine.data)
            lists[1].append(theirs.data)
        yield from kinds.values()

    @torch.no_grad()
    def update(self, online: nn.Module, tau: float) -> None:
        """``target <- tau * target + (1 - tau) * online``; buffers are copied."""
        for mine, theirs in self._pairs(online):
            torch._foreach_lerp_(mine, theirs, 1.0 - tau)
        for own, other in zip(self.target.buffers(), online.buffers(), strict=True):
            if own.shape == other.shape:  # tables of positions may have grown
                own.copy_(other)

    @torch.no_grad()
    def drift(self, online: nn.Module) -> float:
        """Distance of the copy from the online network, relative to the online network's norm."""
        far = size = 0.0
        for mine, theirs in self._pairs(online):
            far += sum(float(n) ** 2 for n in torch._foreach_norm(torch._foreach_sub(mine, theirs)))
            size += sum(float(n) ** 2 for n in torch._foreach_norm(theirs))
        return math.sqrt(far / size) if size else math.sqrt(far)
