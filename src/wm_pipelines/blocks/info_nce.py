"""InfoNCE: what belongs together must be told apart from everything else (van den Oord et al. 2018, eq. 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from wm_pipelines.errors import UserError


def info_nce(a: Tensor, b: Tensor, temperature: float = 0.1, ignore: Tensor | None = None) -> Tensor:
    """Symmetric contrastive loss of ``[B, D]`` and ``[B, D]``: row ``i`` of one belongs to row ``i`` of the other.

    Args:
        a: representations; only their directions count.
        b: their partners.
        temperature: of the softmax over cosines.
        ignore: ``[B, B]``, True where ``a_i`` and ``b_j`` are no negatives of each other, as within one episode. The
            partners themselves always count.
    """
    if temperature <= 0:
        raise UserError(f"temperature must be positive, got {temperature}")
    logits = normalize(a, dim=-1) @ normalize(b, dim=-1).T / temperature
    if ignore is not None:
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)
        logits = logits.masked_fill(ignore & ~own, -math.inf)
    partner = torch.arange(len(a), device=a.device)
    return (cross_entropy(logits, partner) + cross_entropy(logits.T, partner)) / 2
