"""Two futures of one state: energies, flows, a mixture and a Gaussian on `branching`, beside the world itself.

Each is trained on the world's training episodes, three seeds; then conditions are drawn that no episode holds (starts
and actions), and every model imagines samples of what is shown after eight steps. Conditions count where the wedge is
reached; their two futures and the probability of each are the world's own. Measured (`metrics.multimodal`): the share
of conditions in which both futures are found, the error of their mass, and the share of samples that are near none. The
floor of the mass error, that of as many fresh draws of the world itself, is the peer.

Run: ``python benchmarks/branching_future.py``; writes ``benchmarks/results/branching_future.json``.
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

from wm_pipelines.families.base import Family
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.metrics.multimodal import all_found, mass_error, mode_shares, off_mode
from wm_pipelines.registry import families
from wm_pipelines.worlds.branching import Branching
from wm_pipelines.worlds.making import WorldConfig, build_world, ingest

ROOT = Path(__file__).resolve().parent
SEEDS, CONDITIONS, SAMPLES, HORIZON = (0, 1, 2), 100, 200, 8
CONTESTANTS = (
    ("energy_based", "score_matching"),
    ("energy_based", "contrastive_divergence"),
    ("flow", "plain"),
    ("flow", "sde"),
    ("mixture_density", "mixture"),
    ("mixture_density", "gaussian"),
)


def read(name: str) -> dict[str, Any]:
    """An entry of the base parameters."""
    return dict(yaml.safe_load((ROOT.parent / f"conf/base/parameters_{name}.yml").read_text())[name])


class Conditions:
    """Starts, actions and true futures that no training episode holds."""

    def __init__(self, world: Branching, step: float, seed: int) -> None:
        rng = np.random.default_rng([seed, 2])
        self.world, self.step = world, step
        z = world.sample_initial_state(rng, 2 * CONDITIONS)
        actions = rng.uniform(-1.0, 1.0, (len(z), HORIZON, 1))
        futures, chance = world.futures(z, actions, step)
        branching = np.flatnonzero(np.isfinite(chance))[:CONDITIONS]
        self.z, self.actions = z[branching], actions[branching]
        self.futures = futures[:, branching, -1]  # [2, N, 4], what is shown at the end
        self.chances = np.stack([chance[branching], 1.0 - chance[branching]])

    def of_the_world(self, seed: int) -> np.ndarray:
        """Fresh draws of the world itself: ``[SAMPLES, N, 4]``."""
        rng, drawn = np.random.default_rng([seed, 3]), []
        for _ in range(SAMPLES):
            now = np.concatenate([self.z[:, :4], rng.random((len(self.z), 1))], 1)
            for action in np.moveaxis(self.actions, 1, 0):
                now = self.world.advance(now, action, self.step)
            drawn.append(self.world.observe(now))
        return np.stack(drawn)

    def of_a_model(self, family: Any, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Features of samples ``[SAMPLES, N, D]`` and of the two futures ``[2, N, D]``."""
        actions = torch.tensor(self.actions, dtype=family.dtype)
        belief = family.start({"states": torch.tensor(self.world.observe(self.z))}, index)
        samples = family.sample(belief, actions, SAMPLES, index, torch.Generator().manual_seed(seed))[:, :, -1]
        modes = [family.features({"states": torch.tensor(future)}, index) for future in self.futures]
        return samples.double().numpy(), torch.stack(modes).double().numpy()

    def judged(self, samples: np.ndarray, modes: np.ndarray) -> dict[str, float]:
        """The three figures, means over conditions."""
        shares = mode_shares(samples, modes)
        return {
            "both_found": float(all_found(shares, self.chances).mean()),
            "mass_error": float(mass_error(shares, self.chances).mean()),
            "off_mode": float(off_mode(shares).mean()),
        }


def trained(name: str, variant: str, episodes: Any) -> tuple[Family, float]:
    """The family of a variant, and CPU seconds per seed."""
    kind = families.get(name)
    config = kind.Config(**FamilyParameters(**read(name)).resolve("physics", variant, "branching"))
    family = kind(config, episodes.spec.showing(("states", "actions")), SEEDS)
    tensors = {view: torch.tensor(episodes[view]) for view in ("states", "actions")}
    began = time.process_time()
    train(family, tensors, LearningConfig(progress=False, precision="32-true"))
    return family.eval(), (time.process_time() - began) / len(SEEDS)


def measured(name: str, variant: str, episodes: Any, conditions: Conditions, floor: dict[str, float]) -> dict[str, Any]:
    """The row of one contestant."""
    family, seconds = trained(name, variant, episodes)
    began = time.process_time()
    found = [conditions.judged(*conditions.of_a_model(family, k, seed)) for k, seed in enumerate(SEEDS)]
    sampling = (time.process_time() - began) / len(SEEDS)
    mean = {key: float(np.mean([f[key] for f in found])) for key in floor}
    print(f"{name + ' · ' + variant:40} {mean} {seconds:.0f} s to train, {sampling:.0f} s to sample", flush=True)
    return {
        "name": f"branching_future: {name} · {variant}",
        "ours": mean["mass_error"],
        "peer": floor["mass_error"],
        "ratio": floor["mass_error"] / mean["mass_error"],
        "peer_is": "as many draws of the world itself",
        **mean,
        "by_seed": found,
        "train_cpu_seconds": seconds,
        "sample_cpu_seconds": sampling,
    }


def posed(split: str) -> tuple[Any, Conditions, dict[str, float]]:
    """Training episodes, conditions of a split, and what fresh draws of the world itself come to."""
    config = WorldConfig(**read("branching"))
    world, episodes = build_world(config), ingest(config, "branching")["train"]
    assert isinstance(world, Branching)
    conditions = Conditions(world, episodes.spec.step, {"validation": 1, "test": 2}[split])
    return episodes, conditions, conditions.judged(conditions.of_the_world(0), conditions.futures)


def write(rows: list[dict[str, Any]], floor: dict[str, float], split: str) -> None:
    """The file of results."""
    result = {
        **{key: rows[0][key] for key in ("name", "ours", "peer", "ratio", "peer_is")},
        "unit": "error of the mass of a future, mean over conditions",
        "repeats": len(SEEDS),
        "threads": 1,
        "versions": {p: version(p) for p in ("numpy", "torch")} | {"python": platform.python_version()},
        "split": split,
        "conditions": CONDITIONS,
        "samples": SAMPLES,
        "world": floor,
        "comparisons": rows,
    }
    path = ROOT / "results" / "branching_future.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Train, draw, judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="whose seed draws conditions")
    split = parser.parse_args().split
    torch.set_num_threads(1)
    episodes, conditions, floor = posed(split)
    print(f"{'the world itself':40} {floor}")
    write([measured(*contestant, episodes, conditions, floor) for contestant in CONTESTANTS], floor, split)


if __name__ == "__main__":
    main()
