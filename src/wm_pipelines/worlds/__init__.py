"""Worlds, one file each; what several of them use is in `parts`. Found by the file's name or by `register`."""

from wm_pipelines.registry import worlds

register = worlds.register
