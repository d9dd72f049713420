"""What a judge fills: leaderboard rows and arrays for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.ranges import value_range
from wm_pipelines.metrics.statistics import Summary, summarise
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

COST_UNITS = {
    "train_seconds": "s",
    "train_flops": "FLOP",
    "parameters": "1",
    "peak_memory_mb": "MiB",
    "step_ms": "ms",
}


BY_EPISODE = "by_episode/"
"""How the names of arrays begin that hold a metric on every episode, ``[S, E]``: what comparisons are made of."""


@dataclass
class Judgement:
    """What was found out about one model: leaderboard rows (without task, world, family …), arrays for the report.

    Attributes:
        seeds: of the model. split: what it was judged on.
        rows: as `table` takes them. arrays: by name; those that begin with `BY_EPISODE` are kept by `add`.
    """

    seeds: Sequence[int]
    split: str = "test"
    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add(
        self,
        metric: str,
        values: NDArray[np.float64] | Sequence[Summary],
        unit: str,
        n: int = 1,
        step: int = -1,
        by_episode: NDArray[np.float64] | None = None,
    ) -> None:
        """Add a value per seed; keep the value of every episode, so that models can be compared in pairs.

        Args:
            metric: its name, which also says between which values it lies (`metrics.ranges`). unit: of the value.
            values: ``[S]``; ``[S, E]`` of independent episodes, to be averaged with an interval (what belongs to one
                episode is averaged before); or a summary per seed.
            n: what a value is a mean of, for ``[S]``. step: of the prediction; -1: of none.
            by_episode: ``[S, E]``, every episode's part in a summary, with the summary's value as its mean.
        """
        if step < 0 and by_episode is None and not isinstance(values, Sequence) and np.ndim(values) == 2:
            by_episode = values
        if step < 0 and by_episode is not None:
            self.arrays[BY_EPISODE + metric] = np.ascontiguousarray(by_episode, np.float64)
        for seed, value in zip(self.seeds, values, strict=True):
            if isinstance(value, Summary):
                summary = value
            elif np.ndim(value):
                summary = summarise(np.asarray(value, np.float64), within=value_range(metric))
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

    def value(self, metric: str) -> float | None:
        """Mean over seeds of a metric that is no function of the step; None where there is none of that name."""
        found = [row["value"] for row in self.rows if row["metric"] == metric and row["step"] < 0]
        return float(np.mean(found)) if found else None


def cost_rows(cost: Mapping[str, Any], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What the training cost, per seed."""
    judged = Judgement(seeds, "train")
    for name, value in cost.items():
        if value is not None:
            judged.add(name, np.full(len(seeds), float(value)), COST_UNITS[name])
    return judged.rows


def table(rows: Sequence[Mapping[str, Any]], **same: str) -> pd.DataFrame:
    """Rows as a long table with the leaderboard's columns and types; ``same``: columns that are alike in all rows."""
    import pandas as pd

    frame = pd.DataFrame([{**same, **row} for row in rows], columns=list(LEADERBOARD_COLUMNS))
    numbers = dict.fromkeys(["value", "ci_low", "ci_high"], "float64") | dict.fromkeys(["seed", "step", "n"], "int64")
    return frame.astype({c: numbers.get(c, "str") for c in LEADERBOARD_COLUMNS})
