"""Wiring of the training pipeline: one group per family, one node per world."""

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.training.nodes import train_family


def create_pipeline() -> Pipeline:
    """``<world>_episodes`` → ``<family>.<world>_models``, for every family and world."""
    return sum((_family(name) for name in combinations().families), Pipeline([]))


def _family(name: str) -> Pipeline:
    worlds = combinations().worlds
    nodes = [
        Node(
            Bound(train_family, family_name=name, world_name=world),
            inputs=[
                f"{world}_episodes",
                f"params:{world}",
                f"params:{name}",
                "params:learning",
                "params:seeds",
                "checkpoints",
            ],
            outputs=[f"{world}_models", f"{world}_curves", f"{world}_cost"],
            name=f"train_{world}",
            tags=["train", world, name],
        )
        for world in worlds
    ]
    return Pipeline(
        nodes,
        namespace=name,
        inputs={"checkpoints", *(f"{world}_episodes" for world in worlds)},
        parameters={"params:learning", "params:seeds", f"params:{name}", *(f"params:{world}" for world in worlds)},
    )
