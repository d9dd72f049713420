"""Cost of a step of `momentum_gnn` against the number of particles, at equal density, and what it conserves on the way.

A law learned from five particles (softened gravity) is rolled out for N = 100 and N = 1,000 particles on a plane, with
a cutoff, one thread. A step is one leapfrog step with its share of the neighbour list's upkeep. The bar is a cost at
1,000 of at most 15 times the cost at 100; N = 3,000 shows how it goes on. Every size is timed several times, in turn,
by processor time, and its best counts.

Run: ``python benchmarks/momentum_gnn_scaling.py``; writes ``benchmarks/results/momentum_gnn_scaling.json``.
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

import numpy as np
import torch

from wm_pipelines.families.momentum_gnn import MomentumGNN
from wm_pipelines.families.momentum_gnn.graphs import NeighbourList
from wm_pipelines.families.momentum_gnn.particles import cross, split_particles
from wm_pipelines.integrators import rollout_separable
from wm_pipelines.spec import Facts, Space, Spec

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = (100, 1000, 3000)
BAR = 15.0
SOFTENING, SPACING, CUTOFF, STEP = 0.5, 1.0, 2.5, 0.02


def spec_of(mass: np.ndarray) -> Spec:
    """Particles of these masses on a plane."""
    vector = Space("vector", (4 * len(mass),))
    spaces = {"times": Space("scalar"), "states": vector, "derivatives": vector}
    facts = Facts({"particles": len(mass), "space": 2, "attributes": {"mass": mass.tolist()}})
    return Spec("particles", STEP, spaces, 51, facts)


def cluster(mass: np.ndarray, episodes: int, rng: np.random.Generator) -> np.ndarray:
    """Particles near the sites of a square lattice, slowly moving: ``[E, 4 N]``."""
    side = int(np.ceil(np.sqrt(len(mass))))
    sites = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)[: len(mass)]
    q = SPACING * (sites + rng.uniform(-0.25, 0.25, (episodes, len(mass), 2)))
    p = 0.3 * mass[:, None] * rng.standard_normal(q.shape)
    return np.concatenate([q.reshape(episodes, -1), p.reshape(episodes, -1)], axis=1)


def trained_on_five() -> MomentumGNN:
    """The law ``phi = -m_i m_j / sqrt(r^2 + eps^2)``, fitted to forces on five particles."""
    rng = np.random.default_rng(0)
    mass = rng.uniform(0.5, 1.5, 5)

    def force(q: np.ndarray) -> np.ndarray:
        x = q.reshape(*q.shape[:-1], 5, 2)
        r = x[..., :, None, :] - x[..., None, :, :]
        pull = np.outer(mass, mass) / ((r**2).sum(-1) + SOFTENING**2) ** 1.5
        return -(pull[..., None] * r).sum(-2).reshape(q.shape)

    def velocity(p: np.ndarray) -> np.ndarray:
        return p / np.repeat(mass, 2)

    z = rollout_separable(cluster(mass, 40, rng), STEP, 50, velocity, force)
    derivative = np.concatenate([velocity(z[..., 10:]), force(z[..., :10])], axis=-1)
    config = MomentumGNN.Config(cutoff=CUTOFF, integrator="leapfrog", features=32)
    family = MomentumGNN(config, spec_of(mass), [0])
    family.fit({"states": torch.tensor(z), "derivatives": torch.tensor(derivative), "times": torch.zeros(40, 51)})
    return family


def drifts(states: torch.Tensor, particles: int) -> tuple[float, float]:
    """Largest change of the total linear and angular momentum, over the sum of the sizes of their terms."""
    q, p = split_particles(states, particles)
    linear, angular = p.sum(-1), cross(q, p).sum(-1)
    linear_size = p.square().sum(-2).sqrt().sum(-1, keepdim=True)
    angular_size = (q.square().sum(-2) * p.square().sum(-2)).sqrt().sum(-1, keepdim=True)
    changes = [(x - x[..., :1, :]).abs() / size for x, size in ((linear, linear_size), (angular, angular_size))]
    return float(changes[0].max()), float(changes[1].max())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    family = trained_on_five()
    rows = {}
    for n in SIZES:
        mass = np.random.default_rng(n).uniform(0.5, 1.5, n)
        start = torch.tensor(cluster(mass, 1, np.random.default_rng(n + 1)))
        edges = NeighbourList(CUTOFF).graph(split_particles(start[None], n)[0]).first.shape[-1]
        rows[n] = {"family": family.transferred(spec_of(mass)), "start": start, "edges": edges, "ms": np.inf}
    for _ in range(arguments.repeats):
        for n, row in rows.items():
            begin = time.process_time()
            states = row["family"].predict({"states": row["start"][:, None]}, arguments.steps)["states"]
            row["ms"] = min(row["ms"], 1e3 * (time.process_time() - begin) / arguments.steps)
            row["linear"], row["angular"] = drifts(states, n)
    for n, row in rows.items():
        print(
            f"N = {n:5d}: {row['edges']:6d} listed pairs, {row['ms']:8.3f} ms a step, "
            f"momentum drift {row['linear']:.1e}, angular {row['angular']:.1e}"
        )
    growth = rows[1000]["ms"] / rows[100]["ms"]
    print(f"a step at N = 1,000 costs {growth:.1f} times a step at N = 100 (bar: {BAR:g})")
    result = {
        "name": "momentum_gnn_scaling",
        "ours": rows[1000]["ms"],
        "peer": BAR * rows[100]["ms"],
        "ratio": BAR / growth,
        "unit": "ms per step at N = 1000; peer: 15 times a step at N = 100",
        "repeats": arguments.repeats,
        "threads": 1,
        "versions": {"python": platform.python_version(), "torch": version("torch"), "numpy": version("numpy")},
        "sizes": {n: {k: row[k] for k in ("edges", "ms", "linear", "angular")} for n, row in rows.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "momentum_gnn_scaling.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
