"""Worlds, one file each. A world is found by its file's name or by the decorator `register`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from wm_pipelines.errors import UserError

if TYPE_CHECKING:
    from wm_pipelines.worlds.base import World

_REGISTERED: dict[str, type[World]] = {}
_NOT_WORLDS = {
    "paper_files",
    "base",
    "episodes",
    "rendering",
    "captions",
    "quantities",
    "particles",
    "initial",
    "simulation",
    "trajectories",
    "idx",
    "impossible",
    "video_files",
    "fields",  # worlds of partial differential equations, with a registry of their own
}


def register(world: type[World]) -> type[World]:
    """Class decorator: make a world known under its `name`."""
    _REGISTERED[world.name] = world
    return world


def world_names() -> list[str]:
    """Names of all worlds, in files or registered; imports none of them."""
    files = {m.name for m in pkgutil.iter_modules(__path__)} - _NOT_WORLDS
    return sorted(files | set(_REGISTERED))


def get_world(name: str) -> type[World]:
    """The world class of that name.

    Raises:
        UserError: no such world.
    """
    if name not in _REGISTERED and name in world_names():
        importlib.import_module(f"{__name__}.{name}")
    if name not in _REGISTERED:
        raise UserError(f"unknown world '{name}'; known: {', '.join(world_names())}")
    return _REGISTERED[name]
