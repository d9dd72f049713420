"""The masks of I-JEPA (Assran et al. 2023): several target blocks, predicted from one large block minus them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wm_pipelines.blocks.masks import Masks, indices_of, integers
from wm_pipelines.errors import UserError

_REDRAWS, _SIZES = 20, 20  # of positions for one size of blocks; of sizes


def multi_block_masks(
    batch: int,
    grid: tuple[int, int] = (14, 14),
    targets: int = 4,
    scale: tuple[float, float] = (0.15, 0.2),
    aspect: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    least: float = 0.15,
    *,
    generator: torch.Generator,
) -> Masks:
    """I-JEPA's masks: predict ``targets`` blocks (they may overlap) from one large block minus them.

    Sizes are drawn once for the batch (scale, aspect and context scale by a random number each), positions for
    each example. All keep as many context tokens as the example with the fewest; what is too many is dropped at random.
    Targets ``[B, targets, M]``.

    Args:
        batch: examples.
        grid: tokens along height and width.
        targets: target blocks.
        scale: range of a target block's area over the grid's.
        aspect: range of its height over its width.
        context_scale: range of the context block's area (a square) over the grid's.
        least: share of tokens that must be left as context; positions (then sizes) are drawn anew until they are.
        generator: source of randomness.
    """
    _check_ranges(scale, aspect)
    _check_ranges(context_scale, (1.0, 1.0))
    fewest = max(1, math.ceil(least * grid[0] * grid[1]))
    for _ in range(_SIZES):
        block = _size(grid, scale, aspect, generator)
        frame = _size(grid, context_scale, (1.0, 1.0), generator)
        seen = torch.empty(batch, grid[0] * grid[1], dtype=torch.bool)
        chosen = torch.empty(batch, targets, block[0] * block[1], dtype=torch.int64)
        pending = torch.arange(batch)
        for _ in range(_REDRAWS):
            hidden, indices = _placed(len(pending), grid, targets, block, generator)
            inside, _ = _placed(len(pending), grid, 1, frame, generator)
            visible = inside & ~hidden
            seen[pending], chosen[pending] = visible, indices
            pending = pending[visible.sum(1) < fewest]
            if not len(pending):
                return Masks(indices_of(_thin(seen, generator)), chosen)
    raise UserError(
        f"{targets} target blocks leave no {fewest} context tokens in {grid[0]} x {grid[1]}; use fewer or smaller"
    )


def _check_ranges(scale: tuple[float, float], aspect: tuple[float, float]) -> None:
    if not 0.0 < scale[0] <= scale[1] <= 1.0:
        raise UserError(f"block scales must satisfy 0 < low <= high <= 1, got {scale[0]:g} and {scale[1]:g}")
    if not 0.0 < aspect[0] <= aspect[1]:
        raise UserError(f"block aspects must satisfy 0 < low <= high, got {aspect[0]:g} and {aspect[1]:g}")


def _size(
    grid: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
    generator: torch.Generator,
) -> tuple[int, int]:
    """Height and width of a block of random area and aspect, at most the grid's."""
    u, v = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    area = (scale[0] + u * (scale[1] - scale[0])) * grid[0] * grid[1]
    ratio = aspect[0] + v * (aspect[1] - aspect[0])
    tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(max(tall, 1), grid[0]), min(max(wide, 1), grid[1])


def _placed(
    batch: int,
    grid: tuple[int, int],
    blocks: int,
    block: tuple[int, int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Blocks at uniform positions: their union ``[B, N]`` and the tokens of each, ``[B, blocks, area]``."""
    corner = integers((grid[0] - block[0] + 1, grid[1] - block[1] + 1), (batch, blocks), generator)
    inside = torch.cartesian_prod(torch.arange(block[0]), torch.arange(block[1])) @ torch.tensor([grid[1], 1])
    tokens = (corner @ torch.tensor([grid[1], 1]))[..., None] + inside
    union = torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool).scatter_(1, tokens.flatten(1), True)
    return union, tokens


def _thin(chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Drop at random until every row has as many True as the poorest."""
    fewest = int(chosen.sum(1).min())
    key = torch.rand(chosen.shape, generator=generator) - chosen.float()  # chosen ones first
    kept = key.argsort(dim=1)[:, :fewest]
    return torch.zeros_like(chosen).scatter_(1, kept, True)
