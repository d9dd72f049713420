"""Judge one trained variant on one world's held-out episodes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.learning.artifacts import TrainedModel
from wm_pipelines.metrics.registry import STATE_METRICS, Rollout
from wm_pipelines.metrics.statistics import Summary, summarise
from wm_pipelines.pipelines.configuration import EvaluationConfig
from wm_pipelines.system import System
from wm_pipelines.worlds.episodes import Episodes

COLUMNS = [
    "world", "family", "variant", "seed", "split", "metric", "step", "value", "ci_low", "ci_high", "n", "unit",
]  # fmt: skip
_COST_UNITS = {
    "train_seconds": "s",
    "train_flops": "FLOP",
    "parameters": "1",
    "peak_memory_mb": "MiB",
    "step_ms": "ms",
}


@dataclass(frozen=True)
class Judgement:
    """Leaderboard rows (without world, family, variant), and arrays for the figures by name."""

    rows: list[dict[str, Any]]
    arrays: dict[str, NDArray[np.float64]]


def judge(model: TrainedModel, split: str, episodes: Episodes, system: System, config: EvaluationConfig) -> Judgement:
    """Roll out from the first true state of every episode; measure against the rest of it.

    Raises:
        UserError: the family returned no states, or of the wrong shape.
    """
    family = model.restore(system)
    starts = torch.tensor(episodes.state[:, :1])
    steps = episodes.state.shape[1] - 1
    with torch.no_grad():
        began = time.perf_counter()
        prediction = family.predict(starts, steps, float(episodes.metadata["step"]))
        seconds = time.perf_counter() - began
    seeds = list(model.card["seeds"])
    expected = (len(seeds), *episodes.state.shape)
    if prediction.states is None or tuple(prediction.states.shape) != expected:
        got = None if prediction.states is None else tuple(prediction.states.shape)
        raise UserError(f"family {model.card['family']}: predict returned states of shape {got}, expected {expected}")
    rollout = Rollout(
        prediction.states.numpy(),
        np.asarray(episodes.state),
        np.asarray(episodes.time[0]),
        system.energy,
        system.momentum,
        system.angular_momentum,
        system.angles,
        system.lyapunov_time,
        config.tolerance,
        config.horizon_threshold,
    )
    rows = [{"split": split, **row} for row in metric_rows(rollout, seeds, config)]
    step_ms = 1e3 * seconds / steps / len(seeds)
    rows += [{"split": split, **_row("step_ms", seed, step_ms, 1, _COST_UNITS["step_ms"])} for seed in seeds]
    return Judgement(rows, _figure_arrays(rollout, config.rollout_episodes))


def metric_rows(rollout: Rollout, seeds: list[int], config: EvaluationConfig) -> Iterator[dict[str, Any]]:
    """One row per metric and seed, and one per step for metrics that are functions of the step."""
    for name, metric in STATE_METRICS.items():
        if not metric.applies(rollout):
            continue
        values = metric(rollout)
        by_step = metric.by_step(rollout) if metric.by_step else None
        for i, seed in enumerate(seeds):
            yield _row(name, seed, summarise(values[i], resamples=config.resamples), values.shape[1], metric.unit)
            if by_step is None:
                continue
            wanted = [k for k in config.error_steps if k < by_step.shape[2]]
            at = summarise(by_step[i][:, wanted], resamples=config.resamples)
            for j, k in enumerate(wanted):
                one = Summary(at.value[j], at.ci_low[j], at.ci_high[j], at.n)
                yield {**_row(name, seed, one, at.n, metric.unit), "step": k}


def cost_rows(cost: Mapping[str, Any], seeds: list[int]) -> list[dict[str, Any]]:
    """What the training cost, per seed."""
    return [
        {"split": "train", **_row(name, seed, float(value), 1, _COST_UNITS[name])}
        for name, value in cost.items()
        if value is not None
        for seed in seeds
    ]


def table(rows: list[dict[str, Any]], world: str, family: str) -> pd.DataFrame:
    """Rows as a long table with the leaderboard's columns and types."""
    frame = pd.DataFrame([{"world": world, "family": family, **row} for row in rows], columns=COLUMNS)
    text = ["world", "family", "variant", "split", "metric", "unit"]
    return frame.astype(
        {**dict.fromkeys(text, "str"), "seed": "int64", "step": "int64", "n": "int64"}
        | dict.fromkeys(["value", "ci_low", "ci_high"], "float64")
    )


def _row(metric: str, seed: int, value: Summary | float, n: int, unit: str) -> dict[str, Any]:
    if isinstance(value, Summary):
        numbers = {"value": float(value.value), "ci_low": float(value.ci_low), "ci_high": float(value.ci_high)}
    else:
        numbers = {"value": value, "ci_low": np.nan, "ci_high": np.nan}
    return {"metric": metric, "seed": seed, "step": -1, "n": n, "unit": unit, **numbers}


def _figure_arrays(rollout: Rollout, episodes: int) -> dict[str, NDArray[np.float64]]:
    """First seed's roll-outs of the first episodes: ``predicted, truth [E, K, 2d]``, energies ``[E, K]``, ``time``."""
    arrays = {"predicted": rollout.predicted[0, :episodes], "truth": rollout.truth[:episodes], "time": rollout.time}
    if rollout.energy is not None:
        arrays["energy"] = rollout.predicted_energy[0, :episodes]
        arrays["truth_energy"] = rollout.truth_energy[:episodes]
    return {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
