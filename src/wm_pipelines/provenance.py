"""What a result depends on: the source files behind a module, by following its imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parent
_PACKAGE = _ROOT.name


def import_closure(*modules: str) -> list[Path]:
    """Source files of this package that the modules import, directly or not, themselves included; sorted.

    Imports inside functions count, those for type checkers alone do not. What is imported by a computed name (a
    registry) is not followed: name it as well.
    """
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += _imported(module)
    return sorted({path for module in seen if (path := _path(module)) is not None})


@cache
def source_hash(*modules: str) -> str:
    """SHA-256 over the import closure of modules, in hexadecimal."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in import_closure(*modules))).hexdigest()


def _path(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] != _PACKAGE:
        return None
    place = _ROOT.joinpath(*parts[1:])
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)


@cache
def _imported(module: str) -> Sequence[str]:
    """Modules of this package that a module imports, and the packages it lies in."""
    path = _path(module)
    if path is None:
        return ()
    above = module.rpartition(".")[0]
    found = {above} if above else set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return sorted(name for name in found if _path(name) is not None)


def _nodes(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements, those under ``if TYPE_CHECKING`` left out."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _nodes(other)
        else:
            yield from _nodes(child)
