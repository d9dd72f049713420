"""Tables of texts: CSV or Parquet whose entries are taken as they are written, never as numbers or as missing."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.parts.table_files import check_header
from wm_pipelines.worlds.parts.video_lists import exists


def read_texts(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Some columns of a table as texts without blanks around them; what is missing is ``""``.

    Args:
        path: ``.parquet``, ``.pq``, or text in UTF-8 whose first line names the columns, separated by commas,
            semicolons or tabs (that of which the first line has most).
        columns: their names.

    Raises:
        UserError: there is no such file, it cannot be read, has no such column, or no rows.
    """
    import pyarrow as pa

    if not exists(path):
        raise UserError(f"there is no table '{path}'; give a CSV or Parquet file")
    try:
        found = _parquet(path, columns) if path.suffix.lower() in (".parquet", ".pq") else _csv(path, columns)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        reason = "it is not in UTF-8; save it so" if isinstance(error, UnicodeDecodeError) else error
        raise UserError(f"cannot read table '{path}': {' '.join(str(reason).split())[:120]}") from error
    if not next(iter(found.values())):
        raise UserError(f"table '{path}' has no rows")
    return found


def _parquet(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        check_header(path, file.schema_arrow.names, columns)
        table = file.read(columns=list(dict.fromkeys(columns)))
    return {
        name: ["" if entry is None else str(entry).strip() for entry in table.column(name).to_pylist()]
        for name in columns
    }


def _csv(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        rows = csv.reader(file, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
        header = [name.strip() for name in next(rows, [])]
        check_header(path, header, columns)
        at = {name: header.index(name) for name in columns}
        found: dict[str, list[str]] = {name: [] for name in columns}
        for number, row in enumerate((row for row in rows if any(entry.strip() for entry in row)), 1):
            if len(row) != len(header):
                raise UserError(
                    f"'{path.name}', data row {number}: {len(row)} entries for {len(header)} columns; quotation marks "
                    f"protect a separator within a text"
                )
            for name, place in at.items():
                found[name].append(row[place].strip())
    return found
