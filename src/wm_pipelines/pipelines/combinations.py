"""What runs: ``conf/<env>/globals.yml``, the list that the registry, the catalog and ``dvc.yaml`` read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_pipelines.errors import UserError, did_you_mean
from wm_pipelines.mappings import deep_merge
from wm_pipelines.registry import tasks
from wm_pipelines.yaml_files import read_yaml

_environment: dict[str, Any] = {}
_KEYS = ("data_root", "tasks")
LISTS = ("worlds", "families", "longest")
TASK_KEYS = (*LISTS, "seeds", "learning")


@dataclass(frozen=True)
class Combinations:
    """One task's part of the table: every family meets every world.

    Attributes:
        longest: families that train for longest, which a parallel runner starts first.
    """

    task: str
    worlds: tuple[str, ...]
    families: tuple[str, ...]
    longest: tuple[str, ...] = ()


def use_environment(conf_source: str | os.PathLike[str], env: str | None) -> None:
    """Tell which configuration environment the pipelines are built for (called when Kedro has chosen one)."""
    _environment.update(conf_source=Path(conf_source), env=env)


def combinations() -> dict[str, Combinations]:
    """What runs in the current environment, by task; a task that is null there does not.

    Raises:
        UserError: an unknown key or task, or a list that is empty, holds a name twice, or not a name.
    """
    found = {}
    listed = read_globals().get("tasks") or {}
    if not isinstance(listed, Mapping):
        raise UserError(f"globals: tasks: expected tasks by name, got {listed!r}")
    for name, entry in listed.items():
        where = f"globals: tasks.{name}"
        if name not in tasks.names():
            raise UserError(f"globals: unknown task '{name}'{did_you_mean(name, tasks.names())}")
        if entry is None:
            continue
        if not isinstance(entry, Mapping):
            raise UserError(f"{where}: expected worlds, families, seeds and learning, got {entry!r}")
        _check_keys(entry, TASK_KEYS, f"{where}.")
        longest = _names(entry, "longest", where) if entry.get("longest") else ()
        found[name] = Combinations(name, _names(entry, "worlds", where), _names(entry, "families", where), longest)
    return found


def worlds() -> tuple[str, ...]:
    """Every world that any task names."""
    return tuple(dict.fromkeys(world for c in combinations().values() for world in c.worlds))


def data_root() -> Path:
    """Where results go.

    Raises:
        UserError: it is not a path.
    """
    root = read_globals().get("data_root")
    if not isinstance(root, str) or not root.strip():
        raise UserError(f"globals: data_root must be a folder's path, got {root!r}")
    return Path(root)


def read_globals() -> dict[str, Any]:
    """``globals.yml`` of base, overlaid by that of the environment.

    Raises:
        UserError: a file cannot be read, or holds an unknown key.
    """
    merged: dict[str, Any] = {}
    for env in ("base", environment()):
        path = conf_source() / env / "globals.yml"
        if path.exists():
            merged = deep_merge(merged, read_yaml(path) or {})
    _check_keys(merged, _KEYS, "globals: ")
    return merged


def environment() -> str:
    """The configuration environment that lies over base."""
    return str(_environment.get("env") or os.environ.get("KEDRO_ENV") or "local")


def conf_source() -> Path:
    """The folder of all configuration environments."""
    return Path(_environment.get("conf_source") or (project_root() or Path(__file__).parents[3]) / "conf")


def stated(name: str) -> dict[str, Any]:
    """What the parameter files of this environment and of base say under a name, before the command line changes it."""
    found: dict[str, Any] = {}
    for env in ("base", environment()):
        for path in sorted((conf_source() / env).rglob("parameters*.yml")):
            if f"{name}:" not in path.read_text(encoding="utf-8", errors="replace"):
                continue  # reading YAML takes time, and there are many files
            own = read_yaml(path).get(name)
            found = deep_merge(found, own) if isinstance(own, Mapping) else found
    return found


def _check_keys(entry: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in entry:
        if key not in known:
            raise UserError(f"{where}unknown key '{key}'{did_you_mean(str(key), known)}")


def _names(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    names = entry.get(key)
    if not isinstance(names, list) or not names:
        raise UserError(f"{where}.{key}: a non-empty list of names, got {names!r}")
    if bad := [name for name in names if not (isinstance(name, str) and name.isidentifier())]:
        raise UserError(f"{where}.{key}: names of parameter files are letters, digits and underscores, got {bad[0]!r}")
    if len(set(names)) < len(names):
        raise UserError(f"{where}.{key}: holds a name twice: {names}")
    return tuple(names)


def project_root() -> Path | None:
    """The project that the working directory lies in; None outside of any."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "pyproject.toml").exists() and (folder / "conf").is_dir():
            return folder
    return None
