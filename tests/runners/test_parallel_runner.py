"""In which order nodes start, and that what they raise arrives."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import pytest
from kedro.io import DataCatalog, SharedMemoryDataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner.task import Task

from wm_pipelines.errors import UserError
from wm_pipelines.runners.parallel_runner import OrderedExecutor, ParallelRunner


class Pool(ThreadPoolExecutor):
    """Runs tasks in threads and notes which began."""

    def __init__(self, workers):
        super().__init__(workers)
        self.begun = []

    def submit(self, task):
        self.begun.append(task.node.name)
        return super().submit(task.node.func)


def task(name, does=lambda: None):
    return Task(Node(does, None, "out", name=name), DataCatalog(), is_async=False)


def handed(pool, workers, ranks, does=None):
    executor = OrderedExecutor(pool, workers, ranks)
    futures = [executor.submit(task(name, (does or {}).get(name, lambda: None))) for name in ranks]
    return executor, futures


@pytest.mark.parametrize("workers", [1, 2])
def test_those_with_the_lowest_rank_start_first(workers):
    pool = Pool(workers)
    ranks = {"c": (True, 2), "a": (True, 0), "long": (False, 3), "b": (True, 1)}
    _, futures = handed(pool, workers, ranks)
    wait(futures)
    assert pool.begun == ["long", "a", "b", "c"]


def test_a_node_that_becomes_ready_later_overtakes_those_that_wait():
    pool, gate = Pool(1), threading.Event()
    ranks = {"first": 0, "last": 9, "late": 5}
    executor, futures = handed(pool, 1, ranks, {"first": gate.wait})
    while not pool.begun:
        gate.wait(0.01)
    ranks["sudden"] = 1
    futures.append(executor.submit(task("sudden")))
    gate.set()
    wait(futures)
    assert pool.begun == ["first", "sudden", "late", "last"]


def test_what_a_node_raises_arrives_and_the_others_go_on():
    def fails():
        raise UserError("no such thing")

    _, (bad, good) = handed(Pool(1), 1, {"bad": 0, "good": 1}, {"bad": fails})
    with pytest.raises(UserError, match="no such thing"):
        bad.result()
    good.result()


def test_a_broken_pool_is_not_waited_for():
    class Broken(Pool):
        def submit(self, task):
            raise BrokenProcessPool("a process died")

    _, futures = handed(Broken(1), 1, {"one": 0, "two": 1})
    for future in futures:
        with pytest.raises(UserError, match="a worker process was killed"):
            future.result()


def test_after_shutdown_nothing_that_waits_starts():
    pool, gate = Pool(1), threading.Event()
    executor, (_, waiting) = handed(pool, 1, {"runs": 0, "waits": 1}, {"runs": gate.wait})
    while not pool.begun:
        gate.wait(0.01)
    threading.Timer(0.05, gate.set).start()
    executor.shutdown()
    assert waiting.cancelled()
    assert pool.begun == ["runs"]


def _one():
    return 1


def _fails(one):
    raise UserError(f"not {one}")


def test_a_pipeline_runs_in_processes_and_its_error_arrives():
    nodes = [Node(_one, None, "one", name="one", tags=["longest"]), Node(_fails, "one", "two", name="two")]
    runner = ParallelRunner(max_workers=2)
    with pytest.raises(UserError, match="not 1"):
        runner.run(Pipeline(nodes), SharedMemoryDataCatalog())
    assert runner.run(Pipeline(nodes[:1]), SharedMemoryDataCatalog())["one"].load() == 1
