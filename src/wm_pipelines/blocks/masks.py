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


class Masks(NamedTuple):
    """Tokens to see, ``[B, K]``, and to predict, ``[B, M]``, or ``[B, J, M]`` for ``J`` blocks."""

    context: Tensor
    targets: Tensor


def random_masks(batch: int, tokens: int, ratio: float = 0.75, *, generator: torch.Generator) -> Masks:
    """Hide a share ``ratio`` of the tokens, each as likely as any other: targets ``[B, M]``."""
    hidden = count(ratio, tokens)
    order = torch.rand(batch, tokens, generator=generator).argsort(dim=1)
    return Masks(order[:, hidden:].sort(dim=1).values, order[:, :hidden].sort(dim=1).values)


def count(ratio: float, tokens: int) -> int:
    """How many of so many tokens a ratio hides.

    Raises:
        UserError: none, or all.
    """
    if not 0.0 < ratio < 1.0:
        raise UserError(f"the masked ratio must lie between 0 and 1, both excluded, got {ratio:g}")
    hidden = round(ratio * tokens)
    if not 0 < hidden < tokens:
        raise UserError(
            f"a masked ratio of {ratio:g} hides {hidden} of {tokens} tokens; some must be seen, some hidden"
        )
    return hidden


def integers(limits: tuple[int, ...], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform integers below each limit: ``[*shape, len(limits)]``."""
    drawn = torch.rand(*shape, len(limits), generator=generator, dtype=torch.float64)
    bounds = torch.tensor(limits)
    return torch.minimum((drawn * bounds).long(), bounds - 1)


def indices_of(chosen: Tensor) -> Tensor:
    """``[B, N]`` with as many True in each row -> ``[B, K]``."""
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def shade(video: Tensor, hidden: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Grey where tokens are hidden, for images of masks.

    Args:
        video: ``[B, T, H, W, C]`` in [0, 1]. hidden: tokens ``[B, …]``. grid: of the tokens, cut from the whole video.

    Returns:
        ``[B, T, H, W, C]``.
    """
    cover = torch.zeros(len(video), math.prod(grid)).scatter_(1, hidden.flatten(1).cpu(), 1.0)
    cover = interpolate(cover.view(len(video), 1, *grid), video.shape[1:4], mode="nearest")[:, 0, ..., None]
    return torch.where(cover.to(video.device) > 0, 0.5, video)
