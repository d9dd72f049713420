"""Kedro's configuration loader, with two additions: one-line errors, and the environment told to the pipelines."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf.errors import OmegaConfBaseException

from wm_pipelines.errors import UserError, did_you_mean, unknown
from wm_pipelines.pipelines.combinations import use_environment
from wm_pipelines.yaml_files import line_of, read_yaml, shown

_SUFFIXES = (".yml", ".yaml", ".json")


class ProjectConfigLoader(OmegaConfigLoader):
    """Finds every fault of the configuration files, and tells the pipelines which environment they are built for.

    The lists of worlds and families belong to an environment, and Kedro hands none to `register_pipelines`. The loader
    is made first of all, by every command (hooks are not run by `kedro viz`).
    """

    def __init__(self, conf_source: str, env: str | None = None, *args: Any, **kwargs: Any) -> None:
        folders = _folders(Path(conf_source), env, kwargs)
        self._files = [path for folder in folders for path in _files(folder)]
        # Kedro reads a file when it is asked for it, and its errors name no line: read all of them first.
        for path in self._files:
            read_yaml(path)
            if path.stem == "globals" and path.suffix != ".yml":  # Kedro would take it, the list of what runs would not
                raise UserError(f"'{shown(path)}': must be called globals.yml; rename it")
        self._found: dict[str, dict[str, Any]] = {}
        super().__init__(conf_source, env, *args, **kwargs)
        self._check_data_root()
        use_environment(conf_source, env)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """What Kedro makes of the files of this kind; they are read once, not by each of those who ask.

        Raises:
            UserError: two files of one environment set the same key, or an interpolation cannot be resolved.
        """
        if key not in self._found:
            self._found[key] = self._read(key)
        return copy.deepcopy(self._found[key])

    def __setitem__(self, key: str, value: Any) -> None:
        """Set instead of read."""
        self._found.pop(key, None)
        super().__setitem__(key, value)

    def _read(self, key: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = super().__getitem__(key)
        except MissingConfigException:  # a ValueError for some versions, and Kedro waits for it
            raise
        except OmegaConfBaseException as error:
            raise UserError(self._unresolved(error)) from error
        except ValueError as error:
            if (message := _set_twice(error)) is None:
                raise
            raise UserError(message) from error
        return found

    def _check_data_root(self) -> None:
        """Everything is written below this folder, and `null` would be a folder called 'None'."""
        root = self._globals.get("data_root", ".")  # Kedro has just read them
        if not isinstance(root, str) or not root.strip():
            where = self._place_of("data_root", of=lambda path: path.stem == "globals")
            raise UserError(
                f"{where}: 'data_root' must be the path of a folder, got {_as_yaml(root)}; write 'data_root: data'"
            )

    def _unresolved(self, error: OmegaConfBaseException) -> str:
        reason = " ".join(str(error.msg or error).splitlines()[0].split()) if str(error) else type(error).__name__
        reason = reason.removeprefix("InterpolationResolutionError raised while resolving interpolation: ")
        key = str(error.full_key or "")
        where = self._place_of(key) if key else "conf"
        if named := re.search(r"Globals key '(.+?)' not found", reason):
            return f"{where}: ${{globals:{named[1]}}} stands for nothing{did_you_mean(named[1], self._globals)}"
        if named := re.search(r"Interpolation key '(.+?)' not found", reason):
            return f"{where}: ${{{named[1]}}} stands for nothing in these files; correct the name or write the value"
        return f"{where}: '{key}' cannot be resolved ({reason}); correct it"

    def _place_of(self, key: str, of: Any = None) -> str:
        """File and line of a key such as `mlp.variants[0].width`; the environment's file before base's."""
        parts = [part for part in re.split(r"[.\[\]]+", key) if part]
        for path in reversed(self._files):
            if (of is None or of(path)) and (line := line_of(path, parts)) is not None:
                return f"{shown(path)}:{line}"
        return f"--params={key}" if parts[0] in (self.runtime_params or {}) else "conf"


def _folders(conf: Path, env: str | None, settings: dict[str, Any]) -> list[Path]:
    """The folders that will be read, base first.

    Raises:
        UserError: there is no such environment.
    """
    if not conf.is_dir():
        if conf.exists() or ":/" in str(conf):  # an archive or a remote place: Kedro's business
            return []
        raise UserError(f"there is no configuration folder '{shown(conf)}'; correct --conf-source")
    known = sorted(path.name for path in conf.iterdir() if path.is_dir() and not path.name.startswith("."))
    base, chosen = settings.get("base_env") or "base", env or settings.get("default_run_env") or "local"
    for name in (base, chosen):
        if name not in known:
            raise UserError(unknown("environment", name, known))
    return [conf / name for name in dict.fromkeys((base, chosen))]


def _files(folder: Path) -> Iterator[Path]:
    """Configuration files, in a fixed order, as Kedro sees them: nothing that begins with a dot."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in _SUFFIXES and not hidden and path.is_file():
            yield path


def _set_twice(error: ValueError) -> str | None:
    """One line for Kedro's `Duplicate keys found in FILE and FILE: KEYS`, with the lines."""
    found = re.search(r"Duplicate keys found in (.+) and (.+): (.+)", str(error))
    if found is None:
        return None
    first, second = sorted(found.group(1, 2))
    key = found[3].split(", ")[0].removesuffix("...")
    places = (
        f"{shown(path)}:{line}" if (line := line_of(path, key.split("."))) else shown(path) for path in (first, second)
    )
    return f"{' and '.join(places)}: both set '{key}'; keep one"


def _as_yaml(value: Any) -> str:
    return "null" if value is None else repr(value)
