import errno
import os
import signal
import subprocess
import sys

import pytest

from wm_pipelines.errors import UserError
from wm_pipelines.files import atomic_path, atomic_write_bytes


def names(directory):
    return sorted(p.name for p in directory.iterdir())


def test_file_appears_whole_with_the_usual_permissions(tmp_path):
    usual = tmp_path / "usual"
    usual.touch()
    atomic_write_bytes(tmp_path / "deep" / "a.json", b"content")
    assert (tmp_path / "deep" / "a.json").read_bytes() == b"content"
    assert (tmp_path / "deep" / "a.json").stat().st_mode == usual.stat().st_mode
    assert names(tmp_path / "deep") == ["a.json"]


def write_and_fail(path, error):
    with atomic_path(path) as temporary:
        assert (temporary.suffix, temporary.parent) == (path.suffix, path.parent)
        temporary.write_bytes(b"half")
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


def test_read_only_place():
    with pytest.raises(UserError, match="cannot write '/proc/"):
        atomic_write_bytes("/proc/nothing/here", b"")


def test_errors_about_other_files_stay_themselves(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "missing").read_bytes()


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    script = (
        "import sys, time; from wm_pipelines.files import atomic_path\n"
        f"with atomic_path({str(tmp_path / 'a.txt')!r}) as t:\n"
        "    t.write_bytes(b'half'); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        atomic_write_bytes(tmp_path / "a.txt", b"mine")
        assert len(names(tmp_path)) == 2, "the living writer's file was taken away"
        os.kill(writer.pid, signal.SIGKILL)
    assert (tmp_path / "a.txt").read_bytes() == b"mine"
    atomic_write_bytes(tmp_path / "a.txt", b"again")
    assert names(tmp_path) == ["a.txt"]
