"""Learn from single pictures, and judge what was learned by what can be read from it."""

from wm_pipelines.pipelines.image_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
