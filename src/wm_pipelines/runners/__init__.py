"""Kedro runners beyond Kedro's own."""

from wm_pipelines.runners.parallel_runner import ParallelRunner
from wm_pipelines.runners.ray_runner import RayRunner

__all__ = ["ParallelRunner", "RayRunner"]
