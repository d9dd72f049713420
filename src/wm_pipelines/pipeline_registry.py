"""Project pipelines. Building them imports no torch, so that listing them stays quick."""

from kedro.pipeline import Pipeline

from wm_pipelines.pipelines import (
    data_ingestion,
    evaluation,
    field_eval,
    image_eval,
    physics_eval,
    reporting,
    training,
    tuning,
    video_eval,
)
from wm_pipelines.pipelines.evaluation.pipeline import together


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines by name; ``__default__`` is everything there is at base sizes, except the search of parameters."""
    physics, fields = physics_eval.create_pipeline(), field_eval.create_pipeline()
    images, videos = image_eval.create_pipeline(), video_eval.create_pipeline()
    return {
        "__default__": together(physics, fields, images, videos),
        "data_ingestion": data_ingestion.create_pipeline(),
        "training": training.create_pipeline(),
        "evaluation": evaluation.create_pipeline(),
        "reporting": reporting.create_pipeline(),
        "physics_eval": physics,
        "field_eval": fields,
        "image_eval": images,
        "video_eval": videos,
        "tuning": tuning.create_pipeline(),
    }
