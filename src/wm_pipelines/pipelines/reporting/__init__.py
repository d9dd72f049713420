"""Figures, animations, the summary and the HTML report."""

from wm_pipelines.pipelines.reporting.pipeline import create_pipeline

__all__ = ["create_pipeline"]
