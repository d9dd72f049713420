"""Wiring of the data_ingestion pipeline: one group per world."""

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.data_ingestion.nodes import ingest_world


def create_pipeline() -> Pipeline:
    """``params:<world>`` → ``<world>_episodes``, for every world that has episodes, mechanical or seen."""
    lists = combinations()
    return ingestion((*lists.worlds, *lists.image_worlds, *lists.video_worlds))


def ingestion(worlds: tuple[str, ...]) -> Pipeline:
    """The same for some worlds."""
    return sum((_world(name) for name in worlds), Pipeline([]))


def _world(name: str) -> Pipeline:
    simulate = Node(
        Bound(ingest_world, world_name=name),
        inputs=f"params:{name}",
        outputs=f"{name}_episodes",
        name="simulate",
        tags=["ingest", name],
    )
    return Pipeline([simulate], namespace=name, outputs={f"{name}_episodes"}, parameters={f"params:{name}"})
