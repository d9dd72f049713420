"""Tasks, the yardsticks: one file or folder each. Found by its name or by the decorator `register`."""

from wm_pipelines.registry import tasks

register = tasks.register
