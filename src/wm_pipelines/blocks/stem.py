"""Convolutions below a transformer, in place of patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from wm_pipelines.blocks.convolutional import ConvolutionalEncoder
from wm_pipelines.blocks.transformer import Trunk, take


class StemmedTransformer(nn.Module):
    """Convolutions instead of patches, then a transformer (Xiao et al. 2021): used like a vision transformer of images.

    Tokens are the positions of the last map. Convolutions overlap, so that what is hidden is painted over before the
    first of them: it cannot influence the tokens that are kept.

    Args:
        size: height and width of a frame.
        channels: ``C``.
        widths: of the `ConvolutionalEncoder`; the last is the transformer's width ``D``.
        depth: transformer blocks; none is possible.
        heads: attention heads per block.
        positions: as for `VisionTransformer`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        widths: Sequence[int],
        *,
        depth: int = 1,
        heads: int = 4,
        positions: str = "sincos",
    ) -> None:
        super().__init__()
        self.stem = ConvolutionalEncoder(size, channels, widths)
        self.size, self.grid, self.width, self.tokens = size, self.stem.grid, widths[-1], self.stem.tokens
        self.trunk = Trunk(self.grid, self.width, depth, heads, positions=positions)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """``[B, 1, H, W, C]`` to all tokens, ``[B, N, D]``, or to those of ``keep`` ``[B, K]``, seeing no others."""
        images = x[:, 0]
        if keep is None:
            return self._blocks(self.stem(images), torch.arange(self.tokens, device=x.device))
        kept = torch.zeros(len(x), self.tokens, dtype=x.dtype, device=x.device).scatter_(1, keep, 1.0)
        seen = interpolate(kept.unflatten(1, (1, *self.grid[1:])), self.size, mode="nearest").permute(0, 2, 3, 1)
        return self._blocks(take(self.stem(images, seen), keep), keep)

    def _blocks(self, tokens: Tensor, indices: Tensor) -> Tensor:
        return self.trunk(self.trunk.place(tokens, indices), indices)
