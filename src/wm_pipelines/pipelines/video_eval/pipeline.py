"""Wiring of the video_eval pipeline."""

from kedro.pipeline import Pipeline

from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.pixels.wiring import pixel_pipeline


def create_pipeline() -> Pipeline:
    """From videos to the report; empty where no video world or no family for one is listed."""
    lists = combinations()
    return pixel_pipeline("video", lists.video_worlds, lists.video_families)
