"""Several processes that train together: how they start, meet, agree on where to begin, and end.

Who they are stands in the environment of `torch.distributed` (``RANK``, ``WORLD_SIZE`` …), which `together` sets for
processes of this machine and `torchrun` for those of several.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed

from wm_pipelines.errors import UserError

logger = logging.getLogger(__name__)

_LATER = 1.0  # seconds by which those that lost a worker end after it
_PATIENCE = timedelta(minutes=10)  # after which a worker that says nothing counts as dead
_MEETING = "WM_PIPELINES_MEETING"  # the file through which processes of one machine meet: it needs no free port


class LostWorkerError(UserError):
    """Another worker is gone."""


def worker_count() -> int:
    """How many workers train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_worker() -> bool:
    """Whether this process is the only worker or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def meet(accelerator: str) -> None:
    """Wait for the other workers, where there are any and this was not done yet.

    Args:
        accelerator: see `LearningConfig`. Tensors travel by NCCL between GPUs, else by Gloo.
    """
    if worker_count() == 1 or distributed.is_initialized():
        return
    on_gpu = accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available())
    file = os.environ.get(_MEETING)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=distributed.FileStore(file, worker_count()) if file else None,
        rank=int(os.environ["RANK"]) if file else -1,
        world_size=worker_count() if file else -1,
        timeout=_PATIENCE,
    )


def agree(what: Any, called: str) -> None:
    """Refuse to begin where workers differ in ``what`` decides a training and in the step that they go on from.

    Raises:
        UserError: they do.
    """
    if worker_count() == 1:
        return
    told: list[Any] = [None] * worker_count()
    distributed.all_gather_object(told, what)
    if any(one != told[0] for one in told):
        raise UserError(
            f"{called}: the workers do not begin alike; all need the same settings, data and code, and one folder of "
            "checkpoints (tasks on a disk that all machines share)"
        )


@contextmanager
def company() -> Iterator[None]:
    """A connection that breaks inside means that another worker is gone: said in one line.

    Raises:
        LostWorkerError: so it is.
    """
    try:
        yield
    except RuntimeError as error:
        if worker_count() == 1 or not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        reason = str(error).splitlines()[0]
        raise LostWorkerError(
            f"worker {os.environ['RANK']} of {worker_count()} (counted from 0) lost another one ({reason}); its own "
            "message says why. Run again to go on from the last checkpoint"
        ) from error


# ---------------------------------------------------------------- on one machine


def together(count: int, job: Callable[..., None], *arguments: Any) -> None:
    """Run ``job(*arguments)`` in ``count`` new processes of this machine; where one fails, the others are ended.

    Args:
        job, arguments: picklable; whatever the job finds out it writes to files.

    Raises:
        UserError: one was killed, or raised such an error.
        ProcessRaisedException: one raised any other error; it has that traceback.
    """
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

    if multiprocessing.current_process().daemon:
        raise UserError("a process of a study cannot start others; set learning.workers or tuning.processes to 1")
    # Read where torch is imported; it warns of parameters that might not have been used, at each training and worker.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with TemporaryDirectory() as folder:
        level = logging.getLogger("wm_pipelines").getEffectiveLevel()
        running = start_processes(_worker, (count, Path(folder), level, job, arguments), count, join=False)
        try:
            while not running.join():
                pass
        except (ProcessExitedException, ProcessRaisedException) as error:
            if message := _killed(running.processes, error) or _told(Path(folder), error.error_index):
                raise UserError(message) from None
            raise
        finally:
            for process in running.processes:
                process.kill()


def _worker(rank: int, count: int, folder: Path, level: int, job: Callable[..., None], arguments: Any) -> None:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in here.items()})
    os.environ[_MEETING] = str(folder / "meeting")
    logging.basicConfig(level=level, format="%(message)s")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # of some 1 x 1 kernels
    try:
        job(*arguments)
    except UserError as error:
        _said(folder, rank).write_text(str(error), encoding="utf-8")
        if isinstance(error, LostWorkerError):
            time.sleep(_LATER)  # the first to end is the one whose message counts
        raise SystemExit(1) from None
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _said(folder: Path, rank: int) -> Path:
    return folder / f"error_{rank}"


def _told(folder: Path, rank: int) -> str:
    """The message of a worker that ended with a `UserError`; empty if none."""
    path = _said(folder, rank)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _killed(processes: Any, first: Any) -> str:
    """Which worker was killed from outside, and how; empty if none. All others were ended for its sake."""
    codes = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode != -signal.SIGTERM}
    codes |= {first.error_index: processes[first.error_index].exitcode}
    for rank, code in codes.items():
        if code is not None and code < 0:
            return (
                f"worker {rank} of {len(processes)} (counted from 0) was killed by {signal.Signals(-code).name} (out "
                "of memory?); the others were ended. Run again to go on from the last checkpoint, also with fewer "
                "workers"
            )
    return ""
