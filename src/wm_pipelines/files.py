"""Files and folders that appear whole or not at all, checked where they are read; one run per data folder.

Writers work in a hidden directory beside their target, ``.partial-…``, on the same file system, and rename out of it:
no glob for ``*.parquet`` ever sees an unfinished file. A writer holds a lock on its directory; the kernel drops it with
the process, and the next writer removes what is no longer locked.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wm_pipelines.errors import UserError

StrPath = str | os.PathLike[str]
Content = bytes | Callable[[Path], object]
"""What a file is to hold, or a function that writes it to the path it is given."""

_PARTIAL, _WAITING = ".partial-", ".next-"


# ---------------------------------------------------------------- one file


def project_path(path: str) -> Path:
    """A relative path starts at the project's root: the nearest directory upwards that has a pyproject.toml."""
    here = Path.cwd()
    root = next((d for d in (here, *here.parents) if (d / "pyproject.toml").is_file()), here)
    return root / Path(path).expanduser()


def checked_file(path: StrPath, sha256: str, wanted: str) -> Path:
    """The path of a file that was made elsewhere, if it is the one that was meant.

    Args:
        path: of the file, relative to the project. sha256: hexadecimal digits of its checksum. wanted: what it should
            be, and where it is from.

    Raises:
        UserError: it is missing, or another one.
    """
    path, sha256 = project_path(os.fspath(path)), sha256.strip().lower()
    try:
        there = path.is_file()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise UserError(f"'{path}' is no file: {wanted}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"'{path}' has SHA-256 {found}, expected {sha256}: {wanted}, or correct the checksum")
    return path


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Yield a temporary path of the same name to write to; when the block ends without an error, it becomes ``path``.

    The file is synced before the rename and removed on any error; an older ``path`` stays untouched until the rename.
    Missing parent directories are made.

    Raises:
        UserError: the file cannot be written (disk full, read-only or missing place, no permission).
    """
    path = Path(path)
    with _private_directory(path) as place:
        temporary = place / path.name
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


def atomic_write_bytes(path: StrPath, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all.

    Raises:
        UserError: see `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def to_json(value: Any) -> bytes:
    """Indented JSON with sorted keys, ASCII only: equal content gives equal bytes."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


# ---------------------------------------------------------------- a folder with an index


def write_folder(folder: StrPath, files: Mapping[str, Content], index: str, facts: Mapping[str, Any]) -> None:
    """Replace the files of a folder as one: after a failure or a kill at any moment, all old ones are read or all new.

    Everything is written and synced in a hidden directory. Renaming that to ``.next-…`` is the one step that counts;
    then the files are moved to their places, the index last. Where that is interrupted, the next reader or writer
    finishes it.

    Args:
        folder: is made where missing. Files in it that the old index lists and the new one does not are removed.
        files: by name; written in this order.
        index: name of the JSON file with the SHA-256 of every file, the facts, and its own hash.
        facts: JSON types.

    Raises:
        UserError: it cannot be written, or a name is no plain file name or that of the index.
    """
    folder = Path(folder)
    for name in files:
        if name in ("", index) or name.startswith(".") or Path(name).name != name:
            raise UserError(f"'{name}' cannot be a file of '{folder}'; choose another name")
    with _private_directory(folder / index) as place:
        hashes = {}
        for name, content in files.items():
            try:
                content(place / name) if callable(content) else (place / name).write_bytes(content)
            except UserError as error:  # of a writer that was told a temporary path
                raise UserError(str(error).replace(str(place), str(folder))) from error
            _sync(place / name)
            hashes[name] = _hash_of(place / name)
        (place / index).write_bytes(_sealed({"facts": dict(facts), "files": hashes}))
        _sync(place / index)
        _sync(place)
        with _locked(folder, fcntl.LOCK_EX):
            _finish(folder, index)
            place.rename(_waiting(folder, index))
            _sync(folder)
            _finish(folder, index)


@dataclass(frozen=True)
class StoredFolder:
    """What `write_folder` wrote: its facts, and each file by name once it was compared with its hash."""

    path: Path
    index: str
    remedy: str
    facts: Mapping[str, Any]
    files: Mapping[str, str]

    def __getitem__(self, name: str) -> Path:
        """Where the file lies.

        Raises:
            UserError: it is missing, or it is not the file that was written.
        """
        found = _place_of(self.path, self.index, name)
        if name not in self.files or not found.is_file():
            raise UserError(f"'{self.path / name}' is missing; {self.remedy}")
        if _hash_of(found) != self.files[name]:
            raise UserError(
                f"'{self.path / name}' was damaged or replaced (its SHA-256 is not the one in {self.index}); "
                f"{self.remedy}"
            )
        return found


@contextmanager
def read_folder(folder: StrPath, index: str, remedy: str) -> Iterator[StoredFolder]:
    """What lies in a folder that `write_folder` wrote; nobody replaces its files before the block ends.

    Args:
        folder, index: as they were written.
        remedy: what the user can do where something is wrong, after a semicolon: ``run: kedro run …``.

    Raises:
        UserError: there is no index, or it is not what was written.
    """
    folder = Path(folder)
    if _waiting(folder, index).exists():
        with suppress(OSError), _locked(folder, fcntl.LOCK_EX):  # in a read-only place they are read where they wait
            _finish(folder, index)
    with ExitStack() as stack:
        with suppress(FileNotFoundError, NotADirectoryError):
            stack.enter_context(_locked(folder, fcntl.LOCK_SH))
        path = _place_of(folder, index, index)
        if not path.is_file():
            raise UserError(f"no complete {Path(index).stem} in '{folder}'; {remedy}")
        if (content := _unsealed(path)) is None:
            raise UserError(f"'{folder / index}' is damaged, edited, or of an older version; {remedy}")
        yield StoredFolder(folder, index, remedy, content["facts"], content["files"])


def is_complete(folder: StrPath, index: str) -> bool:
    """Whether `write_folder` came to its end there; nothing is read."""
    return _place_of(Path(folder), index, index).is_file()


def _waiting(folder: Path, index: str) -> Path:
    """Where a complete set of files waits for its last renames."""
    return folder / f"{_WAITING}{Path(index).stem}"


def _place_of(folder: Path, index: str, name: str) -> Path:
    waiting = _waiting(folder, index) / name
    return waiting if waiting.exists() else folder / name


def _finish(folder: Path, index: str) -> None:
    """Move a waiting set of files to their places; may be interrupted and begun again at any step."""
    waiting = _waiting(folder, index)
    if not waiting.exists():
        return
    for path in sorted(waiting.iterdir()):
        if path.name != index:
            path.replace(folder / path.name)
    if (new := _unsealed(waiting / index)) and (old := _unsealed(folder / index)):
        for name in sorted(set(old["files"]) - set(new["files"])):
            (folder / name).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        (waiting / index).replace(folder / index)
    waiting.rmdir()
    _sync(folder)


def _sealed(content: Mapping[str, Any]) -> bytes:
    plain = json.loads(json.dumps(content))
    return to_json(plain | {"sha256": hashlib.sha256(to_json(plain)).hexdigest()})


def _unsealed(path: Path) -> dict[str, Any] | None:
    """The content of an index; None where there is none or it does not match its own hash."""
    try:
        content = json.loads(path.read_bytes())
        seal = content.pop("sha256")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if seal == hashlib.sha256(to_json(content)).hexdigest() else None


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- one run per data folder


_held: dict[Path, ExitStack] = {}


def hold(folder: StrPath, what: str) -> ExitStack:
    """Keep a data folder for this run until the handle is closed or the process ends, however it ends.

    Worker processes of a run are covered by their parent's hold. A process that holds the folder already takes it over:
    in a notebook, an interrupted run leaves its hold behind. Reading needs no hold.

    Args:
        folder: is made where missing; the lock is its file ``.lock``.
        what: the command, shown to whoever comes second.

    Returns:
        A handle to `close`, or to use in ``with``.

    Raises:
        UserError: another run holds it (says which, since when), or the folder cannot be written.
    """
    handle = ExitStack()
    if multiprocessing.parent_process() is not None:
        return handle
    path = Path(folder) / ".lock"
    if before := _held.pop(path.absolute(), None):
        before.close()
    if file := next((f for f in (path.parent, *path.parent.parents) if f.is_file()), None):
        raise UserError(
            f"data folder '{folder}': '{file}' is a file; remove it, or name another data_root in globals.yml"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lock = handle.enter_context(_locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB, os.O_RDWR))
        holder = {"process": os.getpid(), "command": what, "since": datetime.now().isoformat()}
        os.truncate(lock, 0)
        os.pwrite(lock, to_json(holder), 0)
    except BlockingIOError:
        raise UserError(
            f"data folder '{folder}' is in use by another run{_holder(path)}; wait for it or use another --env"
        ) from None
    except OSError as error:
        handle.close()
        raise UserError(f"cannot write '{path}': {error.strerror}; make the folder writable, then run again") from error
    _held[path.absolute()] = handle
    return handle


def _holder(lock: Path) -> str:
    try:
        holder = json.loads(lock.read_bytes())
        since = datetime.fromisoformat(holder["since"])
        form = "%H:%M" if since.date() == datetime.now().date() else "%Y-%m-%d %H:%M"
        return f" (process {holder['process']}, `{holder['command']}`, since {since.strftime(form)})"
    except (OSError, ValueError, KeyError, TypeError):  # it has the lock, but has not yet written who it is
        return ""


# ---------------------------------------------------------------- parts


@contextmanager
def _private_directory(target: Path) -> Iterator[Path]:
    """A hidden directory beside the target, gone when the block ends; errors of the disk become one line."""
    folder, place = target.parent, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with ExitStack() as lock:
            place = _claim(folder, lock)
            yield place
    except OSError as error:
        if isinstance(error.filename, str | bytes):
            name = Path(os.fsdecode(error.filename))
            below = name.relative_to(folder).parts[:1] if name.is_relative_to(folder) else ()
            ours = name in (target, *target.parents) or "".join(below).startswith((_PARTIAL, _WAITING))
            if not ours:  # about another file, raised inside the block
                raise
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(
            f"cannot write '{target}': {reason}; free the disk or make the directory writable, then run again"
        ) from error
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def _claim(folder: Path, lock: ExitStack) -> Path:
    while True:
        place = Path(tempfile.mkdtemp(dir=folder, prefix=_PARTIAL))
        # Before it was locked another writer may have taken it for a dead one's.
        with suppress(FileNotFoundError), ExitStack() as attempt:
            attempt.enter_context(_locked(place, fcntl.LOCK_EX))
            if place.exists():
                lock.enter_context(attempt.pop_all())
                return place


def _remove_leftovers(folder: Path) -> None:
    for place in folder.glob(f"{_PARTIAL}*"):
        with suppress(OSError), _locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB):  # fails where its writer is alive
            shutil.rmtree(place, ignore_errors=True)


_locks: set[int] = set()


@contextmanager
def _locked(path: Path, how: int, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Hold ``path`` (a file or a directory) by `fcntl.flock`; yields the open file."""
    handle = os.open(path, flags)
    _locks.add(handle)
    try:
        fcntl.flock(handle, how)
        yield handle
    finally:
        if handle in _locks:
            _locks.remove(handle)
            os.close(handle)


def _forget_locks() -> None:
    for handle in _locks:
        os.close(handle)
    _locks.clear()


# A lock lasts as long as any copy of its open file: a forked worker that outlives its parent must not keep it.
os.register_at_fork(after_in_child=_forget_locks)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
