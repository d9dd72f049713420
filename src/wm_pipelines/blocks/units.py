"""Units taken from data, so that no threshold depends on those in which the data were written.

They are powers of two: to change into such units and back rounds nothing, and data in other units that differ by powers
of two are the same numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def power_of_two(size: Tensor) -> Tensor:
    """The power of two next to each size, by ratio; 1 where a size is zero or not finite."""
    mantissa, _ = torch.frexp(size)
    unit = size / mantissa  # exact: size = mantissa 2^e with 1/2 <= mantissa < 1
    unit = torch.where(mantissa < math.sqrt(0.5), unit / 2, unit)
    return torch.where((size > 0) & torch.isfinite(size), unit, 1.0)


def state_units(states: Tensor) -> Tensor:
    """One unit for all coordinates, one for all momenta: of their spread over all rows, ``[..., 2d] -> [2d]``.

    Each half has one, as rotations of space mix coordinates; of a half that does not move it is the unit of its size.
    """
    rows = states.reshape(-1, 2, states.shape[-1] // 2)
    spread = (rows - rows.mean(0)).square().mean((0, 2)).sqrt()
    size = rows.square().mean((0, 2)).sqrt()
    # A half at rest: what is left of its mean is rounding.
    return power_of_two(torch.where(spread > 1e-12 * size, spread, size)).repeat_interleave(rows.shape[-1])
