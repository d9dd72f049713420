"""Worlds of partial differential equations, one file each. Found by the file's name or by the decorator `register`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from wm_pipelines.errors import UserError

if TYPE_CHECKING:
    from wm_pipelines.worlds.fields.base import FieldWorld

_REGISTERED: dict[str, type[FieldWorld]] = {}
_NOT_WORLDS = {"base", "data", "drawing"}


def register(world: type[FieldWorld]) -> type[FieldWorld]:
    """Class decorator: make a field world known under its `name`."""
    _REGISTERED[world.name] = world
    return world


def field_world_names() -> list[str]:
    """Names of all field worlds, in files or registered; imports none of them."""
    files = {m.name for m in pkgutil.iter_modules(__path__)} - _NOT_WORLDS
    return sorted(files | set(_REGISTERED))


def get_field_world(name: str) -> type[FieldWorld]:
    """The field world of that name.

    Raises:
        UserError: no such world.
    """
    if name not in _REGISTERED and name in field_world_names():
        importlib.import_module(f"{__name__}.{name}")
    if name not in _REGISTERED:
        raise UserError(f"unknown field world '{name}'; known: {', '.join(field_world_names())}")
    return _REGISTERED[name]
