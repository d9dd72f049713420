"""What a result depends on: the source files behind a module, by following its imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parent
_PACKAGE = _ROOT.name
REPORTS = (f"{_PACKAGE}.reporting*", f"{_PACKAGE}.tasks.*report")
"""Modules that show numbers and decide none of them."""


def import_closure(*modules: str, without: Sequence[str] = ()) -> list[Path]:
    """Source files of this package that the modules import, directly or not, themselves included; sorted.

    Imports inside functions count, those for type checkers alone do not. What is imported by a computed name (a
    registry) is not followed: name it as well.

    Args:
        modules: dotted names. without: patterns of modules that are not followed.
    """
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen and not any(fnmatch(module, pattern) for pattern in without):
            seen.add(module)
            waiting += _imported(module)
    return sorted({path for module in seen if (path := module_file(module)) is not None})


@cache
def source_hash(*modules: str, without: tuple[str, ...] = ()) -> str:
    """SHA-256 over the import closure of modules, in hexadecimal."""
    files = import_closure(*modules, without=without)
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def judging_modules(task: str) -> list[str]:
    """The modules that decide what a task measures; `REPORTS` are none of them."""
    own = f"{_PACKAGE}.tasks.{task}"
    judge = f"{own}.judge"
    return [
        judge if module_file(judge) else own,
        *(f"{_PACKAGE}.{m}" for m in ("tasks.judgement", "pipelines.judging")),
    ]


def module_file(module: str) -> Path | None:
    """Where a module or package of this package stands; None for any other."""
    parts = module.split(".")
    if parts[0] != _PACKAGE:
        return None
    place = _ROOT.joinpath(*parts[1:])
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


@cache
def _imported(module: str) -> Sequence[str]:
    """Modules of this package that a module imports, and the packages it lies in."""
    path = module_file(module)
    if path is None:
        return ()
    above = module.rpartition(".")[0]
    found = {above} if above else set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return sorted(name for name in found if module_file(name) is not None)


def _nodes(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements, those under ``if TYPE_CHECKING`` left out."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _nodes(ast.Module(child.orelse, []))
        else:
            yield from _nodes(child)
