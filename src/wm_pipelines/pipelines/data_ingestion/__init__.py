"""Simulate every world, or read the user's own tables, into episodes."""

from wm_pipelines.pipelines.data_ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
