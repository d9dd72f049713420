"""Trials per second of a search by two workers on one study, beside one worker.

A trial trains `mlp` on the pendulum and judges it on the validation split, as ``kedro run --pipeline=tuning`` does.
Both searches make the same number of trials of the same study by random search, which visits the same points with any
number of workers (verified here). Trials per second are counted from the begin of the first trial of the worker that
began last to the end of the last trial: starting processes is left out, and reported beside it.

On a machine that has other work to do the clock says how much of it was left over, not what the study costs. So
processor seconds are measured in the workers, too, from the begin of the first trial of each to the end of its last,
with what it does between them (locks, reading and writing the study): two idle cores make
``2 × (processor seconds per trial of one worker) / (of two)`` times as many trials. What nobody computes in is the
time that a worker waits; its share of a worker's life by the clock is reported.

Run: ``python -m benchmarks.tuning_workers [--trials 24]``; writes ``benchmarks/results/tuning_workers.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import logging
import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import yaml

from wm_pipelines.learning.search_space import TuningConfig, tuning_config
from wm_pipelines.learning.tuning import run_study
from wm_pipelines.mappings import deep_merge
from wm_pipelines.pipelines import combinations
from wm_pipelines.pipelines.tuning import Objective
from wm_pipelines.worlds.making import WorldConfig, ingest

ROOT = Path(__file__).resolve().parent.parent
FAMILY, WORLD = "mlp", "pendulum"
SPACE = {"schedule.learning_rate": {"type": "float", "low": 1e-3, "high": 3e-2, "log": True}}


@dataclass(frozen=True)
class Metered:
    """An objective that writes down who made a trial, when it began and ended, and its processor seconds."""

    objective: Objective
    log: Path

    def __call__(self, proposal: Mapping[str, Any]) -> float:
        """Train and judge."""
        row = {"worker": os.getpid(), "begun": time.time(), "cpu_begun": time.process_time()}
        value = self.objective(proposal)
        row |= {"ended": time.time(), "cpu_ended": time.process_time()}
        with self.log.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return value


def parameters() -> dict[str, Any]:
    """Of base."""
    found: dict[str, Any] = {}
    for path in sorted((ROOT / "conf/base").glob("parameters_*.yml")):
        found = deep_merge(found, yaml.safe_load(path.read_text()) or {})
    return found | {"tasks": yaml.safe_load((ROOT / "conf/base/globals.yml").read_text())["tasks"]}


def measured(config: TuningConfig, objective: Objective, folder: Path, name: str) -> dict[str, Any]:
    """One search: what its workers did, and the points it visited."""
    log, start = folder / f"{name}.jsonl", time.time()
    result = run_study(config, Metered(objective, log), folder / name)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    lives = [[r for r in rows if r["worker"] == worker] for worker in {r["worker"] for r in rows}]
    since = max(own[0]["begun"] for own in lives)
    counted = [r for r in rows if r["begun"] >= since]
    span = max(r["ended"] for r in rows) - since
    cpu = sum(own[-1]["cpu_ended"] - own[0]["cpu_begun"] for own in lives)
    life = sum(own[-1]["ended"] - own[0]["begun"] for own in lives)
    return {
        "trials": len(rows),
        "workers": len(lives),
        "trials_per_second": len(counted) / span,
        "cpu_seconds_per_trial": cpu / len(rows),
        "cpu_share_between_trials": 1 - sum(r["cpu_ended"] - r["cpu_begun"] for r in rows) / cpu,
        "share_of_life_between_trials": 1 - sum(r["ended"] - r["begun"] for r in rows) / life,
        "seconds_until_all_work": since - start,
        "points": sorted(result.trials["schedule.learning_rate"]),
    }


def main() -> None:
    """Measure one and two workers in turn, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    combinations.use_environment(ROOT / "conf", "base")
    common = {"family": FAMILY, "world": WORLD, "metric": "relative_error", "sampler": "random", "space": SPACE}
    everything = parameters()
    episodes = ingest(WorldConfig(**everything[WORLD]), WORLD)
    one = tuning_config({**common, "trials": given.trials})
    two = one.model_copy(update={"processes": 2})
    objective = Objective.create(one, everything, {WORLD: lambda: episodes})
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        for kind in ("db", "journal"):
            for count, config in ((1, one), (2, two)):
                found[f"{kind} {count}"] = measured(config, objective, Path(place), f"{count}.{kind}")
    points = [own.pop("points") for own in found.values()]
    if any(other != points[0] for other in points):
        raise SystemExit("the searches visited different points: there is nothing to compare")
    alone, together = found["db 1"], found["db 2"]
    result = {
        "name": "tuning_workers",
        "ours": together["trials_per_second"],
        "peer": alone["trials_per_second"],
        "ratio": together["trials_per_second"] / alone["trials_per_second"],
        "unit": "trials per second of two workers by the clock; peer: of one",
        "repeats": 1,
        "threads": 1,
        "versions": {p: version(p) for p in ("optuna", "torch")} | {"python": platform.python_version()},
        "load": os.getloadavg()[0],
        "by_processor_time": {
            kind: 2 * found[f"{kind} 1"]["cpu_seconds_per_trial"] / found[f"{kind} 2"]["cpu_seconds_per_trial"]
            for kind in ("db", "journal")
        },
        "searches": found,
    }
    (ROOT / "benchmarks/results/tuning_workers.json").write_text(json.dumps(result, indent=2) + "\n")
    for name, own in found.items():
        print(name, *(f"{key} {value:.3g}" for key, value in own.items()))
    print(f"x {result['ratio']:.2f} by the clock, load {result['load']:.1f}")
    print("by processor time", result["by_processor_time"])


if __name__ == "__main__":
    main()
