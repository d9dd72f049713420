"""What the page on mechanics is made from: the results, and roll-outs in the form that figures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.laws import world_of
from wm_pipelines.metrics.pair_force import PairForce
from wm_pipelines.reporting.style import model_order
from wm_pipelines.reporting.summary import main_split
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.physics.codes import QUANTITIES, decoded

Float = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class WorldRollouts:
    """Roll-outs of one world to draw: ``E`` episodes, ``K`` time steps, states of length ``2 * dof``.

    Models are named ``"family/variant"``; a model missing in one of the mappings is left out of that figure.

    Attributes:
        time: ``[K]``, s.
        truth: ``[E, K, 2d]``.
        predicted: model -> ``[E, K, 2d]``, of the first seed.
        truth_energy: ``[E, K]``, J, or None where no energy is known.
        energy: model -> ``[E, K]``, J.
        dof: degrees of freedom d.
        particles: number of particles, or None in generalised coordinates.
        space: dimension of the particles' space, or None.
        angles: entries of the state that are angles.
        frames: ``"truth"`` or model -> ``[F, H, W, 3]`` uint8, of one episode, all alike in shape.
        caption: a sentence about the episode drawn.
        thresholds: relative error that is a violation; error, in units of the truth's spread, that ends a horizon.
        changing: quantities that the truth itself does not keep: ``energy``, ``momentum``, ``angular_momentum``.
        pair_force: ``"truth"`` or model -> the pair force found, None where there is none.
        resolution: model -> by how much extrapolating the differences changed its symplecticity error.
    """

    time: Float
    truth: Float
    predicted: Mapping[str, Float] = field(default_factory=dict)
    truth_energy: Float | None = None
    energy: Mapping[str, Float] = field(default_factory=dict)
    dof: int = 1
    particles: int | None = None
    space: int | None = None
    angles: tuple[int, ...] = ()
    frames: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    caption: str = ""
    thresholds: tuple[float, float] | None = None
    changing: tuple[str, ...] = ()
    pair_force: Mapping[str, PairForce | None] = field(default_factory=dict)
    resolution: Mapping[str, float] = field(default_factory=dict)

    @property
    def length(self) -> float:
        """Of an episode, s."""
        return float(self.time[-1] - self.time[0])


@dataclass(frozen=True)
class Content:
    """Everything the page shows. Whatever is empty vanishes from it.

    Attributes:
        ranges: (world, split) -> lowest and highest energy in training and there, ``[2, 2]``, J.
    """

    results: Results
    rollouts: Mapping[str, WorldRollouts] = field(default_factory=dict)
    ranges: Mapping[tuple[str, str], Float] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Results, *, frames: bool) -> Content:
        """With roll-outs on every world's first held-out split; ``frames``: also draw those of the animations."""
        kept = {world: models for world, models in results.arrays.items() if models}
        drawn = {w: _rollouts(models, results.specs[w], frames) for w, models in kept.items()}
        ranges = {
            (world, name.removesuffix("/energies")): array
            for world, models in kept.items()
            for arrays in models.values()
            for name, array in arrays.items()
            if name.endswith("/energies")
        }
        return cls(results, drawn, ranges)

    @property
    def worlds(self) -> list[str]:
        """Worlds that anything is known about: as they were listed, then any other by name."""
        named = {w for w, _, _ in self.results.not_applicable} | {key.split("/")[0] for key in self.results.curves}
        listed = self.results.worlds
        return [*listed, *sorted((named | set(self.rollouts)) - set(listed))]

    @property
    def models(self) -> list[str]:
        """All models named anywhere, in the report's order."""
        models = set(self.results.scores["family"] + "/" + self.results.scores["variant"])
        for rollouts in self.rollouts.values():
            models |= set(rollouts.predicted) | set(rollouts.energy) | (set(rollouts.frames) - {"truth"})
        return model_order(models | {key.split("/", 1)[1] for key in self.results.curves})


def _rollouts(models: Mapping[str, Arrays], specs: Mapping[str, Spec], frames: bool) -> WorldRollouts:
    split = main_split(specs)
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
    tolerance, lost = (float(x) for x in kept[any_model, "thresholds"])
    world, facts = world_of(spec), spec.facts
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
        frames=_frames(world, {"truth": truth, **predicted}, min(count, len(time)), size) if frames else {},
        caption=world.describe(truth[0]),
        thresholds=(tolerance, lost),
        changing=tuple(name for name, does in zip(QUANTITIES, kept[any_model, "changing"], strict=True) if does),
        pair_force=_pair_forces(kept),
        resolution={m: float(a) for (m, what), a in kept.items() if what == "symplecticity_resolution"},
    )


def _pair_forces(kept: Mapping[tuple[str, str], NDArray[Any]]) -> dict[str, PairForce | None]:
    found: dict[str, PairForce | None] = {}
    for (model, what), array in kept.items():
        if what == "pair_force":
            found["truth"], found[model] = decoded(array[0]), decoded(array[1])
    return found


def _frames(world: Any, states: Arrays, count: int, size: int) -> dict[str, NDArray[np.uint8]]:
    """``count`` frames of the first episode of each; where a state diverged the last good frame stays."""
    drawn = {}
    for name, path in states.items():
        episode = path[0]
        steps = np.linspace(0, len(episode) - 1, count).round().astype(int)
        good = np.isfinite(episode).all(axis=1) & (np.abs(episode) < 1e6).all(axis=1)
        last_good = np.maximum.accumulate(np.where(good, np.arange(len(episode)), 0))
        drawn[name] = world.render(episode[last_good[steps]], size)
    return drawn
