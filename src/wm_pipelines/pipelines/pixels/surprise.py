"""Is a model surprised where a video breaks the laws of its world?

Axes: ``S`` seeds, ``E`` episodes, ``T`` frames.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.metrics.statistics import Summary
from wm_pipelines.metrics.surprise import auc, worst_surprise
from wm_pipelines.pipelines.evaluation.judging import Judgement
from wm_pipelines.pipelines.pixels.judging import Float
from wm_pipelines.worlds.episodes import Episodes

_PREFIX = "impossible_"


def add_surprise(judged: Judgement, family: PixelFamily, episodes: Mapping[str, Episodes]) -> None:
    """Area under the ROC curve of the largest surprise of an episode, per kind of impossibility."""
    kinds = sorted(split for split in episodes if split.startswith(_PREFIX))
    if not kinds:
        return
    lawful = worst_surprise(surprises(family, _frames(episodes["test"])))
    for split in kinds:
        broken = worst_surprise(surprises(family, _frames(episodes[split])))
        areas = [auc(a, b) for a, b in zip(lawful, broken, strict=True)]
        found = [Summary.scalar(a.value, a.ci_low, a.ci_high, a.n) for a in areas]
        judged.add(f"surprise_{split.removeprefix(_PREFIX)}_auc", found, "1")


def surprises(family: PixelFamily, frames: NDArray[np.uint8]) -> Float:
    """Squared error of the prediction one instant ahead, ``[S, E, W]``, at every instant that has enough past.

    Of latents where the family predicts them, in units of their variance; else of pixels.
    """
    past, stride = family.context, family.frames_per_latent
    first = range(0, frames.shape[1] - past - stride + 1, stride)
    cut = np.stack([frames[:, i : i + past + stride] for i in first], axis=1).reshape(
        -1, past + stride, *frames.shape[2:]
    )
    clips = torch.tensor(cut)
    predicted = family.predict(clips[:, :past], stride)
    if predicted.latents is not None:
        came = family.encode(clips).pooled[:, :, -1].double()
        error = (predicted.latents[:, :, 0].double() - came).square() / came.var(1, keepdim=True).clamp_min(1e-12)
        found = error.mean(2)
    else:
        assert predicted.frames is not None
        found = (predicted.frames - clips[:, past:].float() / 255).square().flatten(2).mean(2)
    return found.double().numpy().reshape(len(family.seeds), len(frames), len(first))


def _frames(episodes: Episodes) -> NDArray[np.uint8]:
    assert episodes.frames is not None
    return episodes.frames
