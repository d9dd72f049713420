"""YAML files that people write: read as UTF-8 whatever the locale; a fault is one line that names file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from wm_pipelines.errors import UserError

# What PyYAML says, and what to do about it. The first that fits is used.
_ADVICE = (
    (r"found character '\\t'", "a tab; indent with blanks"),
    (r"could not find expected ':'", "no colon after the key; write 'key: value'"),
    (r"mapping values are not allowed here", "a colon too many or a wrong indentation; quote the text or correct it"),
    (r"expected <block end>", "the indentation differs from the lines above; align it"),
    (r"expected ',' or '[\]}]'", "a bracket is not closed; close it"),
    (r"found unexpected end of stream", "a quote is not closed; close it"),
    (r"expected a single document", "'---' begins a second document; keep one"),
    (r"found undefined alias", "an alias (*) without its anchor (&); write the value out"),
    (r"determine a constructor for the tag", "a tag (!) that is not known here; remove it"),
    (r"unhashable key", "a list or mapping as a key; quote text that begins with a bracket"),
)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a YAML file holds; an empty file is an empty mapping.

    Numbers are read as Kedro's loader reads them (``1e-3`` is one), and dates stay text.

    Raises:
        UserError: the file cannot be read, is not UTF-8, is not YAML, names a key twice, or holds no mapping.
    """
    path = Path(path)
    text = _text(path)
    try:
        data = yaml.load(text, _Fast)
    except (yaml.YAMLError, ValueError, RecursionError):
        data = _with_better_messages(path, text)
    if data is None:
        return {}
    if not isinstance(data, dict):
        found = f"a {'list' if isinstance(data, list) else 'single value'}"
        raise UserError(f"{_at(path, _first_line(text))}: expected 'key: value' lines at the top, got {found}")
    for key in data:
        if not isinstance(key, str):
            raise UserError(f"{_at(path, line_of(path, [key]))}: a key must be text, got {key!r}; quote it")
    return data


def line_of(path: str | os.PathLike[str], keys: Iterable[Any]) -> int | None:
    """The line, counted from 1, where the value under these keys begins with its key; None where there is none."""
    try:
        node = yaml.compose(_text(Path(path)), yaml.SafeLoader)
    except (yaml.YAMLError, UserError):
        return None
    line, left = None, [_written(key) for key in keys]
    while left:
        child = None
        if isinstance(node, yaml.MappingNode):
            children = {key.value: (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
            # A key with dots in it (`{family}.{world}_scores`) may come as its parts.
            for used in range(len(left), 0, -1):
                if child := children.get(".".join(left[:used])):
                    left = left[used:]
                    break
        elif isinstance(node, yaml.SequenceNode) and left[0].isdigit() and int(left[0]) < len(node.value):
            child = (node.value[int(left.pop(0))],) * 2
        if child is None:
            return None
        line, node = child[0].start_mark.line + 1, child[1]
    return line


def shown(path: str | os.PathLike[str]) -> str:
    """The path as a user would type it: relative to the working directory where the file lies below it."""
    absolute, here = Path(path).absolute(), Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.as_posix()


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"'{shown(path)}': {error.strerror}; make this file readable") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{_at(path, line)}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None


def _with_better_messages(path: Path, text: str) -> Any:
    """Read again, slowly: the parser in Python words its errors the same way everywhere, the one in C does not."""
    try:
        return yaml.load(text, _Slow)
    except _TwiceError as error:
        raise UserError(
            f"{_at(path, error.line)}: '{error.key}' stands here again (first in line {error.first}); keep one"
        ) from None
    except yaml.reader.ReaderError as error:
        wrong, code = text.count("\n", 0, error.position) + 1, int(error.character)
        raise UserError(f"{_at(path, wrong)}: the character U+{code:04X} is not allowed; remove it") from None
    except yaml.MarkedYAMLError as error:
        problem = error.problem or "a fault"
        line = error.problem_mark.line + 1 if error.problem_mark else None
        if problem.startswith("mapping values") and line and (culprit := _line_without_colon(text, line)):
            problem, line = "could not find expected ':'", culprit
        said = f"{error.context} {problem}"
        advice = next((advice for fault, advice in _ADVICE if re.search(fault, said)), None)
        # Where a colon, a bracket or a quote is missing, PyYAML's own mark is the line where it noticed.
        if error.context_mark and re.search(r"expected ':'|expected ','|end of stream", problem):
            line = error.context_mark.line + 1
        raise UserError(f"{_at(path, line)}: {advice or f'not YAML ({problem}); correct this line'}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{shown(path)}: not YAML ({' '.join(str(error).split())}); correct it") from None
    except RecursionError:
        raise UserError(f"{shown(path)}: nested too deeply; make it flatter") from None


def _at(path: Path, line: int | None) -> str:
    return f"{shown(path)}:{line}" if line else shown(path)


def _first_line(text: str) -> int:
    """The first line that is neither empty nor a comment."""
    lines = (i for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.lstrip().startswith("#"))
    return next(lines, 1)


def _line_without_colon(text: str, line: int) -> int | None:
    """Of `data_root data`, followed by `seeds: 3` in this line: to YAML both are one text, and the colon too many."""
    lines = text.splitlines()
    above = next((n for n in range(line - 1, 0, -1) if lines[n - 1].strip()), None)
    if above is None or ":" in lines[above - 1] or lines[above - 1].lstrip().startswith(("#", "-")):
        return None
    return above


def _written(key: Any) -> str:
    """A key of the data as it stands in the file (roughly: only text is ever looked up in earnest)."""
    return str(key).lower() if key is None or isinstance(key, bool) else str(key)


class _TwiceError(yaml.YAMLError):
    def __init__(self, key: Any, line: int, first: int) -> None:
        self.key, self.line, self.first = key, line, first


class _Keys:
    """What the two loaders share: a key that stands twice is an error, not the later value."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            lines: dict[tuple[str, str], int] = {}
            for key, _ in node.value:
                # `<<` may stand several times: each merges another mapping.
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise _TwiceError(key.value, line, lines[name])
                lines[name] = line
        return super().construct_mapping(node, deep)  # type: ignore[misc]


class _Slow(_Keys, yaml.SafeLoader):
    """In Python."""


class _Fast(_Keys, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """In C, where PyYAML was built with it: seven times as fast."""


# As OmegaConf does: YAML 1.1 calls `1e-3` text (it has no dot), and makes an object of a date.
_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.[0-9_]+(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
for _loader in (_Slow, _Fast):
    _loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _loader.yaml_implicit_resolvers.items()
    }
    _loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
