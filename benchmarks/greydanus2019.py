"""The data of Greydanus et al. 2019, fitted in closed form and judged by the true Hamiltonian.

Roll-outs from the starts of the evaluation files are compared with their references at the same times:
``energy_mse`` is the mean over starts and times of ``(H(z_pred(t)) - H(z_ref(t)))^2`` with the true ``H``. The settings
below were chosen on training data and on freshly drawn data of the same laws, not on the evaluation files.

Usage: python benchmarks/greydanus2019.py --data DIR [--seeds 0 1 2] [--only spring pend 2body 3body]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_pipelines.families.hamiltonian_regression import HamiltonianRegression
from wm_pipelines.spec import Facts, Space, Spec

RESULT = Path(__file__).parent / "results" / "greydanus2019.json"
HORIZON_ERROR = 0.1  # coordinate error |z - z_ref| that ends the horizon, in the units of the data

# Energy MSE of the paper's own HNN on the same data and starts.
PEER = {"spring B": 3.6e-4, "spring C": 8.4e-5, "pend B": 6.3e-4, "pend C": 8.3e-4, "2body": 2.6e-5, "3body": 7.4e-3}

ACCURATE = {"tolerance": 1e-9, "max_substeps": 64}
PLAIN: dict[str, Any] = {"structure": "none", "features": 100} | ACCURATE
STRUCTURED: dict[str, Any] = {"structure": "declared", "features": 60} | ACCURATE


def bodies_of(name: str) -> int:
    """Number of bodies of a set: 1 for spring and pendulum (one degree of freedom)."""
    return {"2body": 2, "3body": 3}.get(name, 1)


def energy(name: str, z: np.ndarray) -> np.ndarray:
    """The true H: ``[..., 2d] -> [...]``; m = G = 1."""
    q, p = np.split(z, 2, axis=-1)
    if name == "spring":
        return (q**2 + p**2)[..., 0]
    if name == "pend":
        return (3 * (1 - np.cos(q)) + p**2)[..., 0]
    n = bodies_of(name)
    x = q.reshape(*q.shape[:-1], n, 2)
    i, j = np.triu_indices(n, 1)
    return (p**2).sum(-1) / 2 - (1 / np.linalg.norm(x[..., i, :] - x[..., j, :], axis=-1)).sum(-1)


def by_body(columns: np.ndarray, n: int) -> np.ndarray:
    """Columns ``qx1 … qy1 … px1 … py1 …`` to ``(x1, y1, x2, y2, …)`` of positions, then of momenta."""
    grid = columns.reshape(*columns.shape[:-1], 2, 2, n)
    return np.swapaxes(grid, -1, -2).reshape(*columns.shape)


def training_set(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], Spec]:
    """Episodes and what is declared of their world."""
    n = bodies_of(name)
    data = np.load(folder / f"{name}_seed0.npz")
    length, end = {"spring": (30, 3.0), "pend": (45, 3.0), "2body": (50, 20.0), "3body": (20, 5.0)}[name]
    facts: dict[str, Any] = {"structure": ["even", "separable"]}
    if n == 1:
        states, derivatives = data["x"], data["dx"]
        facts |= {"angles": [0]} if name == "pend" else {}
    else:
        states, derivatives = by_body(data["coords"], n), by_body(data["dcoords"], n)
        facts = {"structure": ["even", "pairwise", "separable"], "particles": n, "space": 2}
        facts["attributes"] = {"mass": [1.0] * n}
    shape = (-1, length, states.shape[-1])
    times = np.tile(np.linspace(0, end, length), (len(states) // length, 1))
    views = {"times": times, "states": states.reshape(shape), "derivatives": derivatives.reshape(shape)}
    vector = Space("vector", shape[2:])
    spaces = {"times": Space("scalar"), "states": vector, "derivatives": vector}
    spec = Spec(name, end / (length - 1), spaces, length, Facts(facts))
    return {k: torch.from_numpy(np.ascontiguousarray(v)).to(torch.float64) for k, v in views.items()}, spec


def evaluation_sets(folder: Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split -> (times ``[K]``, references ``[E, K, 2d]``, their first rows being the starts)."""
    data = np.load(folder / f"eval_{name}.npz")
    if bodies_of(name) == 1:
        return {split: (data["t"], data[f"ref_{split}"]) for split in "BC"}
    reference = np.moveaxis(data["ref_DOP853_1e13"], -1, 1)  # [E, K, n, (m, x, y, vx, vy)]
    q, p = reference[..., 1:3], reference[..., :1] * reference[..., 3:5]
    return {"test": (data["t"], np.concatenate([x.reshape(*x.shape[:2], -1) for x in (q, p)], axis=-1))}


def judge(name: str, states: np.ndarray, times: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Figures of one seed: states ``[E, K, 2d]`` against the references."""
    true, found = energy(name, reference), energy(name, states)
    error = np.linalg.norm(states - reference, axis=-1)
    beyond = np.concatenate([~(error < HORIZON_ERROR), np.ones_like(error[:, :1], dtype=bool)], axis=1)
    reached = np.append(times, times[-1])[beyond.argmax(axis=1)]
    figures = {
        "energy_mse": np.mean((found - true) ** 2),
        "mse": np.mean((states - reference) ** 2),
        "energy_error": np.mean(np.abs(found - found[:, :1])),
        "horizon": np.mean(reached),
    }
    n = bodies_of(name)
    if n > 1:
        q, p = (x.reshape(*x.shape[:-1], n, 2) for x in np.split(states, 2, axis=-1))
        total, angular = p.sum(-2), (q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]).sum(-1)
        figures["momentum_error"] = np.mean(np.linalg.norm(total - total[:, :1], axis=-1))
        figures["angular_momentum_error"] = np.mean(np.abs(angular - angular[:, :1]))
    return {k: float(v) for k, v in figures.items()}


def run(folder: Path, name: str, variant: str, settings: dict[str, Any], seeds: list[int]) -> list[dict[str, Any]]:
    """Fit all seeds on one set, roll out, judge: one row per split and seed."""
    episodes, spec = training_set(folder, name)
    started = time.process_time()
    model = HamiltonianRegression(HamiltonianRegression.Config(**settings), spec, seeds)
    model.fit(episodes)
    seconds = (time.process_time() - started) / len(seeds)
    rows = []
    for split, (times, reference) in evaluation_sets(folder, name).items():
        started = time.process_time()
        start = torch.from_numpy(np.ascontiguousarray(reference[:, :1]))
        states = model.predict({"states": start}, len(times) - 1, step=float(times[1] - times[0]))["states"]
        step_ms = 1e3 * (time.process_time() - started) / (len(seeds) * len(start) * (len(times) - 1))
        for seed, prediction in zip(seeds, states.numpy(), strict=True):
            row = {"set": name, "variant": variant, "split": split, "seed": seed}
            rows.append(row | judge(name, prediction, times, reference) | {"fit_seconds": seconds, "step_ms": step_ms})
    return rows


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The result file: every row, and in front the comparison in which we do worst against the paper's HNN."""
    comparisons = []
    for name, peer in PEER.items():
        group, _, split = name.partition(" ")
        for variant in ("plain", "structured"):
            wanted = (group, variant, split or "test")
            wanted = (group, variant, split or "test")
            ours = [r["energy_mse"] for r in rows if (r["set"], r["variant"], r["split"]) == wanted]
            if ours:
                worst = max(ours)
                comparisons.append({"name": f"{name} {variant}", "ours": worst, "peer": peer, "ratio": peer / worst})
    hardest = min(comparisons, key=lambda c: c["ratio"])
    head = {"name": f"greydanus2019: {hardest['name']}", **{k: hardest[k] for k in ("ours", "peer", "ratio")}}
    return head | {
        "unit": "energy MSE with the true H (worst seed)",
        "repeats": len({r["seed"] for r in rows}),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "comparisons": comparisons,
        "rows": rows,
    }


HEADINGS = ("energy_mse", "mse", "energy_error", "horizon", "momentum_error", "angular_momentum_error", "fit_seconds")


def line(row: dict[str, Any]) -> str:
    """One row of the printed table."""
    figures = " ".join(f"{row.get(h, 0.0):22.2e}" for h in (*HEADINGS, "step_ms"))
    return f"{row['set']:8}{row['variant']:12}{row['split']:6}{row['seed']:4} {figures}"


def main() -> None:
    """Run every set and variant, print a table, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with *_seed0.npz and eval_*.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["spring", "pend", "2body", "3body"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    print(f"{'set':8}{'variant':12}{'split':6}{'seed':>4} " + " ".join(f"{h:>22}" for h in (*HEADINGS, "step_ms")))
    for name in options.only:
        for variant, settings in (("plain", PLAIN), ("structured", STRUCTURED)):
            for r in run(options.data, name, variant, settings, options.seeds):
                rows.append(r)
                print(line(r))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report(rows), indent=1) + "\n")
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
