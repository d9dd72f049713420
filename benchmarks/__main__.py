"""``python -m benchmarks``: run all, one after another, each in a process of its own on one thread."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Module -> arguments; None: needs the paper's files. By hand: ray_speed (an idle machine),
# schedule, selective_decoding (a finished run).
BENCHMARKS: dict[str, list[str] | None] = {
    "pendulum_simulation": [],
    "jepa_step": [],
    "generation_step": [],
    "transfusion_step": [],
    "momentum_gnn_scaling": [],
    "driven_pendulum": [],
    "planning": [],
    "branching_future": [],
    "energy_descent": [],
    "interval_coverage": [],
    "tuning_workers": [],
    "machine_share": [],
    "greydanus2019": None,
}


def main() -> int:
    """Run what was asked for; show name, ours, peer, ratio of every result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(BENCHMARKS)}")
    parser.add_argument("--paper-files", help="folder with the HNN paper's files, for greydanus2019")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    failed = []
    for name in options.names or BENCHMARKS:
        arguments = BENCHMARKS[name]
        if arguments is None:
            if options.paper_files is None:
                print(f"{name}: skipped, give --paper-files FOLDER")
                continue
            arguments = ["--data", options.paper_files]
        print(f"{name} …", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], env=environment, check=False)
        failed += [name] if done.returncode else []
    print(f"\n{'benchmark':58} {'ours':>12} {'peer':>12} {'ratio':>10}  unit")
    for path in sorted((HERE / "results").glob("*.json")):
        result = json.loads(path.read_text())
        for row in [result, *result.get("comparisons", [])]:
            numbers = f"{row['ours']:12.4g} {row['peer']:12.4g} {row['ratio']:10.3g}"
            print(f"{row['name']:58} {numbers}  {row.get('unit', result['unit'])}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
