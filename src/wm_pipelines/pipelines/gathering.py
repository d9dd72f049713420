"""From the results of single models to a task's part of the leaderboard, to the union of all parts, to a report."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from wm_pipelines.errors import UserError
from wm_pipelines.metrics.table import check_unique, content_hash
from wm_pipelines.provenance import REPORTS, judging_modules, source_hash
from wm_pipelines.registry import tasks
from wm_pipelines.reporting.page import origin
from wm_pipelines.reporting.summary import PairedValues, contest
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.base import Results, Task
from wm_pipelines.tasks.judgement import BY_EPISODE, table

logger = logging.getLogger(__name__)

_PACKAGES = ("kedro", "dvc", "torch", "numpy", "scipy", "lightning-fabric", "optuna", "wm_pipelines")
_ORDER = ["task", "world", "family", "variant", "split", "metric", "seed", "step"]
Collected = Mapping[str, Any]


def part_of_leaderboard(collected: Collected) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All rows of a task in a stable order, and what they were made from: see `pipelines.nodes.gather`.

    Raises:
        UserError: families were judged on different episodes of one world.
    """
    results = list(_results(collected))
    facts = results[0]["facts"]
    task: Task = tasks.get(facts["task"])()
    _data(results, "manifest", "starts")
    tables = [one["scores"] for one in results]
    if task.jury is not None:
        tables += [
            _compared(task, world, results, collected) for world in dict.fromkeys(r["facts"]["world"] for r in results)
        ]
    scores = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    scores = _ordered(scores)
    made_from = {
        "code": code_hash(task.name),
        "revision": git_revision(),
        "data": _data(results, "data", "episodes"),
        "table": content_hash(scores),
        "thresholds": _thresholds(task, results),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "seconds": _seconds(scores, results),
        "worlds": list(dict.fromkeys(one["facts"]["world"] for one in results)),
        "limits": _limits(task, results),
        "best": contest(scores, _values_by_episode(results)),
    }
    if task.has_doses:
        made_from["conclusions"] = task.conclusions(results_of(scores, made_from, collected))
    return scores, made_from


def _thresholds(task: Task, results: list[dict[str, Any]]) -> list[str]:
    """The limits that scores depend on, in words; where worlds differ, with the worlds."""
    found: dict[str, list[str]] = {}
    configs = {one["facts"]["world"]: one["facts"]["evaluation"] for one in results if "evaluation" in one["facts"]}
    for world, config in configs.items():
        for line in task.thresholds(task.config(config)):
            found.setdefault(line, []).append(world)
    return [line if len(own) == len(configs) else f"{line} ({', '.join(own)})" for line, own in found.items()]


def _limits(task: Task, results: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """World -> split -> metric -> the largest value it can have there, where there is one."""
    specs = {one["facts"]["world"]: one["facts"].get("specs", {}) for one in results}
    found = {w: {s: task.limits(Spec.from_json(spec)) for s, spec in own.items()} for w, own in specs.items()}
    return {w: own for w, limits in found.items() if (own := {s: one for s, one in limits.items() if one})}


def _seconds(scores: pd.DataFrame, results: list[dict[str, Any]]) -> dict[str, float]:
    """What all trainings and judgements took, one after the other."""
    training = float(scores.loc[scores["metric"] == "train_seconds", "value"].sum())
    return {"training": training, "judging": sum(one["facts"].get("seconds", 0.0) for one in results)}


def machine() -> str:
    """Operating system, processor and number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = next(iter(names), platform.processor() or "unknown processor")
    return f"{platform.system()} {platform.machine()}, {processor}, {os.cpu_count()} cores"


def _data(results: list[dict[str, Any]], kind: str, called: str) -> dict[str, dict[str, str]]:
    """World -> split -> hash of the episodes that all families were trained and judged on, or of their manifests."""
    found: dict[str, dict[str, str]] = {}
    for facts in (one["facts"] for one in results):
        hashes = facts.get(kind, {})
        theirs = found.setdefault(facts["world"], hashes)
        for split in sorted(set(theirs) | set(hashes)):
            if (first := theirs.get(split, "none")) != (own := hashes.get(split, "none")):
                raise UserError(
                    f"{facts['family']} was judged on other {called} of '{facts['world']}' ({split} {own[:12]}) than "
                    f"the families before it ({split} {first[:12]}); run training and evaluation of this world again"
                )
    return found


def _results(collected: Collected) -> Iterator[dict[str, Any]]:
    """The results among what a node was given, in the order of the catalog's names; then those from outside."""
    own = [value for value in collected.values() if isinstance(value, dict) and "scores" in value]
    yield from own
    yield from _from_outside(collected.get("outside") or {}, own)


def _from_outside(outside: Mapping[str, dict[str, Any]], own: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Results of models from outside, judged on the very episodes of the others; all else is named and left out."""
    data = {one["facts"]["world"]: one["facts"]["data"] for one in own}
    for name, results in outside.items():
        world = results["facts"]["world"]
        if world not in data:
            logger.warning("%s is left out: no family is judged on '%s' here.", name, world)
        elif results["facts"]["data"] != data[world]:
            logger.warning(
                "%s is left out: '%s' has other episodes now; let it predict and submit it again.", name, world
            )
        else:
            yield results


def _compared(task: Task, world: str, results: list[dict[str, Any]], collected: Collected) -> pd.DataFrame:
    """Rows of a world that need the jury's encoder; the last of its variants judges."""
    models = collected.get(f"jury_{world}")
    if models is None or not models.variants:
        return table([], task=task.name, world=world)
    jury = list(models.variants.values())[-1].restore()
    own = [one for one in results if one["facts"]["world"] == world]
    rows = task.compare(jury, collected[f"episodes_{world}"], _arrays_by_model(own))
    known = pd.concat([one["scores"] for one in own], ignore_index=True)
    told = known.groupby(["family", "variant"])[["view", "knows"]].first()
    full = []
    for row in rows:
        family, variant = row.pop("model").split("/")
        full.append({"family": family, "variant": variant, **told.loc[family, variant].to_dict(), **row})
    return table(full, task=task.name, world=world)


def _arrays_by_model(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """``"family/variant"`` -> ``split/name`` -> array."""
    found: dict[str, dict[str, Any]] = {}
    for one in results:
        for key, array in one["arrays"].items():
            variant, name = key.split("/", 1)
            found.setdefault(f"{one['facts']['family']}/{variant}", {})[name] = array
    return found


def _values_by_episode(results: list[dict[str, Any]]) -> PairedValues:
    """World -> split -> metric -> ``"family/variant"`` -> ``[S, E]``, of what the judges kept."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for one in results:
        for key, array in one["arrays"].items():
            variant, split, name = key.split("/", 2)
            if name.startswith(BY_EPISODE):
                by_metric = found.setdefault(one["facts"]["world"], {}).setdefault(split, {})
                model = f"{one['facts']['family']}/{variant}"
                by_metric.setdefault(name.removeprefix(BY_EPISODE), {})[model] = array
    return found


def _ordered(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.sort_values(_ORDER, kind="stable", ignore_index=True)


# ---------------------------------------------------------------- the leaderboard


def union(parts: Mapping[str, tuple[pd.DataFrame, Mapping[str, Any]]]) -> pd.DataFrame:
    """All parts together; one of another revision is named and left out.

    Args:
        parts: table and provenance by task.

    Raises:
        UserError: a key stands there twice, or a part is not the table that was written.
    """
    fresh = []
    for name, (part, made_from) in sorted(parts.items()):
        if made_from.get("code") == code_hash(name):
            if made_from.get("table") != content_hash(part):
                raise UserError(
                    f"the results of '{name}' are not those that were written with their provenance: edited or "
                    f"replaced; run: kedro run --pipeline={tasks.get(name).pipeline}"
                )
            fresh.append(part)
        else:
            logger.warning(
                "The results of '%s' are stale (made at %s by other code) and left out of the leaderboard; run "
                "kedro run --pipeline=%s", name, str(made_from.get("revision", "an unknown revision"))[:12],
                tasks.get(name).pipeline,
            )  # fmt: skip
    whole = _ordered(pd.concat(fresh, ignore_index=True))
    check_unique(whole)
    return whole


def code_hash(task: str) -> str:
    """Of the code that judges: parts made by other code are not comparable."""
    return source_hash(*judging_modules(task), without=REPORTS)


# ---------------------------------------------------------------- a report


def results_of(scores: pd.DataFrame, made_from: Mapping[str, Any], collected: Collected) -> Results:
    """All that a report is made from.

    Args:
        scores: the task's part of the leaderboard. made_from: see `part_of_leaderboard`.
        collected: results (``…_results``) and training (``…_training``) of every family on every world, and what wrong
            laws do in every world (``…_doses``).
    """
    results = list(_results(collected))
    worlds = list(dict.fromkeys(one["facts"]["world"] for one in results))
    by_world = {world: [one for one in results if one["facts"]["world"] == world] for world in worlds}
    return Results(
        scores=scores,
        specs={
            world: {split: Spec.from_json(spec) for split, spec in own[0]["facts"]["specs"].items()}
            for world, own in by_world.items()
        },
        arrays={world: _arrays_by_model(own) for world, own in by_world.items()},
        best=made_from.get("best", {}),
        curves=dict(_curves(collected)),
        not_applicable=[(f["world"], who, why) for f in (one["facts"] for one in results) for who, why in _reasons(f)],
        provenance=provenance(scores, made_from),
        about={world: own[0]["facts"].get("about", {}) for world, own in by_world.items()},
        limits=_limits(tasks.get(results[0]["facts"]["task"])(), results) if results else {},
        doses={key.removesuffix("_doses"): value for key, value in collected.items() if key.endswith("_doses")},
    )


def _reasons(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Why a family does not apply: once for all its variants where the reason is the same, else one by one."""
    reasons = facts["not_applicable"]
    if len(set(reasons.values())) == 1:
        return [(facts["family"], next(iter(reasons.values())))]
    return [(f"{facts['family']}/{variant}", reason) for variant, reason in reasons.items()]


def _curves(collected: Collected) -> Iterator[tuple[str, pd.DataFrame]]:
    """``world/family/variant`` -> learning curve, of everything that was trained in more than one step."""
    for key, value in collected.items():
        if not (isinstance(value, dict) and "curves" in value):
            continue
        facts = collected[key.removesuffix("_training") + "_results"]["facts"]
        for variant, curve in value["curves"].groupby("variant", sort=True):
            if len(curve["step"].unique()) > 1:
                own = curve.dropna(axis=1, how="all").reset_index(drop=True)
                yield f"{facts['world']}/{facts['family']}/{variant}", own


def provenance(scores: pd.DataFrame, made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Where the numbers come from: date, revision, machine, time, code, data, seeds, versions, command."""
    return {
        **origin(made_from),
        "seeds": sorted(int(s) for s in scores["seed"].unique()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
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
