"""Files that appear whole or not at all: written beside their place, synced to the disk, renamed."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wm_pipelines.errors import UserError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to; when the block ends without an error, it becomes ``path``.

    The temporary file lies in the same directory and keeps the suffix (some writers choose the format by it). It is
    synced before the rename and removed on any error; an older ``path`` stays untouched until the rename. What a
    killed writer left behind is removed by the next one. Missing parent directories are made.

    Raises:
        UserError: the file cannot be written (disk full, read-only or missing place, no permission).
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=f".partial{path.suffix}")
        temporary = Path(name)
        try:
            # The lock says that the writer lives; the kernel drops it with the process, however that ends.
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.fchmod(handle, 0o666 & ~_umask())
            yield temporary
            _sync(temporary)
            temporary.replace(path)
        finally:
            os.close(handle)
        _sync(path.parent)
    except OSError as error:
        # An error about some other file, raised inside the block, is not about writing this one.
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (temporary, path, *path.parents):
            raise
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(
            f"cannot write '{path}': {reason}; free the disk or make the directory writable, then run again"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _remove_leftovers(path: Path) -> None:
    prefix, suffix = f".{path.name}.", f".partial{path.suffix}"
    for other in path.parent.iterdir():
        if not (other.name.startswith(prefix) and other.name.endswith(suffix)):
            continue
        with suppress(OSError), other.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its writer is alive
            other.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
