"""The report on mechanics: roll-outs put into the form that its page is made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.laws import world_of
from wm_pipelines.reporting.content import ReportContent, WorldRollouts
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.base import Results

_FIGURES = ("energy_error", "error_growth")


def page(results: Results) -> str:
    """The whole page."""
    from wm_pipelines.reporting.motions import build_report

    return build_report(_content(results, frames=True))


def figures(results: Results) -> dict[str, Any]:
    """``"world_name"`` -> plotly figure."""
    from wm_pipelines.reporting.figures import all_figures

    drawn = all_figures(_content(results, frames=False))
    return {key.replace("/", "_"): figure for key, figure in drawn.items() if key.split("/")[1] in _FIGURES}


def _content(results: Results, *, frames: bool) -> ReportContent:
    drawn = {world: _rollouts(models, results.specs[world], frames=frames) for world, models in results.arrays.items()}
    return ReportContent(
        leaderboard=results.scores,
        rollouts={world: found for world, found in drawn.items() if found is not None},
        curves=results.curves,
        not_applicable=list(results.not_applicable),
        provenance=results.provenance,
    )


def _rollouts(
    models: Mapping[str, Mapping[str, NDArray[Any]]], specs: Mapping[str, Spec], *, frames: bool
) -> WorldRollouts | None:
    """One world's roll-outs on its first held-out split, with frames of the first episode if asked for."""
    if not models:
        return None
    split = "test" if "test" in specs else min(specs)
    kept = {
        (model, name.removeprefix(f"{split}/")): array
        for model, arrays in models.items()
        for name, array in arrays.items()
        if name.startswith(f"{split}/")
    }
    spec, any_model = specs[split], next(iter(kept))[0]
    time, truth = kept[any_model, "time"], kept[any_model, "truth"]
    predicted = {model: array for (model, what), array in kept.items() if what == "predicted"}
    count, size = (int(n) for n in kept[any_model, "animation"])
    world, facts = world_of(spec), spec.facts
    drawn = _frames(world, {"truth": truth, **predicted}, min(count, len(time)), size) if frames else {}
    return WorldRollouts(
        time=time,
        truth=truth,
        predicted=predicted,
        truth_energy=kept.get((any_model, "truth_energy")),
        energy={model: array for (model, what), array in kept.items() if what == "energy"},
        dof=spec.dof,
        particles=facts.get("particles"),
        space=facts.get("space"),
        angles=tuple(facts.get("angles", ())),
        frames=drawn,
        caption=world.describe(truth[0]),
    )


def _frames(world: Any, states: Mapping[str, NDArray[Any]], count: int, size: int) -> dict[str, NDArray[np.uint8]]:
    """``count`` frames of the first episode of each; where a state diverged the last good frame stays."""
    drawn = {}
    for name, path in states.items():
        episode = path[0]
        rows = np.linspace(0, len(episode) - 1, count).round().astype(int)
        good = np.isfinite(episode).all(axis=1) & (np.abs(episode) < 1e6).all(axis=1)
        last_good = np.maximum.accumulate(np.where(good, np.arange(len(episode)), 0))
        drawn[name] = world.render(episode[last_good[rows]], size)
    return drawn
