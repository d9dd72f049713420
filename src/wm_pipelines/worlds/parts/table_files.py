"""Columns read from a file: CSV and other text, packed or not, and Parquet; every fault one line."""

from __future__ import annotations

import logging
import lzma
import warnings
import zlib
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from tarfile import TarError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.parts.table_dialects import find_dialect, lines_of, read_lines

logger = logging.getLogger(__name__)

Float = NDArray[np.float64]


def read_columns(
    path: Path,
    columns: Sequence[str],
    episode: str | None = None,
    about: str = "",
    header: Sequence[str] | None = None,
) -> Any:
    """Some columns of a text or Parquet file as a data frame; blank lines at its very end are dropped.

    Args:
        path: an existing file.
        columns: names, all different.
        episode: one more column, whose entries are names: two spellings of one number are not one name.
        about: how messages begin.
        header: names of all columns of a text file that does not name them itself; what stands above the data is
            skipped.

    Raises:
        UserError: the file cannot be read, or a column is missing or there twice.
    """
    import pandas as pd
    import pyarrow as pa

    wanted = [*columns] if episode is None else [*columns, episode]
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame = _parquet(path, wanted, about)
        else:
            frame = _text(path, wanted, episode, about, header)
    except UserError:
        raise
    except MemoryError:  # pyarrow's is also one of its ArrowExceptions
        raise UserError(f"{about}table '{path}' does not fit into memory; split it, or leave columns out") from None
    except (
        *(pa.ArrowException, OSError, ValueError, ImportError, RuntimeError),  # pandas' parser errors are ValueErrors,
        pd.errors.ParserWarning,  # its warnings are not
        *(EOFError, zlib.error, lzma.LZMAError, BadZipFile, TarError),  # of packed files
    ) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{about}cannot read table '{path}': {reason}; is it a whole CSV or Parquet file?") from error
    filled = np.flatnonzero(frame.notna().any(axis=1).to_numpy())
    return frame.iloc[: filled[-1] + 1 if filled.size else 0]  # blank lines at the very end are no fault


def _parquet(path: Path, wanted: Sequence[str], about: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        check_header(path, file.schema_arrow.names, wanted, about)
        # Without pandas' metadata: a column is a column even where it once was an index, and types are numpy's.
        return file.read(columns=list(wanted)).to_pandas(ignore_metadata=True)[list(wanted)]


def _text(path: Path, wanted: Sequence[str], episode: str | None, about: str, header: Sequence[str] | None) -> Any:
    import pandas as pd

    # A blank line is a fault to report, not to skip: it would shift the row numbers of later messages.
    form: Any = {"skip_blank_lines": False, "skipinitialspace": True, "encoding": "utf-8"}
    # The header as it is written: pandas calls a second `x` silently `x.1`.
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **form).iloc[0].tolist()
    text = {} if episode is None else {episode: str}
    with warnings.catch_warnings():
        # Rows longer than the header: pandas would drop the excess, or shift the columns, and only warn.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        if header is not None or not set(wanted) <= set(first):
            frame = _dialect(path, wanted, text, about, header or first, named=header is not None)
        else:
            frame = pd.read_csv(path, index_col=False, low_memory=False, dtype=text, **form)
            if len(first) == len(frame.columns):
                frame.columns = [name or invented for name, invented in zip(first, frame.columns, strict=True)]
            check_header(path, list(frame.columns), wanted, about)
    frame = frame[list(wanted)]
    return frame if episode is None else frame.assign(**{episode: _names(path, frame[episode])})


def _dialect(path: Path, wanted: Sequence[str], text: Any, about: str, header: Sequence[str], named: bool) -> Any:
    """A text file whose first line is no header with commas; ``header`` is that line, or what the user ``named``."""
    lines = lines_of(path)
    dialect = find_dialect(lines, header if named else None)
    if dialect is None:
        check_header(path, header, wanted, about)
        raise UserError(f"{about}'{path.name}' has no two lines with equally many numbers; is it a table?")
    names = dialect.header
    if len(names) != dialect.width:
        whose = "`header`" if named else "its header"
        said = f"{whose} names {len(names)} ({', '.join(names[:12])})" if any(names) else "it has no header"
        raise UserError(
            f"{about}'{path.name}': {dialect}; {said}, its lines have {dialect.width}; name all of them, from left to "
            "right, with `header: […]`"
        )
    check_header(path, names, wanted, about, f" ({dialect})" if dialect.separator != "," else "")
    logger.info("'%s': %s; the data begin in line %d.", path.name, dialect, dialect.start + 1)
    return read_lines(lines, dialect, [n if n in wanted else f"column {i}" for i, n in enumerate(names)], text)


def check_header(path: Path, header: Sequence[str], wanted: Sequence[str], about: str = "", form: str = "") -> None:
    """See that a table has each of the columns once.

    Args:
        path, header: of the table. wanted: names. about, form: how messages begin and end.

    Raises:
        UserError: a column is missing, or there twice.
    """
    for name in wanted:
        if name not in header:
            found = ", ".join(map(str, header[:12]))
            raise UserError(f"{about}'{path.name}' has no column '{name}'; it has {found}{form}")
        if (count := list(header).count(name)) > 1:
            raise UserError(f"{about}'{path.name}' has {count} columns '{name}'; which is meant? rename the others")


def _names(path: Path, texts: Any) -> Any:
    """Names of episodes from a text file: numbers where all are numbers, so that ``1.0`` is episode 1."""
    import pandas as pd

    spelled = pd.Series(texts.dropna().unique(), dtype=object)
    numbers = pd.to_numeric(spelled, errors="coerce")
    if numbers.isna().any() or (numbers.abs() >= 2**53).any():  # beyond, different numbers are one float
        return texts
    if (same := numbers.duplicated(keep=False)).any():
        one, other = spelled[numbers == numbers[same].iloc[0]].iloc[:2]
        raise UserError(
            f"'{path.name}', column '{texts.name}': '{one}' and '{other}' are one number; are they one episode? "
            "write them alike, or give them names"
        )
    return pd.to_numeric(texts)


def as_numbers(raw: Any, about: str, is_time: bool = False) -> Float:
    """One column as float64, NaN where an entry is no number. Durations become seconds.

    Args:
        raw: the column, of any type.
        about: how messages begin: which file, which column.
        is_time: whether it may hold durations.

    Raises:
        UserError: its type cannot mean numbers: truth values, dates, lists …
    """
    import pandas as pd

    kind_of = getattr(raw.dtype, "kind", "O")
    if kind_of == "m":
        if not is_time:
            raise UserError(f"{about}: expected numbers, got {raw.dtype} (durations); use seconds, metres …")
        return raw.dt.total_seconds().to_numpy(np.float64, na_value=np.nan)
    if kind_of in "bMc":
        raise UserError(f"{about}: expected numbers, got {raw.dtype}; use seconds, metres …")
    if raw.dtype == object:
        number = (str, bytes, int, float, Decimal, np.number, type(None), type(pd.NA))
        odd = (
            (row, entry)
            for row, entry in enumerate(raw, 1)
            if isinstance(entry, bool | np.bool_) or not isinstance(entry, number)
        )
        if (first := next(odd, None)) is not None:
            name = type(first[1]).__name__
            named = {"ndarray": "a list of numbers", "dict": "a structure", "bool": "a truth value"}.get(name, name)
            raise UserError(f"{about}, data row {first[0]}: expected a finite number, got {named}; give plain numbers")
    return pd.to_numeric(raw, errors="coerce").to_numpy(np.float64, na_value=np.nan)
