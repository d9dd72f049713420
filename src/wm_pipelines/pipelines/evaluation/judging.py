"""Judge one trained variant on one world's held-out episodes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass
class Judgement:
    """What was found out about one model: leaderboard rows (without world, family, variant), arrays for the report.

    Attributes:
        seeds: of the model. split: what it was judged on. resamples: of the bootstrap.
        rows: as `table` takes them. arrays: by name.
    """

    seeds: Sequence[int]
    split: str = "test"
    resamples: int = 1000
    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(
        self, metric: str, values: NDArray[np.float64] | Sequence[Summary], unit: str, n: int = 1, step: int = -1
    ) -> None:
        """Add a value per seed.

        Args:
            metric: its name. unit: of the value. n: what a value is a mean of. step: of the prediction; -1: of none.
            values: ``[S]``; ``[S, N]`` observations, to be averaged with an interval; or a summary per seed.
        """
        for seed, value in zip(self.seeds, values, strict=True):
            if isinstance(value, Summary):
                summary = value
            elif np.ndim(value):
                summary = summarise(np.asarray(value, np.float64), resamples=self.resamples)
            else:
                summary = Summary.scalar(float(value), n=n)
            self.rows.append(
                {
                    "split": self.split,
                    "metric": metric,
                    "seed": seed,
                    "step": step,
                    "value": float(summary.value),
                    "ci_low": float(summary.ci_low),
                    "ci_high": float(summary.ci_high),
                    "n": int(summary.n),
                    "unit": unit,
                }
            )


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
    judged = Judgement(seeds, split, config.resamples, arrays=_figure_arrays(rollout, config.rollout_episodes))
    add_metrics(judged, rollout, config.error_steps)
    judged.add("step_ms", np.full(len(seeds), 1e3 * seconds / steps / len(seeds)), _COST_UNITS["step_ms"])
    return judged


def add_metrics(judged: Judgement, rollout: Rollout, error_steps: Sequence[int]) -> None:
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


def cost_rows(cost: Mapping[str, Any], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What the training cost, per seed."""
    judged = Judgement(seeds, "train")
    for name, value in cost.items():
        if value is not None:
            judged.add(name, np.full(len(seeds), float(value)), _COST_UNITS[name])
    return judged.rows


def table(rows: list[dict[str, Any]], world: str, family: str) -> pd.DataFrame:
    """Rows as a long table with the leaderboard's columns and types."""
    frame = pd.DataFrame([{"world": world, "family": family, **row} for row in rows], columns=COLUMNS)
    text = ["world", "family", "variant", "split", "metric", "unit"]
    return frame.astype(
        {**dict.fromkeys(text, "str"), "seed": "int64", "step": "int64", "n": "int64"}
        | dict.fromkeys(["value", "ci_low", "ci_high"], "float64")
    )


def _figure_arrays(rollout: Rollout, episodes: int) -> dict[str, NDArray[np.float64]]:
    """First seed's roll-outs of the first episodes: ``predicted, truth [E, K, 2d]``, energies ``[E, K]``, ``time``."""
    arrays = {"predicted": rollout.predicted[0, :episodes], "truth": rollout.truth[:episodes], "time": rollout.time}
    if rollout.energy is not None:
        arrays["energy"] = rollout.predicted_energy[0, :episodes]
        arrays["truth_energy"] = rollout.truth_energy[:episodes]
    return {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
