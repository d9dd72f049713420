"""Put what the catalog holds into the form that reports are made from."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wm_pipelines.pipelines.configuration import EvaluationConfig
from wm_pipelines.reporting.content import ReportContent, WorldRollouts
from wm_pipelines.worlds.base import World
from wm_pipelines.worlds.episodes import WorldConfig, build_world

Arrays = Mapping[str, NDArray[Any]]
_PACKAGES = ("kedro", "dvc", "torch", "numpy", "scipy", "lightning-fabric", "optuna", "wm_pipelines")


def report_content(
    leaderboard: pd.DataFrame,
    worlds: Mapping[str, WorldConfig],
    rollouts: Mapping[str, Arrays],
    curves: Mapping[str, pd.DataFrame],
    facts: Mapping[str, Mapping[str, Any]],
    evaluation: EvaluationConfig,
    *,
    frames: bool = True,
) -> ReportContent:
    """Everything the report shows.

    Args:
        leaderboard: the long table. worlds: configurations by name.
        rollouts: family -> arrays named ``world/split/variant/what``. curves, facts: by family.
        frames: also draw the frames of the animations (slow).
    """
    drawn = {name: world_rollouts(name, config, rollouts, evaluation, frames=frames) for name, config in worlds.items()}
    return ReportContent(
        leaderboard=leaderboard,
        rollouts={name: found for name, found in drawn.items() if found is not None},
        curves=learning_curves(curves),
        not_applicable=[(w, family, why) for family, f in facts.items() for w, why in f["not_applicable"].items()],
        provenance=provenance(leaderboard, facts),
    )


def world_rollouts(
    name: str, config: WorldConfig, rollouts: Mapping[str, Arrays], evaluation: EvaluationConfig, *, frames: bool
) -> WorldRollouts | None:
    """One world's roll-outs on its first held-out split, with frames of the first episode if asked for."""
    found = {
        (split, f"{family}/{variant}", what): array
        for family, arrays in rollouts.items()
        for (world, split, variant, what), array in ((key.split("/"), a) for key, a in arrays.items())
        if world == name
    }
    if not found:
        return None
    split = "test" if any(s == "test" for s, _, _ in found) else min(s for s, _, _ in found)
    of_split = {(model, what): array for (s, model, what), array in found.items() if s == split}
    any_model = next(iter(of_split))[0]
    time, truth = of_split[any_model, "time"], of_split[any_model, "truth"]
    predicted = {model: array for (model, what), array in of_split.items() if what == "predicted"}
    world = build_world(config, split, name)
    system = world.system(float(time[1] - time[0]))
    count = min(evaluation.animation_frames, len(time))
    pictures = _frames(world, {"truth": truth, **predicted}, count, evaluation.animation_size) if frames else {}
    return WorldRollouts(
        time=time,
        truth=truth,
        predicted=predicted,
        truth_energy=of_split.get((any_model, "truth_energy")),
        energy={model: array for (model, what), array in of_split.items() if what == "energy"},
        dof=system.dof,
        particles=system.particles,
        space=system.space,
        angles=system.angles,
        frames=pictures,
        caption=world.describe(truth[0]),
    )


def _frames(world: World, states: Arrays, count: int, size: int) -> dict[str, NDArray[np.uint8]]:
    """``count`` frames of the first episode of each; a state that is lost (not finite) keeps the last good picture."""
    drawn = {}
    for name, path in states.items():
        episode = path[0]
        rows = np.linspace(0, len(episode) - 1, count).round().astype(int)
        good = np.isfinite(episode).all(axis=1) & (np.abs(episode) < 1e6).all(axis=1)
        last_good = np.maximum.accumulate(np.where(good, np.arange(len(episode)), 0))
        drawn[name] = world.render(episode[last_good[rows]], size)
    return drawn


def learning_curves(curves: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """``world/family/variant`` -> curve, for everything that was trained in more than one step."""
    found = {}
    for family, table in curves.items():
        for (world, variant), curve in table.groupby(["world", "variant"], sort=True):
            if len(curve["step"].unique()) > 1:
                found[f"{world}/{family}/{variant}"] = curve.dropna(axis=1, how="all").reset_index(drop=True)
    return found


def provenance(leaderboard: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Where the numbers come from: revision, data, versions, seeds, command."""
    data = {world: digest for f in facts.values() for world, digest in sorted(f["data"].items())}
    return {
        "git revision": git_revision(),
        "seeds": sorted(int(s) for s in leaderboard["seed"].unique()),
        "training data (SHA-256)": data,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "machine": f"{platform.system()} {platform.machine()}",
        "command": "kedro " + " ".join(sys.argv[1:]) if sys.argv[0].endswith("kedro") else "",
    }


def git_revision() -> str:
    """The commit of the working tree, with a mark where files differ from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "--", "src", "conf") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
