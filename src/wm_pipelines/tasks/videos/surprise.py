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


def add_surprise(judged: Judgement, model: Any, episodes: Mapping[str, Episodes], split: str) -> None:
    """Area under the ROC curve of the largest surprise of an episode, per kind of impossibility."""
    kinds = sorted(name for name in episodes if name.startswith(_PREFIX))
    if not kinds:
        return
    lawful = worst_surprise(surprises(model, episodes[split]["frames"]))
    for kind in kinds:
        broken = worst_surprise(surprises(model, episodes[kind]["frames"]))
        areas = [auc(a, b) for a, b in zip(lawful, broken, strict=True)]
        found = [Summary.scalar(a.value, a.ci_low, a.ci_high, a.n) for a in areas]
        judged.add(f"surprise_{kind.removeprefix(_PREFIX)}_auc", found, "1")


def surprises(model: Any, frames: Frames) -> Float:
    """Squared error of the prediction one latent step ahead, ``[S, E, W]``, wherever there is enough past.

    Of latents where the family predicts them, in units of their variance; else of pixels.
    """
    past, stride = model.context, model.frames_per_latent
    first = range(0, frames.shape[1] - past - stride + 1, stride)
    cut = np.stack([frames[:, i : i + past + stride] for i in first], axis=1)
    clips = torch.tensor(cut.reshape(-1, past + stride, *frames.shape[2:]))
    predicted = model.predict({"frames": clips[:, :past]}, stride)
    if "latents" in predicted:
        target = model.encode({"frames": clips}).pooled[:, :, -1].double()
        error = (predicted["latents"][:, :, 0].double() - target).square()
        found = (error / target.var(1, keepdim=True).clamp_min(1e-12)).mean(2)
    else:
        found = (predicted["frames"] - clips[:, past:].float() / 255).square().flatten(2).mean(2)
    return found.double().numpy().reshape(len(model.seeds), len(frames), len(first))
