"""Which worlds and families there are: ``conf/<env>/globals.yml``, the same lists that ``dvc.yaml`` reads."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wm_pipelines.errors import UserError

KINDS = ("", "field_", "image_", "video_")
"""What the lists of a kind begin with: mechanical systems, fields, pictures, videos."""

_environment: dict[str, Any] = {}


@dataclass(frozen=True)
class Combinations:
    """The rows and columns of the table."""

    worlds: tuple[str, ...]
    families: tuple[str, ...]
    field_worlds: tuple[str, ...] = ()
    field_families: tuple[str, ...] = ()
    image_worlds: tuple[str, ...] = ()
    image_families: tuple[str, ...] = ()
    video_worlds: tuple[str, ...] = ()
    video_families: tuple[str, ...] = ()

    def worlds_of_families(self) -> dict[str, tuple[str, ...]]:
        """Every family of every kind, and the worlds that it meets."""
        met: dict[str, tuple[str, ...]] = {}
        for kind in KINDS:
            worlds, families = (getattr(self, kind + noun) for noun in ("worlds", "families"))
            for family in families:
                met[family] = (*met.get(family, ()), *worlds)
        return met

    def elsewhere(self) -> dict[str, tuple[str, ...]]:
        """Evaluation pipelines that have a report of their own beside the main one, and its worlds."""
        found = {f"{kind}eval": getattr(self, kind + "worlds") for kind in KINDS[1:]}
        return {pipeline: worlds for pipeline, worlds in found.items() if worlds}


def use_environment(conf_source: str | os.PathLike[str], env: str | None) -> None:
    """Tell which configuration environment the pipelines are built for (called when Kedro has chosen one)."""
    _environment.update(conf_source=Path(conf_source), env=env)


def combinations() -> Combinations:
    """The lists of the current environment, on top of base.

    Raises:
        UserError: a list is missing or empty, holds a name twice, or not a name. Only the lists of mechanical systems
            must be there. A world belongs to one list; a family may learn from pictures and from videos.
    """
    lists = read_globals()
    found = Combinations(
        **{
            kind + noun: _names(lists, kind + noun) if not kind or lists.get(kind + noun) else ()
            for kind in KINDS
            for noun in ("worlds", "families")
        }
    )
    for noun in ("worlds", "families"):
        for first, second in itertools.combinations(KINDS, 2):
            if noun == "families" and {first, second} == {"image_", "video_"}:
                continue
            if both := sorted(set(getattr(found, first + noun)) & set(getattr(found, second + noun))):
                raise UserError(
                    f"conf/…/globals.yml: '{both[0]}' stands in '{first}{noun}' and in '{second}{noun}'; keep one"
                )
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
