"""Judge one model by its predictions under actions, and by what a planner makes of them.

Axes: ``S`` seeds, ``E`` episodes or starts, ``K`` steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.control.closed_loop import Course
from wm_pipelines.control.manifest import check, course_of, judged_on
from wm_pipelines.control.manifest import references as reference_policies
from wm_pipelines.control.planners import PlannerConfig
from wm_pipelines.control.policies import ObjectiveConfig, OwnPolicy, Planned, graph_of, observed
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Acts, Family, GivenLaws, Imagines
from wm_pipelines.laws import Laws
from wm_pipelines.metrics.dose import energy_error, law_error, scale
from wm_pipelines.tasks.judgement import Judgement

if TYPE_CHECKING:
    from wm_pipelines.tasks.control import ControlConfig

Float = NDArray[np.float64]
_TIMED = 5  # decisions


def judge(
    family: Family,
    episodes: Mapping[str, Episodes],
    split: str,
    laws: Laws,
    config: ControlConfig,
    planner: PlannerConfig,
    objective: ObjectiveConfig,
    manifest: Mapping[str, Any] | None,
) -> Judgement:
    """Everything that can be said of one model on one split.

    Args:
        family: restored. episodes: all splits. split: what it is judged on. laws: of that split's world.
        config, planner, objective: how. manifest: starts and goals of the split; None: it does not act.

    Raises:
        UserError: the manifest belongs to other data, or was drawn with another planner or budget.
    """
    judged = Judgement(family.seeds, split)
    fixed = getattr(family, "reference", None) or ("true_model" if isinstance(family, GivenLaws) else None)
    if isinstance(family, Imagines):
        _add_predictions(judged, family, episodes[split], config)
        _keep_imagined(judged, family, episodes[split], config)
        if family.shown(family.spec)[0] == "states":
            _add_law_error(judged, family, episodes[split], laws, planner.horizon)
    if manifest is None:
        return judged
    check(manifest, episodes["train"])
    _check_drawn_with(manifest, config, planner, objective)
    references = {name: np.array(values) for name, values in manifest["references"].items()}
    if manifest["goals"] is not None:
        judged.arrays["goals"] = np.array(manifest["goals"])[: config.kept]
    if fixed is not None:
        if fixed not in references:
            return judged
        same = np.tile(references[fixed], (len(family.seeds), 1))
        _add_scores(judged, same, references, manifest)
        if fixed == "true_model":
            gain = references["true_model_twice"] - references["true_model"]
            judged.add("planner_headroom", np.tile(gain, (len(family.seeds), 1)), "1")
        _keep(judged, [_of_reference(fixed, episodes["train"], laws.plant, manifest, config.kept)], config.kept)
        return judged
    views = {name: space for name, space in family.spec.views.items() if name in family.shown(family.spec)}
    if isinstance(family, Imagines) and (manifest["goals"] is not None or "rewards" in family.spec.views):
        observations = {name: torch.from_numpy(np.array(episodes["train"][name])) for name in _observations(views)}
        wanted = objective if manifest["goals"] is not None else objective.model_copy(update={"landmarks": 0})
        graphs = [graph_of(family, s, observations, wanted) for s in range(len(family.seeds))]

        def policy(seed: int, first: int | None = None) -> Planned:
            _, goals = judged_on(manifest, first)
            goal = None if goals is None else observed(laws.plant, goals, views)
            action = laws.plant.action_size
            return Planned(family, seed, planner, action, objective, goal, graph=graphs[seed])

        courses = [course_of(manifest, policy(s), laws.plant, views) for s in range(len(family.seeds))]
        _add_scores(judged, np.stack([c.score for c in courses]), references, manifest)
        _add_strict(judged, courses, laws.plant, manifest)
        _add_promises(judged, courses, planner.horizon)
        alone = [policy(s, 1) for s in range(len(family.seeds))]
        judged.add("decision_ms", _decision_ms(alone, laws.plant, manifest, views), "ms")
        _keep(judged, courses, config.kept)
    if isinstance(family, Acts) and family.behaves:
        own = [course_of(manifest, OwnPolicy(family, s), laws.plant, views) for s in range(len(family.seeds))]
        _add_scores(judged, np.stack([c.score for c in own]), references, manifest, "policy_")
        _keep(judged, own, config.kept, "policy")
        if "dream_return" in (summary := family.extra_summary()):
            judged.add("dream_return", np.array(summary["dream_return"], np.float64), "1")
    return judged


def _observations(views: Mapping[str, Any]) -> list[str]:
    return [name for name in ("states", "frames") if name in views]


def _of_reference(name: str, train: Episodes, plant: Any, manifest: Mapping[str, Any], kept: int) -> Course:
    """A course of one of the manifest's own policies: of the planner only from the starts that are kept."""
    first = kept if name == "true_model" else None
    starts, goals = judged_on(manifest, first)
    planner, objective = PlannerConfig(**manifest["planner"]), ObjectiveConfig(**manifest["objective"])
    policies = reference_policies(plant, train, goals, planner, objective, len(starts), manifest["steps"])
    return course_of(manifest, policies[name], plant, {}, first)


def _add_scores(
    judged: Judgement, scores: Float, references: Mapping[str, Float], manifest: Mapping[str, Any], prefix: str = ""
) -> None:
    """Return or success ``[S, E]``, alone, between random (0) and the true world's planner (1), minus either's.

    Where that planner did not act, 1 is that all goals are reached.
    """
    goals = manifest["goals"] is not None
    judged.add(f"{prefix}success_rate" if goals else f"{prefix}return", scores, "1")
    floor, best = references["random"].mean(), references.get("true_model", np.ones(1) if goals else None)
    if best is not None and (ceiling := best.mean()) > floor:
        judged.add(f"{prefix}normalised_score", (scores - references["random"]) / (ceiling - floor), "1")
    judged.add(f"{prefix}over_random", scores - references["random"], "1")
    if "true_model" in references:
        judged.add(f"{prefix}planning_gap", references["true_model"] - scores, "1")


def _add_strict(judged: Judgement, courses: list[Course], plant: Any, manifest: Mapping[str, Any]) -> None:
    """The world's stricter criterion, where it has one: ``[S, E]``."""
    _, goals = judged_on(manifest)
    met = [None if goals is None else plant.strict_success(course.states, goals) for course in courses]
    if met[0] is not None:
        judged.add("strict_success_rate", np.array(met, np.float64), "1")


def _add_promises(judged: Judgement, courses: list[Course], horizon: int) -> None:
    """How much more plans promise than their horizon brings: mean over decisions, ``[S, E]``."""
    if courses[0].expected is None or courses[0].rewards is None:
        return
    found = []
    for course in courses:
        assert course.expected is not None
        assert course.rewards is not None
        sums = np.cumsum(np.pad(course.rewards, ((0, 0), (1, 0))), 1)
        count = course.rewards.shape[1] - horizon + 1
        if count < 1:
            return
        real = sums[:, horizon:] - sums[:, :count]
        found.append((course.expected[:, :count] - real).mean(1))
    judged.add("optimism", np.stack(found), "1")


def _decision_ms(policies: list[Planned], plant: Any, manifest: Mapping[str, Any], views: Mapping[str, Any]) -> Float:
    """Milliseconds of one decision for one start, of each seed's policy, ``[S]``: the median of a few."""
    start, _ = judged_on(manifest, 1)
    found = []
    for policy in policies:
        policy.begin(observed(plant, start, views), start)
        times = []
        for _ in range(_TIMED + 1):
            began = time.perf_counter()
            policy.act()
            times.append(time.perf_counter() - began)
        found.append(1e3 * float(np.median(times[1:])))
    return np.array(found)


def _keep(judged: Judgement, courses: list[Course], count: int, name: str = "planned") -> None:
    """Courses of the first seed for the report."""
    judged.arrays[f"{name}_states"] = courses[0].states[:count]
    judged.arrays[f"{name}_actions"] = courses[0].actions[:count]
    if courses[0].rewards is not None:
        judged.arrays[f"{name}_rewards"] = courses[0].rewards[:count]


# ---------------------------------------------------------------- predictions under actions


def _check_drawn_with(
    manifest: Mapping[str, Any], config: ControlConfig, planner: PlannerConfig, objective: ObjectiveConfig
) -> None:
    """What its references did is compared with what a model does now: by the same planner, for as long."""
    now = {
        "planner": planner.model_dump(mode="json"),
        "objective": objective.model_dump(mode="json"),
        "steps": config.steps,
        "seed": config.seed,
    }
    if others := [name for name, value in now.items() if manifest[name] != value]:
        world = manifest["world"]
        raise UserError(
            f"the manifest of '{world}' was drawn with other control.{', control.'.join(others)}; draw it again "
            f"(--nodes=control.manifest.draw_{world}) and judge all families by it"
        )


def _add_predictions(judged: Judgement, family: Any, episodes: Episodes, config: ControlConfig) -> None:
    """Errors of roll-outs under the actions taken, and how much larger they are under another episode's actions."""
    view = family.shown(family.spec)[0]
    truth, actions = episodes[view], torch.tensor(episodes["actions"])
    context = max(1, getattr(family, "context", 1))
    steps = sorted(k for k in config.error_steps if context - 1 + k < truth.shape[1])
    if not steps:
        return
    longest = max(steps)
    past = {view: torch.tensor(truth[:, :context]), "actions": actions[:, : context - 1]}
    taken = actions[:, context - 1 : context - 1 + longest]
    true = truth[:, context : context + longest].astype(np.float64)
    true = true / 255 if view == "frames" else true
    found = _rolled(family, past, longest, taken, view)
    errors = _errors(found[view], true)
    for k in steps:
        judged.add("mse", errors[:, :, k - 1], _square_unit(view), step=k)
    judged.add("mse", errors[:, :, longest - 1], _square_unit(view))
    at = [k - 1 for k in steps]
    if view == "frames":  # most pixels show what no action moves: what plans are made in says more
        following = torch.tensor(truth[:, context : context + longest])
        own, other = (_feature_errors(family, past, given, following) for given in (taken, taken.roll(1, 0)))
    else:
        own, other = errors, _errors(_rolled(family, past, longest, taken.roll(1, 0), view)[view], true)
    sensitivity = _ratio(other[:, :, at].mean(1), own[:, :, at].mean(1))
    judged.add("action_sensitivity", sensitivity[:, -1], "1", n=len(truth))
    judged.add("ignores_actions", (sensitivity.max(1) < _IGNORED).astype(np.float64), "1", n=len(truth))
    if "rewards" in found and "rewards" in episodes:
        rewards = episodes["rewards"][:, context - 1 : context - 1 + longest]
        judged.add("reward_mse", (found["rewards"] - rewards).__pow__(2).mean(2), "1")


_IGNORED = 1.05  # error under other actions over that under those taken: one that is hardly more at any step judged
# says that actions do not matter to a model


def _keep_imagined(judged: Judgement, family: Any, episodes: Episodes, config: ControlConfig) -> None:
    """What the first seed imagines from the beginning of a few episodes under their actions, and what really followed.

    Both begin with the last row that was seen, which a model is shown.
    """
    view, few = family.shown(family.spec)[0], slice(config.kept)
    seen = max(1, getattr(family, "context", 1))
    steps = min(config.imagined_steps, episodes[view].shape[1] - seen)
    if steps < 1:
        return
    actions = torch.tensor(episodes["actions"][few])
    past = {view: torch.tensor(episodes[view][few, :seen]), "actions": actions[:, : seen - 1]}
    found = _rolled(family, past, steps, actions[:, seen - 1 : seen - 1 + steps], view)
    real = episodes[view][few, seen - 1 : seen + steps]
    future = found[view][0]
    if view == "frames":
        future = (255 * future).round().astype(np.uint8)
    judged.arrays[f"imagined_{view}"] = np.concatenate([real[:, :1], future], 1)
    judged.arrays["imagined_from"] = np.array([seen - 1])
    judged.arrays[f"real_{view}"] = np.ascontiguousarray(real)
    if "rewards" in found and "rewards" in episodes:
        judged.arrays["imagined_rewards"] = found["rewards"][0]
        judged.arrays["real_rewards"] = np.ascontiguousarray(episodes["rewards"][few, seen - 1 : seen - 1 + steps])


def _add_law_error(judged: Judgement, family: Any, episodes: Episodes, laws: Laws, horizon: int) -> None:
    """How wrong the law is where the planner looks, by the yardstick of `control.doses`; of states alone."""
    truth, context = np.asarray(episodes["states"], np.float64), max(1, getattr(family, "context", 1))
    last = context - 1 + horizon
    if last >= truth.shape[1]:
        return
    actions = torch.tensor(episodes["actions"])
    past = {"states": torch.tensor(truth[:, :context]), "actions": actions[:, : context - 1]}
    found = _rolled(family, past, horizon, actions[:, context - 1 : last], "states")["states"][:, :, -1]
    judged.add("law_error", law_error(found, truth[:, last], scale(truth)), "1")
    if laws.energy is not None:
        judged.add("law_energy_error", energy_error(found, truth[:, last], truth, laws.energy), "1")


def _rolled(family: Family, past: Mapping[str, Any], steps: int, actions: Any, view: str) -> dict[str, Float]:
    with torch.no_grad():
        found = family.predict(past, steps, actions)
    kept = {name: found[name].double().numpy() for name in (view, "rewards") if name in found}
    if view == "states":
        kept[view] = kept[view][:, :, 1:]
    return kept


def _errors(found: Float, true: Float) -> Float:
    """Mean squared error ``[S, E, K]``."""
    return ((found - true) ** 2).reshape(*found.shape[:3], -1).mean(-1)


@torch.no_grad()
def _feature_errors(family: Any, past: Mapping[str, Any], actions: Any, following: Any) -> Float:
    """Squared error ``[S, E, K]`` of what is imagined under actions ``[E, K, A]``, in features of what follows."""
    frames, found = past["frames"], []
    for seed in range(len(family.seeds)):
        belief = family.start({"frames": frames[:, 0]}, seed)
        for k in range(1, frames.shape[1]):
            belief = family.update(belief, past["actions"][:, k - 1], {"frames": frames[:, k]}, seed)
        imagined = family.imagine(belief, actions, seed).features
        real = family.features({"frames": following.flatten(0, 1)}, seed).unflatten(0, following.shape[:2])
        found.append((imagined - real).square().mean(-1).double().numpy())
    return np.stack(found)


def _ratio(a: Float, b: Float) -> Float:
    """``a / b``; 1 where both are nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((a == 0) & (b == 0), 1.0, a / b)


def _square_unit(view: str) -> str:
    return "1" if view == "frames" else "mixed"
