"""Kedro datasets for what this project stores in forms of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from kedro.io import AbstractDataset
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.mappings import deep_merge


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
    """Episodes by split: a folder of Arrow files, ``<split>.arrow``, and an index that is written last."""

    @property
    def _index(self) -> Path:
        return self.path / "episodes.json"

    def save(self, data: dict[str, Any]) -> None:
        """Write every split, then the index; files of splits that no longer exist are removed."""
        import json

        from wm_pipelines.files import atomic_write_bytes
        from wm_pipelines.worlds.episodes import write

        self.path.mkdir(parents=True, exist_ok=True)
        self._index.unlink(missing_ok=True)
        for stale in {p.stem for p in self.path.glob("*.arrow")} - set(data):
            (self.path / f"{stale}.arrow").unlink()
        for split, episodes in data.items():
            write(self.path / f"{split}.arrow", episodes)
        hashes = {split: episodes.content_hash for split, episodes in sorted(data.items())}
        atomic_write_bytes(self._index, (json.dumps(hashes, indent=2) + "\n").encode())

    def load(self) -> dict[str, Any]:
        """Read every split, memory-mapped.

        Raises:
            UserError: nothing there, not written to its end, or a file is damaged.
        """
        import json

        from wm_pipelines.worlds.episodes import read

        try:
            splits = json.loads(self._index.read_text())
        except (OSError, ValueError):
            raise UserError(
                f"no complete episodes in '{self.path}'; run: kedro run --pipeline=data_ingestion"
            ) from None
        return {split: read(self.path / f"{split}.arrow") for split in splits}


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
    """Named numpy arrays in one safetensors file; ``made_by``: the pipeline to run where it is missing."""

    def __init__(self, *, made_by: str = "evaluation", **settings: Any) -> None:
        super().__init__(**settings)
        self.made_by = made_by

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
            raise UserError(
                f"'{self.path}' cannot be read ({problem}); run: kedro run --pipeline={self.made_by}"
            ) from None


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


class PathDataset(LocalDataset):
    """A place where a node writes by itself while it runs (checkpoints, journals); loads as its path."""

    def save(self, data: Any) -> None:  # noqa: ARG002
        """What lies there is written by the node that loads the path."""
        raise UserError(f"'{self._filepath}' is written while its node runs, not as an output")

    def load(self) -> Path:
        """The path; nothing needs to be there yet."""
        return self.path

    def _exists(self) -> bool:
        return True


class EpisodesByWorldDataset(LocalDataset):
    """The stored data of all worlds: world -> loader of its episodes by split, or of a field's arrays."""

    def save(self, data: Any) -> None:  # noqa: ARG002
        """Each world's episodes are saved by its own dataset."""
        raise UserError("episodes are saved world by world, by the pipeline data_ingestion")

    def load(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """One loader per world; nothing is read yet."""
        folders = sorted(p for p in self.path.glob("*") if p.is_dir())
        fields = sorted(self.path.glob("*.safetensors"))
        return {
            **{folder.name: EpisodesDataset(filepath=str(folder)).load for folder in folders},
            **{file.stem: ArraysDataset(filepath=str(file), made_by="field_eval").load for file in fields},
        }


class ParameterFilesDataset(LocalDataset):
    """Parameter files of a configuration environment; what is saved is merged into what is there."""

    def save(self, data: dict[str, Any]) -> None:
        """``{"hnn": tree}`` goes to ``parameters_hnn.yml`` under the key ``hnn``."""
        import yaml

        from wm_pipelines.files import atomic_write_bytes

        for name, tree in data.items():
            path = self.path / f"parameters_{name}.yml"
            before = (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}
            text = yaml.safe_dump(deep_merge(before, {name: tree}), sort_keys=True)
            atomic_write_bytes(
                path, f"# Written by the tuning pipeline; use it with --env={self.path.name}.\n{text}".encode()
            )

    def load(self) -> dict[str, Any]:
        """All parameter files, merged."""
        import yaml

        merged: dict[str, Any] = {}
        for path in sorted(self.path.glob("parameters_*.yml")):
            merged = deep_merge(merged, yaml.safe_load(path.read_text()) or {})
        return merged
