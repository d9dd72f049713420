"""Which class frozen features tell: linear, k-nearest-neighbours and attentive probes.

Axes: ``N`` (train) and ``M`` (test) examples, ``D`` features, ``T`` tokens. A test example whose features are not
finite counts as wrong; training features must be finite.

Probes are small and trained to the end: they measure what is there, not how well a probe was tuned. Flattened features
of even an untrained encoder say much about the input, so a probe means something only beside that of the untrained
encoder and that of the pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Labels = NDArray[Any]


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
        models.append(_logistic(train[fit], train_y[fit], penalty, models[-1] if models else None, tolerance=1e-4))
    best = int(np.argmax([(model.predict(train[choose]) == train_y[choose]).mean() for model in models]))
    start = models[best] if len(models[best].classes_) == len(np.unique(train_y)) else None
    return _right(_logistic(train, train_y, path[best], start).predict(test), test_y, test_x)


def _logistic(x: NDArray[np.float32], y: Labels, penalty: float, start: Any = None, tolerance: float = 1e-4) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=1.0 / (penalty * len(x)), tol=tolerance, max_iter=3000, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = start.coef_, start.intercept_, start.classes_
    with threadpool_limits(1), warnings.catch_warnings():  # sums over more threads round differently
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

    Exact. Classes with equally many neighbours: the smallest label.

    Args:
        train_x: ``[N, D]``, N ≥ k. train_y: ``[N]`` class labels. test_x: ``[M, D]``. test_y: ``[M]``.
        k: number of neighbours.
        metric: "cosine" distance, or "l2" between features as they are (not standardised).

    Returns:
        ``[M]`` of 0 and 1; its mean is the accuracy.

    Raises:
        ValueError: shapes do not fit, training features are not finite, k out of range, or unknown metric.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from threadpoolctl import threadpool_limits

    train_x, train_y, test_x, test_y = _classification(train_x, train_y, test_x, test_y, axes=2)
    if not 1 <= k <= len(train_x):
        raise ValueError(f"knn_probe needs 1 ≤ k ≤ {len(train_x)} training examples, got k = {k}")
    if metric not in ("cosine", "l2"):
        raise ValueError(f"knn_probe knows the metrics 'cosine' and 'l2', got {metric!r}")
    model = KNeighborsClassifier(k, metric=metric)
    with threadpool_limits(1):
        return _right(model.fit(train_x, train_y).predict(_finite(test_x)), test_y, test_x)


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
    mean, scale = moments(train_x.reshape(-1, train_x.shape[-1]))

    def scaled(x: NDArray[Any]) -> NDArray[np.float32]:
        return ((x - mean.astype(x.dtype)) / scale.astype(x.dtype)).astype(np.float32, copy=False)

    return scaled(train_x), np.clip(scaled(_finite(test_x)), -1e6, 1e6)


def moments(x: NDArray[Any]) -> tuple[Float, Float]:
    """Mean and scale of every column, in float64; an infinite scale where a column is constant to rounding."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    digits = np.finfo(x.dtype).eps if np.issubdtype(x.dtype, np.floating) else np.finfo(np.float64).eps
    return mean, np.where(std > 4 * digits * np.abs(mean), std, np.inf)


def _finite(x: NDArray[Any]) -> NDArray[Any]:
    return x if np.isfinite(x).all() else np.where(np.isfinite(x), x, 0.0)


def _right(guesses: Labels, truth: Labels, test_x: NDArray[Any]) -> Float:
    """1 where the guess is right and its features were finite, else 0."""
    finite = np.isfinite(test_x).reshape(len(test_x), -1).all(axis=1)
    return ((guesses == truth) & finite).astype(np.float64)
