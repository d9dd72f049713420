"""The main job: which world-model family obeys the laws of physics, for how long, and at what cost."""

from wm_pipelines.pipelines.physics_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
