"""How far apart two sets of feature vectors are: Fréchet distance, maximum mean discrepancy, and FVD.

Axes: ``N`` and ``M`` examples, ``D`` features. The examples are independent draws; which is called real does not
matter. The features may be anyone's: I3D logits give the FVD, Inception's give the FID, a project's own video encoder
gives a distance in the manner of JEDi, those of random convolutions (`VideoFeatures`) need no training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_ROWS = 1024
_CHANNELS, _CLIPS = (32, 64), 64


def frechet_distance(a: Float, b: Float) -> float:
    """Squared Fréchet distance of two Gaussians with the moments of ``a`` and ``b``, unit of the features squared.

    ``‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 (Σ_a^½ Σ_b Σ_a^½)^½)``, Dowson and Landau (1982); Heusel et al., *GANs Trained by
    a Two Time-Scale Update Rule* (2017) for the use. With ``Σ_a = AᵀA`` and ``Σ_b = BᵀB`` (centred examples over
    √(N-1)) the trace of the root is the sum of the singular values of ``A Bᵀ``: no covariance is formed, no matrix root
    is taken, and fewer examples than features do no harm to the arithmetic.

    They do to the statistics: the estimate is biased upwards by an amount that falls as 1/N, so compare only distances
    of equal N and M.

    Args:
        a: ``[N, D]``, N ≥ 2.
        b: ``[M, D]``, M ≥ 2.

    Returns:
        ≥ 0; infinite where a feature is not finite.

    Raises:
        ValueError: the shapes do not fit.
    """
    a, b = _two_samples(a, b, at_least=2)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.inf
    factor_a, factor_b = _factor(a), _factor(b)
    overlap = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    spread = np.square(factor_a).sum() + np.square(factor_b).sum() - 2.0 * overlap
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + max(spread, 0.0))


def _factor(x: Float) -> Float:
    """``R [min(N, D), D]`` whose ``RᵀR`` is the covariance of ``x [N, D]``."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred


def frechet_pseudo_values(reference: Float, examples: Float, of_one_episode: int = 1) -> Float:
    """Jackknife pseudo-values of the Fréchet distance of examples from a reference, one per episode: ``[E]``.

    ``E d - (E - 1) d_without_e``. Their mean is the distance less the part of its bias that falls as 1/E (Quenouille,
    *Notes on bias in estimation*, 1956), so that it says the same of few episodes and of many; it may be negative where
    the distributions are alike, and is infinite where a feature is not finite. Their spread is that of the estimate,
    and differences between two models on the same episodes are differences of their pseudo-values. The reference is
    taken as it is: what is left of the bias, and its own chance, are the same for everybody; the distance of true
    examples shows them.

    Args:
        reference: ``[N, D]``, other examples of the truth. examples: ``[E G, D]``, neighbours of one episode.
        of_one_episode: G, so many neighbours depend on each other.

    Raises:
        ValueError: the shapes do not fit, or there are fewer than three episodes.
    """
    if len(examples) % of_one_episode or len(examples) < 3 * of_one_episode:
        raise ValueError(f"{len(examples)} examples are not {of_one_episode} each of three episodes or more")
    groups = examples.reshape(-1, of_one_episode, examples.shape[-1])
    count = len(groups)
    whole = frechet_distance(reference, examples)
    if np.isinf(whole):
        return np.full(count, np.inf)
    without = [
        frechet_distance(reference, np.delete(groups, e, 0).reshape(-1, examples.shape[-1])) for e in range(count)
    ]
    return count * whole - (count - 1) * np.array(without)


class VideoFeatures:
    """Features of clips by convolutions that nobody trained: ``[N, T, H, W, C] -> [N, D]``.

    Two layers of spatio-temporal convolutions with Gaussian weights, drawn once for all (fixed seed), each followed by
    a rectifier, averaged over space and time; then the directions in which given clips vary most, in units of their
    spread. As the embedding of a network that is not trained (Naeem et al., *Reliable fidelity and diversity metrics
    for generative models*, ICML 2020) they favour no model that learned from the same videos, and there are few of
    them, as a Fréchet distance of few examples needs. Distances are comparable within a world alone.

    Args:
        clips: true ones that directions and units are taken from, ``[N, T, H, W, C]``, N ≥ 2.
        size: D, at most. seed: of the weights.

    Attributes:
        reference: features of these clips ``[N, D]``.

    Raises:
        ValueError: there are fewer than two clips, or they are all alike.
    """

    def __init__(self, clips: NDArray[Any], size: int = 8, seed: int = 0) -> None:
        from torch import Generator

        if clips.ndim != 5 or len(clips) < 2:
            raise ValueError(f"features are of clips [N, T, H, W, C], two or more, got {clips.shape}")
        generator = Generator().manual_seed(seed)
        shapes = (_CHANNELS[0], clips.shape[-1], 3, 5, 5), (_CHANNELS[1], _CHANNELS[0], 3, 3, 3)
        self._weights = [_random_kernel(shape, generator) for shape in shapes]
        seen = self._convolved(clips)
        self._mean = seen.mean(0)
        _, spread, directions = np.linalg.svd(seen - self._mean, full_matrices=False)
        kept = min(size, len(clips) - 1, int((spread > 1e-6 * max(spread[0], 1e-12)).sum()))
        if not kept or spread[0] < 1e-9:
            raise ValueError("these clips are all alike: there is nothing to compare by")
        self._axes = directions[:kept].T / (spread[:kept] / np.sqrt(len(clips)))
        self.reference = (seen - self._mean) @ self._axes

    def __call__(self, clips: NDArray[Any]) -> Float:
        """Features of clips, uint8 or floating point in [0, 1]."""
        return np.asarray((self._convolved(clips) - self._mean) @ self._axes)

    def _convolved(self, clips: NDArray[Any]) -> Float:
        import torch
        from torch.nn.functional import conv3d

        found = []
        with torch.inference_mode():
            for start in range(0, len(clips), _CLIPS):
                part = torch.as_tensor(np.ascontiguousarray(clips[start : start + _CLIPS]))
                x = part.float().div(255 if part.dtype == torch.uint8 else 1).movedim(-1, 1) - 0.5
                for (weight, bias), stride in zip(self._weights, ((1, 2, 2), (2, 2, 2)), strict=True):
                    padding = tuple(side // 2 for side in weight.shape[2:])
                    x = conv3d(x, weight, bias, stride, padding).relu_()
                found.append(x.mean((2, 3, 4)))
        return np.asarray(torch.cat(found).double().numpy())


def _random_kernel(shape: tuple[int, ...], generator: Any) -> tuple[Any, Any]:
    """Weights that keep the size of activations (He et al. 2015), and small offsets."""
    import torch

    weight = torch.randn(shape, generator=generator) * np.sqrt(2.0 / np.prod(shape[1:]))
    return weight, 0.1 * torch.randn(shape[0], generator=generator)


class Discrepancy(NamedTuple):
    """A squared maximum mean discrepancy and its standard error, both in units of the kernel."""

    value: float
    standard_error: float


def mmd(a: Float, b: Float, degree: int = 3, offset: float = 1.0, of_one_episode: int | None = None) -> Discrepancy:
    """Squared maximum mean discrepancy by the unbiased U-statistic, kernel ``(x·y / D + offset)^degree``.

    Gretton et al., *A Kernel Two-Sample Test*, JMLR 13 (2012), equation 3. The default kernel is that of the KID
    (Bińkowski et al., *Demystifying MMD GANs*, 2018). Degree 2 and offset 0 is that of JEDi (Luo et al., *Beyond FVD*,
    2024), whose released code reports 100 times the *biased* statistic. Unlike the Fréchet distance this one does not
    depend on N and assumes no Gaussian; equal distributions give zero on average, and so negative values too.

    The standard error is the jackknife's, over examples of both sets, or over the episodes that both sets are of: the
    influences of one episode's examples are added up. It is somewhat too large where the distributions are equal.

    Args:
        a: ``[N, D]``, N ≥ 3.
        b: ``[M, D]``, M ≥ 3.
        degree: of the polynomial, ≥ 1.
        offset: added to the inner product.
        of_one_episode: so many neighbours in ``a``, and in ``b``, are of one episode, the same in both, and depend on
            each other; None: all examples are independent.

    Returns:
        value and standard error; both infinite where a feature is not finite or the kernel overflows.

    Raises:
        ValueError: the shapes do not fit, the degree is not positive, or the sets are not of the same episodes.
    """
    a, b = _two_samples(a, b, at_least=3)
    if of_one_episode is not None and (len(a) != len(b) or len(a) % of_one_episode or len(a) == of_one_episode):
        raise ValueError(f"{len(a)} and {len(b)} examples are not {of_one_episode} each of the same, several episodes")
    if degree < 1:
        raise ValueError(f"mmd needs a kernel of degree 1 or more, got {degree}")
    n, m = len(a), len(b)
    with np.errstate(over="ignore", invalid="ignore"):
        aa, _ = _kernel_sums(a, a, degree, offset, diagonal=False)
        bb, _ = _kernel_sums(b, b, degree, offset, diagonal=False)
        ab, ba = _kernel_sums(a, b, degree, offset, diagonal=True)
        within_a, within_b, across = aa.sum(), bb.sum(), ab.sum()
        mean_a, mean_b = within_a / (n * (n - 1)), within_b / (m * (m - 1))
        value = mean_a + mean_b - 2 * across / (n * m)
        without_a = (within_a - 2 * aa) / ((n - 1) * (n - 2)) + mean_b - 2 * (across - ab) / ((n - 1) * m)
        without_b = (within_b - 2 * bb) / ((m - 1) * (m - 2)) + mean_a - 2 * (across - ba) / (n * (m - 1))
        if of_one_episode is None:
            variance = (n - 1) * without_a.var() + (m - 1) * without_b.var()
        else:
            parts = [(len(w) - 1) / len(w) * (w.mean() - w) for w in (without_a, without_b)]
            of_episodes = sum(part.reshape(-1, of_one_episode).sum(axis=1) for part in parts)
            variance = np.square(of_episodes).sum() * len(of_episodes) / (len(of_episodes) - 1)
    if not (np.isfinite(value) and np.isfinite(variance)):
        return Discrepancy(np.inf, np.inf)
    return Discrepancy(float(value), float(np.sqrt(variance)))


def _kernel_sums(x: Float, y: Float, degree: int, offset: float, diagonal: bool) -> tuple[Float, Float]:
    """Row sums ``[N]`` and column sums ``[M]`` of the kernel between ``x [N, D]`` and ``y [M, D]``."""
    rows, columns = np.empty(len(x)), np.zeros(len(y))
    for start in range(0, len(x), _ROWS):
        kernel = (x[start : start + _ROWS] @ y.T / x.shape[1] + offset) ** degree
        if not diagonal:
            here = np.arange(len(kernel))
            kernel[here, start + here] = 0.0
        rows[start : start + _ROWS] = kernel.sum(axis=1)
        columns += kernel.sum(axis=0)
    return rows, columns


def _two_samples(a: Float, b: Float, at_least: int) -> tuple[Float, Float]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise ValueError(f"two sets of features [N, D] and [M, D] with one D are needed, got {a.shape} and {b.shape}")
    if min(len(a), len(b)) < at_least:
        raise ValueError(f"each set needs at least {at_least} examples, got {len(a)} and {len(b)}")
    return a, b


def fvd(real: NDArray[Any], generated: NDArray[Any], features: Callable[[NDArray[Any]], Float]) -> float:
    """Fréchet video distance of clips ``[N, T, H, W, C]`` and ``[M, T, H, W, C]``, by `frechet_distance`.

    Args:
        real: uint8, or floating point in [0, 1].
        generated: likewise; the number of clips need not be the same, their length must be.
        features: clips -> ``[N, D]``, a `pretrained.I3DFeatures` for the FVD proper.

    Raises:
        ValueError: clips of different length or size, or fewer than two.
    """
    if real.shape[1:] != generated.shape[1:]:
        raise ValueError(f"clips must have one length and size, got {real.shape[1:]} and {generated.shape[1:]}")
    return frechet_distance(features(real), features(generated))
