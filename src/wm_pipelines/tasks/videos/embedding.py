"""How far predicted videos are from true ones in the features of the project's own video encoder.

After Luo et al., *Beyond FVD: Enhanced Evaluation Metrics for Video Generation Quality* (2024): features of a
joint-embedding encoder, compared by maximum mean discrepancy, which assumes no Gaussian and does not grow where videos
are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from wm_pipelines.families.base import Family
from wm_pipelines.metrics.distances import mmd
from wm_pipelines.metrics.statistics import Summary, t_quantile
from wm_pipelines.tasks._pixels.features import Float, Frames, encode, encoder
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.threads import threads


def distances(jury: Family, arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> list[dict[str, Any]]:
    """Rows ``embedding_mmd`` of every model that predicts frames, first seed.

    Args:
        jury: the encoder.
        arrays: model -> ``split/predicted_frames`` and ``split/true_frames``, ``[M, K, H, W, C]``, how many ``starts``
            an episode has, and others.
    """
    with threads(1):
        return _distances(jury, arrays)


def _distances(jury: Family, arrays: Mapping[str, Mapping[str, NDArray[Any]]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for model, kept in arrays.items():
        for key, predicted in kept.items():
            split, _, what = key.rpartition("/")
            if what != "predicted_frames":
                continue
            starts = int(kept[f"{split}/starts"][0])
            true = kept[f"{split}/true_frames"]
            distance = mmd(_embedded(jury, predicted), _embedded(jury, true), of_one_episode=starts)
            episodes = len(predicted) // starts
            half = t_quantile(episodes - 1, 0.95) * distance.standard_error
            ends = (distance.value - half, distance.value + half)
            judged = Judgement([0], split)
            judged.add("embedding_mmd", [Summary.scalar(distance.value, *ends, n=episodes)], "1")
            rows += [{"model": model, **row} for row in judged.rows]
    return rows


def _embedded(jury: Family, frames: Frames) -> Float:
    """One vector per clip: the pooled features of all its latent steps, ``[M, I D]``."""
    return encode(encoder(jury), frames)[0][0].reshape(len(frames), -1)
