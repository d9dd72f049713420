"""What a representation holds: has it collapsed, and what can be read out of it.

Axes: ``N`` (train) and ``M`` (test) examples, ``D`` features, ``Q`` quantities, ``T`` tokens or time, ``E`` episodes.

Features that are not finite count as collapsed (rank and spread 0), a test example whose features are not finite counts
as wrong, and its regression as infinitely far off. Training features must be finite.

Probes are small and trained to the end: they measure what is there, not how well a probe was tuned. Flattened features
of even an untrained encoder say much about the input, so a probe means something only beside that of the untrained
encoder and that of the pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Labels = NDArray[Any]

# ---------------------------------------------------------------- collapse


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


class CodebookUsage(NamedTuple):
    """Share of the codes that occur at all, and exp(entropy) of how often: the number of codes in even use."""

    used: float
    perplexity: float


def codebook_usage(codes: NDArray[np.integer[Any]], size: int) -> CodebookUsage:
    """How much of a codebook is in use.

    Args:
        codes: indices, any shape.
        size: number of codes there are.

    Returns:
        used in 0 … 1, perplexity in 1 … size.

    Raises:
        ValueError: no codes, or one that is no index of the codebook.
    """
    codes = np.asarray(codes)
    if codes.size == 0 or not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0 or codes.max() >= size:
        raise ValueError(f"codebook_usage needs codes that are integers from 0 to {size - 1}")
    share = np.bincount(codes.reshape(-1), minlength=size) / codes.size
    return CodebookUsage(float((share > 0).mean()), _entropy_rank(share))


def _features(features: Float) -> Float:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or features.size == 0:
        raise ValueError(f"features must be [N, D], got shape {features.shape}: pool or flatten the other axes")
    return features


def _singular_values(x: Float) -> Float:
    """Of ``[N, D]``; by way of the triangular factor, which costs N D² and squares no condition number."""
    return np.linalg.svd(_triangle(x) if len(x) > x.shape[1] else x, compute_uv=False).astype(np.float64)


def _triangle(x: Float) -> Float:
    """``R [D, D]`` with ``RᵀR = xᵀx``, of ``x [N, D]``, N ≥ D."""
    return np.asarray(np.linalg.qr(x, mode="r"))


def _entropy_rank(weights: Float, eps: float = 0.0) -> float:
    total = weights.sum()
    if not total > 0:
        return 0.0
    share = weights / total + eps
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


# ---------------------------------------------------------------- probes that classify


def linear_probe(
    train_x: Float,
    train_y: Labels,
    test_x: Float,
    test_y: Labels,
    penalties: Sequence[float] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    held_out: float = 0.2,
    seed: int = 0,
) -> Float:
    """Multinomial logistic regression on standardised features: 1 where a test example is classified right, else 0.

    Minimises ``mean cross-entropy + penalty/2 ‖W‖²`` by L-BFGS in single precision. The penalty is the one that is
    right most often on a held-out part of the training set (of equals the largest), then the probe is fitted to all of
    it.

    Args:
        train_x: ``[N, D]``.
        train_y: ``[N]`` class labels.
        test_x: ``[M, D]``.
        test_y: ``[M]``.
        penalties: to choose from.
        held_out: share of the training set on which to choose.
        seed: of the split.

    Returns:
        ``[M]`` of 0 and 1; its mean is the accuracy.

    Raises:
        ValueError: shapes do not fit, training features are not finite, or fewer than two classes.
    """
    train_x, train_y, test_x, test_y = _classification(train_x, train_y, test_x, test_y, axes=2)
    train, test = _standardised(train_x, test_x)
    path = sorted(penalties, reverse=True)
    order = np.random.default_rng(seed).permutation(len(train))
    cut = max(1, round(held_out * len(train)))
    choose, fit = order[:cut], order[cut:]
    if len(np.unique(train_y[fit])) < 2:
        raise ValueError("linear_probe needs at least two classes in what the held-out part leaves; give more examples")
    models: list[Any] = []
    for penalty in path:  # from the smoothest on, each starts from the one before
        models.append(_logistic(train[fit], train_y[fit], penalty, models[-1] if models else None, tolerance=1e-3))
    best = int(np.argmax([(model.predict(train[choose]) == train_y[choose]).mean() for model in models]))
    start = models[best] if len(models[best].classes_) == len(np.unique(train_y)) else None
    return _right(_logistic(train, train_y, path[best], start).predict(test), test_y, test_x)


def _logistic(x: NDArray[np.float32], y: Labels, penalty: float, start: Any = None, tolerance: float = 1e-4) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0 / (penalty * len(x)), tol=tolerance, max_iter=300, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = start.coef_, start.intercept_, start.classes_
    with warnings.catch_warnings():
        # Directions that the data hardly tell apart take long to settle, and settle nothing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def knn_probe(
    train_x: Float,
    train_y: Labels,
    test_x: Float,
    test_y: Labels,
    k: int = 5,
    metric: Literal["cosine", "l2"] = "cosine",
) -> Float:
    """Majority among the ``k`` nearest training examples: 1 where a test example is classified right, else 0.

    Exact: candidates are found in single precision, ranked in double precision, and where rounding might have hidden
    one the search is repeated in double precision. Classes with equally many neighbours: the smallest label, as in
    sklearn.

    Args:
        train_x: ``[N, D]``, N ≥ k. train_y: ``[N]`` class labels. test_x: ``[M, D]``. test_y: ``[M]``.
        k: number of neighbours.
        metric: "cosine" distance, or "l2" between features as they are (not standardised).

    Returns:
        ``[M]`` of 0 and 1; its mean is the accuracy.

    Raises:
        ValueError: shapes do not fit, training features are not finite, k out of range, or unknown metric.
    """
    train_x, train_y, test_x, test_y = _classification(train_x, train_y, test_x, test_y, axes=2)
    if not 1 <= k <= len(train_x):
        raise ValueError(f"knn_probe needs 1 ≤ k ≤ {len(train_x)} training examples, got k = {k}")
    if metric == "cosine":  # among unit vectors the order of the cosine is that of the distance
        train_x, query = _unit(train_x), _unit(_finite(test_x))
    elif metric == "l2":
        query = _finite(test_x)
    else:
        raise ValueError(f"knn_probe knows the metrics 'cosine' and 'l2', got {metric!r}")
    classes, codes = np.unique(train_y, return_inverse=True)
    neighbours = codes[_nearest(train_x, query, k)]
    votes = np.zeros((len(query), len(classes)))
    np.add.at(votes, (np.arange(len(query))[:, None], neighbours), 1.0)
    return _right(classes[votes.argmax(axis=1)], test_y, test_x)


def _nearest(points: Float, queries: Float, k: int, spare: int = 11, chunk: int = 256) -> NDArray[np.intp]:
    """Indices of the ``k`` points nearest to each query, ``[N, D], [M, D] -> [M, k]``."""
    import torch

    points, queries = points.astype(np.float64), queries.astype(np.float64)
    centre = points.mean(axis=0)
    points, queries = points - centre, queries - centre
    size = float(np.sqrt(np.square(points).sum(axis=1).max())) or 1.0
    points, queries = points / size, queries / size
    # Half the squared distance, less what depends on the query alone, is one matrix product.
    table = np.concatenate([-points, 0.5 * np.square(points).sum(axis=1, keepdims=True)], axis=1)
    query_table = np.concatenate([queries, np.ones((len(queries), 1))], axis=1)
    coarse, found = torch.from_numpy(table.astype(np.float32)), np.empty((len(queries), k), np.intp)
    kept = min(k + spare, len(points))
    # Bound on the rounding of an inner product of D + 1 terms in single precision, and of its arguments.
    rounding = (points.shape[1] + 3) * np.finfo(np.float32).eps * (1.0 + np.linalg.norm(queries, axis=1))
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        approximate = torch.from_numpy(query_table[rows].astype(np.float32)) @ coarse.T
        far, candidate = (x.numpy() for x in torch.topk(approximate, kept, dim=1, largest=False))
        exact = np.einsum("mkd,md->mk", table[candidate], query_table[rows])
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        found[rows] = np.take_along_axis(candidate, order, axis=1)
        if kept < len(points):
            worst = np.take_along_axis(exact, order[:, -1:], axis=1)[:, 0]
            unsure = start + np.flatnonzero(far[:, -1] - rounding[rows] <= worst)
            if len(unsure):
                again = torch.from_numpy(query_table[unsure]) @ torch.from_numpy(table).T
                found[unsure] = torch.topk(again, k, dim=1, largest=False).indices.numpy()
    return found


def attentive_probe(
    train_tokens: Float,
    train_y: Labels,
    test_tokens: Float,
    test_y: Labels,
    steps: int = 1500,
    batch: int = 256,
    learning_rate: float = 1e-2,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> Float:
    """Attention pooling by one learned query and a linear head: 1 where a test example is classified right, else 0.

    ``softmax(q · x_t / √D)`` weighs the standardised tokens, and the head classifies their weighted mean. It is the
    cross-attention of I-JEPA's and V-JEPA's attentive probes (Bardes et al., *Revisiting Feature Prediction for
    Learning Visual Representations from Video*, 2024) without what follows it; with one query and one head the
    projections to keys and values are part of the query and of the head. It starts as a linear probe of the mean token
    (query and head zero).

    AdamW, learning rate falling to zero along a cosine, float32. A given seed on a given number of threads gives the
    same result every time.

    Args:
        train_tokens: ``[N, T, D]``. train_y: ``[N]`` class labels. test_tokens: ``[M, T, D]``. test_y: ``[M]``.
        steps: gradient steps. batch: examples in each.
        learning_rate: of the first step.
        weight_decay: of AdamW, on query and head.
        seed: of the order of the examples.

    Returns:
        ``[M]`` of 0 and 1; its mean is the accuracy.

    Raises:
        ValueError: shapes do not fit, training features are not finite, or fewer than two classes.
    """
    import torch
    from torch.nn.functional import cross_entropy

    train_tokens, train_y, test_tokens, test_y = _classification(train_tokens, train_y, test_tokens, test_y, axes=3)
    tokens, test = (torch.from_numpy(x) for x in _standardised(train_tokens, test_tokens))
    classes, codes = np.unique(train_y, return_inverse=True)
    labels, dimension = torch.from_numpy(codes), tokens.shape[-1]
    query = torch.zeros(dimension, requires_grad=True)
    weight, bias = (
        torch.zeros(dimension, len(classes), requires_grad=True),
        torch.zeros(len(classes), requires_grad=True),
    )

    def logits(x: torch.Tensor) -> torch.Tensor:
        attention = torch.softmax(x @ query / math.sqrt(dimension), dim=-1)
        return (attention[:, None] @ x)[:, 0] @ weight + bias

    groups: list[dict[str, Any]] = [{"params": [query, weight]}, {"params": [bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay)
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.intp)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(tokens))])
        chosen, order = torch.from_numpy(order[:batch]), order[batch:]
        optimiser.zero_grad()
        cross_entropy(logits(tokens[chosen]), labels[chosen]).backward()
        optimiser.step()
    with torch.inference_mode():
        guesses = torch.cat([logits(part).argmax(dim=1) for part in test.split(4096)]).numpy()
    return _right(classes[guesses], test_y, test_tokens)


def _classification(
    train_x: Float, train_y: Labels, test_x: Float, test_y: Labels, axes: int
) -> tuple[NDArray[Any], Labels, NDArray[Any], Labels]:
    train_x, train_y, test_x, test_y = (np.asarray(x) for x in (train_x, train_y, test_x, test_y))
    wanted = "[N, D]" if axes == 2 else "[N, T, D]"
    for name, x, y in (("training", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != axes or y.shape != x.shape[:1] or x.size == 0:
            raise ValueError(f"{name} features must be {wanted} with labels [N], got {x.shape} and {y.shape}")
    if train_x.shape[1:] != test_x.shape[1:]:
        raise ValueError(
            f"training features {train_x.shape} and test features {test_x.shape} differ after the examples"
        )
    train_x, test_x = (x.astype(np.result_type(x, np.float32), copy=False) for x in (train_x, test_x))
    if not np.isfinite(train_x).all():
        raise ValueError("training features are not finite; the encoder has diverged")
    if len(np.unique(train_y)) < 2:
        raise ValueError("a probe needs training examples of at least two classes")
    return train_x, train_y, test_x, test_y


def _standardised(train_x: NDArray[Any], test_x: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both by the training set's mean and standard deviation per feature (last axis); constant features become zero."""
    mean, scale = _moments(train_x.reshape(-1, train_x.shape[-1]))

    def scaled(x: NDArray[Any]) -> NDArray[np.float32]:
        return ((x - mean.astype(x.dtype)) / scale.astype(x.dtype)).astype(np.float32, copy=False)

    return scaled(train_x), np.clip(scaled(_finite(test_x)), -1e6, 1e6)


def _moments(x: NDArray[Any]) -> tuple[Float, Float]:
    """Mean and scale of every column, in float64; an infinite scale where a column is constant to rounding."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    digits = np.finfo(x.dtype).eps if np.issubdtype(x.dtype, np.floating) else np.finfo(np.float64).eps
    return mean, np.where(std > 4 * digits * np.abs(mean), std, np.inf)


def _finite(x: NDArray[Any]) -> NDArray[Any]:
    return x if np.isfinite(x).all() else np.where(np.isfinite(x), x, 0.0)


def _unit(x: NDArray[Any]) -> Float:
    length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1.0)


def _right(guesses: Labels, truth: Labels, test_x: NDArray[Any]) -> Float:
    """1 where the guess is right and its features were finite, else 0."""
    finite = np.isfinite(test_x).reshape(len(test_x), -1).all(axis=1)
    return ((guesses == truth) & finite).astype(np.float64)


# ---------------------------------------------------------------- probes that measure


@dataclass(frozen=True)
class RidgeProbe:
    """A fitted linear read-out ``y ≈ (x - mean) weights + intercept``; see `ridge_probe`.

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
        with np.errstate(over="ignore", invalid="ignore"):
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
    n, d = x.shape
    mean, scale = _moments(x)
    intercept = y.mean(axis=0)
    z, target = (x - mean) / scale, y - intercept
    if n > d + y.shape[1]:  # the triangle of [z, y] holds all that least squares needs to know
        triangle = _triangle(np.concatenate([z, target], axis=1))
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


def r2_score(predicted: Float, truth: Float, groups: Sequence[Sequence[int]] | None = None) -> Float:
    """Share of the variance of the truth that is explained, per quantity or pooled over groups of them.

    ``1 - Σ (y - ŷ)² / Σ (y - ȳ)²``; over a group both sums run over its columns too, so that a quantity counts by its
    variance, and all should have one unit. Guessing the mean scores 0, worse is negative.

    Args:
        predicted: ``[N, Q]``.
        truth: ``[N, Q]``, N ≥ 2.
        groups: columns of each group, ``G`` of them; every column on its own where not given.

    Returns:
        ``[Q]`` or ``[G]``, at most 1. Minus infinity where a prediction is not finite. A truth that is constant leaves
        nothing to explain: 1 where it is met, to rounding, and 0 otherwise.

    Raises:
        ValueError: shapes do not fit, the truth is not finite, or a group is empty or names a column that is not there.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if truth.ndim != 2 or predicted.shape != truth.shape or len(truth) < 2:
        raise ValueError(f"r2_score needs two arrays [N, Q] with N ≥ 2, got {predicted.shape} and {truth.shape}")
    if not np.isfinite(truth).all():
        raise ValueError("the true quantities are not finite")
    columns = [[q] for q in range(truth.shape[1])] if groups is None else [list(group) for group in groups]
    if any(not group or not all(0 <= q < truth.shape[1] for q in group) for group in columns):
        raise ValueError(f"groups must name columns from 0 to {truth.shape[1] - 1}, got {columns}")
    with np.errstate(over="ignore", invalid="ignore"):
        missed = np.where(np.isfinite(predicted).all(axis=0), np.square(predicted - truth).sum(axis=0), np.inf)
    total = np.square(truth - truth.mean(axis=0)).sum(axis=0)
    rounding = len(truth) * np.square(8 * np.finfo(np.float64).eps * np.abs(truth).max(axis=0))
    scores = np.empty(len(columns))
    for g, group in enumerate(columns):
        left, whole, least = (part[group].sum() for part in (missed, total, rounding))
        constant = 1.0 if left <= least else 0.0 if np.isfinite(left) else -np.inf
        scores[g] = 1.0 - left / whole if whole > least else constant
    return scores


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
