"""Batch normalisation by the statistics of the global batch, on every kind of device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wm_pipelines.blocks import workers


class _Global(_BatchNorm):
    """`torch.nn.SyncBatchNorm`, which needs GPUs, for CPUs too; torch's own layer for one worker and in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, and move the running statistics."""
        if not self.training or workers.world() == 1:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = workers.var_mean(wide, (0, *range(2, x.ndim)))
        self._move(mean.detach(), variance.detach(), workers.everyone(x.numel() // x.shape[1]))
        shape = (-1, *[1] * (x.ndim - 2))
        y = (wide - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _move(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), self.momentum)


class BatchNorm1d(_Global, nn.BatchNorm1d):
    """Of ``[B, C]`` or ``[B, C, L]``."""


class BatchNorm2d(_Global, nn.BatchNorm2d):
    """Of ``[B, C, H, W]``."""
