"""Vision transformers for images and video: encoder, narrow predictor, pixel decoder, attention pooling.

Tokens are numbered row by row: token ``(t, y, x)`` of a grid ``(T, H, W)`` has the index ``(t H + y) W + x``; an image
is a video with ``T = 1``. Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from wm_pipelines.errors import UserError

POSITIONS = ("sincos", "rope")
BASE = {"sincos": 10_000.0, "rope": 100.0}  # slowest wavelength over fastest; grids are short, text is not

Grid = tuple[int, int, int]


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


# ------------------------------------------------------------------------------------------------------------ positions


def axis_angles(grid: Grid, pairs: int, base: float) -> Tensor:
    """Angle of every pair of features at every token, ``[N, pairs]`` float64.

    The pairs are divided among the axes longer than one position (height and width always) as evenly as possible, and
    turn with frequencies ``base ** (-k / n)``, ``k < n``, along their axis.
    """
    axes = [0, 1, 2] if grid[0] > 1 else [1, 2]
    if pairs < len(axes):
        raise UserError(f"{2 * pairs} features cannot hold positions along {len(axes)} axes; use a larger width")
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid))
    counts = [pairs // len(axes) + (k < pairs % len(axes)) for k in range(len(axes))]
    frequencies = [base ** (-torch.arange(n, dtype=torch.float64) / n) for n in counts]
    return torch.cat([places[:, axis, None] * f for axis, f in zip(axes, frequencies, strict=True)], dim=1)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair ``(x_i, x_{i + d/2})`` of ``[..., N, d]`` by the angle of cosines, sines ``[..., N, d/2]``."""
    cosine, sine = turn
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cosine - b * sine, a * sine + b * cosine), dim=-1)


def take(tokens: Tensor, indices: Tensor) -> Tensor:
    """Rows of ``[B, N, D]`` by ``[B, ...]``: ``[B, ..., D]``."""
    flat = indices.flatten(1)
    rows = torch.arange(len(flat), device=tokens.device)[:, None]
    return tokens[rows, flat].reshape(*indices.shape, tokens.shape[-1])


# --------------------------------------------------------------------------------------------------------------- blocks


class Attention(nn.Module):
    """Multi-head attention of ``x [B, Q, D]`` to ``source [B, N, D]``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        turn: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """``turn``: rotary cosines and sines of the source, the queries being its last rows; ``mask``: True is seen."""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q = rotate(q, (turn[0][..., -q.shape[-2] :, :], turn[1][..., -q.shape[-2] :, :]))
            k = rotate(k, turn)
        seen = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm attention and perceptron, each on a residual path."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        last: int | None = None,
    ) -> Tensor:
        """``[B, N, D] -> [B, N, D]``; with ``last``, only the last so many tokens, which still look at all."""
        source = self.norm1(x)
        if last is not None:
            x = x[:, -last:]
        x = x + self.attention(source if last is None else source[:, -last:], source, turn, mask)
        return x + self.mlp(self.norm2(x))


class Trunk(nn.Module):
    """Blocks over tokens of a grid: positions, block-causal mask, checkpointing, final norm."""

    table: Tensor

    def __init__(
        self,
        grid: Grid,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        positions: str = "sincos",
        causal: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if positions not in POSITIONS:
            raise UserError(f"positions '{positions}' unknown; known: {', '.join(POSITIONS)}")
        if width % heads:
            raise UserError(f"width {width} is not a multiple of heads {heads}")
        features = width if positions == "sincos" else width // heads
        if features % 2:
            of = "width" if positions == "sincos" else "width per head"
            raise UserError(f"{of} {features} is odd; {positions} positions need it even")
        self.grid, self.pairs = grid, features // 2
        self.positions, self.causal, self.checkpointing = positions, causal, checkpointing
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("table", self._table(grid).to(self.norm.weight.dtype), persistent=False)

    def _table(self, grid: Grid) -> Tensor:
        """``[N, 2 * pairs]``: sines then cosines to add, or cosines then sines to turn by."""
        angles = axis_angles(grid, self.pairs, BASE[self.positions])
        waves = (angles.sin(), angles.cos()) if self.positions == "sincos" else (angles.cos(), angles.sin())
        return torch.cat(waves, dim=1)

    def reach(self, time: int) -> None:
        """Make sure that ``time`` positions along time are known."""
        if time * self.grid[1] * self.grid[2] > len(self.table):
            self.table = self._table((time, *self.grid[1:])).to(self.table)

    def place(self, tokens: Tensor, indices: Tensor) -> Tensor:
        """Add sine-cosine positions; rotary positions act within attention instead."""
        return tokens + self.table[indices] if self.positions == "sincos" else tokens

    def forward(self, tokens: Tensor, indices: Tensor, last: int | None = None) -> Tensor:
        """Apply to placed tokens ``[B, K, D]`` at ``[B, K]`` or ``[K]``; with ``last``, return the last ones only."""
        turn = None
        if self.positions == "rope":
            cosine, sine = self.table[indices].unsqueeze(-3).chunk(2, dim=-1)
            turn = cosine, sine
        mask = None
        if self.causal:
            time = indices // (self.grid[1] * self.grid[2])
            mask = (time[..., :, None] >= time[..., None, :]).unsqueeze(-3)
        for k, block in enumerate(self.blocks):
            final = last if k == len(self.blocks) - 1 else None
            seen = mask if mask is None or final is None else mask[..., -final:, :]
            if self.checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, turn, seen, final, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, turn, seen, final)
        if last is not None and not len(self.blocks):
            tokens = tokens[:, -last:]
        return self.norm(tokens)


def _initialise(module: nn.Module) -> None:
    """Narrow truncated normal weights, zero biases; what blocks add shrinks with depth."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, Trunk):
            for k, block in enumerate(part.blocks, start=1):
                assert isinstance(block, Block)
                with torch.no_grad():
                    for last in (block.attention.out, block.mlp[-1]):
                        last.get_parameter("weight").div_(math.sqrt(2.0 * k))


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
        _initialise(self)
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
        _initialise(self)
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
        _initialise(self)
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
