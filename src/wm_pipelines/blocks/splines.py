"""Splines through sampled trajectories."""

from __future__ import annotations

import numpy as np
import torch
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


def spline_slopes(time: Tensor, values: Tensor) -> Tensor:
    """Time derivatives of sampled trajectories by splines of degree 5: ``[E, T+1], [E, T+1, D] -> [E, T+1, D]``."""
    splines = interpolating_splines(time, values, 5)
    return torch.stack([torch.from_numpy(f.derivative()(t)) for f, t in zip(splines, time.numpy(), strict=True)])
