"""Wiring of the evaluation pipeline: a node per (family, world), then the leaderboard."""

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.evaluation.nodes import collect_family, concatenate, evaluate_family, leaderboard


def create_pipeline() -> Pipeline:
    """``<family>.<world>_models`` → ``<family>_scores`` → ``leaderboard``."""
    return sum((_family(name) for name in combinations().families), Pipeline([])) + _leaderboard()


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


def _leaderboard() -> Pipeline:
    scores = [f"{family}_scores" for family in combinations().families]
    nodes = [
        Node(concatenate, scores, "physics_eval_scores", name="gather_physics", tags=["collect"]),
        Node(
            leaderboard,
            ["physics_eval_scores", "leaderboard_parts"],
            ["leaderboard", "leaderboard_csv"],
            name="leaderboard",
            tags=["collect"],
        ),
    ]
    return Pipeline(
        nodes,
        namespace="evaluation",
        inputs={*scores, "leaderboard_parts"},
        outputs={"physics_eval_scores", "leaderboard", "leaderboard_csv"},
    )
