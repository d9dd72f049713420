"""The composite of ingestion, training, evaluation and reporting."""

from kedro.pipeline import Pipeline

from wm_pipelines.pipelines import data_ingestion, evaluation, reporting, training


def create_pipeline() -> Pipeline:
    """From the laws of the worlds to the report."""
    return (
        data_ingestion.create_pipeline()
        + training.create_pipeline()
        + evaluation.create_pipeline()
        + reporting.create_pipeline()
    )
