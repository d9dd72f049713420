"""Files between machines that share no disk, through any place that fsspec knows (``s3://``, ``gs://``, a folder).

What a dataset holds lies at one path, a file or a folder, and is replaced as a whole. It travels as one tar archive
whose name is its SHA-256; a small file says which archive is the newest of a path. So nothing half-written is ever
seen, what did not change is not sent again, and a copy that is there already is not fetched.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterable
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
        storage: URL of a folder. project: the folder below which the datasets of this machine lie.
    """

    storage: str
    project: Path

    def of_worker(self, catalog: Any, names: Iterable[str]) -> Exchange:
        """The same for a worker: datasets lie below its own folder, and it is they that travel.

        That is the folder into which Ray has unpacked the project, or the one that the environment variable
        ``WM_SCRATCH`` names.
        """
        own = Path(os.environ.get(SCRATCH) or Path.cwd())
        for dataset, path in _stored(catalog, names):
            dataset._filepath = type(dataset._filepath)((own / path.relative_to(self.project)).as_posix())
        return Exchange(self.storage, own)

    def check(self) -> None:
        """Try the storage before anything is computed.

        Raises:
            UserError: fsspec does not know such a place, a package for it is missing, or it cannot be written.
        """
        try:
            self._put("probe", b"", replace=True)
        except ImportError as error:  # fsspec's own words say which package reads such a place
            extra = "; pip install 'wm_pipelines[s3]'" if self.storage.startswith("s3") else ""
            raise UserError(f"parameter 'ray.storage': '{self.storage}' needs a package: {error}{extra}") from None
        except Exception as error:  # every kind of storage has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"parameter 'ray.storage': cannot write to '{self.storage}': {reason}") from None

    def give(self, catalog: Any, names: Iterable[str]) -> None:
        """Put what these datasets hold into the storage, where it is not there yet."""
        for dataset, path in _stored(catalog, names):
            if path.exists() and not _stays(dataset):
                archive = _packed(path)
                digest = hashlib.sha256(archive).hexdigest()
                self._put(f"archives/{digest}.tar", archive)
                self._put(f"paths/{self._below(path)}.sha256", digest.encode(), replace=True)
                self._remember(path, digest)

    def take(self, catalog: Any, names: Iterable[str]) -> None:
        """Get what these datasets hold from the storage, where another than that is here.

        What nobody has given stays as it is here: whoever reads it says whether it may be missing.

        Raises:
            UserError: the storage has lost it, or holds it damaged.
        """
        for dataset, path in _stored(catalog, names):
            newest = None if _stays(dataset) else self._get(f"paths/{self._below(path)}.sha256")
            if newest is not None and not (path.exists() and self._remembered(path) == newest.decode()):
                self._unpack(newest.decode(), path)

    def _unpack(self, digest: str, path: Path) -> None:
        archive = self._get(f"archives/{digest}.tar")
        if archive is None:
            raise UserError(f"'{self.storage}/archives/{digest}.tar' is missing; make {path.name} again")
        if hashlib.sha256(archive).hexdigest() != digest:
            raise UserError(f"'{self.storage}/archives/{digest}.tar' is damaged; remove it, then run again")
        _unpack(archive, path)
        self._remember(path, digest)

    # ------------------------------------------------------------ what is here

    def _note(self, path: Path) -> Path:
        return self.project / ".exchange" / f"{self._below(path)}.sha256"

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
        return path.relative_to(self.project).as_posix()

    def _put(self, name: str, content: bytes, replace: bool = False) -> None:
        system, root = fsspec.core.url_to_fs(self.storage)
        path = f"{root}/{name}"
        if not replace and system.exists(path):
            return
        system.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        # Of a folder a rename, of an object store the upload itself is atomic.
        with system.transaction, system.open(path, "wb") as file:
            file.write(content)

    def _get(self, name: str) -> bytes | None:
        system, root = fsspec.core.url_to_fs(self.storage)
        try:
            return bytes(system.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None


def _stored(catalog: Any, names: Iterable[str]) -> list[tuple[Any, Path]]:
    """Datasets that are files, and where; a folder before what lies in it, which has been written later."""
    datasets = [dataset for name in names if hasattr(dataset := catalog.get(name), "_filepath")]
    return sorted(((d, Path(d._filepath)) for d in datasets), key=lambda found: len(found[1].parts))


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
