"""Search for good parameters of any family on any world."""

from wm_pipelines.pipelines.tuning.pipeline import create_pipeline

__all__ = ["create_pipeline"]
