"""Wiring of the evaluation pipeline: a node per (family, world), then the leaderboard."""

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.evaluation.nodes import collect_family, concatenate, evaluate_family, leaderboard


def create_pipeline() -> Pipeline:
    """``<family>.<world>_models`` → ``<family>_scores`` → ``leaderboard``."""
    return (
        sum((_family(name) for name in combinations().families), Pipeline([]))
        + _gather()
        + union("physics_eval_scores")
    )


def union(*parts: str) -> Pipeline:
    """The leaderboard, made once ``parts`` are written: the union of all parts there are."""
    node = Node(
        leaderboard,
        ["leaderboard_parts", *parts],
        ["leaderboard", "leaderboard_csv"],
        name="leaderboard",
        tags=["collect"],
    )
    return Pipeline(
        [node],
        namespace="evaluation",
        inputs={*parts, "leaderboard_parts"},
        outputs={"leaderboard", "leaderboard_csv"},
    )


def together(*pipelines: Pipeline) -> Pipeline:
    """Several evaluation pipelines as one, with one leaderboard after all their parts."""
    whole, parts = Pipeline([]), set[str]()
    for pipeline in pipelines:
        unions = {node for node in pipeline.nodes if node.name == "evaluation.leaderboard"}
        parts |= {part for node in unions for part in node.inputs} - {"leaderboard_parts"}
        whole += Pipeline([node for node in pipeline.nodes if node not in unions])
    return whole + union(*sorted(parts))


def _family(name: str) -> Pipeline:
    worlds = combinations().worlds
    nodes = [
        Node(
            Bound(evaluate_family, family_name=name, world_name=world),
            inputs=[
                f"{world}_models",
                f"{world}_episodes",
                f"params:{world}",
                f"{world}_cost",
                "params:evaluation",
            ],
            outputs=[f"{world}_scores", f"{world}_rollouts"],
            name=f"evaluate_{world}",
            tags=["evaluate", world, name],
        )
        for world in worlds
    ]
    kinds = ("scores", "rollouts", "curves", "models")
    collected = {f"{name}_scores", f"{name}_rollouts", f"{name}_curves", f"{name}_facts"}
    collect = Node(
        Bound(collect_family, worlds=worlds),
        inputs=[f"{world}_{kind}" for kind in kinds for world in worlds],
        outputs=[f"{name}_scores", f"{name}_rollouts", f"{name}_curves", f"{name}_facts"],
        name="collect",
        tags=["collect"],
    )
    return Pipeline(
        [*nodes, collect],
        namespace=name,
        inputs={f"{world}_episodes" for world in worlds},
        outputs=collected,
        parameters={"params:evaluation", *(f"params:{world}" for world in worlds)},
    )


def _gather() -> Pipeline:
    scores = [f"{family}_scores" for family in combinations().families]
    node = Node(concatenate, scores, "physics_eval_scores", name="gather_physics", tags=["collect"])
    return Pipeline([node], namespace="evaluation", inputs=set(scores), outputs={"physics_eval_scores"})
