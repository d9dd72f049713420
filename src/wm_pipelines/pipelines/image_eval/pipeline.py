"""Wiring of the image_eval pipeline."""

from kedro.pipeline import Pipeline

from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.pixels.wiring import pixel_pipeline


def create_pipeline() -> Pipeline:
    """From pictures to the report; empty where no image world or no family for one is listed."""
    lists = combinations()
    return pixel_pipeline("image", lists.image_worlds, lists.image_families)
