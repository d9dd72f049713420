"""What the family `pinn` reaches on every field world: relative L2 error and CPU seconds per seed, one thread.

Settings are those of ``conf/base`` (and ``conf/full`` with ``--env full``): chosen by residuals between the collocation
points, never by the reference. Errors are over the world's grid, seeds 0-2; a bar holds if the worst seed meets it.
Unknown coefficients are found from ten data sets that differ in the places and the noise of their measurements.

Run: ``python benchmarks/pinn_accuracy.py [--env full] [--only kovasznay] [--variant collocation]``; writes
``benchmarks/results/pinn_accuracy_<env>.json``.
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

from wm_pipelines.errors import validate
from wm_pipelines.families.pinn import PINN, PINNConfig
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.mappings import deep_merge
from wm_pipelines.metrics.fields import relative_l2
from wm_pipelines.pipelines.configuration import FamilyParameters
from wm_pipelines.worlds.fields.data import FieldConfig, build_field_system, ingest_field

ROOT = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)
# (parameter file, changed parameters, label, variant) -> largest relative L2 of the fields named
BARS: list[tuple[str, dict[str, Any], str, str, dict[str, float]]] = [
    ("heat_1d", {}, "heat", "collocation", {"u": 1e-6}),
    ("heat_1d", {}, "heat", "gradient", {"u": 1e-4}),
    ("burgers_1d", {}, "burgers", "collocation", {"u": 1e-3}),
    ("burgers_1d", {}, "burgers", "gradient", {"u": 1e-3}),
    ("kovasznay", {}, "kovasznay Re 20", "collocation", {"u": 1e-6, "v": 1e-6, "p": 1e-6}),
    ("kovasznay", {"reynolds": 40.0}, "kovasznay Re 40", "collocation", {"u": 1e-6, "v": 1e-6, "p": 1e-6}),
    ("kovasznay", {}, "kovasznay Re 20", "gradient", {"u": 1e-3, "v": 1e-3, "p": 1e-3}),
    ("kovasznay", {"reynolds": 40.0}, "kovasznay Re 40", "gradient", {"u": 1e-3, "v": 1e-3, "p": 1e-3}),
    ("taylor_green", {}, "taylor-green Re 100", "collocation", {"u": 1e-3}),
    ("taylor_green", {}, "taylor-green Re 100", "gradient", {"u": 1e-3}),
]
INVERSE = [
    ("heat_1d_inverse", "alpha", "collocation"),
    ("burgers_1d_inverse", "nu", "collocation"),
    ("heat_1d_inverse", "alpha", "gradient"),
    ("burgers_1d_inverse", "nu", "gradient"),
]


def parameters(name: str, env: str) -> dict[str, Any]:
    """One entry of the parameter files of an environment, on top of base."""
    merged: dict[str, Any] = {}
    for folder in dict.fromkeys(("base", env)):
        path = ROOT.parent / "conf" / folder / f"parameters_{name}.yml"
        if path.exists():
            merged = deep_merge(merged, yaml.safe_load(path.read_text())[name])
    return merged


def fit(world: FieldConfig, settings: dict[str, Any], seeds: tuple[int, ...]) -> tuple[PINN, dict[str, Any], float]:
    """A fitted family, the data and the CPU seconds of the fit."""
    data = ingest_field(world)
    family = PINN(validate(PINNConfig, settings, "pinn"), build_field_system(world), seeds)
    start = time.process_time()
    train(family, {k: torch.tensor(v) for k, v in data.items()}, LearningConfig(progress=False))
    return family, data, time.process_time() - start


def forward(case: tuple[str, dict[str, Any], str, str, dict[str, float]], env: str) -> dict[str, Any]:
    """Errors of one world and variant."""
    name, changes, label, variant, bars = case
    world = FieldConfig(**deep_merge(parameters(name, env), {"parameters": changes}))
    settings = FamilyParameters(**parameters("pinn", env)).resolve(variant, name)
    family, data, seconds = fit(world, settings, SEEDS)
    fields = family.predict(torch.tensor(data["grid"])).fields
    assert fields is not None
    errors = relative_l2(fields.numpy(), data["reference"])
    worst = {f: float(errors[:, i].max()) for i, f in enumerate(family.system.fields)}
    return {
        "world": label,
        "variant": variant,
        "relative_l2": worst,
        "bars": bars,
        "met": all(worst[f] <= bar for f, bar in bars.items()),
        "residual": family.residual_rms(torch.tensor(data["validation"])).tolist(),
        "cpu_seconds_per_seed": seconds / len(SEEDS),
    }


def inverse(name: str, symbol: str, variant: str, env: str) -> dict[str, Any]:
    """Errors and intervals of an unknown coefficient over ten data sets."""
    settings = FamilyParameters(**parameters("pinn", env)).resolve(variant, name)
    errors, widths, held, identified, seconds = [], [], 0, 0, 0.0
    for seed in range(10):
        world = FieldConfig(**deep_merge(parameters(name, env), {"measurements": {"seed": seed}}))
        family, _, spent = fit(world, settings, (0,))
        truth, found = family.system.coefficients[symbol].value, family.found()[symbol]
        errors.append(float(found["value"]) / truth - 1)
        held += float(found["low"]) <= truth <= float(found["high"])
        widths.append(float(found["high"] - found["low"]) / 2 / truth)
        identified += int(found["identified"])
        seconds += spent / 10
    return {
        "world": name,
        "variant": variant,
        "coefficient": symbol,
        "largest_relative_error": float(np.abs(errors).max()),
        "relative_errors": errors,
        "intervals_that_hold": held,
        "mean_half_width": float(np.mean(widths)),
        "identified": identified,
        "met": float(np.abs(errors).max()) <= 0.01 and held >= 8,
        "cpu_seconds_per_seed": seconds,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="base", help="configuration environment: base, or full for longer fits")
    parser.add_argument("--only", default="", help="worlds whose name contains this")
    parser.add_argument("--variant", default="", help="this variant alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in BARS:
        if given.only in case[2] and given.variant in ("", case[3]):
            rows.append(forward(case, given.env))
            print(json.dumps(rows[-1]), flush=True)
    for name, symbol, variant in INVERSE:
        if given.only in name and given.variant in ("", variant):
            rows.append(inverse(name, symbol, variant, given.env))
            print(json.dumps(rows[-1]), flush=True)
    if given.only or given.variant:
        return
    ratios = [row["bars"][f] / row["relative_l2"][f] for row in rows if "bars" in row for f in row["bars"]]
    result = {
        "name": f"pinn_accuracy_{given.env}",
        "ours": sum(row["met"] for row in rows),
        "peer": len(rows),
        "ratio": min(ratios),
        "unit": "bars met (ours) of all (peer); ratio: smallest bar over error",
        "repeats": len(SEEDS),
        "threads": 1,
        "versions": {p: version(p) for p in ("numpy", "torch")} | {"python": platform.python_version()},
        "cases": rows,
    }
    path = ROOT / "results" / f"{result['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
