"""Judge predicted frames against those that came.

Axes: ``S`` seeds, ``M`` predictions, ``K`` steps.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.metrics.distances import I3DFeatures, fvd
from wm_pipelines.metrics.perception import frame_mse, lpips, psnr, ssim
from wm_pipelines.pipelines.configuration import VideoEvaluationConfig
from wm_pipelines.pipelines.evaluation.judging import Judgement


def add_frames(
    judged: Judgement, predicted: NDArray[np.float32], truth: NDArray[np.uint8], config: VideoEvaluationConfig
) -> None:
    """MSE, PSNR, SSIM of all steps together and by step; LPIPS and FVD where they are asked for.

    Args:
        judged: takes the rows. predicted: ``[S, M, K, H, W, C]`` in [0, 1]. truth: ``[M, K, H, W, C]`` uint8.
        config: which further metrics.
    """
    seen = np.asarray(truth, np.float32) / 255
    of_steps = {
        "mse": (frame_mse(predicted, seen, data_range=1.0), "1"),
        "mse_per_frame": (frame_mse(predicted, seen, data_range=1.0, reduction="sum"), "1"),
        "psnr": (psnr(predicted, seen, data_range=1.0), "dB"),
        "ssim": (ssim(predicted, seen, data_range=1.0), "1"),
    }
    if config.lpips:
        of_steps["lpips"] = (lpips(predicted, seen, data_range=1.0), "1")
    for name, (values, unit) in of_steps.items():
        judged.add(name, values.mean(2), unit)
        if name != "mse_per_frame":
            for k in range(values.shape[2]):
                judged.add(name, values[:, :, k], unit, step=k + 1)
    if config.i3d is not None:
        features = I3DFeatures(config.i3d.path, config.i3d.sha256)
        judged.add("fvd", np.array([fvd(truth, p, features) for p in predicted]), "1", len(truth))


def kept(predicted: NDArray[np.float32], truth: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """First seed's predicted frames and those that came, each ``[M, K, H, W, C]``: for pictures and for distances."""
    drawn = torch.tensor(predicted[0]).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    return {"predicted_frames": drawn, "true_frames": np.ascontiguousarray(truth)}
