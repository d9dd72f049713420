"""Train, evaluate and compare world models on worlds whose laws are known.

``wm_pipelines.load``, ``world`` and ``judge`` are for notebooks and scripts: `wm_pipelines.api`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wm_pipelines.api import Model, World, judge, load, world

__version__ = "0.1.0"
__all__ = ["Model", "World", "judge", "load", "world"]


def __getattr__(name: str) -> Any:
    """The names of `wm_pipelines.api`, imported when they are asked for: PyTorch takes seconds."""
    if name in __all__:
        return getattr(import_module("wm_pipelines.api"), name)
    raise AttributeError(f"module 'wm_pipelines' has no attribute '{name}'")
