"""How worlds, families and tasks are found: by their file's name, or by a decorator."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Generic, TypeVar

from wm_pipelines.errors import UserError, did_you_mean

Kind = TypeVar("Kind", bound=type[Any])


class Registry(Generic[Kind]):
    """Classes of one noun, each under its `name`.

    A class in ``<package>/<name>.py``, or in a folder of that name, is imported when it is asked for; ``parts`` and
    modules whose name begins with an underscore hold none.
    """

    def __init__(self, noun: str, package: str, helpers: tuple[str, ...] = ()) -> None:
        self.noun, self.package, self.helpers = noun, package, {"parts", "base", *helpers}
        self._known: dict[str, Kind] = {}

    def register(self, kind: Kind) -> Kind:
        """Class decorator."""
        self._known[kind.name] = kind
        return kind

    def names(self) -> list[str]:
        """All names, in files or registered; imports none of them."""
        folder = importlib.import_module(self.package).__path__
        files = {m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_")}
        return sorted((files - self.helpers) | set(self._known))

    def get(self, name: str) -> Kind:
        """The class of that name.

        Raises:
            UserError: there is none; names the nearest.
        """
        if name not in self._known and name in self.names():
            importlib.import_module(f"{self.package}.{name}")
        if name not in self._known:
            raise UserError(f"unknown {self.noun} '{name}'{did_you_mean(name, self.names())}")
        return self._known[name]


worlds: Registry[Any] = Registry("world", "wm_pipelines.worlds", ("making",))
families: Registry[Any] = Registry("family", "wm_pipelines.families")
tasks: Registry[Any] = Registry("task", "wm_pipelines.tasks", ("judgement",))
