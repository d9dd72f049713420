"""Compact objects tracked over a still background."""

from wm_pipelines.families.object_tracker.family import ObjectTracker, ObjectTrackerConfig

__all__ = ["ObjectTracker", "ObjectTrackerConfig"]
