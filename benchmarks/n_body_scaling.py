"""Forces of many bodies: each pair once, block by block, beside all pairs at once, in one run on one thread.

A force evaluation of one state of `n_body` in a plane (lattice start, softening 0.1 m), for springs, charges and
gravity, N = 300 and N = 1,000. Both ways must agree to 1e-12 of the largest force. They are timed in turn by
processor time, and the best of each counts. The headline is gravity at N = 1,000.

Run: ``python benchmarks/n_body_scaling.py``; writes ``benchmarks/results/n_body_scaling.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from wm_pipelines.errors import validate
from wm_pipelines.worlds.n_body import NBody

RESULTS = Path(__file__).resolve().parent / "results"
SIZES = (300, 1000)
LARGEST_ERROR = 1e-12


def milliseconds(run: Callable[[], np.ndarray]) -> float:
    """CPU time of a call, over as many calls as take a tenth of a second."""
    calls, start = 0, time.process_time()
    while (spent := time.process_time() - start) < 0.1:
        run()
        calls += 1
    return 1e3 * spent / calls


def main() -> None:
    """Verify, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    rows = {}
    for force in ("springs", "charges", "gravity"):
        for n in SIZES:
            world = NBody(validate(NBody.Parameters, {"force": force, "bodies": n, "softening": 0.1}, "n_body"))
            q = world.sample_initial_state(np.random.default_rng(0), 1)[:, : 2 * n]
            x = world.positions(q)
            direct = world._force(x).reshape(q.shape)
            error = float(np.abs(world.force(q) - direct).max() / np.abs(direct).max())
            if error > LARGEST_ERROR:
                raise SystemExit(f"{force}, N = {n}: the two ways differ by {error:.1e}: there is nothing to time")
            times = [
                (milliseconds(lambda w=world, q=q: w.force(q)), milliseconds(lambda w=world, x=x: w._force(x)))
                for _ in range(given.repeats)
            ]
            blocked, at_once = np.min(times, axis=0).tolist()
            rows[f"{force} {n}"] = {"blocked": blocked, "direct": at_once, "error": error}
            print(f"{force}, N = {n:5,d}: {blocked:6.2f} ms, all at once {at_once:6.2f} ms, x {at_once / blocked:.1f}")
    head = rows["gravity 1000"]
    result = {
        "name": "n_body_scaling",
        "ours": head["blocked"],
        "peer": head["direct"],
        "ratio": head["direct"] / head["blocked"],
        "unit": "CPU ms per force evaluation (gravity, N = 1000); peer: all pairs at once",
        "repeats": given.repeats,
        "threads": 1,
        "versions": {"python": platform.python_version(), "numpy": version("numpy")},
        "milliseconds": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "n_body_scaling.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
