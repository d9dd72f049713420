"""Project pipelines. Building them imports no torch, so that listing them stays quick."""

from kedro.pipeline import Pipeline

from wm_pipelines.pipelines import (
    data_ingestion,
    evaluation,
    physics_eval,
    reporting,
    training,
    tuning,
)


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines by name; ``__default__`` is everything there is at base sizes, except the search of parameters."""
    return {
        "__default__": physics_eval.create_pipeline(),
        "data_ingestion": data_ingestion.create_pipeline(),
        "training": training.create_pipeline(),
        "evaluation": evaluation.create_pipeline(),
        "reporting": reporting.create_pipeline(),
        "physics_eval": physics_eval.create_pipeline(),
        "tuning": tuning.create_pipeline(),
    }
