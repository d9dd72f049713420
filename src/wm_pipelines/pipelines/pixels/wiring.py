"""Wiring of image_eval and video_eval: one group per world, one per family, then the leaderboard and the report."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.data_ingestion.pipeline import ingestion
from wm_pipelines.pipelines.evaluation.nodes import collect_family, concatenate
from wm_pipelines.pipelines.evaluation.pipeline import union
from wm_pipelines.pipelines.pixels.nodes import (
    embed_videos,
    evaluate_images,
    evaluate_videos,
    summarise_pixels,
    train_pixels,
    write_pixel_report,
)

JUDGE = "vjepa"
"""The family whose encoder compares predicted with true videos."""

_EVALUATE: dict[str, Callable[..., Any]] = {"image": evaluate_images, "video": evaluate_videos}
_KINDS = ("scores", "pictures", "curves", "facts")


def pixel_pipeline(kind: str, worlds: tuple[str, ...], families: tuple[str, ...]) -> Pipeline:
    """``params:<world>`` → ``<kind>_eval_scores``, ``<kind>_report``.

    Args:
        kind: ``image`` or ``video``. worlds, families: what meets what.
    """
    if not (worlds and families):
        return Pipeline([])
    groups = [_family(kind, family, worlds) for family in families]
    return (
        ingestion(worlds)
        + sum(groups, Pipeline([]))
        + _gather(kind, worlds, families)
        + union(f"{kind}_eval_scores")
        + _report(kind, worlds, families)
    )


def _gather(kind: str, worlds: tuple[str, ...], families: tuple[str, ...]) -> Pipeline:
    """This pipeline's part of the leaderboard; of videos also their distances in the eyes of `JUDGE`."""
    scores, embed = [f"{family}_{kind}s_scores" for family in families], Pipeline([])
    if kind == "video" and JUDGE in families:
        shared = [*(f"{w}_episodes" for w in worlds), *(f"{family}_videos_pictures" for family in families)]
        node = Node(
            Bound(embed_videos, worlds=worlds, families=families),
            inputs=[*(f"{world}_models" for world in worlds), *shared],
            outputs="video_distances",
            name="embed_videos",
            tags=["collect"],
        )
        embed = Pipeline([node], namespace=JUDGE, inputs=set(shared), outputs={"video_distances"})
        scores.append("video_distances")
    made = f"{kind}_eval_scores"
    gather = Node(concatenate, scores, made, name=f"gather_{kind}s", tags=["collect"])
    return embed + Pipeline([gather], namespace="evaluation", inputs=set(scores), outputs={made})


def _family(kind: str, name: str, worlds: tuple[str, ...]) -> Pipeline:
    collected = [f"{name}_{kind}s_{what}" for what in _KINDS]
    collect = Node(
        Bound(collect_family, worlds=worlds),
        inputs=[f"{world}_{what}" for what in ("scores", "pictures", "curves", "models") for world in worlds],
        outputs=collected,
        name=f"collect_{kind}s",
        tags=["collect"],
    )
    shared = {"params:pixel_learning", "params:pixel_seeds", f"params:{kind}_evaluation", f"params:{name}"}
    return Pipeline(
        [*(node for world in worlds for node in _family_on_world(kind, name, world)), collect],
        namespace=name,
        inputs={"checkpoints", *(f"{world}_episodes" for world in worlds)},
        outputs=set(collected),
        parameters=shared | {f"params:{world}" for world in worlds},
    )


def _family_on_world(kind: str, name: str, world: str) -> list[Node]:
    train = Node(
        Bound(train_pixels, family_name=name, world_name=world),
        inputs=[f"{world}_episodes", f"params:{name}", "params:pixel_learning", "params:pixel_seeds", "checkpoints"],
        outputs=[f"{world}_{what}" for what in ("models", "curves", "cost")],
        name=f"train_{world}",
        tags=["train", world, name],
    )
    evaluate = Node(
        Bound(_EVALUATE[kind], family_name=name, world_name=world),
        inputs=[
            f"{world}_models",
            f"{world}_episodes",
            f"params:{world}",
            f"{world}_cost",
            f"params:{kind}_evaluation",
        ],
        outputs=[f"{world}_scores", f"{world}_pictures"],
        name=f"evaluate_{world}",
        tags=["evaluate", world, name],
    )
    return [train, evaluate]


def _report(kind: str, worlds: tuple[str, ...], families: tuple[str, ...]) -> Pipeline:
    collected = [f"{family}_{kind}s_{what}" for what in ("pictures", "curves", "facts") for family in families]
    scores = f"{kind}_eval_scores"
    nodes = [
        Node(Bound(summarise_pixels, kind=kind), scores, f"{kind}_summary", name="summarise", tags=["report"]),
        Node(
            Bound(write_pixel_report, kind=kind, worlds=worlds, families=families),
            inputs=[scores, "leaderboard_parts", *collected],
            outputs=f"{kind}_report",
            name="write",
            tags=["report"],
        ),
    ]
    return Pipeline(
        nodes,
        namespace=f"{kind}_report",
        inputs={scores, "leaderboard_parts", *collected},
        outputs={f"{kind}_report", f"{kind}_summary"},
    )
