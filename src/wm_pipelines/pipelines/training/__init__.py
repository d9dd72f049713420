"""Fit every variant of every family on every world, all seeds at once."""

from wm_pipelines.pipelines.training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
