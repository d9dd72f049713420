"""How far apart two sets of feature vectors are: Fréchet distance, maximum mean discrepancy, and FVD.

Axes: ``N`` and ``M`` examples, ``D`` features. The examples are independent draws; which is called real does not
matter. The features may be anyone's: I3D logits give the FVD, Inception's give the FID, a project's own video encoder
gives a distance in the manner of JEDi.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError

Float = NDArray[np.float64]

I3D_SIDE, I3D_LOGITS, I3D_SHORTEST = 224, 400, 10
_ROWS = 1024


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


class I3DFeatures:
    """Features of the FVD: logits of I3D trained on Kinetics-400, clips ``[N, T, H, W, 1 | 3]`` -> ``[N, 400]``.

    Takes the TorchScript export that StyleGAN-V published as ``i3d_torchscript.pt``, which reproduces the TensorFlow
    Hub network of Unterthiner et al., *Towards Accurate Generative Models of Video: A New Metric & Challenges* (2018),
    and is called as ``network(x, rescale=False, resize=False, return_features=True)`` with ``x [N, 3, T, 224, 224]`` in
    [-1, 1]. Frames are resized here, bilinearly, to 224 × 224 pixels (not cropped: the whole frame counts), and scaled
    here.

    TorchScript is code. The checksum is compared before the file is loaded, so that what runs is what was meant.

    Args:
        path: of the file.
        sha256: 64 hexadecimal digits of its checksum.
        device: where the network runs.
        batch: clips at a time.

    Raises:
        UserError: the file is missing, is another one, or is no TorchScript.
    """

    def __init__(self, path: str | Path, sha256: str, device: str = "cpu", batch: int = 8) -> None:
        self.path, self.device, self.batch = Path(path), device, batch
        source = "take i3d_torchscript.pt, which the StyleGAN-V project publishes for its FVD"
        if not self.path.is_file():
            raise UserError(f"FVD needs the I3D network as TorchScript, and '{path}' is no file: {source}")
        found = _sha256(self.path)
        if found != sha256.strip().lower():
            raise UserError(f"'{path}' has SHA-256 {found}, expected {sha256}: {source}, or correct the checksum")
        import torch

        try:
            self._network: Any = torch.jit.load(str(self.path), map_location=device).eval()
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"'{path}' is no TorchScript module ({reason}): {source}") from None

    def __call__(self, clips: NDArray[Any]) -> Float:
        """Features of clips of at least 10 frames, uint8 or floating point in [0, 1]; ``[N, T, H, W, C] -> [N, 400]``.

        Raises:
            ValueError: the clips have another shape, type or range, or are too short for the network.
        """
        import torch

        clips = np.ascontiguousarray(clips)
        if clips.ndim != 5 or clips.shape[-1] not in (1, 3) or clips.size == 0:
            raise ValueError(f"I3D takes clips [N, T, H, W, 1 | 3], got {clips.shape}")
        if clips.shape[1] < I3D_SHORTEST:
            raise ValueError(f"I3D needs clips of at least {I3D_SHORTEST} frames, got {clips.shape[1]}")
        with torch.inference_mode():
            found = [
                self._network(self._input(clips[i : i + self.batch]), rescale=False, resize=False, return_features=True)
                for i in range(0, len(clips), self.batch)
            ]
        features = torch.cat(found).double().cpu().numpy()
        if features.shape != (len(clips), I3D_LOGITS):
            raise ValueError(f"'{self.path}' gives features {features.shape[1:]} per clip, not the {I3D_LOGITS} of I3D")
        return features

    def _input(self, clips: NDArray[Any]) -> Any:
        """``[B, T, H, W, C]`` -> ``[B, 3, T, 224, 224]`` in [-1, 1]."""
        import torch
        from torch.nn.functional import interpolate

        if clips.dtype == np.uint8:
            pixels = torch.as_tensor(clips, device=self.device).float() / 255
        elif np.issubdtype(clips.dtype, np.floating):
            if clips.min() < -1e-3 or clips.max() > 1 + 1e-3:
                raise ValueError(
                    f"clips of floats lie in [0, 1], got {clips.min():g} … {clips.max():g}: clip or scale them"
                )
            pixels = torch.as_tensor(clips, dtype=torch.float32, device=self.device)
        else:
            raise ValueError(f"clips are uint8 or floating point, got {clips.dtype}")
        n, steps = clips.shape[:2]
        frames = pixels.flatten(0, 1).movedim(-1, 1)  # [B T, C, H, W]
        frames = interpolate(frames, size=(I3D_SIDE, I3D_SIDE), mode="bilinear", align_corners=False)
        return (2 * frames - 1).expand(-1, 3, -1, -1).unflatten(0, (n, steps)).movedim(2, 1).contiguous()


def fvd(real: NDArray[Any], generated: NDArray[Any], features: Callable[[NDArray[Any]], Float]) -> float:
    """Fréchet video distance of clips ``[N, T, H, W, C]`` and ``[M, T, H, W, C]``, by `frechet_distance`.

    Args:
        real: uint8, or floating point in [0, 1].
        generated: likewise; the number of clips need not be the same, their length must be.
        features: clips -> ``[N, D]``, an `I3DFeatures` for the FVD proper.

    Raises:
        ValueError: clips of different length or size, or fewer than two.
    """
    if real.shape[1:] != generated.shape[1:]:
        raise ValueError(f"clips must have one length and size, got {real.shape[1:]} and {generated.shape[1:]}")
    return frechet_distance(features(real), features(generated))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
