"""Vision transformers for images and video: encoder, narrow predictor, pixel decoder, attention pooling.

Grids and the order of their tokens are those of transformer.py; an image is a video with ``T = 1``. Modules draw
their weights from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from wm_pipelines.errors import UserError
from wm_pipelines.blocks.transformer import (
    Attention,
    Grid,
    Trunk,
    initialise,
    take,
)

# --------------------------------------------------------------------------------------------------------------- pixels


def patchify(video: Tensor, patch: int, tubelet: int = 1) -> Tensor:
    """Cut ``[B, T, H, W, C]`` into ``[B, N, tubelet * patch * patch * C]``, one row per token."""
    batch, frames, height, width, channels = video.shape
    t, h, w = token_grid((height, width), patch, frames, tubelet)
    cut = video.reshape(batch, t, tubelet, h, patch, w, patch, channels)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, t * h * w, tubelet * patch * patch * channels)


def unpatchify(patches: Tensor, grid: Grid, patch: int, tubelet: int = 1) -> Tensor:
    """Put the rows of ``patchify`` back: ``[B, N, P] -> [B, T, H, W, C]``."""
    t, h, w = grid
    cut = patches.reshape(len(patches), t, h, w, tubelet, patch, patch, -1)
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(patches), t * tubelet, h * patch, w * patch, -1)


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
        size: height and width of a frame, or one number for both.
        patch: side of a patch in pixels.
        channels: ``C``.
        width: ``D``.
        depth: number of blocks.
        heads: attention heads per block.
        frames: ``T`` of a clip; one means images. A video encoder takes other lengths, too.
        tubelet: frames per token.
        mlp_ratio: hidden width of a block's perceptron over ``D``.
        positions: ``sincos`` adds fixed waves along the axes, ``rope`` turns queries and keys by them (axial).
        causal: a token sees its own and earlier positions in time only.
        checkpointing: recompute blocks in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        patch: int,
        *,
        channels: int = 3,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        frames: int = 1,
        tubelet: int = 1,
        mlp_ratio: float = 4.0,
        positions: str = "sincos",
        causal: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.grid = token_grid(self.size, patch, frames, tubelet)
        self.patch, self.tubelet, self.channels, self.frames, self.width = patch, tubelet, channels, frames, width
        self.embed: nn.Module = nn.Linear(tubelet * patch * patch * channels, width)
        self.trunk = Trunk(self.grid, width, depth, heads, mlp_ratio, positions, causal, checkpointing)
        initialise(self)
        nn.init.xavier_uniform_(self.embed.weight)

    @property
    def tokens(self) -> int:
        """Tokens of a clip of ``frames`` frames."""
        return math.prod(self.grid)

    def _time(self, x: Tensor) -> int:
        """Positions along time of an input.

        Raises:
            UserError: the input is not what the encoder was built for.
        """
        if x.dim() != 5 or x.shape[2:] != (*self.size, self.channels):
            expected = f"[B, T, {self.size[0]}, {self.size[1]}, {self.channels}]"
            raise UserError(f"the encoder takes {expected}, got {list(x.shape)}")
        if not x.is_floating_point():
            raise UserError(
                f"the encoder takes floats, got {str(x.dtype).removeprefix('torch.')}; convert and scale first"
            )
        time = token_grid(self.size, self.patch, x.shape[1], self.tubelet)[0]
        if self.grid[0] == 1 and time > 1:
            raise UserError(
                f"the encoder has one position in time, got {x.shape[1]} frames; build it with frames above 1"
            )
        return time

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode all tokens, ``[B, N, D]``, or only those of ``keep`` ``[B, K]`` (int64): ``[B, K, D]``.

        Other tokens are dropped before the first layer: what they show cannot influence the result.
        """
        time = self._time(x)
        self.trunk.reach(time)
        patches = patchify(x, self.patch, self.tubelet)
        if keep is not None:
            patches = take(patches, keep)
        indices = torch.arange(patches.shape[1], device=x.device) if keep is None else keep
        return self.trunk(self.trunk.place(self.embed(patches), indices), indices)


class Predictor(nn.Module):
    """Narrow transformer that fills in tokens at given places (Assran et al. 2023).

    Args:
        grid: the encoder's ``grid``.
        width_in: width of the context tokens.
        width: width of the predictor.
        depth: number of blocks.
        heads: attention heads per block.
        width_out: width of the predictions; the context's by default.
        mlp_ratio: hidden width of a block's perceptron over ``width``.
        positions: as for the encoder.
        causal: a token sees its own and earlier positions in time only.
        checkpointing: recompute blocks in the backward pass instead of keeping their activations.
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
        mlp_ratio: float = 4.0,
        positions: str = "sincos",
        causal: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.enter = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.trunk = Trunk(grid, width, depth, heads, mlp_ratio, positions, causal, checkpointing)
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


class PatchDecoder(Predictor):
    """A predictor of pixels, for masked autoencoders: rows ``[B, M, P]`` as ``patchify`` cuts them."""

    def __init__(
        self,
        grid: Grid,
        width_in: int,
        patch: int,
        *,
        tubelet: int = 1,
        channels: int = 3,
        width: int = 96,
        depth: int = 3,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        positions: str = "sincos",
        causal: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            grid,
            width_in,
            width=width,
            depth=depth,
            heads=heads,
            width_out=tubelet * patch * patch * channels,
            mlp_ratio=mlp_ratio,
            positions=positions,
            causal=causal,
            checkpointing=checkpointing,
        )


class AttentivePooler(nn.Module):
    """Learnt queries attend to all tokens: ``[B, N, D] -> [B, D]``, or ``[B, queries, D]`` for more than one query."""

    def __init__(self, width: int, heads: int, queries: int = 1, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.queries = nn.Parameter(torch.zeros(queries, width))
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        initialise(self)
        nn.init.trunc_normal_(self.queries, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool; the order of the tokens does not matter."""
        queries = self.queries.expand(len(tokens), -1, -1)
        x = queries + self.attention(queries, self.norm1(tokens))
        x = self.norm(x + self.mlp(self.norm2(x)))
        return x[:, 0] if x.shape[1] == 1 else x


def encode_in_chunks(
    encoder: VisionTransformer,
    video: Tensor,
    frames_at_once: int,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Encode a long video piece by piece, without gradients: ``[B, T, H, W, C] -> [B, N, D]``.

    Each chunk of ``frames_at_once`` frames (the last may be shorter) is a clip of its own: its tokens attend to tokens
    of the same chunk only, and its positions in time start at zero. The result is the concatenation of separate calls,
    and equals one call on the whole video only if there is one chunk. Memory beyond video and result is that of one
    chunk.

    Args:
        encoder: what encodes.
        video: of any type if ``prepare`` is given.
        frames_at_once: a multiple of the encoder's tubelet.
        prepare: makes floats of a chunk, say of bytes.
    """
    if frames_at_once < encoder.tubelet or frames_at_once % encoder.tubelet:
        better = _nearest(frames_at_once, encoder.tubelet)
        raise UserError(
            f"{frames_at_once} frames at once are not a multiple of tubelet {encoder.tubelet}; use {better}"
        )
    per_time = encoder.grid[1] * encoder.grid[2]
    time = token_grid(encoder.size, encoder.patch, video.shape[1], encoder.tubelet)[0]
    result: Tensor | None = None
    with torch.no_grad():
        for start in range(0, video.shape[1], frames_at_once):
            chunk = video[:, start : start + frames_at_once]
            tokens = encoder(chunk if prepare is None else prepare(chunk))
            if result is None:
                result = tokens.new_empty(len(video), time * per_time, tokens.shape[-1])
            first = start // encoder.tubelet * per_time
            result[:, first : first + tokens.shape[1]] = tokens
            del tokens, chunk
    assert result is not None  # there is at least one tubelet
    return result
