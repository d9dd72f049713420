"""The leaderboard's form: its columns, and what makes a row unique."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from wm_pipelines.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

LEADERBOARD_COLUMNS = (
    "task", "world", "family", "variant", "view", "knows", "seed", "split", "metric", "step",
    "value", "ci_low", "ci_high", "n", "unit",
)  # fmt: skip
"""Columns of the leaderboard in order; ``step`` is -1 where a metric has none."""

LEADERBOARD_KEYS = LEADERBOARD_COLUMNS[:10]
"""Columns that together name a measurement."""


def content_hash(frame: pd.DataFrame) -> str:
    """SHA-256 of the columns' names and all values, exactly."""
    exact: Any = float.hex
    text = frame.to_csv(index=False, lineterminator="\n", float_format=exact)
    return hashlib.sha256(text.encode()).hexdigest()


def check_unique(frame: pd.DataFrame) -> None:
    """See that no measurement appears twice.

    Raises:
        UserError: one does; names the first.
    """
    doubled = frame[frame.duplicated(list(LEADERBOARD_KEYS))]
    if len(doubled):
        first = ", ".join(f"{name}={doubled[name].iloc[0]}" for name in LEADERBOARD_KEYS)
        raise UserError(
            f"the leaderboard has {len(doubled)} doubled rows, the first for {first}; "
            "remove the part that should not be in the folder of its parts, then run the evaluation again"
        )
