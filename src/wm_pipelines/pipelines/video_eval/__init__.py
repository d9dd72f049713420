"""Learn from videos, and judge by physics what can be read from frames, features and predicted futures."""

from wm_pipelines.pipelines.video_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
