"""The composite of ingestion, training, evaluation and reporting."""

from kedro.pipeline import Pipeline

from wm_pipelines.pipelines import evaluation, reporting, training
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.data_ingestion.pipeline import ingestion


def create_pipeline() -> Pipeline:
    """From the laws of the worlds to the report."""
    return (
        ingestion(combinations().worlds)
        + training.create_pipeline()
        + evaluation.create_pipeline()
        + reporting.create_pipeline()
    )
