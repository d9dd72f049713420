"""Is a model surprised where a video breaks the laws of its world?

Axes: ``S`` seeds, ``E`` episodes, ``T`` frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from wm_pipelines.episodes import Episodes
from wm_pipelines.metrics.statistics import Summary
from wm_pipelines.metrics.surprise import auc, worst_surprise
from wm_pipelines.tasks._pixels.features import Float, Frames
from wm_pipelines.tasks.judgement import Judgement

_PREFIX = "impossible_"
_LEAST = 0.01  # of the mean variance: what counts as the variance of a feature that has less


def add_surprise(judged: Judgement, model: Any, episodes: Mapping[str, Episodes], split: str, learned: Float) -> None:
    """Area under the ROC curve of the largest surprise of an episode, per kind of impossibility.

    Args:
        judged: takes the rows. model: that predicts. episodes: of all splits. split: of lawful ones.
        learned: features of training episodes, ``[S, E, I, D]``: errors are measured in their spread.
    """
    kinds = sorted(name for name in episodes if name.startswith(_PREFIX))
    if not kinds:
        return
    scale = latent_scale(learned)
    lawful = worst_surprise(surprises(model, episodes[split]["frames"], scale))
    for kind in kinds:
        broken = worst_surprise(surprises(model, episodes[kind]["frames"], scale))
        areas = [auc(a, b) for a, b in zip(lawful, broken, strict=True)]
        found = [Summary.scalar(a.value, a.ci_low, a.ci_high, a.n) for a in areas]
        judged.add(f"surprise_{kind.removeprefix(_PREFIX)}_auc", found, "1")


def latent_scale(learned: Float) -> Float:
    """Variance of every feature over lawful training episodes, ``[S, E, I, D] -> [S, D]``.

    One scale for possible and impossible clips, from neither: the variance of the clips that are scored is larger where
    they are impossible, and hides what it should show. A feature that hardly varies in training has no scale of its
    own, and is held to a hundredth of the mean variance.
    """
    variance = learned.reshape(len(learned), -1, learned.shape[-1]).var(axis=1)
    return np.asarray(np.maximum(variance, np.maximum(_LEAST * variance.mean(axis=1, keepdims=True), 1e-12)))


def surprises(model: Any, frames: Frames, scale: Float) -> Float:
    """Squared error of the prediction one latent step ahead, ``[S, E, W]``, wherever there is enough past.

    Of latents where the family predicts them, in units of `latent_scale`; else of pixels.
    """
    past, stride = model.context, model.frames_per_latent
    first = range(0, frames.shape[1] - past - stride + 1, stride)
    cut = np.stack([frames[:, i : i + past + stride] for i in first], axis=1)
    clips = torch.tensor(cut.reshape(-1, past + stride, *frames.shape[2:]))
    predicted = model.predict({"frames": clips[:, :past]}, stride)
    if "latents" in predicted:
        target = model.encode({"frames": clips}).pooled[:, :, -1].double()
        error = (predicted["latents"][:, :, 0].double() - target).square()
        found = (error / torch.tensor(scale)[:, None]).mean(2)
    else:
        found = (predicted["frames"] - clips[:, past:].float() / 255).square().flatten(2).mean(2)
    return found.double().numpy().reshape(len(model.seeds), len(frames), len(first))
