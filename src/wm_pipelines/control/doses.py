"""What a planner makes of simulators that are wrong by a known amount, on the starts of a manifest.

The outcome is JSON: world, hash of the manifest, horizon, what the score is, and for every dose its score from every
start and its errors on every held-out episode. The harmless doses need no run: they are the manifest's ``true_model``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.control.corruptions import (
    CORRUPTIONS,
    HARMLESS,
    UNITS,
    Corrupted,
    Corruption,
    DoseConfig,
    WronglyPlanned,
)
from wm_pipelines.control.manifest import Manifest, check, course_of, judged_on
from wm_pipelines.control.planners import PlannerConfig
from wm_pipelines.control.policies import ObjectiveConfig
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.metrics.dose import energy_error, law_error, scale

Float = NDArray[np.float64]


def measure(
    plant: Any,
    energy: Callable[[Any], Any] | None,
    manifest: Manifest,
    episodes: Mapping[str, Episodes],
    doses: DoseConfig,
    planner: PlannerConfig,
    objective: ObjectiveConfig,
) -> dict[str, Any]:
    """Score and errors of every dose.

    Args:
        plant: the world of the manifest's split. energy: of what is shown; None: it has none. manifest: of the split.
        episodes: all splits. doses: of each corruption; harmless ones are skipped.
        planner, objective: the manifest's own.

    Raises:
        UserError: the manifest belongs to other data or another planner, episodes are shorter than the horizon, or
            they show too little.
    """
    train, held_out = episodes["train"], episodes[manifest["split"]]
    check(manifest, train)
    if manifest["planner"] != planner.model_dump(mode="json"):
        raise UserError(f"the manifest of '{manifest['world']}' was drawn with another planner; draw it again")
    sigma = scale(_plant_states(plant, train["states"]))
    errors = _Errors(plant, energy, held_out, planner.horizon)
    _, goals = judged_on(manifest)
    found = []
    for corruption, dose in _harmful(doses):
        policy = WronglyPlanned(Corrupted(plant, corruption, dose, sigma), train.spec.step, planner, objective, goals)
        course = course_of(manifest, policy, plant, {})
        row = {"corruption": corruption, "dose": dose, "unit": UNITS[corruption], "score": course.score.tolist()}
        found.append(row | errors.of(Corrupted(plant, corruption, dose, sigma)))
    return {
        "world": manifest["world"],
        "split": manifest["split"],
        "manifest": manifest["hash"],
        "horizon": planner.horizon,
        "metric": "return" if goals is None else "success_rate",
        "random": manifest["references"]["random"],
        "true_model": manifest["references"]["true_model"],
        "doses": found,
    }


def _harmful(doses: DoseConfig) -> Iterator[tuple[Corruption, float]]:
    """Corruption by corruption, the doses as they rise: away from the harmless one."""
    for corruption in CORRUPTIONS:
        harmless = HARMLESS[corruption]
        for dose in sorted(set(getattr(doses, corruption)), key=lambda d: (abs(d - harmless), d)):
            if dose != harmless:
                yield corruption, float(dose)


def _plant_states(plant: Any, shown: Any) -> Float:
    found = plant.plant_state(np.asarray(shown, np.float64))
    if found is None:
        raise UserError(
            f"doses: what is shown of '{plant.entry}' does not tell its plant state; give the world a `plant_state`, "
            "or set control.doses to null there"
        )
    return np.asarray(found)


class _Errors:
    """How wrong simulators are at the planner's horizon, under the actions of held-out episodes.

    Args:
        plant: the true world. energy: of what is shown, or None. episodes: held out. horizon: steps.
    """

    def __init__(self, plant: Any, energy: Callable[[Any], Any] | None, episodes: Episodes, horizon: int) -> None:
        self.shown = np.asarray(episodes["states"], np.float64)
        if self.shown.shape[1] <= horizon:
            raise UserError(
                f"doses: episodes of '{episodes.spec.name}' have {self.shown.shape[1] - 1} steps, the planner looks "
                f"{horizon} ahead; make them longer, or set control.doses to null"
            )
        self.energy, self.horizon, self.step = energy, horizon, episodes.spec.step
        self.start, self.actions = _plant_states(plant, self.shown[:, 0]), np.asarray(episodes["actions"], np.float64)

    def of(self, simulator: Corrupted) -> dict[str, Any]:
        """``law_error`` and ``energy_error`` (None: there is no energy) of every episode."""
        state = simulator.start(self.start)
        for k in range(self.horizon):
            state = simulator.advance(state, self.actions[:, k], self.step)
        found, true = simulator.observe(state), self.shown[:, self.horizon]
        energy = None if self.energy is None else energy_error(found, true, self.shown, self.energy).tolist()
        return {"law_error": law_error(found, true, scale(self.shown)).tolist(), "energy_error": energy}
