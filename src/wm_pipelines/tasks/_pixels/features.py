"""Frozen features: how they are obtained, how far they spread, whether they have collapsed.

Axes: ``S`` seeds, ``E`` episodes, ``I`` latent steps, ``N`` examples, ``P`` patches, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Encodes, Family
from wm_pipelines.metrics.representation import effective_rank, feature_std, is_collapsed, rankme, relative_spread
from wm_pipelines.tasks.judgement import Judgement

Float = NDArray[np.float64]
Frames = NDArray[np.uint8]
Labels = NDArray[np.int64]

_LEAST_SPREAD = 0.05  # of the features' size, for images that vary by at least half of their own
_IMAGES = 500  # whose spread is measured
_RANKED = 4096  # features that spread and rank are measured on


def encoder(family: Family) -> Any:
    """The family as one that has features.

    Raises:
        UserError: it has none.
    """
    if not isinstance(family, Encodes):
        raise UserError(f"family '{family.name}' has no features to judge: it does not encode")
    return cast("Any", family)


def encode(family: Any, frames: Frames) -> tuple[Float, Tensor | None]:
    """Pooled features ``[S, E, I, D]`` and tokens ``[S, E, I, P, D]`` of frames ``[E, T, H, W, C]``."""
    encoding = family.encode({"frames": torch.tensor(frames)})
    return encoding.pooled.double().numpy(), encoding.tokens


def add_spread(judged: Judgement, features: Float, frames: Frames | None) -> None:
    """How many directions features fill and whether that is a collapse.

    Args:
        judged: takes the rows. features: ``[S, N, D]``.
        frames: ``[N, H, W, C]``, what the features are of: features may vary less than `_LEAST_SPREAD` of their size
            where the images do. None where nothing was learned: then nothing can collapse.
    """
    some = features[:, :_RANKED]
    count = some.shape[1]
    judged.add("feature_std", np.array([feature_std(z).mean() for z in some]), "1", count)
    judged.add("effective_rank", np.array([effective_rank(z) for z in some]), "1", count)
    judged.add("rankme", np.array([rankme(z) for z in some]), "1", count)
    if frames is not None:
        pixels = relative_spread(frames[:: max(1, len(frames) // _IMAGES)].reshape(-1, frames[0].size) / 255.0)
        least = _LEAST_SPREAD * min(1.0, 2 * pixels)
        judged.add("collapsed", np.array([float(is_collapsed(z, least)) for z in some]), "1", count)


def has_learned(family: Family) -> bool:
    """Whether there is anything that training may have adjusted."""
    return any(True for _ in family.parameters())


def labels_of(episodes: Mapping[str, Episodes], split: str) -> tuple[Labels, Labels] | None:
    """Labels of the training and of the judged split; None where one of them has none."""
    found = [episodes[name].get("labels") for name in ("train", split)]
    return None if any(labels is None for labels in found) else (np.asarray(found[0]), np.asarray(found[1]))
