"""`physics_eval` on all cores by Ray beside the same run one node after the other: seconds by the clock.

Both run in folders of their own, with this project's code and settings, and from nothing; their models and judgements
must be the same bytes. **The machine has to be idle**: the load before each run is written into the result, and the
figure of a machine that had something else to do says nothing.

Run: ``python -m benchmarks.ray_speed [--env smoke] [--pipeline physics_eval]``, base sizes take about a quarter of an
hour on two cores; writes ``benchmarks/results/ray_speed.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNNERS = {"sequential": "SequentialRunner", "ray": "wm_pipelines.runners.RayRunner"}


def project(folder: Path) -> Path:
    """A folder with this project's code, settings and raw data, and results of its own."""
    for name in ("src", "conf", "data/01_raw"):  # copies: Kedro wants its code below the project's folder
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(folder: Path, env: str, pipeline: str, runner: str) -> dict[str, Any]:
    """Seconds by the clock of one run, and how busy the machine was before."""
    command = [sys.executable, "-m", "kedro", "run", f"--env={env}", f"--pipeline={pipeline}", f"--runner={runner}"]
    own = {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1"}
    load, start = os.getloadavg()[0], time.perf_counter()
    subprocess.run(command, cwd=folder, env={**os.environ, **own}, check=True)
    return {"seconds": time.perf_counter() - start, "load_before": load}


def hashes(folder: Path) -> dict[str, str]:
    """Of what does not hold measured seconds: episodes, models, curves, arrays of the judgements."""
    kept = ("*.arrow", "*.safetensors", "curves.csv")
    files = sorted(path for pattern in kept for path in (folder / "data").rglob(pattern) if "01_raw" not in path.parts)
    made = [path for path in files if "checkpoints" not in path.parts]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in made}


def main() -> None:
    """Run both, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="base")
    parser.add_argument("--pipeline", default="physics_eval")
    given = parser.parse_args()
    found, made = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for name, runner in RUNNERS.items():
            folder = project(Path(place) / name)
            found[name] = run(folder, given.env, given.pipeline, runner)
            made[name] = hashes(folder)
    if not made["ray"] or made["ray"] != made["sequential"]:
        raise SystemExit("the two runs did not make the same: there is nothing to compare")
    ours, peer = (found[name]["seconds"] for name in ("ray", "sequential"))
    result = {
        "name": f"ray_speed: {given.pipeline}, {given.env}",
        "ours": ours,
        "peer": peer,
        "ratio": peer / ours,
        "unit": f"s by the clock, RayRunner on {os.cpu_count()} cores; peer: SequentialRunner",
        "repeats": 1,
        "threads": 1,
        "versions": {p: version(p) for p in ("kedro", "ray", "torch")} | {"python": platform.python_version()},
        "runs": found,
        "files_compared": len(made["ray"]),
    }
    (ROOT / "benchmarks/results/ray_speed.json").write_text(json.dumps(result, indent=2) + "\n")
    loads = ", ".join(f"{one['load_before']:.1f}" for one in found.values())
    print(f"sequential {peer:.0f} s, Ray {ours:.0f} s, x {peer / ours:.2f}; load before each: {loads}")


if __name__ == "__main__":
    main()
