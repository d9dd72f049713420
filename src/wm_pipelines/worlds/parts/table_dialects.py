"""How a text file is laid out: blanks, tabs, semicolons with decimal commas, comments and text before the data.

What the instruments of the field write (Tracker, phyphox, LAMMPS, JPL Horizons …) is told from the lines themselves:
the data are where neighbouring lines have equally many entries that are mostly numbers, and the header stands above.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", r"\s+": "blanks"}
_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+(,\d*)?|,\d+)([eE][+-]?\d+)?")
_NO_NUMBER = re.compile(r"(nan|inf|-inf|na|null|)", re.IGNORECASE)
_END = re.compile(r"\$\$EOE|\*{3,}.*|-{5,}|={5,}")  # of the data, before text that follows them
_LOOKED_AT = 400  # lines in which the data must begin


@dataclass(frozen=True)
class Dialect:
    """Where the table is in the text, and how its lines are taken apart.

    Attributes:
        separator: a character, or the pattern of blanks. decimal: ``.`` or ``,``. header: names of the columns.
        start, stop: the lines of the data. width: entries of a line of data. numbers: how many more of them are
            numbers than are text.
    """

    separator: str
    decimal: str
    header: list[str]
    start: int
    stop: int
    width: int
    numbers: int

    def __str__(self) -> str:
        commas = ", numbers have decimal commas" if self.decimal == "," else ""
        return f"columns are separated by {_SEPARATORS[self.separator]}{commas}"


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, which may be packed."""
    import csv

    import pandas as pd

    # Through pandas, with a separator that no text has: packed files are opened as everywhere.
    plain: Any = {"header": None, "dtype": str, "keep_default_na": False, "skip_blank_lines": False}
    frame = pd.read_csv(path, sep="\x1f", quoting=csv.QUOTE_NONE, encoding="utf-8-sig", index_col=False, **plain)
    return [str(line) for line in frame[0]]


def find_dialect(lines: Sequence[str], header: Sequence[str] | None = None) -> Dialect | None:
    """The table in these lines; None where no separator makes one of them.

    Args:
        lines: of the whole file. header: names of the columns, where the file's own are not to be used.
    """
    found = [d for separator in _SEPARATORS if (d := _separated(lines, separator, header)) is not None]
    return max(found, key=lambda d: d.numbers, default=None)


def read_lines(lines: Sequence[str], dialect: Dialect, names: Sequence[str], text: Any) -> Any:
    """The data of these lines as a data frame with columns ``names``, one per entry of a line.

    Args:
        text: types of columns that are no numbers.
    """
    import pandas as pd

    data = "\n".join(line.strip(" ") for line in lines[dialect.start : dialect.stop]) + "\n"
    form: Any = {"skipinitialspace": True, "skip_blank_lines": False, "index_col": False, "header": None}
    form |= {"dtype": text, "decimal": dialect.decimal, "sep": dialect.separator, "names": list(names)}
    return pd.read_csv(io.StringIO(data), **form)


def _separated(lines: Sequence[str], separator: str, header: Sequence[str] | None) -> Dialect | None:
    decimal, number = ".", _POINT
    if separator != "," and _has_decimal_commas(lines, separator):
        decimal, number = ",", _COMMA
    split = [_entries(line, separator) for line in lines[:_LOOKED_AT]]
    numbers = [_numbers(entries, number) for entries in split]
    alike = (len(one) == len(two) > 1 for one, two in pairwise(split))
    start = next((i for i, same in enumerate(alike) if same and min(numbers[i : i + 2]) >= 0), None)
    if start is None:
        return None
    stop = next((i for i in range(start, len(lines)) if _END.fullmatch(lines[i].strip())), len(lines))
    names = list(header) if header is not None else _header(lines[:start], separator)
    return Dialect(separator, decimal, names, start, stop, len(split[start]), numbers[start])


def _entries(line: str, separator: str) -> list[str]:
    if separator == r"\s+":
        return line.split()
    return [entry.strip().strip('"') for entry in line.split(separator)]


def _numbers(entries: Sequence[str], number: re.Pattern[str]) -> int:
    """How many more entries are numbers than are text (names of episodes, dates); -1 where none is a number."""
    numbers = sum(bool(number.fullmatch(entry)) for entry in entries)
    gaps = sum(bool(_NO_NUMBER.fullmatch(entry)) for entry in entries)
    return 2 * numbers + gaps - len(entries) if numbers else -1


def _has_decimal_commas(lines: Sequence[str], separator: str) -> bool:
    entries = [entry for line in lines[:_LOOKED_AT] for entry in _entries(line, separator)]
    commas = sum("," in entry and bool(_COMMA.fullmatch(entry)) for entry in entries)
    points = sum("." in entry and bool(_POINT.fullmatch(entry)) for entry in entries)
    return commas > points


def _header(above: Sequence[str], separator: str) -> list[str]:
    """Names in the last line above the data that is text; rules and marks such as ``$$SOE`` are none."""
    texts = (line.strip().lstrip("%#").strip() for line in reversed(above))
    line = next((t for t in texts if t and not re.fullmatch(r"\W*|\$\$\w+", t)), "")
    names = _entries(line, separator)
    # A comment above columns that blanks separate may have its own way.
    return line.split() if separator == r"\s+" or len(names) == 1 else names
