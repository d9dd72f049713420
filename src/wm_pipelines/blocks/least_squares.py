"""Least squares of nearly dependent columns, a batch of them at once."""

from __future__ import annotations

import torch
from torch import Tensor


def least_squares(design: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Minimise ``|A x - y|² + ridge² n |D x|²`` with ``D`` the lengths of A's columns: ``[S,R,n], [S,R,T] -> [S,n,T]``.

    By a QR factorisation of the rows with the ridge below them, never the normal equations: random features are nearly
    dependent, and the normal equations would lose half of the digits.
    """
    size = design.shape[-1]
    length = design.norm(dim=1, keepdim=True)
    length = torch.where(length > 0, length, 1.0)
    unit = (ridge * size**0.5 * torch.eye(size, dtype=design.dtype)).expand(len(design), -1, -1)
    rows = torch.cat([design / length, unit], 1)
    right = torch.cat([targets, targets.new_zeros(len(design), size, targets.shape[-1])], 1)
    factor = torch.linalg.qr(torch.cat([rows, right], 2), mode="r").R[:, :size]
    return torch.linalg.solve_triangular(factor[..., :size], factor[..., size:], upper=True) / length.mT
