"""Results of one evaluation: tables, arrays and facts that are replaced together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wm_pipelines.datasets.local import FolderDataset
from wm_pipelines.files import to_json


class BundleDataset(FolderDataset):
    """A dict of named parts, ``<name>.<format>`` in one folder; equal content gives equal bytes.

    Args:
        parts: format by name: ``parquet`` or ``csv`` (pandas.DataFrame), ``safetensors`` (dict of numpy arrays),
            ``json`` (JSON types).
        made_by: the pipeline to run where something is missing.
        belongs_to: how many of the path's last parts say whose results they are; see `FolderDataset`.

    Raises:
        ValueError: unknown format.
    """

    index = "results.json"

    def __init__(self, *, parts: Mapping[str, str], made_by: str, belongs_to: int = 1, **settings: Any) -> None:
        super().__init__(**settings)
        if unknown := set(parts.values()) - set(_FORMATS):
            raise ValueError(f"unknown format '{unknown.pop()}'; known: {', '.join(sorted(_FORMATS))}")
        self.parts, self.made_by, self.depth = dict(parts), made_by, belongs_to

    def save(self, data: Mapping[str, Any]) -> None:
        """Replace all parts.

        Raises:
            ValueError: the parts are not those of the catalog. UserError: they cannot be written.
        """
        if set(data) != set(self.parts):
            raise ValueError(f"got the parts {sorted(data)}, the catalog lists {sorted(self.parts)}")
        self.write({f"{name}.{kind}": _FORMATS[kind][0](data[name]) for name, kind in self.parts.items()})

    def load(self) -> dict[str, Any]:
        """Read all parts.

        Raises:
            UserError: missing, damaged or replaced files, or results of something else.
        """
        with self.read() as stored:
            return {name: _FORMATS[kind][1](stored[f"{name}.{kind}"]) for name, kind in self.parts.items()}

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "parts": self.parts}


def _arrays_to_bytes(arrays: Mapping[str, Any]) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    return save({name: np.asarray(array, order="C") for name, array in sorted(arrays.items())})


def _arrays_from(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(path))


def _csv_from(path: Path) -> Any:
    import pandas as pd

    return pd.read_csv(path, float_precision="round_trip")


def _parquet_from(path: Path) -> Any:
    import pandas as pd

    return pd.read_parquet(path)


_FORMATS: dict[str, tuple[Callable[[Any], bytes], Callable[[Path], Any]]] = {
    "parquet": (lambda table: table.to_parquet(index=False), _parquet_from),
    "csv": (lambda table: table.to_csv(index=False, lineterminator="\n").encode(), _csv_from),
    "safetensors": (_arrays_to_bytes, _arrays_from),
    "json": (to_json, lambda path: json.loads(path.read_bytes())),
}
