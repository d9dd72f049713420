"""Colour maps of scalar fields."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.worlds.base import Float

# From cold over paper white to warm; the two halves darken equally, so that they are told apart without colour, too.
_STOPS = np.array(
    [
        [0.07, 0.18, 0.38],
        [0.18, 0.42, 0.74],
        [0.62, 0.77, 0.90],
        [0.965, 0.962, 0.945],
        [0.95, 0.74, 0.60],
        [0.84, 0.35, 0.24],
        [0.42, 0.08, 0.12],
    ]
)


def colour_map(values: Float, size: int, largest: float | None = None) -> NDArray[np.uint8]:
    """Draw scalar fields, zero in the middle of the scale.

    Args:
        values: ``[frames, rows, columns]``, the first row at the bottom of the picture.
        size: pixels along a side; values are interpolated linearly.
        largest: magnitude at the ends of the scale (default: the largest there is). Beyond it, and where a value is
            not finite, the colour is that of the end, or grey.

    Returns:
        ``[frames, size, size, 3]``.
    """
    finite = np.isfinite(values)
    values = np.where(finite, values, 0.0)
    scale = float(np.abs(values).max()) if largest is None else largest
    share = np.clip(values / (scale if scale > 0 else 1.0), -1.0, 1.0)
    share = np.where(finite, share, np.nan)
    picture = _interpolated(_interpolated(share, size, axis=1), size, axis=2)[:, ::-1]
    unknown = np.isnan(picture)
    at = np.where(unknown, 0.0, (picture + 1.0) / 2.0 * (len(_STOPS) - 1))
    colours = np.stack([np.interp(at, np.arange(len(_STOPS)), _STOPS[:, c]) for c in range(3)], axis=-1)
    colours[unknown] = 0.5
    return np.rint(255.0 * colours).astype(np.uint8)


def _interpolated(values: Float, size: int, axis: int) -> Float:
    """Resample one axis linearly to ``size`` entries, ends kept."""
    place = np.linspace(0.0, values.shape[axis] - 1.0, size)
    low = np.minimum(place.astype(int), max(values.shape[axis] - 2, 0))
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = size
    weight = (place - low).reshape(shape)
    below, above = np.take(values, low, axis), np.take(values, high, axis)
    return np.where(weight == 0.0, below, (1.0 - weight) * below + weight * above)
