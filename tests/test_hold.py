"""One run per data folder: who holds it, who may come, and that a killed run lets go."""

import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from datetime import datetime

import pytest

from wm_pipelines.errors import UserError
from wm_pipelines.files import hold

HOLDER = (
    "import sys; from wm_pipelines.files import hold\n"
    "hold(sys.argv[1], 'kedro run --env=smoke')\n"
    "{more}print('ready', flush=True); sys.stdin.readline()\n"
)


def holder(folder, more=""):
    command = [sys.executable, "-c", HOLDER.format(more=more), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_second_run_is_told_who_holds_the_folder(tmp_path):
    with holder(tmp_path / "data") as first:
        with pytest.raises(UserError) as caught:
            hold(tmp_path / "data", "kedro run")
        assert re.fullmatch(
            rf"data folder '\S+data' is in use by another run \(process {first.pid}, `kedro run --env=smoke`, "
            r"since \d\d:\d\d\); wait for it or use another --env",
            str(caught.value),
        )
        hold(tmp_path / "other", "kedro run").close()
        first.kill()
    with hold(tmp_path / "data", "kedro run"), pytest.raises(BlockingIOError), (tmp_path / "data/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with holder(tmp_path / "data") as next_one:  # it gets the folder once the handle is closed
        next_one.kill()


def test_a_holder_who_has_not_yet_said_who_it_is(tmp_path):
    with holder(tmp_path) as first:
        (tmp_path / ".lock").write_bytes(b"")
        with pytest.raises(UserError, match="in use by another run; wait for it"):
            hold(tmp_path, "kedro run")
        yesterday = datetime(2020, 2, 3, 4, 5).isoformat()
        (tmp_path / ".lock").write_text(json.dumps({"process": 1, "command": "x", "since": yesterday}))
        with pytest.raises(UserError, match="since 2020-02-03 04:05"):
            hold(tmp_path, "kedro run")
        first.kill()


@pytest.mark.parametrize("folder", ["taken", "taken/below"])
def test_a_file_in_the_place_of_the_data_folder_is_said(tmp_path, folder):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match=r"'\S+taken' is a file; remove it, or name another data_root"):
        hold(tmp_path / folder, "kedro run")
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_same_process_takes_its_hold_over(tmp_path):
    hold(tmp_path, "a run that was interrupted in a notebook")
    with hold(tmp_path, "the next one"):
        assert "next one" in (tmp_path / ".lock").read_text()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_are_covered_by_their_parents_hold(tmp_path, start):
    with hold(tmp_path, "kedro run"):
        worker = multiprocessing.get_context(start).Process(target=hold, args=(tmp_path, "a worker"))
        worker.start()
        worker.join()
    assert worker.exitcode == 0


def test_a_worker_that_outlives_its_run_does_not_keep_the_folder(tmp_path):
    """SIGKILL to a run with a forked worker: the worker waits for ever, the folder is free."""
    fork = "import os, time\nif os.fork(): sys.stdin.readline()\nprint(os.getpid(), flush=True); time.sleep(600)\n"
    script = HOLDER.format(more=fork)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        worker = int(run.stdout.readline())  # which says that it is up
        run.kill()
        run.wait()
        try:
            hold(tmp_path, "kedro run").close()
            os.kill(worker, 0)
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_place_that_cannot_be_held():
    with pytest.raises(UserError, match=r"cannot write '.*\.lock': .*; make the folder writable"):
        hold("/proc/nothing", "kedro run")
