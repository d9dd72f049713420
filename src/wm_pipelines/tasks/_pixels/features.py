"""Frozen features: how they are obtained, how far they spread, whether they have collapsed.

Axes: ``S`` seeds, ``E`` episodes, ``I`` latent steps, ``N`` examples, ``P`` patches, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Encodes, Family
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.metrics.representation import effective_rank, feature_std, is_collapsed, rankme, relative_spread
from wm_pipelines.tasks.judgement import Judgement

Float = NDArray[np.float64]
Frames = NDArray[np.uint8]
Labels = NDArray[np.int64]

_LEAST_SPREAD = 0.05  # of the features' size, for images that vary by at least half of their own
_IMAGES = 500  # whose spread is measured
_BATCH = 32  # episodes whose statistics are taken together
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


@torch.no_grad()
def calibrate(family: Family, episodes: Episodes) -> None:
    """Give an untrained control what training takes from the data without learning: units, mean frames, statistics.

    Weights stay as they were drawn. Networks with batch normalisation are built for activations that it has centred and
    scaled: without, the control would be worse than an untrained network is.

    Args:
        family: untrained; calibrated in place, then in evaluation mode. episodes: those that it would learn from.
    """
    views = {name: torch.tensor(episodes[name]) for name in family.shown(family.spec)}
    family.examples(views)
    norms = [part for part in family.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not isinstance(family, MemberFamily) or not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    for part in family.modules():
        part.training = True  # a target network, too
    for start in range(0, len(episodes), _BATCH):
        batch = {name: view[start : start + _BATCH] for name, view in views.items()}
        if len(batch[family.view]) > 1:  # of a single one there is no variance
            for member in family.members:
                family.member_encode(member, batch)
    family.eval()


def repeated_frames(train: Frames, test: Frames) -> tuple[int, int]:
    """How many test frames ``[E, T, H, W, C]`` are byte for byte in the training set, and how many there are."""
    seen = {frame.tobytes() for frame in train.reshape(-1, *train.shape[2:])}
    found = [frame.tobytes() in seen for frame in test.reshape(-1, *test.shape[2:])]
    return sum(found), len(found)


def labels_of(episodes: Mapping[str, Episodes], split: str) -> tuple[Labels, Labels] | None:
    """Labels of the training and of the judged split; None where one of them has none."""
    found = [episodes[name].get("labels") for name in ("train", split)]
    return None if any(labels is None for labels in found) else (np.asarray(found[0]), np.asarray(found[1]))
