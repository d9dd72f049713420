"""Which starts and goals every policy is judged on: drawn once, apart from all training episodes, hashed.

A manifest is JSON: the world, its step and budget, starts and goals as plant states, the seed they were drawn with, how
many were left out because they were solved at the start, the hash of the training episodes they belong to, what
reference policies reach from them, and a hash of all that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from wm_pipelines.control.closed_loop import Course, run
from wm_pipelines.control.planners import PlannerConfig
from wm_pipelines.control.policies import Fixed, ObjectiveConfig, TruePlanned
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError

Manifest = Mapping[str, Any]
_STAYING = 10  # rows that show whether a goal is kept by doing nothing
_DRAWS = 100  # of goals that are not solved at the start, until the world counts as too easy


def draw(
    plant: Any,
    train: Episodes,
    *,
    starts: int,
    steps: int,
    seed: int,
    split: str,
    planner: PlannerConfig,
    objective: ObjectiveConfig,
    judged: int | None = None,
    true_planner: bool = True,
) -> dict[str, Any]:
    """Draw starts and goals of a world, and let the reference policies act from them.

    Args:
        plant: the world of the split. train: its training episodes. starts: how many. steps: the budget.
        seed: of the draws. split: which of the world's splits, for its own stream of random numbers.
        planner, objective: of the planner on the true world. judged: how many of the starts are acted from, the first
            ones; None: all. true_planner: whether that planner is one of the references.

    Raises:
        UserError: hardly any goals are unsolved at the start.
    """
    rng = np.random.default_rng([seed, *hashlib.sha256(f"manifest {split}".encode()).digest()[:8]])
    z0, goals, solved = _unsolved(plant, rng, starts)
    judged = min(judged or starts, starts)
    content: dict[str, Any] = {
        "world": train.spec.name,
        "split": split,
        "plant": plant.origin(),
        "data_hash": train.content_hash,
        "step": train.spec.step,
        "steps": steps,
        "seed": seed,
        "judged": judged,
        "starts": z0.tolist(),
        "goals": None if goals is None else goals.tolist(),
        "solved_at_start": solved,
        "success": "the return" if goals is None else (type(plant).success.__doc__ or "").strip().split("\n")[0],
        "planner": planner.model_dump(mode="json"),
        "objective": objective.model_dump(mode="json"),
        "references": {},
    }
    z0, goals = z0[:judged], None if goals is None else goals[:judged]
    for name, policy in references(plant, train, goals, planner, objective, judged, steps).items():
        if not true_planner and name.startswith("true_model"):
            continue
        course = run(policy, plant, z0, goals, train.spec.step, steps, {})
        content["references"][name] = course.score.tolist()
    return content | {"hash": digest(content)}


def _unsolved(plant: Any, rng: np.random.Generator, count: int) -> tuple[Any, Any, int]:
    """Starts, goals (or None), and how many draws were left out."""
    starts, goals, solved = [], [], 0
    for _ in range(_DRAWS):
        z = plant.sample_initial_state(rng, count)
        goal = plant.sample_goal(rng, z)
        if goal is None:
            return z, None, 0
        open_ = ~plant.success(z, goal) & ~_strictly_solved(plant, z, goal)
        solved += int((~open_).sum())
        starts.append(z[open_])
        goals.append(goal[open_])
        if sum(map(len, starts)) >= count:
            return np.concatenate(starts)[:count], np.concatenate(goals)[:count], solved
    raise UserError(f"world '{plant.entry}': hardly any goal is unsolved at the start; make its success stricter")


def _strictly_solved(plant: Any, z: Any, goal: Any) -> Any:
    """Whether staying there meets the stricter criterion, where the world has one: then it says nothing of a policy."""
    staying = plant.strict_success(np.repeat(z[:, None], _STAYING, axis=1), goal)
    return np.zeros(len(z), bool) if staying is None else staying


def references(
    plant: Any, train: Episodes, goals: Any, planner: PlannerConfig, objective: ObjectiveConfig, starts: int, steps: int
) -> dict[str, Any]:
    """Policies that need no model: random, zero, replayed training actions, the planner on the true world.

    ``true_model_twice`` has twice the candidates and iterations: where it is better, the planner is a bottleneck.
    """
    twice = planner.model_copy(update={"samples": 2 * planner.samples, "iterations": 2 * planner.iterations})
    given = train["actions"]
    times = (-(-starts // len(given)), -(-steps // given.shape[1]), 1)
    replayed = torch.tensor(np.tile(given, times)[:starts, :steps])
    return {
        "random": Fixed(plant.action_size, "random"),
        "zero": Fixed(plant.action_size, "zero"),
        "replay": Fixed(plant.action_size, "replay", given=replayed),
        "true_model": TruePlanned(plant, train.spec.step, planner, objective, goals),
        "true_model_twice": TruePlanned(plant, train.spec.step, twice, objective, goals),
    }


def digest(content: Manifest) -> str:
    """SHA-256 of a manifest without its hash."""
    plain = {key: value for key, value in content.items() if key != "hash"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def check(manifest: Manifest, train: Episodes) -> None:
    """Refuse a manifest that was edited, or belongs to other data.

    Raises:
        UserError: says which.
    """
    if not isinstance(manifest, Mapping):
        raise UserError(f"the manifest of '{train.spec.name}' is no table of names; damaged: draw it again")
    called = f"the manifest of '{manifest.get('world')}' ({manifest.get('split')})"
    if manifest.get("hash") != digest(manifest):
        raise UserError(f"{called} does not match its hash: edited or damaged; draw it again")
    if manifest["data_hash"] != train.content_hash:
        raise UserError(
            f"{called} belongs to training episodes {manifest['data_hash'][:12]}, those of '{train.spec.name}' are "
            f"{train.content_hash[:12]}; draw it again"
        )


def judged_on(manifest: Manifest, first: int | None = None) -> tuple[Any, Any]:
    """Starts and goals (or None) that are acted from, or the first of them."""
    count = min(manifest["judged"], first or manifest["judged"])
    starts, goals = (None if manifest[n] is None else np.array(manifest[n])[:count] for n in ("starts", "goals"))
    return starts, goals


def course_of(
    manifest: Manifest, policy: Any, plant: Any, views: Mapping[str, Any], first: int | None = None
) -> Course:
    """A policy on the starts of a manifest that are judged, or on the first of them."""
    return run(policy, plant, *judged_on(manifest, first), manifest["step"], manifest["steps"], views)
