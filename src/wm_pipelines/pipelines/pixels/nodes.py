"""Nodes of image_eval and video_eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.pipelines.configuration import FamilyParameters, ImageEvaluationConfig, VideoEvaluationConfig
from wm_pipelines.worlds.episodes import WorldConfig


def train_pixels(
    episodes: dict[str, Any],
    family: FamilyParameters,
    learning: LearningConfig,
    seeds: list[int],
    checkpoints: Path,
    *,
    family_name: str,
    world_name: str,
) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    """Fitted models by variant, their learning curves, and what they cost; a family is shown frames alone."""
    import torch

    from wm_pipelines.pipelines.pixels.judging import frame_system
    from wm_pipelines.pipelines.training.fitting import fit_family

    train = episodes["train"]
    return fit_family(
        family_name,
        world_name,
        family,
        {"frames": torch.tensor(train.frames)},
        train.content_hash,
        frame_system(train, world_name),
        learning,
        seeds,
        checkpoints,
    )


def evaluate_images(
    models: Any,
    episodes: dict[str, Any],
    world: WorldConfig,
    cost: dict[str, Any],
    evaluation: ImageEvaluationConfig,
    *,
    family_name: str,
    world_name: str,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Leaderboard rows, and pictures for the report, of every variant and of its untrained encoder."""
    from wm_pipelines.pipelines.pixels.images import judge_images
    from wm_pipelines.pipelines.pixels.judging import judge_variants

    del world
    return judge_variants(
        models,
        episodes,
        cost,
        family_name,
        world_name,
        lambda model, trained: judge_images(model, trained, episodes, evaluation),
        evaluation.untrained,
    )


def evaluate_videos(
    models: Any,
    episodes: dict[str, Any],
    world: WorldConfig,
    cost: dict[str, Any],
    evaluation: VideoEvaluationConfig,
    *,
    family_name: str,
    world_name: str,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Leaderboard rows, and frames for the report, of every variant and of its untrained encoder."""
    from wm_pipelines.pipelines.pixels.judging import judge_variants
    from wm_pipelines.pipelines.pixels.videos import judge_videos
    from wm_pipelines.worlds.episodes import build_world

    system = build_world(world, "test", world_name).system(float(episodes["test"].metadata["step"]))
    config = evaluation.on(world_name)
    return judge_variants(
        models,
        episodes,
        cost,
        family_name,
        world_name,
        lambda model, trained: judge_videos(model, trained, episodes, system, config),
        config.untrained,
    )


def embed_videos(*parts: Any, worlds: tuple[str, ...], families: tuple[str, ...]) -> pd.DataFrame:
    """Leaderboard rows: distances of predicted from true videos in the features of the project's own encoder.

    Args:
        parts: models of the encoder on every world, then the worlds' episodes, then pictures of every family.
        worlds, families: names.
    """
    from wm_pipelines.pipelines.pixels.embedding import embedding_distances

    count = len(worlds)
    models, episodes = parts[:count], parts[count : 2 * count]
    pictures = dict(zip(families, parts[2 * count :], strict=True))
    found = [embedding_distances(w, m, e, pictures) for w, m, e in zip(worlds, models, episodes, strict=True)]
    return pd.concat(found, ignore_index=True)


def summarise_pixels(scores: pd.DataFrame, *, kind: str) -> str:
    """Seeds pooled, as text for the terminal."""
    from wm_pipelines.reporting.pixels import format_terminal

    return format_terminal(scores, kind) + "\n"


def write_pixel_report(
    scores: pd.DataFrame,
    leaderboard_parts: dict[str, pd.DataFrame],
    *parts: Any,
    kind: str,
    worlds: tuple[str, ...],
    families: tuple[str, ...],
) -> str:
    """The report on pictures or videos as one HTML page that needs nothing else.

    Args:
        scores: the part of the leaderboard. leaderboard_parts: all parts, to tell which reports there are.
        parts: pictures, curves and facts of every family. kind: ``image`` or ``video``. worlds, families: names.
    """
    from wm_pipelines.pipelines.reporting.gathering import learning_curves, provenance
    from wm_pipelines.reporting.pixels import PixelContent, build_pixel_report

    count = len(families)
    pictures, curves, facts = (dict(zip(families, parts[i * count : (i + 1) * count], strict=True)) for i in range(3))
    named = {}
    for family, arrays in pictures.items():
        for key, array in arrays.items():
            world, rest = key.split("/", 1)
            named[f"{world}/{family}/{rest}"] = array
    content = PixelContent(
        kind=kind,
        scores=scores,
        worlds=worlds,
        pictures=named,
        curves=learning_curves(curves),
        not_applicable=[(w, family, why) for family, f in facts.items() for w, why in f["not_applicable"].items()],
        provenance=provenance(scores, facts),
    )
    return build_pixel_report(content, beside=list(leaderboard_parts))
