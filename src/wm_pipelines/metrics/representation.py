"""Has a representation collapsed: how far features spread, how many directions they fill, how many codes are used.

Axes: ``N`` examples, ``D`` features. Features that are not finite count as collapsed (rank and spread 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Labels = NDArray[Any]


def feature_std(features: Float) -> Float:
    """Standard deviation of every dimension over the examples, ``[N, D] -> [D]``, unit of the features; take the mean.

    VICReg (Bardes, Ponce, LeCun 2022) holds it at 1. It says nothing about dimensions that repeat one another.

    Raises:
        ValueError: the features are not ``[N, D]``.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        std = _features(features).std(axis=0)
    return np.where(np.isfinite(std), std, 0.0)


def effective_rank(features: Float) -> float:
    """Exponential of the entropy of the normalised singular values of the *centred* features, 1 … min(N - 1, D).

    Roy and Vetterli, *The effective rank: a measure of effective dimensionality* (2007). Independent of scale, of
    rotation and of the mean. 0 where all features are the same (to rounding), or not finite.

    Args:
        features: ``[N, D]``.

    Raises:
        ValueError: the features are not ``[N, D]``.
    """
    features = _features(features)
    if not np.isfinite(features).all():
        return 0.0
    centred = features - features.mean(axis=0)
    rounding = max(features.shape) * np.finfo(np.float64).eps * float(np.linalg.norm(features))
    values = _singular_values(centred)
    return _entropy_rank(np.where(values > rounding, values, 0.0))


def rankme(features: Float, eps: float = 1e-7) -> float:
    """RankMe: as `effective_rank`, of the features as they are, a mean included, 0 … min(N, D).

    Garrido, Balestriero, Najman, LeCun, *RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
    Representations by Their Rank* (2023), equation 1: ``exp(-Σ p_k log p_k)``, ``p_k = σ_k / ‖σ‖₁ + eps``. 0 where all
    features are zero, or not finite.

    Args:
        features: ``[N, D]``; the paper takes 25,600 examples.
        eps: the paper's, for single precision.

    Raises:
        ValueError: the features are not ``[N, D]``.
    """
    features = _features(features)
    return _entropy_rank(_singular_values(features), eps) if np.isfinite(features).all() else 0.0


def relative_spread(features: Float) -> float:
    """Root mean square of the per-dimension standard deviations over that of the features, ``[N, D]``: 0 … 1.

    Raises:
        ValueError: the features are not ``[N, D]``.
    """
    features = _features(features)
    size = np.abs(features).max()
    if not size:
        return 0.0
    return float(np.sqrt(np.square(feature_std(features / size)).mean() / np.square(features / size).mean()))


def is_collapsed(features: Float, least_spread: float = 0.05, least_rank: float = 0.05) -> bool:
    """Whether a representation has collapsed, to a point or to a few directions.

    True if one of two shares is too small; both ignore the scale and the rotation of the features:

    - *to a point*: the root mean square of the per-dimension standard deviations, over the root mean square of the
      features, is below ``least_spread``. Layer normalisation holds the latter at 1, so that the former betrays
      encoders that give everything the same features;
    - *to few directions*: the `effective_rank` is below ``least_rank`` of the most it can be, min(N - 1, D), or below
      1.1 (one direction) if that is more. Standardised features keep their spread and are betrayed by this alone.

    RankMe has no part in it: a large common mean makes it small in healthy encoders. Mean-pooled features of untrained
    transformers on MNIST (D = 64) have spread 0.09 … 0.19, effective rank 26 … 34 and RankMe 5 … 8.

    A rule of thumb to stop or flag a run, not a measure of quality: a representation may pass and be useless, and one
    of a world with few degrees of freedom in very many dimensions may fail and serve. Judge by the probes beside those
    of the untrained encoder.

    Args:
        features: ``[N, D]``, N ≥ 2, best N ≫ D.
        least_spread: smallest share of the features' size that may vary. Where the pictures themselves hardly differ
            (a small body before a still background), healthy features do not, either: allow for it.
        least_rank: smallest share of the dimensions that must be in use.

    Raises:
        ValueError: the features are not ``[N, D]``, or there is one example only.
    """
    features = _features(features)
    n, dimension = features.shape
    if n < 2:
        raise ValueError("is_collapsed needs at least two examples")
    if not np.isfinite(features).all():
        return True
    if relative_spread(features) < least_spread:
        return True
    most = min(n - 1, dimension)
    return most > 1 and effective_rank(features) < max(1.1, least_rank * most)


def _features(features: Float) -> Float:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.size == 0:
        raise ValueError(f"features must be [N, D], got shape {features.shape}: pool or flatten the other axes")
    return features


def _singular_values(x: Float) -> Float:
    """Of ``[N, D]``; by way of the triangular factor, which costs N D² and squares no condition number."""
    return np.linalg.svd(triangle_of(x) if len(x) > x.shape[1] else x, compute_uv=False).astype(np.float64)


def triangle_of(x: Float) -> Float:
    """``R [D, D]`` with ``RᵀR = xᵀx``, of ``x [N, D]``, N ≥ D."""
    return np.asarray(np.linalg.qr(x, mode="r"))


def _entropy_rank(weights: Float, eps: float = 0.0) -> float:
    total = weights.sum()
    if not total > 0:
        return 0.0
    share = weights / total + eps
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
