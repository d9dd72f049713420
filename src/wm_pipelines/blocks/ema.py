"""A slowly moving copy of a network, the target of self-distillation."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

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


def _move(tau: float, steps: int, target: list[Tensor], online: list[Tensor], done: Tensor | int) -> None:
    """``target <- rate * target + (1 - rate) * online``, in place."""
    rate = ema_schedule(tau, 1.0, (int(done) - 1) / max(1, steps - 1))
    torch._foreach_lerp_(target, online, 1.0 - rate)


class EMA(AveragedModel):
    """The moving copy of an online network: never trained by gradient, always in evaluation mode.

    `update_parameters` moves it, at the rate ``tau`` the first time and 1 the last; buffers are copied.

    Args:
        online: what is followed; the copy starts equal. tau: first rate. steps: number of updates.
    """

    def __init__(self, online: nn.Module, tau: float, steps: int) -> None:
        super().__init__(online, multi_avg_fn=partial(_move, tau, steps))
        self.n_averaged += 1  # the start counts: at 0 the first update would copy
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> EMA:
        """Switch the mode of this module; the copy stays in evaluation mode."""
        super().train(mode)
        self.module.eval()
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the copy, without gradients."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def drift(self, online: nn.Module) -> float:
        """Distance of the copy from the online network, relative to the online network's norm."""
        pairs = list(zip(self.module.parameters(), online.parameters(), strict=True))
        far = sum(float((mine - theirs).norm()) ** 2 for mine, theirs in pairs)
        size = sum(float(theirs.norm()) ** 2 for _, theirs in pairs)
        return math.sqrt(far / size) if size else math.sqrt(far)
