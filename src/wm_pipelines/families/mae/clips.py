"""Long videos step by step, and patches put back into images."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_pipelines.blocks.transformer import Grid
from wm_pipelines.blocks.vit import VisionTransformer, token_grid


def unpatchify(patches: Tensor, grid: Grid, patch: int, tubelet: int = 1) -> Tensor:
    """Put the rows of ``patchify`` back: ``[B, N, P] -> [B, T, H, W, C]``."""
    t, h, w = grid
    cut = patches.reshape(len(patches), t, h, w, tubelet, patch, patch, -1)
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(patches), t * tubelet, h * patch, w * patch, -1)


@torch.no_grad()
def encode_causally(encoder: VisionTransformer, video: Tensor, context: int) -> Tensor:
    """Encode a long video step by step, without gradients: ``[B, T, H, W, C]`` in 0 … 255 -> ``[B, N, D]``.

    Tokens of a latent step attend to each other and to those of the ``context`` frames that end with it, whose
    positions in time start at zero; what comes later they do not see. Memory beyond video and result is that of one
    context.
    """
    steps, height, width = token_grid(encoder.size, encoder.patch, video.shape[1], encoder.tubelet)
    dtype, patches = next(encoder.parameters()).dtype, height * width
    ends = (encoder.tubelet * (step + 1) for step in range(steps))
    clips = (video[:, max(0, end - context) : end].to(dtype) / 255 for end in ends)
    return torch.cat([encoder(clip)[:, -patches:] for clip in clips], dim=1)
