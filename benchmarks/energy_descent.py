"""What gradient steps buy an energy-based model: error against steps of descent, recall against steps of Langevin.

Of a world with one future (`pendulum`): the error of one step and of fifteen, of predictions that take 1, 2, 4 … steps
of descent for each step of time, beside a Gaussian that needs none (`mixture_density`, one component), the peer. Of one
with two (`branching`): the share of conditions in which both are found and the error of their mass, for 0, 1, 2 …
Langevin steps at every noise scale. One training each, three seeds; validation and fresh conditions.

Run: ``python benchmarks/energy_descent.py``; writes ``benchmarks/results/energy_descent.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.branching_future import SEEDS, posed, read
from benchmarks.branching_future import trained as trained_on_branching
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.registry import families
from wm_pipelines.worlds.making import WorldConfig, ingest

ROOT = Path(__file__).resolve().parent
DESCENT, LANGEVIN = (1, 2, 4, 8, 16), (0, 1, 2, 5, 10)


def trained_on_states(name: str, variant: str, episodes: Any) -> Any:
    """A family as it stands in the table of states."""
    kind = families.get(name)
    config = kind.Config(**FamilyParameters(**read(name)).resolve("physics", variant, "pendulum"))
    family = kind(config, episodes.spec.showing(("states",)), SEEDS)
    train(family, {"states": torch.tensor(episodes["states"])}, LearningConfig(progress=False))
    return family.to(family.dtype).eval()


def errors(family: Any, episodes: Any) -> dict[str, float]:
    """Mean squared error after 1 and 15 steps, and milliseconds per step of time and seed."""
    states = torch.tensor(episodes["states"])
    began = time.process_time()
    predicted = family.predict({"states": states[:, :1]}, 15)["states"]
    spent = 1e3 * (time.process_time() - began) / 15 / len(SEEDS)
    error = (predicted - states[:, :16]).square().mean((0, 1, 3))
    return {"mse_1": float(error[1]), "mse_15": float(error[15]), "step_ms": spent}


def descents() -> Iterator[dict[str, Any]]:
    """A row per number of descent steps."""
    episodes = ingest(WorldConfig(**read("pendulum")), "pendulum")
    gaussian = errors(trained_on_states("mixture_density", "gaussian", episodes["train"]), episodes["validation"])
    family = trained_on_states("energy_based", "score_matching", episodes["train"])
    for steps in DESCENT:
        family.config = family.config.model_copy(update={"descent_steps": steps})
        found = errors(family, episodes["validation"])
        yield {
            "name": f"energy_descent: pendulum, {steps} steps of descent",
            "ours": found["mse_15"],
            "peer": gaussian["mse_15"],
            "ratio": gaussian["mse_15"] / found["mse_15"],
            "peer_is": "mixture_density · gaussian",
            "unit": "state², mean squared error after 15 steps",
            **found,
            "peer_mse_1": gaussian["mse_1"],
        }


def recalls() -> Iterator[dict[str, Any]]:
    """A row per number of Langevin steps at each scale; 0: descent alone, from noise."""
    episodes, conditions, floor = posed("validation")
    family: Any = trained_on_branching("energy_based", "score_matching", episodes)[0]
    for steps in LANGEVIN:
        family.config = family.config.model_copy(update={"langevin_steps": steps})
        found = conditions.judged(*conditions.of_a_model(family, 0, 0))
        yield {
            "name": f"energy_descent: branching, {steps} Langevin steps at each of {family.config.levels} scales",
            "ours": found["mass_error"],
            "peer": floor["mass_error"],
            "ratio": floor["mass_error"] / found["mass_error"],
            "peer_is": "as many draws of the world itself",
            "unit": "error of the mass of a future",
            **found,
        }


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    rows = []
    for row in (*descents(), *recalls()):
        rows.append(row)
        print(row, flush=True)
    best = min((r for r in rows if "mse_15" in r), key=lambda r: r["ours"])
    result = {
        **{key: best[key] for key in ("name", "ours", "peer", "ratio", "peer_is", "unit")},
        "repeats": len(SEEDS),
        "threads": 1,
        "versions": {p: version(p) for p in ("numpy", "torch")} | {"python": platform.python_version()},
        "comparisons": rows,
    }
    path = ROOT / "results" / "energy_descent.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
