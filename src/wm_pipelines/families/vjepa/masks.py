"""The masks of V-JEPA: boxes in space and time, or all that comes after the first half."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wm_pipelines.blocks.masks import Masks, count, indices_of, integers
from wm_pipelines.errors import UserError


def spatiotemporal_masks(
    batch: int,
    grid: tuple[int, int, int] = (8, 14, 14),
    span: int = 3,
    block: int = 4,
    ratio: float = 0.6,
    *,
    generator: torch.Generator,
) -> Masks:
    """Hide boxes of ``span`` times and ``block x block`` patches until a share ``ratio`` is hidden: targets ``[B, M]``.

    The share is the same for each example, exact to a token: of the last box only a part is hidden.

    Raises:
        UserError: the ratio hides nothing or all, or the box is larger than the grid.
    """
    tokens = math.prod(grid)
    hidden = count(ratio, tokens)
    box = (span, block, block)
    if any(not 1 <= side <= length for side, length in zip(box, grid, strict=True)):
        raise UserError(
            f"a box of {span} x {block} x {block} does not fit into {grid[0]} x {grid[1]} x {grid[2]} tokens"
        )
    corners = tuple(n - side + 1 for n, side in zip(grid, box, strict=True))
    wave = 62  # boxes at a time, one bit each
    rank = torch.full((batch, tokens), math.inf)  # number of the first box that covers a token
    for start in range(0, 64 * wave, wave):
        corner = integers(corners, (batch, wave), generator)
        covered: Tensor | None = None
        for axis, (side, length) in enumerate(zip(box, grid, strict=True)):
            shape = [1, 1, 1]
            shape[axis] = length
            bits = _bits(corner[..., axis], side, length).view(batch, *shape)
            covered = bits if covered is None else covered & bits
        assert covered is not None
        covered = covered.reshape(batch, tokens)
        number = torch.log2((covered & -covered).float()) + start  # of the lowest bit; exact for powers of two
        number.masked_fill_(covered == 0, math.inf)
        rank = torch.minimum(rank, number)
        if int((rank < math.inf).sum(1).min()) >= hidden:
            break
    else:
        rank.clamp_(max=64.0 * wave)  # corners that boxes hardly reach: any of the tokens left
    key = rank.double() * tokens + torch.randperm(tokens, generator=generator)  # no two alike
    dark = key <= key.kthvalue(hidden, dim=1, keepdim=True).values
    return Masks(indices_of(~dark), indices_of(dark))


def temporal_half_mask(batch: int, grid: tuple[int, int, int] = (8, 14, 14)) -> Masks:
    """See the first half of the times, predict the second (the longer one if odd): targets ``[B, M]``."""
    if grid[0] < 2:
        raise UserError(f"half of the times needs at least 2 of them, got {grid[0]}")
    per_time = grid[1] * grid[2]
    every = torch.arange(math.prod(grid)).expand(batch, -1)
    cut = grid[0] // 2 * per_time
    return Masks(every[:, :cut].contiguous(), every[:, cut:].contiguous())


def _bits(first: Tensor, side: int, length: int) -> Tensor:
    """Bit ``l`` of ``(b, i)``: whether ``i`` is among the ``side`` positions from ``first[b, l]``; ``[B, length]``."""
    offset = torch.arange(length)[:, None] - first[:, None]
    inside = (offset >= 0) & (offset < side)
    return (inside.long() << torch.arange(first.shape[1])).sum(-1)
