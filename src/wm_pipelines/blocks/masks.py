"""Which tokens are seen and which are to be predicted, for a whole batch at once.

Every function returns indices (int64, ascending and unique in each row) into the tokens of a grid ``(H, W)`` or
``(T, H, W)``, numbered row by row, as many for each example of the batch. Randomness comes from an explicit generator
on the CPU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wm_pipelines.errors import UserError

CANDIDATES, TRIES = 32, 8  # arrangements of blocks drawn at once; how often before moving blocks one by one
SWEEPS = 10
REDRAWS, SIZES = 20, 20  # of places for one size of blocks; of sizes


class Masks(NamedTuple):
    """Tokens to see, ``[B, K]``, and to predict, ``[B, M]``, or ``[B, J, M]`` for ``J`` blocks."""

    context: Tensor
    targets: Tensor


def random_masks(batch: int, tokens: int, ratio: float = 0.75, *, generator: torch.Generator) -> Masks:
    """Hide a share ``ratio`` of the tokens, each as likely as any other: targets ``[B, M]``."""
    hidden = _count(ratio, tokens)
    order = torch.rand(batch, tokens, generator=generator).argsort(dim=1)
    return Masks(order[:, hidden:].sort(dim=1).values, order[:, :hidden].sort(dim=1).values)


def block_masks(
    batch: int,
    grid: tuple[int, int] = (14, 14),
    blocks: int = 4,
    block: tuple[int, int] = (4, 4),
    *,
    generator: torch.Generator,
) -> Masks:
    """Hide ``blocks`` blocks that do not overlap: targets ``[B, blocks, block area]``.

    All arrangements are equally likely where one in some ten tries has no overlap, as for the default; in tighter
    grids blocks are moved about at random one by one, starting side by side.

    Raises:
        UserError: the blocks cannot be placed without overlap, or leave nothing to see.
    """
    height, width = grid
    tall, wide = block
    if blocks < 1 or tall < 1 or wide < 1:
        raise UserError(f"need at least one block of at least one token, got {blocks} of {tall} x {wide}")
    room = (height // tall) * (width // wide)  # each block covers exactly one of these many lattice points
    if blocks > room:
        raise UserError(
            f"{blocks} blocks of {tall} x {wide} do not fit into {height} x {width} tokens; at most {room} do"
        )
    if blocks * tall * wide == height * width:
        raise UserError(f"{blocks} blocks of {tall} x {wide} hide all {height} x {width} tokens; use fewer")
    places = (height - tall + 1, width - wide + 1)
    corner = torch.empty(batch, blocks, 2, dtype=torch.int64)
    pending = torch.arange(batch)
    for _ in range(TRIES):
        drawn = _integers(places, (len(pending), CANDIDATES, blocks), generator)
        fits = _apart(drawn, block)
        found = fits.any(1)
        first = fits.int().argmax(1)
        corner[pending[found]] = drawn[found, first[found]]
        pending = pending[~found]
        if 4 * int(found.sum()) < len(found) or not len(pending):
            break  # hopeless, or done
    if len(pending):
        corner[pending] = _shuffled_tiling(len(pending), grid, blocks, block, generator)
    inside = torch.cartesian_prod(torch.arange(tall), torch.arange(wide)) @ torch.tensor([width, 1])
    targets = (corner @ torch.tensor([width, 1]))[..., None] + inside
    visible = torch.ones(batch, height * width, dtype=torch.bool).scatter_(1, targets.flatten(1), False)
    return Masks(_indices(visible), targets)


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

    Sizes are drawn once for the batch (scale, aspect and context scale by a random number each), places for every
    example. All keep as many context tokens as the example with the fewest; what is too many is dropped at random.
    Targets ``[B, targets, M]``.

    Args:
        batch: examples.
        grid: tokens along height and width.
        targets: target blocks.
        scale: range of a target block's area over the grid's.
        aspect: range of its height over its width.
        context_scale: range of the context block's area (a square) over the grid's.
        least: share of tokens that must be left as context; places (then sizes) are drawn anew until they are.
        generator: source of randomness.
    """
    _check_ranges(scale, aspect)
    _check_ranges(context_scale, (1.0, 1.0))
    fewest = max(1, math.ceil(least * grid[0] * grid[1]))
    for _ in range(SIZES):
        block = _size(grid, scale, aspect, generator)
        frame = _size(grid, context_scale, (1.0, 1.0), generator)
        seen = torch.empty(batch, grid[0] * grid[1], dtype=torch.bool)
        chosen = torch.empty(batch, targets, block[0] * block[1], dtype=torch.int64)
        pending = torch.arange(batch)
        for _ in range(REDRAWS):
            hidden, indices = _placed(len(pending), grid, targets, block, generator)
            inside, _ = _placed(len(pending), grid, 1, frame, generator)
            visible = inside & ~hidden
            seen[pending], chosen[pending] = visible, indices
            pending = pending[visible.sum(1) < fewest]
            if not len(pending):
                return Masks(_indices(_thin(seen, generator)), chosen)
    raise UserError(
        f"{targets} target blocks leave no {fewest} context tokens in {grid[0]} x {grid[1]}; use fewer or smaller"
    )


def tube_masks(
    batch: int,
    grid: tuple[int, int, int] = (8, 14, 14),
    blocks: int = 8,
    scale: tuple[float, float] = (0.15, 0.15),
    aspect: tuple[float, float] = (0.75, 1.5),
    least: float = 0.05,
    *,
    generator: torch.Generator,
) -> Masks:
    """V-JEPA's masks: the union of ``blocks`` spatial blocks, hidden at all times; the rest is context.

    ``SHORT_RANGE`` and ``LONG_RANGE`` are the two settings of the paper (``tube_masks(..., **LONG_RANGE)``). One size
    per batch, places for every example. Context and targets ``[B, M]`` are cut to the smallest of the batch: whole
    tubes are dropped at random. ``least`` is the share of places that must be seen, as for ``multi_block_masks``.
    """
    _check_ranges(scale, aspect)
    time, height, width = grid
    fewest = max(1, math.ceil(least * height * width))
    for _ in range(SIZES):
        block = _size((height, width), scale, aspect, generator)
        hidden = torch.empty(batch, height * width, dtype=torch.bool)
        pending = torch.arange(batch)
        for _ in range(REDRAWS):
            hidden[pending], _ = _placed(len(pending), (height, width), blocks, block, generator)
            pending = pending[height * width - hidden[pending].sum(1) < fewest]
            if not len(pending):
                both = (_indices(_thin(part, generator)) for part in (~hidden, hidden))
                return Masks(*(_through_time(part, time, height * width) for part in both))
    raise UserError(f"{blocks} tubes leave no {fewest} of {height} x {width} positions to see; use fewer or smaller")


SHORT_RANGE = {"blocks": 8, "scale": (0.15, 0.15)}
LONG_RANGE = {"blocks": 2, "scale": (0.7, 0.7)}


def spatiotemporal_masks(
    batch: int,
    grid: tuple[int, int, int] = (8, 14, 14),
    span: int = 3,
    block: int = 4,
    ratio: float = 0.6,
    *,
    generator: torch.Generator,
) -> Masks:
    """Hide boxes of ``span`` times and ``block x block`` places until a share ``ratio`` is hidden: targets ``[B, M]``.

    The share is the same for each example, exact to a token: of the last box only a part is hidden.

    Raises:
        UserError: the ratio hides nothing or all, or the box is larger than the grid.
    """
    tokens = math.prod(grid)
    hidden = _count(ratio, tokens)
    box = (span, block, block)
    if any(not 1 <= side <= length for side, length in zip(box, grid, strict=True)):
        raise UserError(
            f"a box of {span} x {block} x {block} does not fit into {grid[0]} x {grid[1]} x {grid[2]} tokens"
        )
    places = tuple(n - side + 1 for n, side in zip(grid, box, strict=True))
    wave = 62  # boxes at a time, one bit each
    rank = torch.full((batch, tokens), math.inf)  # number of the first box that covers a token
    for start in range(0, 64 * wave, wave):
        corner = _integers(places, (batch, wave), generator)
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
    return Masks(_indices(~dark), _indices(dark))


def temporal_half_mask(batch: int, grid: tuple[int, int, int] = (8, 14, 14)) -> Masks:
    """See the first half of the times, predict the second (the longer one if odd): targets ``[B, M]``."""
    if grid[0] < 2:
        raise UserError(f"half of the times needs at least 2 of them, got {grid[0]}")
    per_time = grid[1] * grid[2]
    every = torch.arange(math.prod(grid)).expand(batch, -1)
    cut = grid[0] // 2 * per_time
    return Masks(every[:, :cut].contiguous(), every[:, cut:].contiguous())


# -------------------------------------------------------------------------------------------------------------- helpers


def _count(ratio: float, tokens: int) -> int:
    """How many tokens a ratio hides."""
    if not 0.0 < ratio < 1.0:
        raise UserError(f"the masked ratio must lie between 0 and 1, both excluded, got {ratio:g}")
    hidden = round(ratio * tokens)
    if not 0 < hidden < tokens:
        raise UserError(
            f"a masked ratio of {ratio:g} hides {hidden} of {tokens} tokens; some must be seen, some hidden"
        )
    return hidden


def _check_ranges(scale: tuple[float, float], aspect: tuple[float, float]) -> None:
    if not 0.0 < scale[0] <= scale[1] <= 1.0:
        raise UserError(f"block scales must satisfy 0 < low <= high <= 1, got {scale[0]:g} and {scale[1]:g}")
    if not 0.0 < aspect[0] <= aspect[1]:
        raise UserError(f"block aspects must satisfy 0 < low <= high, got {aspect[0]:g} and {aspect[1]:g}")


def _integers(limits: tuple[int, ...], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform integers below each limit: ``[*shape, len(limits)]``."""
    drawn = torch.rand(*shape, len(limits), generator=generator, dtype=torch.float64)
    bounds = torch.tensor(limits)
    return torch.minimum((drawn * bounds).long(), bounds - 1)


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
    """Blocks at uniform places: their union ``[B, N]`` and the tokens of each, ``[B, blocks, area]``."""
    corner = _integers((grid[0] - block[0] + 1, grid[1] - block[1] + 1), (batch, blocks), generator)
    inside = torch.cartesian_prod(torch.arange(block[0]), torch.arange(block[1])) @ torch.tensor([grid[1], 1])
    tokens = (corner @ torch.tensor([grid[1], 1]))[..., None] + inside
    union = torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool).scatter_(1, tokens.flatten(1), True)
    return union, tokens


def _indices(chosen: Tensor) -> Tensor:
    """``[B, N]`` with as many True in each row -> ``[B, K]``."""
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def _thin(chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Drop at random until every row has as many True as the poorest."""
    fewest = int(chosen.sum(1).min())
    key = torch.rand(chosen.shape, generator=generator) - chosen.float()  # chosen ones first
    kept = key.argsort(dim=1)[:, :fewest]
    return torch.zeros_like(chosen).scatter_(1, kept, True)


def _through_time(places: Tensor, time: int, per_time: int) -> Tensor:
    """The same places at all times: ``[B, K] -> [B, time * K]``."""
    return (places[:, None] + per_time * torch.arange(time)[:, None]).flatten(1)


def _bits(first: Tensor, side: int, length: int) -> Tensor:
    """Bit ``l`` of ``(b, i)`` says whether ``i`` is among the ``side`` places from ``first[b, l]``: ``[B, length]``."""
    offset = torch.arange(length)[:, None] - first[:, None]
    inside = (offset >= 0) & (offset < side)
    return (inside.long() << torch.arange(first.shape[1])).sum(-1)


def _apart(corner: Tensor, block: tuple[int, int]) -> Tensor:
    """Whether no two blocks of ``[..., J, 2]`` overlap."""
    fits = torch.ones(corner.shape[:-2], dtype=torch.bool)
    for j in range(1, corner.shape[-2]):
        gap = (corner[..., j : j + 1, :] - corner[..., :j, :]).abs()
        fits &= ((gap[..., 0] >= block[0]) | (gap[..., 1] >= block[1])).all(-1)
    return fits


def _shuffled_tiling(
    batch: int,
    grid: tuple[int, int],
    blocks: int,
    block: tuple[int, int],
    generator: torch.Generator,
) -> Tensor:
    """Blocks side by side, then each moved in turn to a uniform free place, many times: corners ``[B, blocks, 2]``."""
    down, across = grid[0] // block[0], grid[1] // block[1]
    cells = torch.cartesian_prod(torch.arange(down), torch.arange(across))
    order = torch.rand(batch, len(cells), generator=generator).argsort(dim=1)[:, :blocks]
    slack = (grid[0] - down * block[0] + 1, grid[1] - across * block[1] + 1)
    corner = cells[order] * torch.tensor(block) + _integers(slack, (batch, 1), generator)
    rows, columns = (torch.arange(n - side + 1)[:, None] for n, side in zip(grid, block, strict=True))
    for _ in range(SWEEPS):
        for j in range(blocks):
            others = torch.cat((corner[:, :j], corner[:, j + 1 :]), dim=1)
            near_row = ((rows - others[:, None, :, 0]).abs() < block[0]).float()
            near_column = ((columns - others[:, None, :, 1]).abs() < block[1]).float()
            free = (near_row @ near_column.transpose(1, 2) == 0).flatten(1).float()  # hit by none
            place = torch.multinomial(free, 1, generator=generator)[:, 0]
            corner[:, j] = torch.stack((place // len(columns), place % len(columns)), dim=1)
    return corner


def shade(video: Tensor, hidden: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Grey where tokens are hidden, for pictures of masks.

    Args:
        video: ``[B, T, H, W, C]`` in [0, 1]. hidden: tokens ``[B, …]``. grid: of the tokens, cut from the whole video.

    Returns:
        ``[B, T, H, W, C]``.
    """
    cover = torch.zeros(len(video), math.prod(grid)).scatter_(1, hidden.flatten(1).cpu(), 1.0)
    cover = interpolate(cover.view(len(video), 1, *grid), video.shape[1:4], mode="nearest")[:, 0, ..., None]
    return torch.where(cover.to(video.device) > 0, 0.5, video)
