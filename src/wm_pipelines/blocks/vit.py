"""Vision transformers for images and video: encoder and narrow predictor.

Grids and the order of their tokens are those of transformer.py; an image is a video with ``T = 1``. Modules draw
their weights from torch's global generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.transformer import Grid, Trunk, initialise, take
from wm_pipelines.errors import UserError

# --------------------------------------------------------------------------------------------------------------- pixels


def patchify(video: Tensor, patch: int, tubelet: int = 1) -> Tensor:
    """Cut ``[B, T, H, W, C]`` into ``[B, N, tubelet * patch * patch * C]``, one row per token."""
    batch, frames, height, width, channels = video.shape
    t, h, w = token_grid((height, width), patch, frames, tubelet)
    cut = video.reshape(batch, t, tubelet, h, patch, w, patch, channels)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t * h * w, tubelet * patch * patch * channels)


def token_grid(size: tuple[int, int], patch: int, frames: int = 1, tubelet: int = 1) -> Grid:
    """How many tokens ``frames`` images of ``size`` (height, width) make along time, height and width.

    Raises:
        UserError: a side is not a multiple of the patch, or the frames are not one of the tubelet.
    """
    if patch < 1 or tubelet < 1:
        raise UserError(f"patch {patch} and tubelet {tubelet} must be at least 1")
    for name, length in zip(("height", "width"), size, strict=True):
        if length < patch or length % patch:
            raise UserError(f"image {name} {length} is not a multiple of patch {patch}; use {_nearest(length, patch)}")
    if frames < tubelet or frames % tubelet:
        raise UserError(f"{frames} frames are not a multiple of tubelet {tubelet}; use {_nearest(frames, tubelet)}")
    return frames // tubelet, size[0] // patch, size[1] // patch


def _nearest(length: int, unit: int) -> str:
    below = length // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)


# --------------------------------------------------------------------------------------------------------------- models


class VisionTransformer(nn.Module):
    """Encoder of images (``frames = 1``) and video: ``[B, T, H, W, C] -> [B, N, D]``, pre-norm, final norm.

    Args:
        size: height and width of a frame.
        patch: side of a patch in pixels.
        channels: ``C``.
        width: ``D``.
        depth: number of blocks.
        heads: attention heads per block.
        frames: ``T`` of a clip; one means images. Shorter clips are encoded, too.
        tubelet: frames per token.
        positions: ``sincos`` adds fixed waves along the axes, ``rope`` turns queries and keys by them (axial).
    """

    def __init__(
        self,
        size: tuple[int, int],
        patch: int,
        *,
        channels: int = 3,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        frames: int = 1,
        tubelet: int = 1,
        positions: str = "sincos",
    ) -> None:
        super().__init__()
        self.size = (size[0], size[1])
        self.grid = token_grid(self.size, patch, frames, tubelet)
        self.patch, self.tubelet, self.channels, self.frames, self.width = patch, tubelet, channels, frames, width
        self.embed: nn.Module = nn.Linear(tubelet * patch * patch * channels, width)
        self.trunk = Trunk(self.grid, width, depth, heads, positions)
        initialise(self)
        nn.init.xavier_uniform_(self.embed.weight)

    @property
    def tokens(self) -> int:
        """Tokens of a clip of ``frames`` frames."""
        return math.prod(self.grid)

    def _check(self, x: Tensor) -> None:
        """Raise UserError where the input is not what the encoder was built for."""
        if x.dim() != 5 or x.shape[2:] != (*self.size, self.channels):
            expected = f"[B, T, {self.size[0]}, {self.size[1]}, {self.channels}]"
            raise UserError(f"the encoder takes {expected}, got {list(x.shape)}")
        if not x.is_floating_point():
            raise UserError(
                f"the encoder takes floats, got {str(x.dtype).removeprefix('torch.')}; convert and scale first"
            )
        if x.shape[1] > self.frames:
            raise UserError(f"the encoder takes clips of at most {self.frames} frames, got {x.shape[1]}")

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode all tokens, ``[B, N, D]``, or only those of ``keep`` ``[B, K]`` (int64): ``[B, K, D]``.

        Other tokens are dropped before the first layer: what they show cannot influence the result.
        """
        self._check(x)
        patches = patchify(x, self.patch, self.tubelet)
        if keep is not None:
            patches = take(patches, keep)
        indices = torch.arange(patches.shape[1], device=x.device) if keep is None else keep
        return self.trunk(self.trunk.place(self.embed(patches), indices), indices)


class Predictor(nn.Module):
    """Narrow transformer that fills in tokens at given positions (Assran et al. 2023).

    Args:
        grid: the encoder's ``grid``.
        width_in: width of the context tokens.
        width: width of the predictor.
        depth: number of blocks.
        heads: attention heads per block.
        width_out: width of the predictions; the context's by default.
        positions: as for the encoder.
    """

    def __init__(
        self,
        grid: Grid,
        width_in: int,
        *,
        width: int = 96,
        depth: int = 3,
        heads: int = 3,
        width_out: int | None = None,
        positions: str = "sincos",
    ) -> None:
        super().__init__()
        self.grid = grid
        self.enter = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.trunk = Trunk(grid, width, depth, heads, positions)
        self.leave = nn.Linear(width, width_in if width_out is None else width_out)
        initialise(self)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context: Tensor, context_indices: Tensor, target_indices: Tensor) -> Tensor:
        """``[B, K, D]`` at ``[B, K]``, wanted at ``[B, M]`` -> ``[B, M, D]``.

        Wanted at ``[B, J, M]``: each of the ``J`` groups is predicted on its own, ``[B, J, M, D]``.
        """
        if target_indices.dim() == 3:
            groups = target_indices.shape[1]
            context, context_indices = self.enter(context), context_indices.repeat_interleave(groups, dim=0)
            context = context.repeat_interleave(groups, dim=0)
            found = self._fill(context, context_indices, target_indices.flatten(0, 1))
            return found.unflatten(0, (-1, groups))
        return self._fill(self.enter(context), context_indices, target_indices)

    def _fill(self, context: Tensor, context_indices: Tensor, target_indices: Tensor) -> Tensor:
        indices = torch.cat((context_indices, target_indices), dim=1)
        wanted = self.mask_token.expand(*target_indices.shape, -1)
        tokens = self.trunk.place(torch.cat((context, wanted), dim=1), indices)
        return self.leave(self.trunk(tokens, indices, last=target_indices.shape[1]))
