"""Kedro's own datasets, made to replace their file atomically.

A run that is killed while it writes leaves the older file or the newer one, never half of it.
"""

from __future__ import annotations

import copy
import json
from pathlib import PurePosixPath
from typing import Any

from kedro.io import DatasetError
from kedro_datasets.json import JSONDataset as KedroJSONDataset
from kedro_datasets.pandas import CSVDataset as KedroCSVDataset
from kedro_datasets.pandas import ParquetDataset as KedroParquetDataset

from wm_pipelines.datasets.local import LocalDataset
from wm_pipelines.errors import UserError
from wm_pipelines.files import atomic_path


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
        try:
            return super().load()  # type: ignore[misc]
        except (DatasetError, OSError, ValueError) as problem:
            reason = str(problem.__cause__ or problem).splitlines()[0]
            raise UserError(
                f"'{self._filepath}' cannot be read ({reason}); make it again with the pipeline that writes it "
                "(kedro run --pipeline=physics_eval makes everything)"
            ) from problem


class CSVDataset(Atomic, KedroCSVDataset):
    """`kedro_datasets.pandas.CSVDataset`, atomic."""


class ParquetDataset(Atomic, KedroParquetDataset):
    """`kedro_datasets.pandas.ParquetDataset`, atomic."""


class JSONDataset(Atomic, KedroJSONDataset):
    """`kedro_datasets.json.JSONDataset`, atomic; keys are sorted so that equal content is equal bytes."""

    def save(self, data: Any) -> None:
        """Write indented JSON with sorted keys."""
        super().save(json.loads(json.dumps(data, sort_keys=True)))


class PartsDataset(LocalDataset):
    """All Parquet files of a folder, read-only: ``{name: table}`` in the order of their names.

    (Kedro's PartitionedDataset caches the listing it makes before the run, and so misses parts written by the run.)
    """

    def load(self) -> dict[str, Any]:
        """Read every part."""
        return {p.stem: ParquetDataset(filepath=str(p)).load() for p in sorted(self.path.glob("*.parquet"))}

    def save(self, data: dict[str, Any]) -> None:  # noqa: ARG002
        """Each part is saved under its own name by the pipeline that makes it."""
        raise UserError("the parts of the leaderboard are written one by one, by the pipelines that make them")
