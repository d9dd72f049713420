"""Worlds, one file each; what they are made of is in `parts`. Found by the file's name or by `register`."""

from wm_pipelines.registry import worlds

register = worlds.register
