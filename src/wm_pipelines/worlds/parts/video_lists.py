"""Which videos there are: a folder, a pattern, or a list with labels."""

from __future__ import annotations

import csv
import glob
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from wm_pipelines.errors import UserError

logger = logging.getLogger(__name__)

_HEADINGS = {"path", "file", "filename", "video"}
_MOST_CLASSES = 100_000  # numbers above are names
SUFFIXES = (
    "3gp", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "webm", "wmv",
)  # fmt: skip
"""Endings, in either case, by which videos in a folder are known."""
_FILM = re.compile(rf"\.(?:{'|'.join(SUFFIXES)})$", re.IGNORECASE)


@dataclass(frozen=True)
class Listed:
    """One line of a list: a video as it is called there, its path, and its label, None where the list gives none."""

    name: str
    path: Path
    label: str | None


def is_film(name: str) -> bool:
    """Whether a name ends as a video's does."""
    return _FILM.search(name) is not None


def exists(path: Path) -> bool:
    """Whether there is such a file; a path that the system refuses (too long, in a closed folder) is none."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises where the system refuses


def find_videos(path: Path, folder: Path | None) -> list[Listed]:
    """The videos of a folder and the folders in it, of a pattern (``films/*.mp4``), or of a list.

    Args:
        path: folder, pattern or list. folder: where relative paths of a list start; None: at its own folder.

    Raises:
        UserError: there is none, or the list has a fault.
    """
    if os.path.isdir(path):  # noqa: PTH112 - pathlib's raises where the system refuses
        found = sorted(p for p in path.rglob("*") if _FILM.search(p.name) and _visible(p, path) and p.is_file())
        if not found:
            raise UserError(f"no videos in '{path}'; their names end in {', '.join(f'.{s}' for s in SUFFIXES)}")
        return [Listed(p.relative_to(path).as_posix(), p, None) for p in found]
    if glob.has_magic(str(path)) and not exists(path):
        found = [p for p in map(Path, sorted(glob.glob(str(path), recursive=True))) if exists(p)]  # noqa: PTH207
        if not found:
            raise UserError(f"no videos fit '{path}'; give a folder, a pattern of paths, or a list of path,label")
        start = next(p for p in path.parents if not glob.has_magic(str(p)))
        return [Listed(p.relative_to(start).as_posix(), p, None) for p in found]
    if _FILM.search(path.name) and exists(path):
        return [Listed(path.name, path, None)]
    return read_list(path, folder or path.parent)


def _visible(path: Path, folder: Path) -> bool:
    """Whether neither the file nor a folder on the way is hidden: some systems keep shadows of files so."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def read_list(path: Path, folder: Path) -> list[Listed]:
    """The lines ``path,label`` or ``path label`` of a list; a line of headings is skipped, labels may be empty or none.

    Args:
        path: the list, in UTF-8. Where any line has a comma, commas separate (and quotation marks protect); semicolons
            or tabs do where all lines have them; else the last blank does. A line that is the path of a file, or ends
            as a video's name does after blanks, has no label.
        folder: where relative paths in it start.

    Raises:
        UserError: the list cannot be read, is empty, or has a faulty line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"no list of videos at '{path}'; give a CSV of path,label") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not in UTF-8; save it so" if isinstance(error, UnicodeDecodeError) else error
        raise UserError(f"cannot read the list of videos '{path}': {reason}") from error
    separator = _separator([line for line in lines if line.strip()])
    found: list[Listed] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            reader = csv.reader([line], skipinitialspace=True, delimiter=separator or ",")
            if exists(folder / line.strip()):
                fields = [line.strip()]
            else:
                fields = [field.strip() for field in (next(reader) if separator else _by_blank(line.strip()))]
        except csv.Error as error:
            raise UserError(f"'{path}', line {number}: {error}; expected path,label") from None
        if not found and fields[0].lower() in _HEADINGS:
            continue
        if len(fields) > 2 or not fields[0]:
            raise UserError(f"'{path}', line {number}: expected path,label, got '{line.strip()[:60]}'")
        found.append(Listed(fields[0], folder / fields[0], (fields[1] or None) if len(fields) > 1 else None))
    if not found:
        raise UserError(f"the list of videos '{path}' is empty; give lines of path,label")
    if len({entry.label is None for entry in found}) > 1:
        raise UserError(f"'{path}': some videos have a label and some have none; label all or none")
    return found


def _by_blank(line: str) -> list[str]:
    """Path and label of a line without another separator; the path alone where it holds blanks and nothing follows."""
    if line[:1] == '"' and line[-1:] == '"' and len(line) > 1:
        return [line[1:-1]]
    return [line] if _FILM.search(line) else line.rsplit(None, 1)


def _separator(lines: list[str]) -> str | None:
    """What stands between path and label; None: blanks."""
    if all(";" in line for line in lines) and not all("," in line for line in lines):
        return ";"  # spreadsheets write so where the comma is a decimal sign
    if any("," in line for line in lines):
        return ","
    return "\t" if all("\t" in line for line in lines) else None


def label_numbers(entries: list[Listed]) -> dict[str, int] | None:
    """The number of every label: the label itself where all are different numbers, else its place in the alphabet.

    None where the entries have no labels. ``1`` and ``01`` are two names.
    """
    labels = {entry.label for entry in entries if entry.label is not None}
    if not labels:
        return None
    digits = len(str(_MOST_CLASSES))  # int() refuses text of thousands of digits
    if all(label.isascii() and label.isdigit() and len(label.lstrip("0")) < digits for label in labels):
        numbers = {label: int(label) for label in sorted(labels)}
        if len(set(numbers.values())) == len(labels):
            return numbers
        one, other = next((a, b) for a in numbers for b in numbers if a < b and numbers[a] == numbers[b])
        logger.warning("labels '%s' and '%s' are taken as two classes; write them alike if they are one", one, other)
    return {label: number for number, label in enumerate(sorted(labels))}
