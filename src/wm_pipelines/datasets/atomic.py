"""Kedro's own datasets, made to replace their file atomically.

A run that is killed while it writes leaves the older file or the newer one, never half of it.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from kedro.io import DatasetError
from kedro_datasets.json import JSONDataset as KedroJSONDataset
from kedro_datasets.pandas import CSVDataset as KedroCSVDataset
from kedro_datasets.pandas import ParquetDataset as KedroParquetDataset

from wm_pipelines.datasets.local import LocalDataset
from wm_pipelines.errors import UserError
from wm_pipelines.files import atomic_path
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS


class Atomic:
    """Mixin before a file dataset of Kedro: saves through a temporary file; damaged files give one clear line."""

    _filepath: PurePosixPath

    def save(self, data: Any) -> None:
        """Write beside the place, sync, rename."""
        with atomic_path(self._filepath) as temporary:
            elsewhere = copy.copy(self)
            elsewhere._filepath = PurePosixPath(temporary)
            super(Atomic, elsewhere).save(data)  # type: ignore[misc]

    def load(self) -> Any:
        """Read the file.

        Raises:
            UserError: it is missing, truncated, or not of this format.
        """
        if not Path(self._filepath).exists():
            raise UserError(f"'{self._filepath}' is missing; make it with the pipeline that writes it")
        try:
            return super().load()  # type: ignore[misc]
        except (DatasetError, OSError, ValueError) as problem:
            if isinstance(problem.__cause__, MemoryError):  # nothing is wrong with the file
                raise problem.__cause__ from None
            reason = str(problem.__cause__ or problem).splitlines()[0]
            raise UserError(
                f"'{self._filepath}' cannot be read ({reason}); make it again with the pipeline that writes it"
            ) from problem


class CSVDataset(Atomic, KedroCSVDataset):
    """`kedro_datasets.pandas.CSVDataset`, atomic, in UTF-8 whatever the locale."""

    DEFAULT_FS_ARGS: ClassVar[dict[str, Any]] = {"open_args_save": {"mode": "w", "encoding": "utf-8", "newline": ""}}


class ParquetDataset(Atomic, KedroParquetDataset):
    """`kedro_datasets.pandas.ParquetDataset`, atomic."""


class TableDataset(ParquetDataset):
    """The leaderboard, or a task's part of it."""

    def load(self) -> Any:
        """Read the table.

        Raises:
            UserError: it cannot be read, or is no leaderboard.
        """
        table = super().load()
        if tuple(table.columns) != LEADERBOARD_COLUMNS:
            missing = ", ".join(c for c in LEADERBOARD_COLUMNS if c not in table.columns)
            unknown = ", ".join(str(c) for c in table.columns if c not in LEADERBOARD_COLUMNS)
            faults = [f"it lacks {missing}"] if missing else []
            faults += [f"it has the unknown {unknown}"] if unknown else []
            why = ", ".join(faults) or "its columns are in another order"
            raise UserError(
                f"'{self._filepath}' is no part of the leaderboard ({why}); remove it, then run the evaluation again"
            )
        return table


class JSONDataset(Atomic, KedroJSONDataset):
    """`kedro_datasets.json.JSONDataset`, atomic; keys are sorted so that equal content is equal bytes."""

    def save(self, data: Any) -> None:
        """Write indented JSON with sorted keys."""
        super().save(json.loads(json.dumps(data, sort_keys=True)))


class PartsDataset(LocalDataset):
    """Parts of the leaderboard, read-only: name -> (table, what it was made from), in the order of the names.

    A part is ``<name>.parquet``; beside it lies ``<name>.json``, its provenance ({} where that is missing). Files of
    other names, and those of writers that are not done, are no parts. (Kedro's PartitionedDataset caches the listing
    it makes before the run, and so misses parts written by the run.)

    Args:
        names: parts to read, where they are written already; None: all.
    """

    def __init__(self, *, names: list[str] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.names = names

    def load(self) -> dict[str, tuple[Any, dict[str, Any]]]:
        """Read the parts.

        Raises:
            UserError: a part cannot be read, or is none of a leaderboard.
        """
        paths = sorted(self.path.glob("[!.]*.parquet"))
        return {p.stem: _read_part(p) for p in paths if self.names is None or p.stem in self.names}

    def save(self, data: dict[str, Any]) -> None:  # noqa: ARG002
        """Each part is saved under its own name by the pipeline that makes it."""
        raise UserError("the parts of the leaderboard are written one by one, by the pipelines that make them")


def _read_part(path: Path) -> tuple[Any, dict[str, Any]]:
    table, beside = TableDataset(filepath=str(path)).load(), path.with_suffix(".json")
    made_from = JSONDataset(filepath=str(beside)).load() if beside.is_file() else {}
    if not isinstance(made_from, dict):
        raise UserError(f"'{beside}' holds no provenance; remove it, then run the evaluation again")
    return table, made_from
