"""Files and folders appear whole or not at all: at every event at which a writer can be killed or the disk be full."""

import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from wm_pipelines import files
from wm_pipelines.errors import UserError
from wm_pipelines.files import atomic_path, atomic_write_bytes, is_complete, read_folder, write_folder

INDEX, REMEDY = "things.json", "run: make things"
EVENTS = ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync")  # all by which files.py changes or syncs a disk


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def count_events(monkeypatch, last, what):
    """Let the first ``last`` events happen; at the next one, before it happens, call ``what``."""
    seen = []

    def event(function):
        def happens(*args, **kwargs):
            seen.append(function.__name__)
            if len(seen) > last:
                what()
            return function(*args, **kwargs)

        return happens

    for name in EVENTS:
        monkeypatch.setattr(os, name, event(getattr(os, name)))
    # Content that a caller hands over: half of it is there when the event comes.
    monkeypatch.setattr(Path, "write_bytes", half_first(Path.write_bytes, event))
    return seen


def half_first(write, event):
    def write_bytes(path, data):
        write(path, data[: len(data) // 2])
        event(write)(path, data)

    return write_bytes


def kill_in_a_child(last, action):
    """Run ``action`` in a child that dies at event number ``last``; whether it came to its end before."""
    if (pid := os.fork()) == 0:
        try:
            with pytest.MonkeyPatch.context() as monkeypatch:
                count_events(monkeypatch, last, lambda: os._exit(9))  # like SIGKILL: nothing is cleaned up
                action()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9)
    return status == 0


# ---------------------------------------------------------------- one file


def test_file_appears_whole_with_the_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    atomic_write_bytes(tmp_path / "deep" / "a.json", b"content")
    assert (tmp_path / "deep" / "a.json").read_bytes() == b"content"
    assert (tmp_path / "deep" / "a.json").stat().st_mode == usual.stat().st_mode
    assert names(tmp_path / "deep") == ["a.json"]


def write_and_fail(path, error):
    with atomic_path(path) as temporary:
        assert temporary.name == path.name
        assert temporary.parent.name.startswith(".")
        assert temporary.parent.parent == path.parent, "another file system cannot be renamed from"
        temporary.write_bytes(b"half")
        assert not [p for p in path.parent.glob("*.png") if p != path]
        raise error


def test_an_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_and_fail(path, RuntimeError())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.png"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match=r"cannot write .*a.png': No space left on device") as caught:
        write_and_fail(tmp_path / "a.png", full)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_file_where_a_directory_should_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        atomic_write_bytes(tmp_path / "file" / "a", b"")


def test_a_directory_where_the_file_should_be(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        atomic_write_bytes(tmp_path / "a", b"")
    assert names(tmp_path) == ["a"]


def test_read_only_place(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot write '/proc/"):
        atomic_write_bytes("/proc/nothing/here", b"")

    def refuse(*, dir, prefix):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir / f"{prefix}x"))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=r"cannot write '.*a': Permission denied"):
        atomic_write_bytes(tmp_path / "a", b"")


def test_errors_about_other_files_stay_themselves(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()


def test_killed_at_any_moment_a_file_is_the_old_or_the_new_one_and_nothing_is_left_for_good(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"old")
    found, ended, k = set(), False, 0
    while not ended:
        ended = kill_in_a_child(k, lambda: atomic_write_bytes(path, b"new"))
        assert [p.name for p in tmp_path.glob("*.parquet")] == ["a.parquet"]
        found.add(path.read_bytes())
        atomic_write_bytes(tmp_path / "b", b"another file")  # whoever writes next tidies up
        assert names(tmp_path) == ["a.parquet", "b"]
        path.write_bytes(b"old")
        k += 1
    assert found == {b"old", b"new"}
    assert k > 5


def test_a_living_writer_is_left_alone_and_a_killed_one_is_tidied_up(tmp_path):
    script = (
        "import sys, time; from wm_pipelines.files import atomic_path\n"
        f"with atomic_path({str(tmp_path / 'a.txt')!r}) as t:\n"
        "    t.write_bytes(b'theirs'); print('ready', flush=True); sys.stdin.readline()\n"
    )
    for last in ("finishes", "is killed"):
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            atomic_write_bytes(tmp_path / "a.txt", b"mine")
            assert (tmp_path / "a.txt").read_bytes() == b"mine"
            assert len(names(tmp_path)) == 2, "the living writer's file was taken away"
            if last == "finishes":
                writer.communicate(b"\n")
                assert writer.returncode == 0
                assert (tmp_path / "a.txt").read_bytes() == b"theirs"
            else:
                os.kill(writer.pid, signal.SIGKILL)
    atomic_write_bytes(tmp_path / "a.txt", b"again")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("moment", [(tempfile, "mkdtemp"), (os, "open")])
def test_a_directory_taken_away_before_its_writer_could_lock_it_is_made_again(tmp_path, monkeypatch, moment):
    function, calls = getattr(*moment), []

    def then_lose_the_first(*args, **kwargs):
        result = function(*args, **kwargs)
        calls.append(result)
        if len(calls) == 1:
            files._remove_leftovers(tmp_path)  # of another process, at this very moment
        return result

    monkeypatch.setattr(*moment, then_lose_the_first)
    atomic_write_bytes(tmp_path / "a", b"content")
    assert len(calls) > 1
    assert names(tmp_path) == ["a"]


# ---------------------------------------------------------------- a folder with an index

OLD = {"a.bin": b"old a", "b.bin": b"old b", "gone.bin": b"old gone"}
NEW = {"a.bin": b"new a", "b.bin": b"new b", "more.bin": b"new more"}


def save(folder, contents):
    write_folder(folder, contents, INDEX, {"first": contents["a.bin"].decode()})


def load(folder):
    with read_folder(folder, INDEX, REMEDY) as stored:
        contents = {name: stored[name].read_bytes() for name in stored.files}
        assert stored.facts == {"first": contents["a.bin"].decode()}
    return contents


def test_a_folder_holds_what_was_written_last(tmp_path):
    (tmp_path / "foreign.txt").touch()
    for contents in (OLD, NEW):
        save(tmp_path, contents)
        assert load(tmp_path) == contents
        assert names(tmp_path) == sorted([*contents, INDEX, "foreign.txt"])
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in NEW.items()}


def test_files_may_be_written_by_functions_that_write_atomically(tmp_path):
    write_folder(tmp_path, {"a.bin": lambda path: atomic_write_bytes(path, b"content")}, INDEX, {})
    assert names(tmp_path) == ["a.bin", INDEX]


@pytest.mark.pipeline
def test_killed_at_any_moment_a_folder_is_all_old_or_all_new(tmp_path):
    """Also where the reader who recovers is killed at any moment, and where the next one writes and does not read."""
    seen, recoveries, ended, k = [], 0, False, 0
    while not ended:
        folder = tmp_path / str(k)
        save(folder, OLD)
        ended = kill_in_a_child(k, lambda folder=folder: save(folder, NEW))
        for other in ("reader", "writer"):
            copy = tmp_path / f"{k} {other}"
            subprocess.run(["cp", "-r", folder, copy], check=True)
        assert is_complete(folder, INDEX)
        j = 0
        while not kill_in_a_child(j, lambda folder=folder: load(folder)):
            j += 1
        recoveries += j
        seen.append(load(folder))
        assert seen[-1] in (OLD, NEW)
        assert load(tmp_path / f"{k} reader") == seen[-1]
        save(tmp_path / f"{k} writer", {"a.bin": b"third"})
        assert load(tmp_path / f"{k} writer") == {"a.bin": b"third"}
        assert names(tmp_path / f"{k} writer") == ["a.bin", INDEX]
        visible = [name for name in names(folder) if not name.startswith(".")]
        assert visible == sorted([*seen[-1], INDEX]), "other tools read the visible files"
        k += 1
    assert seen == [OLD] * seen.count(OLD) + [NEW] * seen.count(NEW)
    assert min(seen.count(OLD), seen.count(NEW), recoveries) > 5, "the events were not met"


def test_a_disk_that_is_full_at_any_moment_leaves_a_whole_folder_and_one_line(tmp_path):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(tmp_path, OLD)
    seen, lines, k = [], set(), 0
    while True:
        with pytest.MonkeyPatch.context() as monkeypatch:
            events = count_events(monkeypatch, k, full)
            try:
                save(tmp_path, NEW)
            except UserError as error:
                lines.add(str(error))
            found = load(tmp_path)  # the disk is still full
            assert found in (OLD, NEW)
            if len(events) <= k:
                break
        seen.append(found)
        save(tmp_path, OLD)
        assert names(tmp_path) == sorted([*OLD, INDEX])
        k += 1
    assert seen == [OLD] * seen.count(OLD) + [NEW] * seen.count(NEW)
    assert min(seen.count(OLD), seen.count(NEW)) > 3
    (line,) = lines
    assert re.fullmatch(r"cannot write '.*things.json': No space left on device; free the disk.*", line)


def test_a_writer_that_fails_names_the_place_the_user_knows(tmp_path):
    save(tmp_path, OLD)

    def fail(path):
        raise UserError(f"cannot write '{path}': no")

    with pytest.raises(UserError, match=re.escape(f"cannot write '{tmp_path / 'b.bin'}': no")):
        write_folder(tmp_path, {"a.bin": b"new", "b.bin": fail}, INDEX, {})
    assert load(tmp_path) == OLD
    assert names(tmp_path) == sorted([*OLD, INDEX])


def test_a_reader_sees_one_version_while_another_process_writes(tmp_path):
    save(tmp_path, OLD)
    script = (
        "from wm_pipelines.files import write_folder\n"
        f"write_folder({str(tmp_path)!r}, {NEW!r}, {INDEX!r}, {{'first': 'new a'}})"
    )
    with read_folder(tmp_path, INDEX, REMEDY) as stored:
        with pytest.raises(BlockingIOError), files._locked(tmp_path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            pytest.fail("a writer could move its files now")
        first = stored["a.bin"].read_bytes()
        writer = subprocess.Popen([sys.executable, "-c", script])
        while writer.poll() is None and not any((p / INDEX).exists() for p in tmp_path.glob(".partial-*")):
            time.sleep(0.01)
        # All it has left to do is to move its files to their places, once we are done.
        rest = {name: stored[name].read_bytes() for name in stored.files}
    assert writer.wait() == 0
    assert (first, rest) == (OLD["a.bin"], OLD)
    assert load(tmp_path) == NEW


def test_two_processes_that_write_one_folder_both_succeed(tmp_path):
    script = (
        "import sys; from wm_pipelines.files import write_folder\n"
        "for _ in range(20):\n"
        f"    write_folder({str(tmp_path)!r}, {{n: sys.argv[1].encode() for n in 'ab'}}, {INDEX!r}, {{}})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, name]) for name in ("one", "two")]
    assert [w.wait() for w in writers] == [0, 0]
    with read_folder(tmp_path, INDEX, REMEDY) as stored:
        assert stored["a"].read_bytes() == stored["b"].read_bytes()
    assert names(tmp_path) == ["a", "b", INDEX]


def replace_a_by_b(folder):
    (folder / "a.bin").write_bytes((folder / "b.bin").read_bytes())


def edit_the_index(folder):
    (folder / INDEX).write_text((folder / INDEX).read_text().replace("old a", "old b"))


DAMAGES = {
    "replaced": (replace_a_by_b, r"'\S+a.bin' was damaged or replaced \(its SHA-256 is not the one in things.json\)"),
    "truncated": (lambda f: (f / "b.bin").write_bytes(b"ol"), r"'\S+b.bin' was damaged or replaced"),
    "missing": (lambda f: (f / "b.bin").unlink(), r"'\S+b.bin' is missing"),
    "a directory": (lambda f: ((f / "b.bin").unlink(), (f / "b.bin").mkdir()), r"'\S+b.bin' is missing"),
    "no index": (lambda f: (f / INDEX).unlink(), r"no complete things in '\S+'"),
    "edited index": (edit_the_index, r"'\S+things.json' is damaged, edited, or of an older version"),
    **{
        f"index is {text!r}": (lambda f, text=text: (f / INDEX).write_bytes(text), r"'\S+things.json' is damaged")
        for text in (b"", b"{", b"{}", b"[]", b"3", b"null", b"\xff\xfe", b'{"files": {}, "sha256": "x"}')
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_that_names_the_file_and_the_remedy(tmp_path, damage):
    save(tmp_path, OLD)
    act, message = DAMAGES[damage]
    act(tmp_path)
    with pytest.raises(UserError, match=f"^{message}.*; run: make things$"):
        load(tmp_path)
    save(tmp_path, NEW) if damage != "a directory" else None
    assert damage == "a directory" or load(tmp_path) == NEW


def test_no_folder_is_nothing_complete(tmp_path):
    with pytest.raises(UserError, match="no complete things in"):
        load(tmp_path / "nowhere")
    assert not is_complete(tmp_path / "nowhere", INDEX)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/b", ".hidden", "", "..", INDEX])
def test_names_are_names_and_not_places(tmp_path, name):
    with pytest.raises(UserError, match="cannot be a file of"):
        write_folder(tmp_path / "folder", {name: b""}, INDEX, {})
    assert names(tmp_path) == []
