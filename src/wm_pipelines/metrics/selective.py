"""Selective decoding: when a caption of a running video is made anew, and how often the one in force is right.

VL-JEPA (Chen et al. 2025, 2512.10942) decodes where the stream of embeddings has moved, not at every
frame. A *rule* says at which frames a caption is made; until the next one it stays in force. Rules are compared by how
many captions they make for the same share of frames with the right one.

Axes: ``C`` clips, ``T`` frames, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


def by_stride(clips: int, frames: int, stride: int) -> Mask:
    """Every ``stride``-th frame from the first on, ``[C, T]``."""
    return np.broadcast_to(np.arange(frames) % stride == 0, (clips, frames)).copy()


def by_change(features: Float, threshold: float) -> Mask:
    """The first frame, and every one farther than ``threshold`` from the one last decoded, ``[C, T]``.

    Args:
        features: ``[C, T, D]``; their distance is the root mean square of the differences. threshold: in their unit.
    """
    chosen = np.zeros(features.shape[:2], bool)
    chosen[:, 0] = True
    last = features[:, 0].copy()
    for t in range(1, features.shape[1]):
        moved = np.sqrt(np.square(features[:, t] - last).mean(-1)) > threshold
        chosen[:, t], last[moved] = moved, features[moved, t]
    return chosen


def in_force(decoded: Mask, said: NDArray[np.int64]) -> NDArray[np.int64]:
    """The caption in force at every frame ``[C, T]``, of those that would be said at each; the first is decoded.

    Raises:
        ValueError: a clip begins without a caption.
    """
    if not decoded[:, 0].all():
        raise ValueError("the first frame of a clip must be decoded")
    since = np.maximum.accumulate(np.where(decoded, np.arange(decoded.shape[1]), 0), axis=1)
    return np.take_along_axis(said, since, axis=1)


def share_right(decoded: Mask, said: NDArray[np.int64], true: NDArray[np.int64]) -> Float:
    """Share of the frames whose caption in force is the true one, ``[C]``."""
    return np.asarray((in_force(decoded, said) == true).mean(1), np.float64)


def changes(true: NDArray[np.int64]) -> Float:
    """How often the true caption changes, per transition of frames, ``[C]``."""
    return np.asarray((true[:, 1:] != true[:, :-1]).mean(1), np.float64)


def laziest(
    rule: Callable[[float], Mask], settings: Sequence[float], said: NDArray[np.int64], true: NDArray[np.int64],
    wanted: float,
) -> float:  # fmt: skip
    """The setting with which fewest captions are made and still a share ``wanted`` of the frames has the right one.

    Where none is good enough, the one with the largest share. Among equals the first.

    Args:
        rule: setting -> which frames are decoded. settings: to choose among.
        said, true: captions that would be said, and are true, ``[C, T]``.
    """
    masks = [rule(setting) for setting in settings]
    shares = [float(share_right(mask, said, true).mean()) for mask in masks]
    enough = [k for k, share in enumerate(shares) if share >= wanted - 1e-12]
    best = min(enough, key=lambda k: masks[k].mean()) if enough else int(np.argmax(shares))
    return settings[best]
