"""Parts of the site's pages: tables of settings, parameter files, what a module says of itself."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from wm_pipelines.families.base import Schedule
from wm_pipelines.worlds.parts.quantities import Quantity
from wm_pipelines.yaml_files import read_yaml

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent


def settings(model: type[BaseModel], path: Path | None = None) -> str:
    """Fields of a model of parameters: name, type, unit, default, meaning."""
    comments = path.read_text(encoding="utf-8") if path is not None else ""
    rows = list(_fields(model, comments))
    if not rows:
        return "It has no settings.\n"
    units = any(row[2] for row in rows)
    head = ("setting", "type", "unit", "default", "meaning")
    return table(*(row if units else (*row[:2], *row[3:]) for row in (head, *rows)))


def _fields(model: type[BaseModel], comments: str, before: str = "") -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        inner = _nested(field.annotation)
        if inner is Schedule:
            continue
        unit = next((f"`{m.unit}`" for m in field.metadata if isinstance(m, Quantity)), "")
        meaning = field.description or _meaning(model, name, comments)
        yield f"`{before}{name}`", _type(field.annotation), unit, _default(field, inner), meaning
        if inner is not None:
            yield from _fields(inner, "", f"{before}{name}.")


def _meaning(model: type[BaseModel], name: str, comments: str) -> str:
    """Where a field has no description: its class's docstring, the comment beside it, that in the parameter file."""
    places = (
        (inspect.getdoc(model) or "", rf"(?s)\b{name}: (.+?)(?=\.\s+\w+: |\n\S|\n\s+\w+: |\Z)"),
        (inspect.getsource(model), rf"(?m)^    {name}: .*?  # (.+)$"),
        (comments, rf"(?m)^\s+{name}:[^#\n]*#\s*(.+)$"),
    )
    found = (match[1] for text, pattern in places if (match := re.search(pattern, text)))
    return " ".join(next(found, "").replace("``", "`").rstrip(".").split())


def _nested(annotation: Any) -> type[BaseModel] | None:
    options = [a for a in (annotation, *get_args(annotation)) if inspect.isclass(a) and issubclass(a, BaseModel)]
    return options[0] if len(options) == 1 and get_origin(annotation) not in (list, tuple, dict) else None


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if inspect.isclass(annotation) and not get_args(annotation):
        return {"NoneType": "null"}.get(annotation.__name__, annotation.__name__)
    parts = [_type(a) for a in get_args(annotation) if a is not Ellipsis and (inspect.isclass(a) or get_origin(a))]
    origin = get_origin(annotation)
    word = origin.__name__ if inspect.isclass(origin) else ""
    if word in ("list", "tuple", "dict"):
        return f"{word} of {', '.join(dict.fromkeys(parts))}" if parts else word
    if word == "Annotated" or (not word.startswith("Union") and hasattr(annotation, "__metadata__")):
        return parts[0] if parts else "value"
    return " or ".join(dict.fromkeys(parts)) or str(annotation)


def _default(field: FieldInfo, inner: type[BaseModel] | None) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "*required*"
    if isinstance(value, BaseModel):
        return "below" if inner is not None else f"`{as_yaml(value.model_dump(mode='json'))}`"
    return f"`{as_yaml(list(value) if isinstance(value, tuple) else value)}`"


def as_yaml(value: Any) -> str:
    """As one would write it in a parameter file."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def table(head: tuple[str, ...], *rows: tuple[str, ...]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    cells = (" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in cells) + "\n"


def shown(path: Path) -> Iterator[str]:
    """A parameter file to be opened."""
    if path.is_file():
        inside = path.relative_to(ROOT).as_posix()
        yield f"<details><summary><code>{inside}</code></summary>\n"
        yield f"```{{literalinclude}} ../../{inside}\n:language: yaml\n```\n"
        yield "</details>\n"


def code(kind: Any) -> Iterator[str]:
    """The text above a class's module, the class, and where it stands."""
    yield re.sub(r"``(.+?)``", r"`\1`", sys.modules[kind.__module__].__doc__ or "", flags=re.S)
    yield rst(f".. autoclass:: {kind.__module__}.{kind.__name__}")


def rst(*lines: str) -> str:
    """Directives of reStructuredText within Markdown."""
    return "```{eval-rst}\n" + "\n\n".join(lines) + "\n```\n"


def views(names: tuple[str, ...]) -> str:
    """What a family needs or uses, in words."""
    return ", ".join(" or ".join(f"`{view}`" for view in name.split("|")) for name in names)


def first_sentence(kind: Any) -> str:
    """The first paragraph of the module that a class stands in."""
    text = (sys.modules[kind.__module__].__doc__ or "").split("\n\n")[0]
    return " ".join(re.sub(r"``(.+?)``", r"`\1`", text, flags=re.S).split())


def parameter_file(name: str) -> Path:
    """Where base sets a family or world."""
    return ROOT / "conf" / "base" / f"parameters_{name}.yml"


def base(name: str) -> dict[str, Any]:
    """What base sets; nothing if it has no such file."""
    path = parameter_file(name)
    return dict(read_yaml(path)[name]) if path.is_file() else {}


@cache
def tasks() -> dict[str, Any]:
    """What runs in base, by task."""
    return dict(read_yaml(ROOT / "conf" / "base" / "globals.yml")["tasks"])
