"""What an encoder makes of masked views of an image and of the whole of it: the loss of `ijepa` that asks for views.

Balestriero & LeCun 2025, LeJEPA: what is seen in masked, distorted views should be what is seen in the whole image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wm_pipelines.blocks.augment import Augmentation, affine_view
from wm_pipelines.blocks.masks import random_masks
from wm_pipelines.blocks.workers import everyone, mine


def seen_in_views(
    encoder: Any,
    projector: Any,
    images: Tensor,
    augment: Augmentation,
    mask_ratio: float,
    views: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Projected mean features of the full view and of masked views, each distorted in its own way.

    Args:
        encoder: ``[B, 1, H, W, C] -> [B, N, D]``, with ``keep`` of the tokens ``[B, K]`` alone. projector: of means.
        images: ``[B, H, W, C]`` in [0, 1]. augment: how far views differ. mask_ratio: share of tokens that masked views
            lack. views: how many of them. generator: on the CPU, draws for the global batch.

    Returns:
        ``[B, P]``; ``[views, B, P]``.
    """
    distorted = [affine_view(images, augment, generator) for _ in range(views + 1)]
    full = projector(encoder(distorted[0][:, None]).mean(1))
    drawn = random_masks(views * everyone(len(images)), encoder.tokens, mask_ratio, generator=generator).context
    keep = mine(drawn.unflatten(0, (views, -1)), 1).flatten(0, 1)
    seen = encoder(torch.cat(distorted[1:])[:, None], keep.to(images.device)).mean(1)
    return full, projector(seen).unflatten(0, (views, -1))
