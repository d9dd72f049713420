"""Runs the nodes of a pipeline as Ray tasks: on the cores of this machine, or on the machines of a cluster.

``kedro run --pipeline=physics_eval --runner=wm_pipelines.runners.RayRunner`` starts a Ray of its own and stops it in
the end, or joins the cluster that the environment variable ``RAY_ADDRESS`` names. What a node asks for stands in
``conf/base/parameters_ray.yml``, by the node's tags.

A node reads and writes files only, and what it has begun it goes on with from its checkpoint. So a worker that dies
costs what it did since then: its node is tried again. After the driver has died, the same command goes on likewise.

Machines that share no disk exchange files through ``ray.storage``; see `exchange`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from kedro.runner import AbstractRunner
from kedro.runner.task import Task

from wm_pipelines.errors import UserError, validate
from wm_pipelines.learning.config import RayConfig
from wm_pipelines.runners.exchange import Exchange

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node
    from pluggy import PluginManager

logger = logging.getLogger(__name__)


class RayRunner(AbstractRunner):
    """Every node is a Ray task, which starts when those before it are done and a machine has room for it.

    Args:
        is_async: load and save in threads, as of Kedro's other runners. address: of a cluster; None: ``RAY_ADDRESS``,
            else this machine alone.
    """

    def __init__(self, is_async: bool = False, address: str | None = None) -> None:
        super().__init__(is_async=is_async)
        self._address = address
        self._config = RayConfig()
        self._exchange: Exchange | None = None

    def _run(
        self,
        pipeline: Pipeline,
        catalog: CatalogProtocol,
        hook_manager: PluginManager | None = None,  # noqa: ARG002  # no hooks of nodes, as of Kedro's ParallelRunner
        run_id: str | None = None,
    ) -> None:
        """Start or join Ray, run, and leave it as it was.

        Raises:
            UserError: Ray is not installed, no cluster answers, the storage cannot be written, or a node asks for more
                than any machine has.
        """
        ray = _ray()
        if "params:ray" in catalog:
            self._config = validate(RayConfig, catalog.load("params:ray"), "ray")
        project = Path.cwd()
        if self._config.storage is not None:
            self._exchange = Exchange(self._config.storage, project)
            self._exchange.check()
            self._exchange.give(catalog, pipeline.inputs())
        _start(ray, self._address, project, apart=self._exchange is not None)
        try:
            _check_room(ray, pipeline, self._config)
            super()._run(pipeline, catalog, None, run_id)
        finally:
            ray.shutdown()

    def _get_required_workers_count(self, pipeline: Pipeline) -> int:
        return len(pipeline.nodes)  # how many run at once is for Ray to say

    def _get_executor(self, max_workers: int) -> Executor:
        del max_workers
        return RayExecutor(self._config, Path.cwd(), self._exchange)


class RayExecutor(Executor):
    """Kedro's tasks as Ray tasks; what becomes of one is a future of the standard library.

    Args:
        config: what tasks ask for. project: its folder. exchange: how files travel, where disks are not shared.
    """

    def __init__(self, config: RayConfig, project: Path, exchange: Exchange | None = None) -> None:
        self._config, self._project, self._exchange = config, project, exchange
        self._running: dict[Any, Future[Any]] = {}
        self._perform = _ray().remote(_perform)

    def submit(self, task: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand a node to Ray; the future's result is the node."""
        from ray import cloudpickle

        assert isinstance(task, Task)
        assert not args
        assert not kwargs
        options = self._config.asked(task.node.tags)
        reference = self._perform.options(
            name=task.node.name, max_retries=self._config.retries, retry_exceptions=False, **options
        ).remote(cloudpickle.dumps(_alone(task)), str(self._project), self._exchange)
        outcome: Future[Any] = Future()
        self._running[reference] = outcome
        reference.future().add_done_callback(lambda done: self._tell(reference, task, done))
        return outcome

    def _tell(self, reference: Any, task: Task, done: Future[Any]) -> None:
        """Pass the outcome on, with the error that the node raised rather than Ray's account of it."""
        outcome = self._running.pop(reference)
        try:
            done.result()
            if self._exchange is not None:
                self._exchange.take(task.catalog, task.node.outputs)
        except BaseException as error:
            outcome.set_exception(_as_raised(error, task.node))
        else:
            outcome.set_result(task.node)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop what still runs: only after a failure, or an interrupt, does anything."""
        del wait, cancel_futures
        for reference in list(self._running):
            with suppress(Exception):
                _ray().cancel(reference, force=True)


def _alone(task: Task) -> Task:
    """A task with what its node reads and writes: the catalog of a large pipeline is megabytes."""
    names = dict.fromkeys((*task.node.inputs, *task.node.outputs))
    own = DataCatalog({name: task.catalog.get(name) for name in names})
    return Task(task.node, own, task.is_async, run_id=task.run_id, parallel=True)


def _perform(task: bytes, project: str, exchange: Exchange | None) -> None:
    """Of a worker: run one node, on the project's own data or, with an exchange, on a copy of this machine's.

    The task comes as bytes, because what is in it can be read only where the project is known.
    """
    from ray import cloudpickle

    if exchange is None:
        os.chdir(project)
    bootstrap_project(Path.cwd())
    loaded: Task = cloudpickle.loads(task)
    if exchange is not None:
        exchange = exchange.of_worker(loaded.catalog, (*loaded.node.inputs, *loaded.node.outputs))
        exchange.take(loaded.catalog, loaded.node.inputs)
    loaded.execute()
    if exchange is not None:
        exchange.give(loaded.catalog, loaded.node.outputs)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("RayRunner needs Ray: pip install 'wm_pipelines[ray]'") from None
    return ray


def _start(ray: Any, address: str | None, project: Path, apart: bool) -> None:
    """Join the cluster, or start one of this machine; workers see the project's own code and settings."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name in ("KEDRO_ENV", "OMP_NUM_THREADS")}
    place = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}" if apart else str(project)
    environment: dict[str, Any] = {"env_vars": {**kept, "PYTHONPATH": f"{place}/src"}}
    if apart:
        environment |= {"working_dir": str(project), "excludes": _NOT_SENT}
    quiet = {"logging_level": logging.WARNING, "log_to_driver": True, "include_dashboard": None if address else False}
    try:
        ray.init(address=address or "local", runtime_env=environment, **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at '{address}': {str(error).splitlines()[0]}") from None
    logger.info("Ray: %s.", ", ".join(f"{n:g} {name}" for name, n in _room(ray.cluster_resources()).items()))


_NOT_SENT = ["/.git", "/.venv", "/.dvc", "/data/[!0]*", "/data/0[!1]*", "**/__pycache__", "/tests", "/docs"]


def _room(resources: dict[str, float]) -> dict[str, float]:
    """Processors and accelerators, of all that Ray lists."""
    return {name: resources[name] for name in ("CPU", "GPU") if name in resources}


def _check_room(ray: Any, pipeline: Pipeline, config: RayConfig) -> None:
    """A task that fits no machine would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    for node in pipeline.nodes:
        asked = config.asked(node.tags)
        wanted = {names[key]: value for key, value in asked.items() if key in names} | asked.get("resources", {})
        if not any(all(has.get(name, 0) >= n for name, n in wanted.items()) for has in machines):
            raise UserError(f"parameter 'ray.resources': no machine has what {node.name} asks for: {wanted}")


def _as_raised(error: BaseException, node: Node) -> BaseException:
    import ray.exceptions as of_ray

    if isinstance(error, of_ray.RayTaskError):  # with the worker's traceback as text, in which all causes stand
        return error.cause if isinstance(error.cause, UserError) else error
    if isinstance(error, of_ray.RayError):
        return UserError(f"{node.name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
    return error
