"""Kedro datasets for what this project stores in forms of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset

from wm_pipelines.errors import UserError
from wm_pipelines.files import (
    Content,
    StoredFolder,
    atomic_write_bytes,
    is_complete,
    read_folder,
    write_folder,
)
from wm_pipelines.mappings import deep_merge
from wm_pipelines.yaml_files import read_yaml


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


class FolderDataset(LocalDataset):
    """Files of a folder that belong together, replaced as one and checked by hash where they are read.

    Attributes:
        index: name of the JSON file with the hashes; its stem says what the folder holds.
        made_by: the pipeline that makes it again.
        depth: how many of the path's last parts say whose folder it is; one copied to another place is refused.
    """

    index: str
    made_by: str
    depth = 1

    @property
    def belongs_to(self) -> str:
        """Whose folder it is: ``pendulum``, ``physics/hnn/pendulum``."""
        return "/".join(self.path.parts[-self.depth :])

    def write(self, files: Mapping[str, Content], **facts: Any) -> None:
        """Replace all files. Raises UserError where that fails; the old ones are whole then."""
        write_folder(self.path, files, self.index, {"belongs_to": self.belongs_to, **facts})

    @contextmanager
    def read(self) -> Iterator[StoredFolder]:
        """The files, each checked when it is asked for.

        Raises:
            UserError: there are none, the index is damaged, or they belong elsewhere.
        """
        remedy = f"run: kedro run --pipeline={self.made_by}"
        with read_folder(self.path, self.index, remedy) as stored:
            if (theirs := stored.facts.get("belongs_to")) != self.belongs_to:
                what = Path(self.index).stem
                raise UserError(f"'{self.path}' holds {what} of '{theirs}', not of '{self.belongs_to}'; {remedy}")
            yield stored

    def _exists(self) -> bool:
        return is_complete(self.path, self.index)


class EpisodesDataset(FolderDataset):
    """Episodes by split, ``<split>.arrow``, in the folder of their world."""

    index, made_by = "episodes.json", "data_ingestion"

    def save(self, data: dict[str, Any]) -> None:
        """Replace all splits.

        Raises:
            ValueError: they are of another world than the folder. UserError: they cannot be written.
        """
        from wm_pipelines.episodes import write

        for split, episodes in data.items():
            if episodes.spec.name != self.belongs_to:
                raise ValueError(f"split '{split}' is of '{episodes.spec.name}', not of '{self.belongs_to}'")

        def writer(episodes: Any) -> Callable[[Path], None]:
            return lambda path: write(path, episodes)

        self.write(
            {f"{split}.arrow": writer(episodes) for split, episodes in data.items()},
            content_hashes={split: episodes.content_hash for split, episodes in data.items()},
        )

    def load(self) -> dict[str, Any]:
        """Read every split, memory-mapped.

        Raises:
            UserError: nothing there, a file is damaged or replaced, or it is the folder of another world.
        """
        from wm_pipelines.episodes import read

        with self.read() as stored:
            return {name.removesuffix(".arrow"): read(stored[name], verify=True) for name in stored.files}


class ModelsDataset(FolderDataset):
    """Trained variants of a family on a world, in a folder ``<task>/<family>/<world>``; see `models`."""

    index, made_by, depth = "models.json", "training", 3

    def save(self, data: Any) -> None:
        """Replace all variants.

        Raises:
            ValueError: a card does not belong to this folder. UserError: they cannot be written.
        """
        from wm_pipelines.datasets.models import files_of

        self.write(files_of(data, self.belongs_to), not_applicable=dict(data.not_applicable))

    def load(self) -> Any:
        """Read all variants.

        Raises:
            UserError: missing, damaged, edited or foreign files.
        """
        from wm_pipelines.datasets.models import models_of

        with self.read() as stored:
            return models_of(stored)


class TextDataset(LocalDataset):
    """A text file (HTML, YAML) in UTF-8, replaced atomically."""

    def save(self, data: str) -> None:
        """Write UTF-8."""
        atomic_write_bytes(self.path, data.encode())

    def load(self) -> str:
        """Read UTF-8."""
        return self.path.read_text(encoding="utf-8")


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


class PresenceDataset(LocalDataset):
    """Whether a file is there that another pipeline may have written; loads as yes or no."""

    def save(self, data: Any) -> None:  # noqa: ARG002
        """What lies there is written by its own dataset."""
        raise UserError(f"'{self._filepath}' is written by the pipeline that makes it")

    def load(self) -> bool:
        """Yes or no."""
        return self.path.exists()

    def _exists(self) -> bool:
        return True


class EpisodesByWorldDataset(LocalDataset):
    """The stored data of all worlds: world -> loader of its episodes by split."""

    def save(self, data: Any) -> None:  # noqa: ARG002
        """Each world's episodes are saved by its own dataset."""
        raise UserError("episodes are saved world by world, by the pipeline data_ingestion")

    def load(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """One loader per world; nothing is read yet."""
        folders = sorted(p for p in self.path.glob("[!.]*") if p.is_dir())
        return {folder.name: EpisodesDataset(filepath=str(folder)).load for folder in folders}


class ParameterFilesDataset(LocalDataset):
    """Parameter files of a configuration environment; what is saved is merged into what is there."""

    def save(self, data: dict[str, Any]) -> None:
        """``{"hnn": tree}`` goes to ``parameters_hnn.yml`` under the key ``hnn``.

        Raises:
            UserError: a file that is there is not a YAML mapping, or it cannot be written.
        """
        import yaml

        for name, tree in data.items():
            path = self.path / f"parameters_{name}.yml"
            before = read_yaml(path) if path.exists() else {}
            text = yaml.safe_dump(deep_merge(before, {name: tree}), sort_keys=True)
            atomic_write_bytes(
                path, f"# Written by the tuning pipeline; use it with --env={self.path.name}.\n{text}".encode()
            )

    def load(self) -> dict[str, Any]:
        """All parameter files, merged.

        Raises:
            UserError: one of them is not a YAML mapping.
        """
        merged: dict[str, Any] = {}
        for path in sorted(self.path.glob("parameters_*.yml")):
            merged = deep_merge(merged, read_yaml(path))
        return merged
