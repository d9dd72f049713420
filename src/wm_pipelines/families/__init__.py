"""World-model families, one file each. A family is found by its file's name or by the decorator `register`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from wm_pipelines.errors import UserError

if TYPE_CHECKING:
    from wm_pipelines.families.protocol import Family

_REGISTERED: dict[str, type[Family]] = {}
_NOT_FAMILIES = {"protocol", "pixel_protocol"}


def register(family: type[Family]) -> type[Family]:
    """Class decorator: make a family known under its `name`."""
    _REGISTERED[family.name] = family
    return family


def family_names() -> list[str]:
    """Names of all families, in files or registered; imports none of them."""
    files = {m.name for m in pkgutil.iter_modules(__path__)} - _NOT_FAMILIES
    return sorted(files | set(_REGISTERED))


def get_family(name: str) -> type[Family]:
    """The family class of that name.

    Raises:
        UserError: no such family.
    """
    if name not in _REGISTERED and name in family_names():
        importlib.import_module(f"{__name__}.{name}")
    if name not in _REGISTERED:
        raise UserError(f"unknown family '{name}'; known: {', '.join(family_names())}")
    return _REGISTERED[name]
