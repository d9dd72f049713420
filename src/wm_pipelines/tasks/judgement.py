"""What a judge fills: leaderboard rows and arrays for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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


@dataclass
class Judgement:
    """What was found out about one model: leaderboard rows (without task, world, family …), arrays for the report.

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
