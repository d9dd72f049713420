"""Project pipelines. Building them imports no torch, so that listing them stays quick."""

from kedro.pipeline import Pipeline

from wm_pipelines.pipelines import bench, play, replication, submission, tuning


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines by name; ``__default__`` is everything at base sizes but the search, replications, play."""
    extra = {"tuning": tuning.create_pipeline(), "replication": replication.create_pipeline()}
    known = bench.register()
    for module in (play, submission):
        extra[module.__name__.rpartition(".")[2]] = module.create_pipeline(known["__default__"])
    return {**known, **extra}
