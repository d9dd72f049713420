"""What judging pictures and judging videos have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_pipelines.errors import UserError
from wm_pipelines.families import get_family
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.learning.artifacts import Models
from wm_pipelines.metrics.representation import effective_rank, feature_std, is_collapsed, rankme, relative_spread
from wm_pipelines.pipelines.evaluation.judging import Judgement, cost_rows, table
from wm_pipelines.pixels import FrameSystem
from wm_pipelines.worlds.episodes import Episodes

logger = logging.getLogger(__name__)

Float = NDArray[np.float64]
_LEAST_SPREAD = 0.05  # of the features' size, of pictures that vary by at least half of their own
_PICTURES = 500  # whose spread is measured
_RANKED = 4096  # features that spread and rank are measured on


def frame_system(episodes: Episodes, name: str) -> FrameSystem:
    """What a family is told of a world that it sees.

    Raises:
        UserError: the episodes have no pictures.
    """
    if episodes.frames is None:
        raise UserError(f"world '{name}' has no frames; set '{name}.frame_size' and make its episodes again")
    _, rows, height, width, channels = episodes.frames.shape
    return FrameSystem(name, float(episodes.metadata.get("step", 1.0)), rows, height, width, channels)


def judge_variants(
    models: Models,
    episodes: Mapping[str, Episodes],
    cost: Mapping[str, Any],
    family: str,
    world: str,
    judge: Callable[[PixelFamily, bool], Judgement],
    untrained: bool,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows and arrays of every variant, and rows of the untrained encoder of every variant that was trained.

    Args:
        models: trained. episodes: by split. cost: of the training, by variant. family, world: names.
        judge: judges a family; the flag says that it is trained. untrained: whether to judge untrained encoders, too.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    system = frame_system(episodes["train"], world) if models.variants else None
    for variant, model in models.variants.items():
        assert system is not None
        seeds = list(model.card["seeds"])
        restored = model.restore(system)
        assert isinstance(restored, PixelFamily)
        judged = judge(restored, True)
        rows += [{"variant": variant, **row} for row in (*cost_rows(cost[variant], seeds), *judged.rows)]
        arrays |= {f"{variant}/{name}": array for name, array in judged.arrays.items()}
        _call_collapsed(judged, f"{family} ({variant}) on {world}")
        if untrained and cost[variant]["parameters"]:
            kind = get_family(family)
            fresh = kind(kind.Config(**model.card["config"]), system, seeds).to(kind.dtype).eval()
            assert isinstance(fresh, PixelFamily)
            rows += [{"variant": f"{variant}_untrained", **row} for row in judge(fresh, False).rows]
    return table(rows, world, family), arrays


def _call_collapsed(judged: Judgement, what: str) -> None:
    collapsed = [row["seed"] for row in judged.rows if row["metric"] == "collapsed" and row["value"]]
    if collapsed:
        logger.warning(
            "%s COLLAPSED for seed(s) %s: its features hardly tell one picture from another.", what, collapsed
        )


def add_spread(judged: Judgement, features: Float, frames: NDArray[np.uint8] | None) -> None:
    """How many directions features fill and whether that is a collapse.

    Args:
        judged: takes the rows. features: ``[S, N, D]``.
        frames: ``[N, H, W, C]``, what the features are of: features may vary less than `_LEAST_SPREAD` of their size
            where the pictures do. None where nothing was learned: then nothing can collapse.
    """
    some = features[:, :_RANKED]
    count = some.shape[1]
    judged.add("feature_std", np.array([feature_std(z).mean() for z in some]), "1", count)
    judged.add("effective_rank", np.array([effective_rank(z) for z in some]), "1", count)
    judged.add("rankme", np.array([rankme(z) for z in some]), "1", count)
    if frames is not None:
        pixels = relative_spread(frames[:: max(1, len(frames) // _PICTURES)].reshape(-1, frames[0].size) / 255.0)
        least = _LEAST_SPREAD * min(1.0, 2 * pixels)
        judged.add("collapsed", np.array([float(is_collapsed(z, least)) for z in some]), "1", count)


def has_learned(family: PixelFamily) -> bool:
    """Whether there is anything that training may have adjusted."""
    return any(True for _ in family.parameters())


def encode(family: PixelFamily, frames: NDArray[np.uint8]) -> tuple[Float, Tensor | None]:
    """Pooled features ``[S, E, T', D]`` and tokens ``[S, E, T', N, D]``."""
    encoding = family.encode(torch.tensor(frames))
    return encoding.pooled.double().numpy(), encoding.tokens
