"""Share of the machine that training uses: a step's floating-point operations over its time, against a matrix product.

Every variant of every family that is trained by gradient, with base's settings, all seeds of its task, on the first
world of its task that it can model, in the middle of its schedule (roll-outs grow until then). Operations are those of
matrix products, convolutions and attention, forwards and backwards, by torch's own formulas; all else that a step
does, the batch and the optimiser included, takes time and counts for nothing. The peer is a float32 product of two
matrices of 2,048 rows on the same thread, timed before and after each variant, the faster one of both. What is judged
by energies trains in float64, of which a machine multiplies half as much: its share of a float64 product stands beside.

One thread, processor time, the best of a few steps. Below a share of 0.4 the operators that take longest are named,
with their part of the step's time (torch.profiler).

Run: ``python -m benchmarks.machine_share [task …]``; writes ``benchmarks/results/machine_share.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import logging
import platform
import time
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from wm_pipelines.errors import validate
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.learning.cost import FlopCounter
from wm_pipelines.learning.fitting import Assignment, as_tensors
from wm_pipelines.learning.loop import _Gradient
from wm_pipelines.registry import families, tasks
from wm_pipelines.worlds.making import WorldConfig, ingest

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf/base"
ROWS, EPISODES, LOW, TOP = 2048, 40, 0.4, 6
SECONDS, LEAST = 0.5, 3
"""A step is repeated for so long, and at least so often."""


def read(name: str) -> Any:
    """What a parameter file of base says."""
    return yaml.safe_load((CONF / f"parameters_{name}.yml").read_text())[name]


@cache
def episodes(world: str) -> Any:
    """Training episodes: a few of those of base, as long as there."""
    entry = read(world)
    if "splits" in entry:
        splits = {name: entry["splits"][name] for name in ("train", "test")}
        entry["splits"] = {name: {**own, "episodes": min(EPISODES, own["episodes"])} for name, own in splits.items()}
    return ingest(validate(WorldConfig, entry, world), world)["train"]


def product_rate(dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a large matrix product."""
    a = torch.rand(ROWS, ROWS, dtype=dtype)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        torch.mm(a, a, out=out)
        best = min(best, time.process_time() - start)
    return 2.0 * ROWS**3 / best


def trained(chosen: list[str]) -> Iterator[tuple[Assignment, str, Any]]:
    """Every variant that may train by gradient, on the first world that it can model."""
    for task, listed in yaml.safe_load((CONF / "globals.yml").read_text())["tasks"].items():
        if task not in chosen:
            continue
        learning = validate(LearningConfig, {**listed["learning"], "progress": False}, "learning")
        for family in listed["families"]:
            if "schedule" not in families.get(family).Config.model_fields:
                continue
            parameters, done = FamilyParameters(**read(family)), set()
            for world in listed["worlds"]:
                for variant in parameters.variants_for(task, world):
                    settings = parameters.resolve(task, variant, world)
                    shows, seeds = tasks.get(task).shows, listed["seeds"]
                    a = Assignment(task, family, world, shows, episodes(world), learning, seeds)
                    if variant not in done and a.unsuitable(settings, variant) is None:
                        done.add(variant)
                        yield a, variant, settings


def gradient(a: Assignment, variant: str, settings: Mapping[str, Any]) -> _Gradient | None:
    """A training that has not begun; None where there is nothing to train by gradient."""
    family = families.get(a.family)(a.config(settings, variant), a.spec, a.seeds)
    views = as_tensors(a.train, a.shows)
    examples = family.examples(views) if family.fit(views) is None else {}
    return _Gradient(family, examples, a.learning, None, variant, "", variant) if examples else None


def measured(run: _Gradient) -> dict[str, Any]:
    """Milliseconds and operations of one step, and what takes long in it."""
    step = run.schedule.steps // 2
    run._step(step)
    with FlopCounter() as counter:
        run._step(step)
    best, since, times = float("inf"), time.process_time(), 0
    while times < LEAST or time.process_time() - since < SECONDS:
        start = time.process_time()
        run._step(step)
        best, times = min(best, time.process_time() - start), times + 1
    return {"step_ms": 1e3 * best, "flops": counter.flops, "steps_timed": times}


def longest(run: _Gradient) -> list[str]:
    """The operators that take longest by themselves, with their parts of a step's time."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run._step(run.schedule.steps // 2)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    return [f"{e.key} {100 * e.self_cpu_time_total / whole:.0f} % ({e.count})" for e in events[:TOP]]


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", help="default: all")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    os.chdir(ROOT)
    rows: list[dict[str, Any]] = []
    for a, variant, settings in trained(given.tasks or tasks.names()):
        torch.manual_seed(0)
        run = gradient(a, variant, settings)
        if run is None:
            continue
        before = product_rate()
        found = measured(run)
        product = max(before, product_rate())
        rate = found["flops"] / found["step_ms"] * 1e3
        share = rate / product
        of_float64 = rate / product_rate(torch.float64) if a.learning.precision == "64-true" else None
        rows.append(
            {
                "name": f"machine_share: {a.task} {a.family}/{variant} on {a.world}",
                "ours": rate / 1e9,
                "peer": product / 1e9,
                "ratio": share,
                "unit": "GFLOP/s of a training step; peer: of a large float32 matrix product",
                **found,
                "share_of_float64_product": of_float64,
                "longest": longest(run) if share < LOW else [],
            }
        )
        own = f", of float64 {of_float64:.2f}" if of_float64 is not None else ""
        print(f"{rows[-1]['name'][15:]:62} {found['step_ms']:8.1f} ms  {share:.3f}{own}", flush=True)
        write(rows)


def write(rows: list[dict[str, Any]]) -> None:
    """What has been measured so far."""
    result = {
        **rows[0],
        "repeats": rows[0]["steps_timed"],
        "threads": 1,
        "versions": {p: version(p) for p in ("torch", "numpy")} | {"python": platform.python_version()},
        "comparisons": rows[1:],
    }
    (ROOT / "benchmarks/results/machine_share.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
