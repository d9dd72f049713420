"""The heat equation in the setting of DeepXDE's own example: `pinn` and `random_feature_collocation` beside DeepXDE.

``u_t = 0.4 u_xx`` on [0, 1] x [0, 1], ``u(x, 0) = sin(pi x)``, ends at zero; 2540 interior, 80 boundary and 160 initial
points. Both are judged by the relative L2 error over one grid of 101 x 101 points and by the CPU seconds of the fit on
one thread. DeepXDE runs as its example does: three layers of 20, tanh, 20,000 steps of Adam at 1e-3, then L-BFGS. It is
not among this project's requirements: where it is not installed, ours is measured alone, or another interpreter that
has it is named with ``--deepxde``.

Run: ``python benchmarks/pinn_heat.py [--deepxde /path/to/python]``; writes ``benchmarks/results/pinn_heat.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent
DIFFUSIVITY, SEEDS = 0.4, (0, 1, 2)


def grid_and_truth() -> tuple[np.ndarray, np.ndarray]:
    """Points ``[10201, 2]`` and the exact solution there."""
    x, t = (a.ravel() for a in np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101), indexing="ij"))
    return np.stack([x, t], 1), np.exp(-DIFFUSIVITY * np.pi**2 * t) * np.sin(np.pi * x)


def relative_error(found: np.ndarray) -> float:
    """Relative L2 error over the grid."""
    truth = grid_and_truth()[1]
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def by_deepxde(seed: int) -> dict[str, Any]:
    """DeepXDE's fit; runs in an interpreter that has it and needs nothing of this project."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde as dde

    dde.config.set_random_seed(seed)
    space_time = dde.geometry.GeometryXTime(dde.geometry.Interval(0, 1), dde.geometry.TimeDomain(0, 1))

    def residual(points: Any, u: Any) -> Any:
        u_t = dde.grad.jacobian(u, points, i=0, j=1)
        return u_t - DIFFUSIVITY * dde.grad.hessian(u, points, i=0, j=0)

    given = [
        dde.icbc.DirichletBC(space_time, lambda _: 0, lambda _, on_boundary: on_boundary),
        dde.icbc.IC(space_time, lambda p: np.sin(np.pi * p[:, :1]), lambda _, on_initial: on_initial),
    ]
    data = dde.data.TimePDE(
        space_time, residual, given, num_domain=2540, num_boundary=80, num_initial=160, num_test=2540
    )
    model = dde.Model(data, dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal"))
    start = time.process_time()
    model.compile("adam", lr=1e-3)
    model.train(iterations=20_000)
    model.compile("L-BFGS")
    model.train()
    seconds = time.process_time() - start
    found = model.predict(grid_and_truth()[0].astype(np.float32))[:, 0]
    return {"error": relative_error(found), "cpu_seconds": seconds, "version": version("deepxde")}


def by_us(family: str, env: str, seed: int) -> dict[str, Any]:
    """One seed of one family with the settings of an environment."""
    import torch

    from pinn_accuracy import fit, parameters, settings

    model, _, seconds = fit(family, parameters("heat_1d", env), settings(family, "heat_1d", env), (seed,))
    fields = model.predict({"points": torch.tensor(grid_and_truth()[0])})["fields"]
    return {"error": relative_error(fields[0, :, 0].numpy()), "cpu_seconds": seconds}


def worst(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The largest error and the median time of several seeds."""
    return {
        "error": max(r["error"] for r in runs),
        "cpu_seconds": float(np.median([r["cpu_seconds"] for r in runs])),
        "runs": runs,
    }


def peer(python: str | None) -> dict[str, Any] | None:
    """DeepXDE's result, from this interpreter or another one; None where there is none."""
    if python is None and find_spec("deepxde") is None:
        return None
    command = [python or sys.executable, __file__, "--as-deepxde"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deepxde", help="an interpreter with DeepXDE")
    parser.add_argument("--as-deepxde", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_deepxde:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(by_deepxde(0)))
        return

    import torch

    torch.set_num_threads(1)
    ours = {
        "random_feature_collocation": worst([by_us("random_feature_collocation", "base", s) for s in SEEDS]),
        "pinn": worst([by_us("pinn", "full", s) for s in SEEDS]),
    }
    theirs = peer(given.deepxde)
    seconds = ours["random_feature_collocation"]["cpu_seconds"]
    result = {
        "name": "pinn_heat",
        "ours": seconds,
        "peer": theirs and theirs["cpu_seconds"],
        "ratio": theirs and theirs["cpu_seconds"] / seconds,
        "unit": "CPU seconds per fit (random_feature_collocation; its error is smaller, too)",
        "repeats": len(SEEDS),
        "threads": 1,
        "versions": {p: version(p) for p in ("numpy", "torch")} | {"python": platform.python_version()},
        "ours_by_family": ours,
        "peer_is": theirs and f"DeepXDE {theirs['version']}, Adam then L-BFGS, relative L2 {theirs['error']:.1e}",
        "peer_error": theirs and theirs["error"],
        "error_ratio": theirs and theirs["error"] / ours["random_feature_collocation"]["error"],
    }
    for name, entry in ours.items():
        print(f"pinn_heat, {name}: relative L2 {entry['error']:.1e} in {entry['cpu_seconds']:.2f} s CPU")
    print(f"pinn_heat, peer: {result['peer_is'] or 'not installed'}" + (f", x {result['ratio']:.0f}" if theirs else ""))
    path = ROOT / "results" / "pinn_heat.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
