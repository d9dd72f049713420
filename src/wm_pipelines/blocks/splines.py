"""Splines through sampled trajectories."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import BSpline, make_interp_spline
from torch import Tensor


def interpolating_splines(time: Tensor, values: Tensor, degree: int) -> list[BSpline]:
    """One interpolating spline per episode: ``[E, T+1], [E, T+1, D]``."""
    degree = min(degree, (values.shape[1] - 1) // 2 * 2 - 1) if values.shape[1] > 2 else 1
    t, y = time.numpy(), values.numpy()
    if np.array_equal(t, np.broadcast_to(t[0], t.shape)):  # equal times: one banded solve for all episodes
        together = make_interp_spline(t[0], np.moveaxis(y, 0, 1), k=degree)
        return [BSpline(together.t, together.c[:, e], together.k) for e in range(len(y))]
    return [make_interp_spline(t[e], y[e], k=degree) for e in range(len(y))]
