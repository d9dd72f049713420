"""Files between machines that share no disk, through any place that fsspec knows (``s3://``, ``gs://``, a folder).

What a dataset holds lies at one path, a file or a folder, and is replaced as a whole. It travels as one tar archive
whose name is its SHA-256; a small file says which archive is the newest of a path. So nothing half-written is ever
seen, what did not change is not sent again, and a copy that is there already is not fetched.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from wm_pipelines.errors import UserError

SCRATCH = "WM_SCRATCH"


@dataclass(frozen=True)
class Exchange:
    """Where files are exchanged, and whose paths they have.

    Attributes:
        storage: URL of a folder. project: folder of the project on the machine that drives.
    """

    storage: str
    project: Path

    def own_project(self) -> Path:
        """Of a worker: its copy of the project's code and parameters, beside which its data lie.

        That is the folder which Ray has unpacked for it, or the one that the environment variable ``WM_SCRATCH`` names,
        with links to the former.
        """
        code, scratch = Path.cwd(), os.environ.get(SCRATCH)
        if scratch is None:
            return code
        own = Path(scratch)
        own.mkdir(parents=True, exist_ok=True)
        for name in ("src", "conf", "pyproject.toml"):
            link = own / f".{name}-{os.getpid()}"
            link.symlink_to(code / name)
            link.replace(own / name)  # of another run before, and by other workers at the same time
        if (code / "data").is_dir() and not (own / "data").exists():
            shutil.copytree(code / "data", own / "data", dirs_exist_ok=True)
        return own

    def move(self, catalog: Any, names: Iterable[str]) -> None:
        """Of a worker: datasets lie below its own folder."""
        for dataset in _with_paths(catalog, names):
            below = Path(dataset.path).relative_to(self.project)
            dataset._filepath = type(dataset._filepath)((Path.cwd() / below).as_posix())

    def give(self, catalog: Any, names: Iterable[str]) -> None:
        """Put what these datasets hold into the storage, where it is not there yet."""
        for dataset in _with_paths(catalog, names):
            if dataset.path.exists() and not _stays(dataset):
                archive = _packed(dataset.path)
                digest = hashlib.sha256(archive).hexdigest()
                self._put(f"archives/{digest}.tar", archive)
                self._put(f"paths/{self._below(dataset.path)}.sha256", digest.encode(), replace=True)
                self._remember(dataset.path, digest)

    def take(self, catalog: Any, names: Iterable[str]) -> None:
        """Get what these datasets hold from the storage, where another than that is here.

        Raises:
            UserError: the storage does not hold it, or holds it damaged.
        """
        for dataset in _with_paths(catalog, names):
            if _stays(dataset):
                continue
            digest = self._get(f"paths/{self._below(dataset.path)}.sha256").decode()
            if dataset.path.exists() and self._remembered(dataset.path) == digest:
                continue
            archive = self._get(f"archives/{digest}.tar")
            if hashlib.sha256(archive).hexdigest() != digest:
                raise UserError(f"'{self.storage}/archives/{digest}.tar' is damaged; remove it, then run again")
            _unpack(archive, dataset.path)
            self._remember(dataset.path, digest)

    # ------------------------------------------------------------ what is here

    def _note(self, path: Path) -> Path:
        return Path(".exchange") / f"{self._below(path)}.sha256"

    def _remember(self, path: Path, digest: str) -> None:
        """Which archive a path was packed to or unpacked from, and when it was last changed: an own change shows."""
        note = self._note(path)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{digest} {path.stat().st_mtime_ns}")

    def _remembered(self, path: Path) -> str | None:
        try:
            digest, changed = self._note(path).read_text().split()
        except (OSError, ValueError):
            return None
        return digest if int(changed) == path.stat().st_mtime_ns else None

    # ------------------------------------------------------------ the storage

    def _below(self, path: Path) -> str:
        root = self.project if path.is_relative_to(self.project) else Path.cwd()
        return path.relative_to(root).as_posix()

    def _put(self, name: str, content: bytes, replace: bool = False) -> None:
        system, root = fsspec.core.url_to_fs(self.storage)
        path = f"{root}/{name}"
        if not replace and system.exists(path):
            return
        system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        # Of a folder a rename, of an object store the upload itself is atomic.
        with system.transaction, system.open(path, "wb") as file:
            file.write(content)

    def _get(self, name: str) -> bytes:
        system, root = fsspec.core.url_to_fs(self.storage)
        try:
            return bytes(system.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            raise UserError(f"'{self.storage}/{name}' is missing: make it with the pipeline that it is of") from None


def _with_paths(catalog: Any, names: Iterable[str]) -> Iterator[Any]:
    """Datasets that are files."""
    for name in names:
        dataset = catalog.get(name)
        if getattr(dataset, "path", None) is not None:
            yield dataset


def _stays(dataset: Any) -> bool:
    """A folder that nodes write into themselves, of checkpoints, is each machine's own."""
    return type(dataset).__name__ == "PathDataset"


def _packed(path: Path) -> bytes:
    """A tar archive of a file or folder: of equal content equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for place in [path, *sorted(p for p in path.rglob("*") if not p.name.startswith("."))]:
            info = tar.gettarinfo(place, arcname=str(Path("content") / place.relative_to(path)))
            info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
            if place.is_file():
                with place.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    return buffer.getvalue()


def _unpack(archive: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".taken-") as place:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(place, filter="data")
        if path.is_dir():
            path.rename(Path(place) / "before")
        (Path(place) / "content").rename(path)
