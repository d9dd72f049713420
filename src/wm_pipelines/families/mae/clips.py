"""Long videos clip by clip, and patches put back into images."""

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
def encode_in_chunks(encoder: VisionTransformer, video: Tensor, frames: int) -> Tensor:
    """Encode a long video piece by piece, without gradients: ``[B, T, H, W, C]`` in 0 … 255 -> ``[B, N, D]``.

    Pieces have so many ``frames``, at most those that the encoder was built for (the last may be shorter): tokens
    attend to tokens of the same piece only, and its positions in time start at zero. Memory beyond video and result is
    that of one piece.
    """
    _, height, width = encoder.grid
    time = token_grid(encoder.size, encoder.patch, video.shape[1], encoder.tubelet)[0]
    dtype, result = next(encoder.parameters()).dtype, torch.empty(0)
    for start in range(0, video.shape[1], frames):
        tokens = encoder(video[:, start : start + frames].to(dtype) / 255)
        if start == 0:
            result = tokens.new_empty(len(video), time * height * width, tokens.shape[-1])
        first = start // encoder.tubelet * height * width
        result[:, first : first + tokens.shape[1]] = tokens
        del tokens
    return result
