"""Pendulum trajectories per second: the world's own simulator beside scipy (one by one) and torchdiffeq (batched).

All give the same trajectories (T = 10 s, 101 samples, starts drawn by the world's base parameters) to an error of at
most 1e-8, verified in the same run against DOP853 at 1e-13. One thread. Every contestant is timed several times, in
turn, and its best time counts. torchdiffeq runs with each of its explicit high-order methods, interpolating the
samples or stepping onto them (``step_t``), at the loosest tolerance that meets the error, in batches of several
sizes; its fastest is the peer. The world's simulator is the exact flow in elliptic functions; what an explicit
symplectic scheme of order 6 does, which needs no closed form, is measured and written beside it.

Run: ``python benchmarks/pendulum_simulation.py``; writes ``benchmarks/results/pendulum_simulation*.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import json
import math
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

from wm_pipelines.errors import validate
from wm_pipelines.integrators import rollout_separable
from wm_pipelines.worlds.pendulum import Pendulum

ROOT = Path(__file__).resolve().parent
STEP, STEPS = 0.1, 100
LARGEST_ERROR = 1e-8
TOLERANCES = (1e-8, 1e-9, 3e-10, 1e-10, 1e-11)
METHODS = ("dopri8", "dopri5")
BATCHES = (1024, 4096, 8192)


def base_world() -> Pendulum:
    """The pendulum of the base parameters."""
    parameters = yaml.safe_load((ROOT.parent / "conf/base/parameters_pendulum.yml").read_text())["pendulum"]
    return Pendulum(validate(Pendulum.Parameters, parameters["parameters"], "pendulum.parameters"))


def by_scipy(world: Pendulum, z0: np.ndarray, tolerance: float) -> np.ndarray:
    """One trajectory after the other by scipy's DOP853: ``[E, 2] -> [E, STEPS + 1, 2]``."""
    inertia, torque = world.inertia, world.torque

    def field(_: float, z: np.ndarray) -> tuple[float, float]:
        return z[1] / inertia, -torque * math.sin(z[0])  # numpy's sine of one number is three times slower

    times = STEP * np.arange(STEPS + 1)
    settings = {"method": "DOP853", "t_eval": times, "rtol": tolerance, "atol": tolerance}
    return np.stack([solve_ivp(field, (0.0, times[-1]), start, **settings).y.T for start in z0])


def by_splitting(world: Pendulum, z0: np.ndarray) -> np.ndarray:
    """The whole batch by Blanes and Moan's scheme of order 6, two sub-steps per sample."""
    return rollout_separable(z0, STEP, STEPS, world.velocity, world.force, "blanes_moan6", substeps=2)


def by_torchdiffeq(world: Pendulum, z0: np.ndarray, method: str, tolerance: float, onto: bool) -> np.ndarray:
    """The whole batch at once by torchdiffeq, float64, no gradients; ``onto``: its steps end at the samples."""
    inertia, torque = world.inertia, world.torque

    def field(_: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        q, p = z.unbind(0)
        return torch.stack((p / inertia, -torque * torch.sin(q)))

    times = STEP * torch.arange(STEPS + 1).double()
    settings = {"method": method, "rtol": tolerance, "atol": tolerance}
    if onto:
        settings["options"] = {"step_t": times[1:]}
    with torch.no_grad():
        start = torch.from_numpy(np.ascontiguousarray(z0.T))  # [2, E]: the faster layout for it
        path = odeint(field, start, times, **settings)
    return path.permute(2, 0, 1).numpy()


def seconds_each(run: Callable[[], np.ndarray], episodes: int) -> float:
    """CPU seconds per trajectory of one run."""
    start = time.process_time()
    run()
    return (time.process_time() - start) / episodes


def fastest_torchdiffeq(world: Pendulum, z0: np.ndarray, reference: np.ndarray) -> tuple[dict, int, float]:
    """Settings, batch and error of its fastest configuration that meets the error."""
    found = []
    for method, onto in itertools.product(METHODS, (False, True)):
        for tolerance in TOLERANCES:
            how = {"method": method, "tolerance": tolerance, "onto": onto}
            error = np.abs(by_torchdiffeq(world, z0[: len(reference)], **how) - reference).max()
            if error <= LARGEST_ERROR:
                for batch in BATCHES:
                    cost = seconds_each(lambda h=how, b=batch: by_torchdiffeq(world, z0[:b], **h), batch)
                    found.append((cost, len(found), how, batch))
                break
    if not found:
        raise SystemExit("torchdiffeq met the error with no method and tolerance; widen TOLERANCES")
    _, _, how, batch = min(found)
    error = float(np.abs(by_torchdiffeq(world, z0[:batch], **how)[: len(reference)] - reference).max())
    if error > LARGEST_ERROR:
        raise SystemExit(f"torchdiffeq's error depends on the batch: {error:.1e} at {batch}")
    return how, batch, error


def main() -> None:
    """Verify, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=8192, help="trajectories per batch")
    parser.add_argument("--one-by-one", type=int, default=50, help="trajectories for scipy")
    parser.add_argument("--verify", type=int, default=200, help="trajectories compared with the reference")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)

    world = base_world()
    z0 = world.sample_initial_state(np.random.default_rng(0), given.episodes)
    few = z0[: given.one_by_one]
    reference = by_scipy(world, z0[: given.verify], 1e-13)

    errors = {
        "ours": float(np.abs(world.simulate(z0, STEP, STEPS)[: given.verify] - reference).max()),
        "splitting": float(np.abs(by_splitting(world, z0[: given.verify]) - reference).max()),
        "scipy": float(np.abs(by_scipy(world, few, 1e-10) - reference[: given.one_by_one]).max()),
    }
    for who, error in errors.items():
        if error > LARGEST_ERROR:
            raise SystemExit(f"the error of {who} is {error:.1e}, above {LARGEST_ERROR:.0e}: there is nothing to time")
    how, batch, errors["torchdiffeq"] = fastest_torchdiffeq(world, z0, reference)

    contestants: dict[str, tuple[Callable[[], np.ndarray], int]] = {
        "ours": (lambda: world.simulate(z0, STEP, STEPS), len(z0)),
        "splitting": (lambda: by_splitting(world, z0), len(z0)),
        "scipy": (lambda: by_scipy(world, few, 1e-10), len(few)),
        "torchdiffeq": (lambda: by_torchdiffeq(world, z0[:batch], **how), batch),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(given.repeats):
        for name, (run, episodes) in contestants.items():
            times[name].append(seconds_each(run, episodes))
    best = {name: min(values) for name, values in times.items()}

    versions = {p: version(p) for p in ("numpy", "scipy", "torch", "torchdiffeq")} | {
        "python": platform.python_version()
    }
    described = {
        "scipy": ("pendulum_simulation", "scipy solve_ivp DOP853, rtol = atol = 1e-10, one by one"),
        "torchdiffeq": (
            "pendulum_simulation_torchdiffeq",
            f"torchdiffeq {how['method']}, rtol = atol = {how['tolerance']:.0e}, batch {batch}"
            + (", stepping onto the samples" if how["onto"] else ""),
        ),
    }
    for peer, (name, what) in described.items():
        result = {
            "name": name,
            "ours": 1.0 / best["ours"],
            "peer": 1.0 / best[peer],
            "ratio": best[peer] / best["ours"],
            "unit": "trajectories per CPU second (T = 10 s, 101 samples)",
            "repeats": given.repeats,
            "threads": 1,
            "versions": versions,
            "ours_is": "the world's simulate (exact flow), energy check included",
            "ours_by_splitting": 1.0 / best["splitting"],
            "ratio_by_splitting": best[peer] / best["splitting"],
            "peer_is": what,
            "largest_error": {
                "ours": errors["ours"],
                "splitting": errors["splitting"],
                "peer": errors[peer],
                "allowed": LARGEST_ERROR,
            },
            "seconds_per_trajectory": {"ours": times["ours"], "peer": times[peer]},
        }
        path = ROOT / "results" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(
            f"{name}: {result['ours']:,.0f} against {result['peer']:,.0f} per second ({what}), x {result['ratio']:.1f}"
            f"; by splitting {result['ours_by_splitting']:,.0f}, x {result['ratio_by_splitting']:.1f}"
        )
    print("largest errors: " + ", ".join(f"{who} {error:.1e}" for who, error in errors.items()))


if __name__ == "__main__":
    main()
