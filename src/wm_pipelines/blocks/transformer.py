"""Transformer blocks over a grid of tokens: attention with rotary or sine-cosine positions in space and time.

Tokens are numbered row by row: token ``(t, y, x)`` of a grid ``(T, H, W)`` has the index ``(t H + y) W + x``; an image
is a video with ``T = 1``. Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from wm_pipelines.errors import UserError

POSITIONS = ("sincos", "rope")
BASE = {"sincos": 10_000.0, "rope": 100.0}  # slowest wavelength over fastest; grids are short, text is not

Grid = tuple[int, int, int]


# ------------------------------------------------------------------------------------------------------------ positions


def axis_angles(grid: Grid, pairs: int, base: float) -> Tensor:
    """Angle of every pair of features at every token, ``[N, pairs]`` float64.

    The pairs are divided among the axes longer than one position (height and width always) as evenly as possible, and
    turn with frequencies ``base ** (-k / n)``, ``k < n``, along their axis.
    """
    axes = [0, 1, 2] if grid[0] > 1 else [1, 2]
    if pairs < len(axes):
        raise UserError(f"{2 * pairs} features cannot hold positions along {len(axes)} axes; use a larger width")
    at = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in grid))
    counts = [pairs // len(axes) + (k < pairs % len(axes)) for k in range(len(axes))]
    frequencies = [base ** (-torch.arange(n, dtype=torch.float64) / n) for n in counts]
    return torch.cat([at[:, axis, None] * f for axis, f in zip(axes, frequencies, strict=True)], dim=1)


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
    """Multi-head attention of ``x [B, Q, D]`` to ``source [B, N, D]``.

    ``causal``: the queries being the last rows of the source, each looks at none behind itself.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """``turn``: rotary cosines and sines of the source, the queries being its last rows."""
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q = rotate(q, (turn[0][..., -q.shape[-2] :, :], turn[1][..., -q.shape[-2] :, :]))
            k = rotate(k, turn)
        queries, keys = q.shape[-2], k.shape[-2]
        mask = q.new_ones(queries, keys, dtype=torch.bool).tril(keys - queries) if self.causal else None
        seen = scaled_dot_product_attention(q, k, v, mask)
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm attention and perceptron, each on a residual path."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None = None, last: int | None = None) -> Tensor:
        """``[B, N, D] -> [B, N, D]``; with ``last``, only the last so many tokens, which still look at all."""
        source = self.norm1(x)
        if last is not None:
            x = x[:, -last:]
        x = x + self.attention(source if last is None else source[:, -last:], source, turn)
        return x + self.mlp(self.norm2(x))


class Trunk(nn.Module):
    """Blocks over tokens of a grid: positions, blocks, final norm; ``causal``: no token looks at later ones."""

    table: Tensor

    def __init__(
        self,
        grid: Grid,
        width: int,
        depth: int,
        heads: int,
        positions: str = "sincos",
        causal: bool = False,
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
        self.grid, self.pairs, self.positions = grid, features // 2, positions
        self.blocks = nn.ModuleList(Block(width, heads, causal) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("table", self._table(grid).to(self.norm.weight.dtype), persistent=False)

    def _table(self, grid: Grid) -> Tensor:
        """``[N, 2 * pairs]``: sines then cosines to add, or cosines then sines to turn by."""
        angles = axis_angles(grid, self.pairs, BASE[self.positions])
        waves = (angles.sin(), angles.cos()) if self.positions == "sincos" else (angles.cos(), angles.sin())
        return torch.cat(waves, dim=1)

    def place(self, tokens: Tensor, indices: Tensor) -> Tensor:
        """Add sine-cosine positions; rotary positions act within attention instead."""
        return tokens + self.table[indices] if self.positions == "sincos" else tokens

    def forward(self, tokens: Tensor, indices: Tensor, last: int | None = None) -> Tensor:
        """Apply to placed tokens ``[B, K, D]`` at ``[B, K]`` or ``[K]``; with ``last``, return the last ones only."""
        turn = None
        if self.positions == "rope":
            cosine, sine = self.table[indices].unsqueeze(-3).chunk(2, dim=-1)
            turn = cosine, sine
        for k, block in enumerate(self.blocks):
            tokens = block(tokens, turn, last if k == len(self.blocks) - 1 else None)
        if last is not None and not len(self.blocks):
            tokens = tokens[:, -last:]
        return self.norm(tokens)


def initialise(module: nn.Module) -> None:
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
