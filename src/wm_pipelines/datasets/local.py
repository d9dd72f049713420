"""Kedro datasets for what this project stores in forms of its own."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from kedro.io import AbstractDataset
from numpy.typing import NDArray

from wm_pipelines.errors import UserError


class LocalDataset(AbstractDataset[Any, Any]):
    """Something at one local path (a file or a folder)."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self._filepath)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}

    def _exists(self) -> bool:
        return self.path.exists()


class EpisodesDataset(LocalDataset):
    """Episodes by split: a folder of Arrow files, ``<split>.arrow``."""

    def save(self, data: dict[str, Any]) -> None:
        """Write every split; files of splits that no longer exist are removed."""
        from wm_pipelines.worlds.episodes import write

        self.path.mkdir(parents=True, exist_ok=True)
        for stale in {p.stem for p in self.path.glob("*.arrow")} - set(data):
            (self.path / f"{stale}.arrow").unlink()
        for split, episodes in data.items():
            write(self.path / f"{split}.arrow", episodes)

    def load(self) -> dict[str, Any]:
        """Read every split, memory-mapped.

        Raises:
            UserError: nothing there, or a file is damaged.
        """
        from wm_pipelines.worlds.episodes import read

        files = sorted(self.path.glob("*.arrow"))
        if not files:
            raise UserError(f"no episodes in '{self.path}'; run: kedro run --pipeline=data_ingestion")
        return {path.stem: read(path) for path in files}


class ModelsDataset(LocalDataset):
    """Trained variants of a family on a world: a folder of safetensors and JSON files."""

    def save(self, data: Any) -> None:
        """Write every variant, then the index."""
        from wm_pipelines.learning.artifacts import write_models

        write_models(self.path, data)

    def load(self) -> Any:
        """Read every variant and check it against the index."""
        from wm_pipelines.learning.artifacts import read_models

        return read_models(self.path)


class ArraysDataset(LocalDataset):
    """Named numpy arrays in one safetensors file."""

    def save(self, data: dict[str, NDArray[Any]]) -> None:
        """Write atomically; equal content gives equal bytes."""
        from safetensors.numpy import save

        from wm_pipelines.files import atomic_write_bytes

        ordered = {name: np.ascontiguousarray(array) for name, array in sorted(data.items())}
        atomic_write_bytes(self.path, save(ordered))

    def load(self) -> dict[str, NDArray[Any]]:
        """Read all arrays.

        Raises:
            UserError: missing or damaged file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return dict(load_file(self.path))
        except (SafetensorError, OSError) as problem:
            raise UserError(f"'{self.path}' cannot be read ({problem}); run: kedro run --pipeline=evaluation") from None


class TextDataset(LocalDataset):
    """A text file (HTML, YAML), replaced atomically."""

    def save(self, data: str) -> None:
        """Write UTF-8."""
        from wm_pipelines.files import atomic_write_bytes

        atomic_write_bytes(self.path, data.encode())

    def load(self) -> str:
        """Read UTF-8."""
        return self.path.read_text()


class BytesDataset(LocalDataset):
    """A binary file (an animation), replaced atomically."""

    def save(self, data: bytes) -> None:
        """Write as is."""
        from wm_pipelines.files import atomic_write_bytes

        atomic_write_bytes(self.path, data)

    def load(self) -> bytes:
        """Read as is."""
        return self.path.read_bytes()


class CheckpointsDataset(LocalDataset):
    """A folder where a training keeps its checkpoints; loading gives the store, the training itself writes."""

    def save(self, data: Any) -> None:  # noqa: ARG002
        """Checkpoints are written by the training, not by Kedro."""
        raise UserError("checkpoints are written by the training itself, not as a node's output")

    def load(self) -> Any:
        """The store; the folder is made when the first checkpoint is written."""
        from wm_pipelines.learning.checkpoints import CheckpointStore

        return CheckpointStore(self.path)

    def _exists(self) -> bool:
        return True
