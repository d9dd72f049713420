"""10,000 (family, world, seed) nodes on 100 machines: what each part costs, and a simulation of the schedule.

Measured, by processor time of this process unless said otherwise:

- runners: one empty node that reads and writes a small JSON file, under Kedro's two runners and under Ray, as the slope
  between a pipeline of few and one of many nodes; wall time too, which also has what worker processes do;
- building: nodes and pipelines of 100, 1,000 and 10,000 nodes, the catalog's datasets, one task as it is sent to a
  machine, and one turn of Kedro's loop while all of them are out;
- collecting: a task's part of the leaderboard, the union, the summary of the first page, of as many results.

Node times are those of a finished run (``make run``): training and judgement of every family on every world, per seed.
The simulation draws 10,000 nodes from them, at 1, 10 and 100 times these seconds. One driver submits each training, and
its judgement when that is done; it does one thing at a time. A machine's first node waits until a worker has started.
What is simulated has no failures and no transfer of files.

Run: ``python -m benchmarks.schedule [--data data]``; writes ``benchmarks/results/schedule.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import heapq
import json
import logging
import os
import platform
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog, SharedMemoryDataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import AbstractRunner, ParallelRunner, SequentialRunner
from kedro.runner.task import Task

from wm_pipelines.datasets.atomic import JSONDataset
from wm_pipelines.datasets.bundle import BundleDataset
from wm_pipelines.pipelines import bench, combinations
from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.gathering import part_of_leaderboard, union
from wm_pipelines.reporting.summary import summary_table
from wm_pipelines.runners import RayRunner
from wm_pipelines.runners.ray_runner import _alone

HERE = Path(__file__).resolve().parent
TASK, FAMILIES = "physics", 20
SIZES = (100, 1_000, 10_000)
FEW, MANY = 20, 120
MACHINES, NODES = 100, 10_000
WORKER_START = 6.0
"""Seconds until a fresh worker has imported what nodes need; an assumption, of the order that is seen."""

Measured = dict[str, float]


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of this process, and the result."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


# ---------------------------------------------------------------- runners


def empty(value: dict[str, int]) -> dict[str, int]:
    """A node that does nothing."""
    return value


def pipeline_of(count: int, folder: Path) -> tuple[Pipeline, dict[str, JSONDataset]]:
    """As many empty nodes beside each other, and where they read and write."""
    nodes = [Node(Bound(empty), inputs="given", outputs=f"made_{i}", name=f"empty_{i}") for i in range(count)]
    names = ["given", *(f"made_{i}" for i in range(count))]
    datasets = {name: JSONDataset(filepath=str(folder / f"{name}.json")) for name in names}
    datasets["given"].save({"value": 1})
    return Pipeline(nodes), datasets


def run_empty(runner: AbstractRunner, count: int) -> Measured:
    """Seconds that a pipeline of empty nodes takes: by the clock, and of this process and those it has waited for."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline, datasets = pipeline_of(count, Path(folder))
        kind = SharedMemoryDataCatalog if isinstance(runner, ParallelRunner) else DataCatalog
        before, start, own = _children(), time.perf_counter(), time.process_time()
        runner.run(pipeline, kind(datasets))
        driver = time.process_time() - own
        return {"wall": time.perf_counter() - start, "driver": driver, "cpu": driver + _children() - before}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def overhead(make: Callable[[], AbstractRunner]) -> Measured:
    """Milliseconds of one more empty node, and seconds of a start."""
    run_empty(make(), 1)  # imports
    few, many = run_empty(make(), FEW), run_empty(make(), MANY)
    slope = {f"{name}_ms": 1e3 * (many[name] - few[name]) / (MANY - FEW) for name in few}
    return {**slope, "start_wall_s": few["wall"] - FEW * slope["wall_ms"] / 1e3}


# ---------------------------------------------------------------- building


@contextmanager
def listed(worlds: int) -> Iterator[None]:
    """An environment that lists as many worlds, which need not exist: only names are read."""
    task = {"worlds": [f"w{i}" for i in range(worlds)], "families": [f"f{i}" for i in range(FAMILIES)], "seeds": [0]}
    before = dict(combinations._environment)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "base").mkdir()
        (Path(folder) / "base/globals.yml").write_text(yaml.safe_dump({"data_root": "data", "tasks": {TASK: task}}))
        combinations.use_environment(folder, "base")
        try:
            yield
        finally:
            combinations._environment.clear()
            combinations._environment.update(before)


def building(count: int) -> Measured:
    """What a pipeline of about so many nodes costs before any of them runs."""
    from ray import cloudpickle

    with listed(max(1, round(count / (2 * FAMILIES)))):
        register, pipelines = cpu_seconds(bench.register)
    pipeline = pipelines["physics_eval"]
    catalog = DataCatalog.from_config(OmegaConfigLoader(str(HERE.parent / "conf"), base_env="base")["catalog"])
    names = {name for name in pipeline.datasets() if not name.startswith("params:")}
    resolve, _ = cpu_seconds(lambda: [catalog.get(name) for name in names])
    for name in pipeline.datasets() - names:
        catalog[name] = {}
    node = next(node for node in pipeline.nodes if "train" in node.tags)
    send, sent = cpu_seconds(lambda: cloudpickle.dumps(_alone(Task(node, catalog, is_async=False))))
    whole, everything = cpu_seconds(lambda: cloudpickle.dumps(Task(node, catalog, is_async=False)))
    return {
        "nodes": len(pipeline.nodes),
        "register_s": register,
        "catalog_s": resolve,
        "task_ms": 1e3 * send,
        "task_bytes": len(sent),
        "task_with_whole_catalog_ms": 1e3 * whole,
        "task_with_whole_catalog_bytes": len(everything),
        "turn_ms": 1e3 * one_turn(pipeline),
    }


def one_turn(pipeline: Pipeline) -> float:
    """CPU seconds of Kedro's loop until it sees one node that is done, while all others are out or wait for them."""
    dependencies = pipeline.node_dependencies
    out = [node for node in pipeline.nodes if "train" in node.tags]
    futures: set[Future[None]] = {Future() for _ in out}
    next(iter(futures)).set_result(None)
    done = {node for node in pipeline.nodes if not dependencies[node]}
    todo = set(pipeline.nodes) - set(out) - done

    def turn() -> None:
        assert not {node for node in todo if dependencies[node] <= done}
        wait(futures, return_when=FIRST_COMPLETED)

    return cpu_seconds(turn)[0]


# ---------------------------------------------------------------- collecting


def results_of(data: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(family, world) -> results of a finished run."""
    parts = {"scores": "parquet", "arrays": "safetensors", "facts": "json"}
    found = {}
    for path in sorted((data / "07_model_output" / TASK).glob("*/*/results")):
        dataset = BundleDataset(filepath=str(path), parts=parts, made_by="evaluation", belongs_to=4)
        found[path.parts[-3], path.parts[-2]] = dataset.load()
    if not found:
        raise SystemExit(f"no results of {TASK} in '{data}': make run, or give --data")
    return found


def copies(found: dict[tuple[str, str], dict[str, Any]], count: int) -> dict[str, dict[str, Any]]:
    """So many results: those of a run over and over, each time of other worlds."""
    made: dict[str, dict[str, Any]] = {}
    for i in range(count):
        (family, world), one = list(found.items())[i % len(found)]
        again = f"{world}_{i // len(found)}"
        facts = {**deepcopy(one["facts"]), "world": again}
        made[f"{family}_on_{again}_results"] = {**one, "scores": one["scores"].assign(world=again), "facts": facts}
    return made


def collecting(found: dict[tuple[str, str], dict[str, Any]], count: int) -> Measured:
    """What the leaderboard of so many nodes costs: half of them have results."""
    given = copies(found, count // 2)
    gather, (scores, made_from) = cpu_seconds(lambda: part_of_leaderboard(given))
    together, table = cpu_seconds(lambda: union({TASK: (scores, made_from)}))
    summary, _ = cpu_seconds(lambda: summary_table(table, {TASK: made_from["best"]}, {TASK: made_from["limits"]}))
    return {"results": len(given), "rows": len(scores), "gather_s": gather, "union_s": together, "summary_s": summary}


# ---------------------------------------------------------------- the schedule


def node_times(data: Path, found: dict[tuple[str, str], dict[str, Any]]) -> np.ndarray:
    """Seconds of training and of judgement per seed, ``[families × worlds, 2]``."""
    rows = []
    for (family, world), one in found.items():
        cost = json.loads((data / "07_model_output" / TASK / family / world / "training/cost.json").read_text())
        seeds = max(1, one["scores"]["seed"].nunique())
        rows.append((sum(own["train_seconds"] for own in cost.values()), one["facts"]["seconds"] / seeds))
    return np.array(rows)


def simulate(times: np.ndarray, slots: int, submit: float, finish: float, start: float) -> float:
    """Seconds until the last judgement is done.

    Args:
        times: seconds of training and judgement, ``[pairs, 2]``, in the order of submission.
        slots: nodes that run at once. submit, finish: seconds of the driver for each node.
        start: seconds until a slot can begin its first node.
    """
    driver = deque(("submit", 0.0, pair, 0) for pair in range(len(times)))  # what it has to do, in order
    free = [start] * slots  # when each slot is idle
    done: list[tuple[float, int, int]] = []  # running: when, pair, stage
    now, waiting, last = 0.0, 0, 0.0
    while driver or done:
        if not driver or (done and done[0][0] <= now):
            when, pair, stage = heapq.heappop(done)
            driver.append(("finish", when, pair, stage))
            continue
        what, when, pair, stage = driver.popleft()
        now = max(now, when) + (submit if what == "submit" else finish)
        if what == "submit":
            begin = max(heapq.heappop(free), now)
            end = begin + float(times[pair, stage])
            heapq.heappush(free, end)
            heapq.heappush(done, (end, pair, stage))
            waiting += 1
        elif stage == 0:
            driver.append(("submit", now, pair, 1))
        else:
            last = max(last, now)
    return last


def schedule(times: np.ndarray, driver: float, before: float) -> list[dict[str, Any]]:
    """The simulated runs; `driver`, `before`: seconds of the driver per node, now and with the whole catalog sent."""
    rng = np.random.default_rng(0)
    drawn = times[rng.integers(len(times), size=NODES)]
    rows = []
    for scale in (1, 10, 100):
        for cores in (1, 16):
            work, slots = scale * drawn, MACHINES * cores
            ideal = max(float(work.sum()) / slots, float(work.sum(axis=1).max()))
            longest_first = work[np.argsort(-work.sum(axis=1))]
            runs = {
                "as_drawn": simulate(work, slots, driver / 2, driver / 2, WORKER_START),
                "longest_first": simulate(longest_first, slots, driver / 2, driver / 2, WORKER_START),
                "whole_catalog_sent": simulate(work, slots, before - driver / 2, driver / 2, WORKER_START),
            }
            rows.append({"scale": scale, "cores": cores, "ideal_s": ideal, **runs})
    return rows


# ---------------------------------------------------------------- main


def main() -> None:
    """Measure, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=HERE.parent / "data", help="of a finished run of physics_eval")
    parser.add_argument("--collect", type=int, nargs="*", default=SIZES, help="nodes whose leaderboard is collected")
    given = parser.parse_args()
    logging.disable(logging.INFO)
    os.chdir(HERE.parent)
    found = results_of(given.data)
    bootstrap_project(HERE.parent)
    runners = {
        "SequentialRunner": overhead(SequentialRunner),
        "ParallelRunner": overhead(lambda: ParallelRunner(max_workers=2)),
        "RayRunner": overhead(lambda: RayRunner(address="local")),
    }
    built = [building(size) for size in SIZES]
    collected = [collecting(found, size) for size in given.collect]
    times = node_times(given.data, found)
    largest = built[-1]
    driver = 1e-3 * (runners["RayRunner"]["driver_ms"] + largest["task_ms"])
    before = driver + 1e-3 * (largest["task_with_whole_catalog_ms"] - largest["task_ms"])
    rows = schedule(times, driver, before)
    head = next(row for row in rows if (row["scale"], row["cores"]) == (10, 1))
    result = {
        "name": "schedule",
        "ours": head["as_drawn"],
        "peer": head["ideal_s"],
        "ratio": head["ideal_s"] / head["as_drawn"],
        "unit": "s, simulated: 10,000 nodes of 10 times base's length on 100 cores; peer: all cores busy to the end",
        "repeats": 1,
        "threads": 1,
        "versions": {p: version(p) for p in ("kedro", "ray", "pandas")} | {"python": platform.python_version()},
        "runners": runners,
        "building": built,
        "collecting": collected,
        "node_seconds": {
            name: dict(zip(("median", "mean", "p95", "max"), _shape(times[:, i]), strict=True))
            for i, name in enumerate(("training", "judging"))
        },
        "driver_s_per_node": {"now": driver, "whole_catalog_sent": before},
        "schedule": rows,
    }
    (HERE / "results" / "schedule.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, table in (("runners", pd.DataFrame(runners).T), ("building", pd.DataFrame(built)),
                        ("collecting", pd.DataFrame(collected)), ("schedule", pd.DataFrame(rows))):  # fmt: skip
        print(f"\n{name}\n{table.round(3).to_string()}")


def _shape(seconds: np.ndarray) -> list[float]:
    return [float(v) for v in (np.median(seconds), seconds.mean(), np.quantile(seconds, 0.95), seconds.max())]


if __name__ == "__main__":
    main()
