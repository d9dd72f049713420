"""Docstrings of this project as Sphinx reads them: several arguments in one line, colons in sentences, examples."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

_SECTION = re.compile(r"(Args|Attributes):$")


def one_entry_per_line(lines: list[str], names: set[str]) -> Iterator[str]:
    """``a: of the one. b: of the other.`` in two lines, within sections; only what is a name begins an entry."""
    indent = None
    for line in lines:
        if _SECTION.match(line.strip()):
            indent = len(line) - len(line.lstrip()) + 4
        elif indent is not None and line.strip() and not line.startswith(" " * indent):
            indent = None
        elif indent is not None:
            *before, last = re.split(r"(?<=[.:)\]`])\s(?=[\w, ]+:(?: |$))", line)
            parts = [*before, last]
            kept = [parts[0]]
            for part in parts[1:]:
                if set(part.partition(":")[0].split(", ")) <= names:
                    kept.append(" " * indent + part)
                else:
                    kept[-1] += f" {part}"
            yield from kept
            continue
        yield line


def _names(found: Any) -> set[str]:
    """Arguments of a function, attributes of a class."""
    try:
        names = set(inspect.signature(found).parameters)
    except (TypeError, ValueError):
        names = set()
    for kind in getattr(found, "__mro__", ()):
        names |= {*vars(kind), *vars(kind).get("__annotations__", ())}
    return names


def _prepare(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon."""
    del app, name, options
    if what in ("property", "attribute", "data") and lines:
        lines[0] = lines[0].replace(": ", " – ", 1)  # what stands before a colon would be taken for a type
    elif what == "module":
        for k in range(len(lines) - 1, 0, -1):
            if lines[k].startswith("    ") and not lines[k - 1].strip():
                begins = not any(line.startswith("    ") for line in lines[max(0, k - 2) : k - 1])
                lines[k:k] = ["::", ""] if begins else []
    else:
        lines[:] = one_entry_per_line(lines, _names(found))


def setup(app: Any) -> dict[str, bool]:
    """A hook of autodoc."""
    app.connect("autodoc-process-docstring", _prepare, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
