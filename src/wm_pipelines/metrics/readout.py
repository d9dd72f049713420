"""Which quantities frozen features tell: ridge regression on them, and on windows of them.

Axes: ``N`` examples, ``D`` features, ``Q`` quantities, ``T`` time steps, ``E`` episodes. Where features of a test
example are not finite, the regression is infinitely far off; training features must be finite. See probes.py of what a
probe means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from wm_pipelines.metrics.probes import moments
from wm_pipelines.metrics.representation import triangle_of

Float = NDArray[np.float64]


@dataclass(frozen=True)
class RidgeProbe:
    """A fitted linear probe ``y ≈ (x - mean) weights + intercept``; see `ridge_probe`.

    Attributes:
        mean: of the training features, ``[D]``.
        weights: ``[D, Q]``, unit of the quantity per unit of the feature.
        intercept: ``[Q]``.
        penalty: chosen for each quantity, ``[Q]``, in units of the mean squared singular value of the features.
    """

    mean: Float
    weights: Float
    intercept: Float
    penalty: Float

    def predict(self, x: Float) -> Float:
        """``[..., D] -> [..., Q]``; not finite where the features are not.

        Raises:
            ValueError: the number of features is another than at the fit.
        """
        x = np.asarray(x, np.float64)
        if x.ndim == 0 or x.shape[-1] != len(self.mean):
            raise ValueError(f"the probe was fitted to {len(self.mean)} features, got shape {x.shape}")
        with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
            return (x - self.mean) @ self.weights + self.intercept


def ridge_probe(train_x: Float, train_y: Float) -> RidgeProbe:
    """Ridge regression on standardised features, in closed form, each quantity with its own penalty.

    The penalty minimises generalised cross-validation (Golub, Heath, Wahba 1979), the intercept counted as a degree of
    freedom, over 1e-12 … 1e6 times the mean squared singular value. Float64 by orthogonal factors: where the features
    hold a quantity exactly it is found to rounding. Independent examples are assumed: windows of one episode are not,
    and let the penalty come out too small.

    Args:
        train_x: ``[N, D]``, N ≥ 3; N < D is allowed.
        train_y: ``[N, Q]``.

    Raises:
        ValueError: shapes do not fit, or something is not finite.
    """
    x, y = np.asarray(train_x), np.asarray(train_y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or x.size == 0 or y.size == 0:
        raise ValueError(f"ridge_probe needs features [N, D] and quantities [N, Q], got {x.shape} and {y.shape}")
    if len(x) < 3:
        raise ValueError(f"ridge_probe needs at least 3 examples, got {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("training features and quantities must be finite")
    with threadpool_limits(1):  # sums over more threads round differently
        return _fitted(x, y)


def _fitted(x: Float, y: Float) -> RidgeProbe:
    n, d = x.shape
    mean, scale = moments(x)
    intercept = y.mean(axis=0)
    z, target = (x - mean) / scale, y - intercept
    if n > d + y.shape[1]:  # the triangle of [z, y] holds all that least squares needs to know
        triangle = triangle_of(np.concatenate([z, target], axis=1))
        z, target, beyond = triangle[:d, :d], triangle[:d, d:], np.square(triangle[d:, d:]).sum(axis=0)
    else:
        beyond = np.zeros(y.shape[1])
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    kept = s > (s[0] if s[0] > 0 else 1.0) * max(n, d) * np.finfo(np.float64).eps
    kept[n - 1 :] = False  # centring took one direction; what rounding left of it is none
    u, s, vt = u[:, kept], s[kept], vt[kept]
    along = u.T @ target  # [r, Q]
    beyond = beyond + np.maximum(np.square(target).sum(axis=0) - np.square(along).sum(axis=0), 0.0)
    unit = float(np.square(s).mean()) if len(s) else 1.0
    penalties = np.logspace(-12, 6, 73)
    left = penalties[:, None] * unit / (np.square(s) + penalties[:, None] * unit)  # [L, r], what of a direction is left
    residual = beyond + np.square(left) @ np.square(along)  # [L, Q]
    freedom = n - 1 - len(s) + left.sum(axis=1)
    best = np.argmin(residual / np.square(freedom)[:, None], axis=0)  # [Q]
    shrunk = along * (s[:, None] / (np.square(s)[:, None] + penalties[best] * unit))
    return RidgeProbe(mean, (vt.T @ shrunk) / scale[:, None], intercept, penalties[best])


def windows(latents: Float, width: int) -> Float:
    """Every run of ``width`` successive latents as one feature vector, oldest first: a single frame holds no velocity.

    Args:
        latents: ``[E, T, D]``.
        width: 1 … T.

    Returns:
        ``[E, T - width + 1, width·D]``; row ``t`` covers the times ``t … t + width - 1`` of its episode.

    Raises:
        ValueError: the latents are not ``[E, T, D]`` or too short.
    """
    latents = np.asarray(latents)
    if latents.ndim != 3 or not 1 <= width <= latents.shape[1]:
        raise ValueError(f"windows needs latents [E, T, D] and 1 ≤ width ≤ T, got {latents.shape} and width {width}")
    runs = np.lib.stride_tricks.sliding_window_view(latents, width, axis=1)  # [E, T - width + 1, D, width]
    return np.ascontiguousarray(np.moveaxis(runs, -1, 2)).reshape(*runs.shape[:2], -1)
