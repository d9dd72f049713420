"""How far predicted videos are from true ones in the eyes of the project's own video encoder.

After Luo et al., *Beyond FVD: Enhanced Evaluation Metrics for Video Generation Quality* (2024): features of a
joint-embedding encoder, compared by maximum mean discrepancy, which assumes no Gaussian and does not grow where videos
are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.learning.artifacts import Models
from wm_pipelines.metrics.distances import mmd
from wm_pipelines.metrics.statistics import Summary
from wm_pipelines.pipelines.evaluation.judging import Judgement, table
from wm_pipelines.pipelines.pixels.judging import encode, frame_system
from wm_pipelines.worlds.episodes import Episodes

_Z95 = 1.959964


def embedding_distances(
    world: str, models: Models, episodes: Mapping[str, Episodes], pictures: Mapping[str, Mapping[str, NDArray[Any]]]
) -> pd.DataFrame:
    """Rows ``embedding_mmd`` of every model that predicts frames of one world, first seed.

    Args:
        world: its name. models: of the encoder's family, of which the last variant is the judge. episodes: by split.
        pictures: family -> arrays named ``world/variant/predicted_frames`` and ``…/true_frames``, ``[M, K, H, W, C]``.
    """
    tables = [table([], world, "none")]
    if not models.variants:
        return tables[0]
    judge = list(models.variants.values())[-1].restore(frame_system(episodes["train"], world))
    assert isinstance(judge, PixelFamily)
    for family, arrays in pictures.items():
        for key, predicted in arrays.items():
            of_world, variant, what = key.split("/")
            if of_world != world or what != "predicted_frames":
                continue
            judged = Judgement([0])
            distance = mmd(_embedded(judge, predicted), _embedded(judge, arrays[f"{world}/{variant}/true_frames"]))
            half = _Z95 * distance.standard_error
            ends = (distance.value - half, distance.value + half)
            judged.add("embedding_mmd", [Summary.scalar(distance.value, *ends, n=len(predicted))], "1")
            tables.append(table([{"variant": variant, **row} for row in judged.rows], world, family))
    return pd.concat(tables, ignore_index=True)


def _embedded(judge: PixelFamily, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One vector per clip: the pooled features of all its instants, ``[M, I D]``."""
    return encode(judge, frames)[0][0].reshape(len(frames), -1)
