"""How far predicted frames are from the true ones: pixels, structure, and what a network sees.

Frames are ``[..., T, H, W, C]`` with ``C`` = 1 … 4 channels last, uint8 or floating point; the value is one number per
frame, ``[..., T]``, so that a caller can average by step. The truth may lack leading axes of the prediction (seeds).

Every function asks for ``data_range``, the distance between the darkest and the brightest possible pixel: 255 for
uint8, 1 for floats in [0, 1]. A number that depends on it and hides it cannot be compared. Predictions are not clipped.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.metrics.prediction import infinite_where_undefined

Float = NDArray[np.float64]
Frames = NDArray[Any]

PSNR_LIMITS = (0.0, 100.0)
"""dB. Identical frames count as 100 (8-bit rounding alone gives 59), the worst that a frame within the range can be as
0: so means exist, and a frame that is not finite is as bad as can be."""

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
_CHUNK_VALUES = 1 << 22  # pixel values in work at a time: 32 MiB per float64 array


def frame_mse(
    predicted: Frames, truth: Frames, *, data_range: float, reduction: Literal["mean", "sum"] = "mean"
) -> Float:
    """Squared error of every frame, pixels scaled to [0, 1]: ``[..., T, H, W, C] -> [..., T]``, range².

    Args:
        predicted: ``[..., T, H, W, C]``.
        truth: the same shape, or without leading axes.
        data_range: distance between the darkest and the brightest possible pixel.
        reduction: "mean" over the H·W·C values of a frame; or "sum" over them, the convention of the video prediction
            literature (Tan et al., *OpenSTL: A Comprehensive Benchmark of Spatio-Temporal Predictive Learning*, 2023),
            whose numbers grow with the size of the frame.

    Raises:
        ValueError: shapes, types or data_range do not fit together, or the reduction is unknown.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is 'mean' or 'sum', got {reduction!r}")
    predicted, truth = _pair(predicted, truth, data_range)
    pixels = int(np.prod(truth.shape[-3:]))

    def squared(p: Float, t: Float) -> Float:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.square((p - t) / data_range).sum(axis=(-3, -2, -1))

    total = infinite_where_undefined(_by_chunks(squared, predicted, truth))
    return total / pixels if reduction == "mean" else total


def psnr(predicted: Frames, truth: Frames, *, data_range: float) -> Float:
    """Peak signal-to-noise ratio of every frame, ``10 log10(range² / MSE)``: ``[..., T]``, dB, in `PSNR_LIMITS`.

    The mean of PSNRs is not the PSNR of the mean error; this is the former, one value per frame.

    Raises:
        ValueError: shapes, types or data_range do not fit together.
    """
    error = frame_mse(predicted, truth, data_range=data_range)
    with np.errstate(divide="ignore"):
        return np.clip(-10.0 * np.log10(error), *PSNR_LIMITS)


def ssim(predicted: Frames, truth: Frames, *, data_range: float) -> Float:
    """Structural similarity of every frame, mean over windows and channels: ``[..., T]`` in -1 … 1, 1 for equality.

    Wang, Bovik, Sheikh, Simoncelli, *Image quality assessment: from error visibility to structural similarity*, IEEE
    TIP 13 (2004), with the paper's constants: Gaussian window of 11 × 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03,
    weighted (population) covariances, channels on their own, windows wholly inside the frame. Equals skimage's
    ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``. A mean that also takes the
    windows which hang over the border, as torchmetrics does, differs in the third digit.

    A frame that is not finite counts as -1.

    Raises:
        ValueError: shapes, types or data_range do not fit together, or a frame is smaller than the window.
    """
    predicted, truth = _pair(predicted, truth, data_range)
    height, width = truth.shape[-3:-1]
    if min(height, width) < _WINDOW:
        raise ValueError(f"ssim needs frames of at least {_WINDOW} × {_WINDOW} pixels, got {height} × {width}")
    rows, columns = _windows(height), _windows(width).T
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2

    def similarity(p: Float, t: Float) -> Float:
        p, t = (np.ascontiguousarray(np.moveaxis(x, -1, -3)) for x in (p, t))
        with np.errstate(over="ignore", invalid="ignore"):
            mean_p, mean_t = rows @ p @ columns, rows @ t @ columns
            square_p, square_t, product = np.square(mean_p), np.square(mean_t), mean_p * mean_t
            spread = rows @ (np.square(p) + np.square(t)) @ columns - square_p - square_t
            covariance = rows @ (p * t) @ columns - product
            index = (2 * product + c1) * (2 * covariance + c2) / ((square_p + square_t + c1) * (spread + c2))
        return index.mean(axis=(-3, -2, -1))

    value = _by_chunks(similarity, predicted, truth)
    return np.where(np.isfinite(value), value, -1.0)


def lpips(
    predicted: Frames,
    truth: Frames,
    *,
    data_range: float,
    net: Literal["alex", "vgg", "squeeze"] = "alex",
    batch: int = 64,
    device: str = "cpu",
) -> Float:
    """Learned perceptual distance of every frame: ``[..., T]``, 0 for equality.

    Zhang, Isola, Efros, Shechtman, Wang, *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*
    (2018), by its authors' package, version 0.1. Pixels must lie in [0, data_range]; they are scaled to [-1, 1], and
    one grey channel is shown as three. A frame that is not finite counts as infinitely far. The networks are shared
    between calls of one process.

    Raises:
        UserError: the optional package is not installed.
        ValueError: shapes, types or data_range do not fit together, or frames have neither 1 nor 3 channels.
    """
    predicted, truth = _pair(predicted, truth, data_range)
    channels = truth.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"lpips needs frames with 1 or 3 channels, got {channels}")
    network = _perceptual_network(net, device)
    import torch

    def tensor(frames: Float) -> torch.Tensor:
        rgb = np.broadcast_to(frames, (*frames.shape[:-1], 3))
        return torch.as_tensor(np.moveaxis(2.0 * rgb / data_range - 1.0, -1, -3), dtype=torch.float32, device=device)

    def distance(p: Float, t: Float) -> Float:
        with torch.inference_mode():
            return network(tensor(p), tensor(t)).reshape(-1).double().cpu().numpy()

    return infinite_where_undefined(_by_chunks(distance, predicted, truth, batch))


@lru_cache(maxsize=4)
def _perceptual_network(net: str, device: str) -> Any:
    try:
        package = import_module("lpips")
    except ImportError:
        raise UserError(
            "LPIPS needs the optional package 'lpips' (and with it torchvision): pip install 'wm_pipelines[lpips]', "
            "or take lpips out of the metrics"
        ) from None
    return package.LPIPS(net=net, verbose=False).eval().to(device)


def _windows(size: int) -> Float:
    """Weights that average every whole window along one axis, ``[size - 10, size]``."""
    weights = np.exp(-0.5 * np.square((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA))
    matrix = np.zeros((size - _WINDOW + 1, size))
    for row in range(len(matrix)):
        matrix[row, row : row + _WINDOW] = weights / weights.sum()
    return matrix


def _pair(predicted: Frames, truth: Frames, data_range: float) -> tuple[Frames, Frames]:
    """Both as arrays of the prediction's shape, after every check that a wrong comparison would fail."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if data_range is None or not 0 < data_range < np.inf:
        raise ValueError(f"data_range must be given and positive (255 for uint8, 1 for [0, 1]), got {data_range}")
    if truth.ndim < 4 or not 1 <= truth.shape[-1] <= 4:
        raise ValueError(f"frames are [..., T, H, W, C] with 1 to 4 channels last, got {truth.shape}")
    if truth.size == 0 or predicted.shape[max(predicted.ndim - truth.ndim, 0) :] != truth.shape:
        raise ValueError(f"predicted frames {predicted.shape} do not end in the shape of the true ones {truth.shape}")
    for name, frames in (("predicted", predicted), ("true", truth)):
        if frames.dtype != np.uint8 and not np.issubdtype(frames.dtype, np.floating):
            raise ValueError(f"{name} frames must be uint8 or floating point, got {frames.dtype}")
    if (predicted.dtype == np.uint8) != (truth.dtype == np.uint8):
        raise ValueError(f"predicted frames are {predicted.dtype}, true ones {truth.dtype}: bring both to one scale")
    if truth.dtype == np.uint8 and data_range != 255:
        raise ValueError(f"uint8 frames have data_range 255, got {data_range}")
    extent = float(truth.max()) - float(truth.min())
    if not extent <= data_range * (1 + 1e-5):
        raise ValueError(
            f"the true frames extend over {extent:g}, more than data_range {data_range:g}, or are not finite"
        )
    return predicted, np.broadcast_to(truth, predicted.shape)


def _by_chunks(function: Any, predicted: Frames, truth: Frames, most: int | None = None) -> Float:
    """``function([B, H, W, C], [B, H, W, C]) -> [B]`` over all frames, in float64, without much memory at a time."""
    leading, frame = predicted.shape[:-3], predicted.shape[-3:]
    values = np.empty(leading)
    step = max(1, min(_CHUNK_VALUES // int(np.prod(frame)), most or _CHUNK_VALUES))
    for start in range(0, values.size, step):
        at = np.unravel_index(np.arange(start, min(start + step, values.size)), leading)
        values[at] = function(predicted[at].astype(np.float64), truth[at].astype(np.float64))
    return values
