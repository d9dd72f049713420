"""Kedro's ParallelRunner, but nodes that are ready start in an order: the longest first.

Kedro hands the nodes that are ready to its processes in the order of a set, another one in every run. When a training
of ten minutes comes last, one core waits for it. Here families that ``globals.yml`` lists under
``tasks.<task>.longest`` start first (after the rule *longest processing time first*, Graham, SIAM J. Appl. Math. 17,
1969), all others in the order of the pipeline.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING, Any

from kedro.runner import ParallelRunner as KedroParallelRunner
from kedro.runner.task import Task

from wm_pipelines.errors import UserError

if TYPE_CHECKING:
    from kedro.io import SharedMemoryCatalogProtocol
    from kedro.pipeline import Pipeline
    from pluggy import PluginManager

_LONGEST = "longest"  # the tag of their nodes
_KILLED = "a worker process was killed (out of memory?); run the same command again, it goes on from its checkpoints"
_TOGETHER = 0.02  # seconds in which nodes that became ready together are handed in


class ParallelRunner(KedroParallelRunner):
    """One node per core at once; see the module."""

    _ranks: Mapping[str, tuple[bool, int]]

    def _run(
        self,
        pipeline: Pipeline,
        catalog: SharedMemoryCatalogProtocol,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
    ) -> None:
        self._ranks = {node.name: (_LONGEST not in node.tags, place) for place, node in enumerate(pipeline.nodes)}
        super()._run(pipeline, catalog, hook_manager, run_id)

    def _get_executor(self, max_workers: int) -> Executor:
        pool = super()._get_executor(max_workers)
        pool.submit(int).result()  # processes are forked here, and not by the thread that hands in nodes later
        return OrderedExecutor(pool, max_workers, self._ranks)


class OrderedExecutor(Executor):
    """Hands tasks to a pool only when one of its workers is free, those with the lowest rank first.

    Args:
        pool: runs them. workers: of the pool. ranks: by the node's name.
    """

    def __init__(self, pool: Executor, workers: int, ranks: Mapping[str, Any]) -> None:
        self._pool, self._free, self._ranks = pool, workers, ranks
        self._waiting: list[tuple[Any, int, Task, Future[Any]]] = []
        self._lock = threading.Lock()
        self._count = 0
        self._timer: threading.Timer | None = None

    def submit(self, task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let a node wait for its turn; the future's result is the node."""
        assert isinstance(task, Task)
        assert not args
        assert not kwargs
        task.parallel = True
        outcome: Future[Any] = Future()
        with self._lock:
            self._count += 1
            heapq.heappush(self._waiting, (self._ranks[task.node.name], self._count, task, outcome))
            if self._timer is None:
                self._timer = threading.Timer(_TOGETHER, self._start_waiting)
                self._timer.start()
        return outcome

    def _start_waiting(self) -> None:
        with self._lock:
            self._timer = None
        self._start()

    def _start(self) -> None:
        """Fill the workers that are free."""
        while True:
            with self._lock:
                if not self._waiting or not self._free:
                    return
                self._free -= 1
                _, _, task, outcome = heapq.heappop(self._waiting)
            try:
                self._pool.submit(task).add_done_callback(partial(self._tell, outcome))
            except BaseException as error:  # the pool is broken, or was shut down
                self._end(outcome, error)

    def _tell(self, outcome: Future[Any], done: Future[Any]) -> None:
        if done.cancelled():
            self._end(outcome, CancelledError())
        else:
            self._end(outcome, done.exception(), done)
        self._start()

    def _end(self, outcome: Future[Any], error: BaseException | None, done: Future[Any] | None = None) -> None:
        """Pass on what became of a node; its worker is free."""
        with self._lock:
            self._free += 1
        if error is not None:
            outcome.set_exception(UserError(_KILLED) if isinstance(error, BrokenProcessPool) else error)
        elif done is not None:
            outcome.set_result(done.result())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing that waits starts any more; what runs is waited for."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            for *_, outcome in self._waiting:
                outcome.cancel()
            self._waiting.clear()
        self._pool.shutdown(wait, cancel_futures=cancel_futures)
