"""Milliseconds of a planner's decision on what a model imagines, for one start, and for a hundred starts at once.

Models of the driven pendulum with the settings of the base configuration, hardly trained: how long they take does not
depend on what they have learned. The peer of a decision for one start is a twentieth of a second, the world's own step:
a planner that takes longer cannot act in time. The peer of a batch is as many decisions one by one.

Run: ``python benchmarks/planning.py``; writes ``benchmarks/results/planning.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from wm_pipelines.control.planners import PlannerConfig
from wm_pipelines.control.policies import ObjectiveConfig, Planned, observed
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.learning.fitting import Assignment, fit_variant
from wm_pipelines.mappings import deep_merge
from wm_pipelines.pipelines.judging import laws_of
from wm_pipelines.registry import tasks
from wm_pipelines.worlds.making import WorldConfig, ingest

ROOT = Path(__file__).resolve().parent
WORLD = "driven_pendulum"
CONTESTANTS = (
    ("latent_dynamics", "deterministic"),
    ("latent_dynamics", "ensemble"),
    ("rssm", "plain"),
    ("vae_rnn", "plain"),
    ("mixture_density", "gaussian"),
    ("mixture_density", "mixture"),
    ("energy_based", "score_matching"),
)
QUICK = {"vae_rnn": {"generations": 1, "rollouts": 1, "dream_steps": 5}}


def read(name: str) -> dict[str, Any]:
    """An entry of the base parameters."""
    return dict(yaml.safe_load((ROOT.parent / f"conf/base/parameters_{name}.yml").read_text())[name])


def model_of(family: str, variant: str, episodes: Any, steps: int) -> Any:
    """A hardly trained model."""
    settings = FamilyParameters(**read(family)).resolve("control", variant, WORLD)
    settings = deep_merge(settings, {"schedule": {"steps": steps, "warmup": 0}, **QUICK.get(family, {})})
    shows = tasks.get("control").shows
    learning = LearningConfig(precision="32-true", progress=False)
    fitted = fit_variant(
        Assignment("control", family, WORLD, shows, episodes["train"], learning, [0]), variant, settings, None
    )
    return fitted.model.restore(laws_of(episodes["test"].spec))


def decision_ms(model: Any, plant: Any, starts: np.ndarray, planner: PlannerConfig, repeats: int) -> float:
    """Median time of a decision for all starts together."""
    views = {name: space for name, space in model.spec.views.items() if name in model.shown(model.spec)}
    policy = Planned(model, 0, planner, plant.action_size, ObjectiveConfig())
    policy.begin(observed(plant, starts, views), starts)
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        policy.act()
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times[1:]))


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=100, help="of the batch")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()

    torch.set_num_threads(1)
    episodes = dict(ingest(WorldConfig(**read(WORLD)), WORLD))
    plant = laws_of(episodes["test"].spec).plant
    starts = plant.sample_initial_state(np.random.default_rng(0), given.starts)
    planner = PlannerConfig(**read("control")["planner"])
    rows: list[dict[str, Any]] = []
    for family, variant in CONTESTANTS:
        model = model_of(family, variant, episodes, steps=2)
        one = decision_ms(model, plant, starts[:1], planner, given.repeats)
        batch = decision_ms(model, plant, starts, planner, max(3, given.repeats // 3)) / given.starts
        called = f"planning: {family} · {variant}"
        rows.append({"name": called, "ours": one, "peer": 50.0, "ratio": 50.0 / one, "unit": "ms a decision"})
        told = {"unit": f"ms a decision and start, {given.starts} at once against one by one"}
        rows.append({"name": f"{called}, batched", "ours": batch, "peer": one, "ratio": one / batch, **told})
        print(f"{called}: {one:.1f} ms alone, {batch:.2f} ms each of {given.starts}, x {one / batch:.0f}", flush=True)
    result = {
        **rows[0],
        "repeats": given.repeats,
        "threads": 1,
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "planner": planner.model_dump(mode="json"),
        "comparisons": rows,
    }
    (ROOT / "results/planning.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
