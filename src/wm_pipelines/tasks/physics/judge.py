"""Judge one trained model on one world's held-out episodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Decodes, Family, Samples
from wm_pipelines.laws import Laws
from wm_pipelines.metrics import samples
from wm_pipelines.metrics.descriptions import SAMPLE_METRICS
from wm_pipelines.metrics.registry import STATE_METRICS, Rollout
from wm_pipelines.tasks.judgement import COST_UNITS, Judgement
from wm_pipelines.tasks.physics.codes import QUANTITIES
from wm_pipelines.tasks.physics.probing import energy_range, probe

if TYPE_CHECKING:
    from wm_pipelines.tasks.physics import PhysicsConfig

_SAMPLES_SEED = 0  # the same noise for every model


def judge(
    family: Family,
    episodes: Episodes,
    split: str,
    laws: Laws,
    config: PhysicsConfig,
    train: Episodes | None = None,
) -> Judgement:
    """Roll out from the first true state of every episode; measure against the rest of it; ask for the learned law.

    Where episodes were moved by actions, models are given those; then there is no law to ask for without them.

    Args:
        family: the model. episodes: of the split. laws: of its world. config: how. train: what the model has seen.

    Raises:
        UserError: the family returned no states, or of the wrong shape.
    """
    states, step = episodes["states"], episodes.spec.step
    starts, steps = {"states": torch.tensor(states[:, :1])}, states.shape[1] - 1
    actions = torch.tensor(episodes["actions"]) if "actions" in episodes else None
    with torch.no_grad():
        began = time.perf_counter()
        prediction = family.predict(starts, steps, actions, step)
        seconds = time.perf_counter() - began
    seeds, predicted = list(family.seeds), prediction.get("states")
    expected = (len(seeds), *states.shape)
    if predicted is None or tuple(predicted.shape) != expected:
        got = None if predicted is None else tuple(predicted.shape)
        raise UserError(f"family {family.name}: predict returned states of shape {got}, expected {expected}")
    facts = episodes.spec.facts
    rollout = Rollout(
        predicted.numpy(),
        np.asarray(states),
        np.asarray(episodes["times"][0]),
        laws.energy,
        laws.momentum,
        laws.angular_momentum,
        tuple(facts.get("angles", ())),
        laws.lyapunov_time,
        config.tolerance,
        config.horizon_threshold,
        tuple(facts.get("attributes", {}).get("mass", ())) if "particles" in facts else (),
        tuple(facts["conserved"]) if "conserved" in facts else None,
        laws.allowed,
        laws.simulate,
    )
    judged = Judgement(seeds, split, arrays=_kept(rollout, config.rollout_episodes))
    _add_metrics(judged, rollout, config.error_steps)
    judged.add("step_ms", np.full(len(seeds), 1e3 * seconds / steps / len(seeds)), COST_UNITS["step_ms"])
    if config.asked_episodes and actions is None:
        probe(family, rollout, episodes.spec, laws, config, judged)
    if config.samples > 1 and actions is None and isinstance(family, Samples) and isinstance(family, Decodes):
        _add_samples(judged, family, np.asarray(states), config.samples)
    if laws.energy is not None and train is not None:
        judged.arrays["energies"] = energy_range(laws.energy, train["states"], rollout.truth)
    judged.arrays |= {
        "changing": np.array([float(name in rollout.changing) for name in QUANTITIES]),
        "animation": np.array([config.animation_frames, config.animation_size]),
        "thresholds": np.array([config.tolerance, config.horizon_threshold]),
    }
    return judged


def _add_metrics(judged: Judgement, rollout: Rollout, error_steps: Sequence[int]) -> None:
    """A row per metric and seed, and one per step of ``error_steps`` for metrics that are functions of the step."""
    for name, metric in STATE_METRICS.items():
        if not metric.applies(rollout):
            continue
        judged.add(name, metric(rollout), metric.unit)
        if metric.by_step is not None:
            by_step = metric.by_step(rollout)
            for k in error_steps:
                if k < by_step.shape[2]:
                    judged.add(name, by_step[:, :, k], metric.unit, step=k)


def _add_samples(judged: Judgement, family: Family, states: NDArray[np.float64], count: int) -> None:
    """How far futures lie apart that are drawn from the first true states ``[E, K, 2d]``."""
    assert isinstance(family, Samples)
    assert isinstance(family, Decodes)
    starts, steps = torch.tensor(states[:, 0]), states.shape[1] - 1
    found: dict[str, list[float]] = {name: [] for name in SAMPLE_METRICS}
    for seed in range(len(family.seeds)):
        belief = family.start({"states": starts}, seed)
        idle = torch.zeros(len(starts), steps, 0, dtype=belief.dtype)
        drawn = family.sample(belief, idle, count, seed, torch.Generator().manual_seed(_SAMPLES_SEED))
        decoded = family.decode(drawn.flatten(0, 1), seed).unflatten(0, (count, len(starts))).numpy()
        futures = np.concatenate(
            [np.broadcast_to(states[None, :, :1], (*decoded.shape[:2], 1, states.shape[-1])), decoded], 2
        )
        for name, metric in (("diversity", samples.diversity), ("sample_spread", samples.sample_spread)):
            found[name].append(metric(futures, states))
    for name, values in found.items():
        judged.add(name, np.array(values), SAMPLE_METRICS[name].unit, n=count * len(starts))


def _kept(rollout: Rollout, episodes: int) -> dict[str, NDArray[np.float64]]:
    """First seed's roll-outs of the first episodes: ``predicted, truth [E, K, 2d]``, energies ``[E, K]``, ``time``."""
    arrays = {"predicted": rollout.predicted[0, :episodes], "truth": rollout.truth[:episodes], "time": rollout.time}
    if rollout.energy is not None:
        arrays["energy"] = rollout.predicted_energy[0, :episodes]
        arrays["truth_energy"] = rollout.truth_energy[:episodes]
    return {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
