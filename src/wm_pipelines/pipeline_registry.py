"""Project pipelines. Building them imports no torch, so that listing them stays quick."""

from kedro.pipeline import Pipeline

from wm_pipelines.pipelines import bench, tuning


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines by name; ``__default__`` is everything there is at base sizes, except the search of parameters."""
    return {**bench.register(), "tuning": tuning.create_pipeline()}
