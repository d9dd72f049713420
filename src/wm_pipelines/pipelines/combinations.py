"""Which worlds and families there are: ``conf/<env>/globals.yml``, the same lists that ``dvc.yaml`` reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wm_pipelines.errors import UserError

_environment: dict[str, Any] = {}


@dataclass(frozen=True)
class Combinations:
    """The rows and columns of the table."""

    worlds: tuple[str, ...]
    families: tuple[str, ...]
    field_worlds: tuple[str, ...] = ()
    field_families: tuple[str, ...] = ()


def use_environment(conf_source: str | os.PathLike[str], env: str | None) -> None:
    """Tell which configuration environment the pipelines are built for (called when Kedro has chosen one)."""
    _environment.update(conf_source=Path(conf_source), env=env)


def combinations() -> Combinations:
    """The lists of the current environment, on top of base.

    Raises:
        UserError: a list is missing or empty, holds a name twice, or not a name. The lists of fields may be missing or
            empty: then there are none.
    """
    lists = read_globals()
    fields = (_names(lists, key) if lists.get(key) else () for key in ("field_worlds", "field_families"))
    found = Combinations(_names(lists, "worlds"), _names(lists, "families"), *fields)
    for kind, first, second in (
        ("worlds", found.worlds, found.field_worlds),
        ("families", found.families, found.field_families),
    ):
        if both := sorted(set(first) & set(second)):
            raise UserError(f"conf/…/globals.yml: '{both[0]}' stands in '{kind}' and in 'field_{kind}'; keep one")
    return found


def read_globals() -> dict[str, Any]:
    """``globals.yml`` of base, overlaid by that of the environment."""
    source = _environment.get("conf_source") or _project_root() / "conf"
    merged: dict[str, Any] = {}
    for env in ("base", _environment.get("env") or os.environ.get("KEDRO_ENV") or "local"):
        path = source / env / "globals.yml"
        if path.exists():
            merged |= yaml.safe_load(path.read_text()) or {}
    return merged


def _names(lists: dict[str, Any], key: str) -> tuple[str, ...]:
    names = lists.get(key)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.isidentifier() for n in names):
        raise UserError(f"conf/…/globals.yml: '{key}' must be a non-empty list of names, got {names!r}")
    if len(set(names)) < len(names):
        raise UserError(f"conf/…/globals.yml: '{key}' holds a name twice: {names}")
    return tuple(names)


def _project_root() -> Path:
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").exists() and (folder / "conf").is_dir():
            return folder
    return Path(__file__).parents[3]
