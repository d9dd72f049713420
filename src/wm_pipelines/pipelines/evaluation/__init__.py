"""Roll every trained model out on episodes it never saw, and judge it by the laws of its world."""

from wm_pipelines.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
