"""Actions in a user's files: which columns, their range, and how they become the view ``actions`` in [-1, 1].

The action of row ``t`` acts between the rows ``t`` and ``t + 1``; that of the last row acts on nothing that is shown
and is dropped, so it may be empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds.parts.table_files import as_numbers, read_columns

Float = NDArray[np.float64]
_ROUNDING = 1e-6  # of the range: what numbers printed with few digits may exceed it by


class ActionColumn(Settings):
    """One column that holds an entry of the action, and the numbers that become -1 and 1."""

    column: str
    low: float = Field(-1.0)
    high: float = Field(1.0)

    @model_validator(mode="after")
    def _ordered(self) -> ActionColumn:
        if not self.low < self.high:
            raise ValueError(f"column '{self.column}': low ({self.low:g}) must be less than high ({self.high:g})")
        return self


def scaled(values: Float, low: Float | float, high: Float | float) -> Float:
    """From ``[low, high]`` to ``[-1, 1]``, entry by entry; an entry that cannot vary is 0."""
    half = 0.5 * (np.asarray(high, np.float64) - low)
    return np.where(half > 0.0, (values - low) / np.where(half > 0.0, half, 1.0) - 1.0, 0.0)


def action_entries(path: Path, frame: Any, columns: Sequence[ActionColumn], acting: NDArray[np.bool_]) -> Float:
    """The declared columns of a data frame in [-1, 1], ``[K, A]``; 0 in the rows that act on nothing.

    Args:
        path: of the file, for messages. frame: the table. columns: what to take.
        acting: rows whose action counts, ``[K]``.

    Raises:
        UserError: names the column and the data row of an entry that is no number or not in its range.
    """
    entries = np.zeros((len(frame), len(columns)))
    for place, column in enumerate(columns):
        numbers = number_column(path, frame, column.column, acting)
        values = scaled(numbers, column.low, column.high)
        beyond = np.flatnonzero(np.abs(values) > 1.0 + _ROUNDING)
        if beyond.size:
            raise UserError(
                f"'{path.name}', column '{column.column}', data row {beyond[0] + 1}: action {numbers[beyond[0]]:g} is "
                f"not in its range [{column.low:g}, {column.high:g}]; widen `low` and `high`, or mend the row"
            )
        entries[:, place] = np.where(acting, np.clip(values, -1.0, 1.0), 0.0)
    return entries


def number_column(path: Path, frame: Any, name: str, acting: NDArray[np.bool_]) -> Float:
    """A column as plain numbers; those of rows that act on nothing are the first that counts, whatever they are.

    Raises:
        UserError: names the data row of an entry that is no finite number.
    """
    numbers = as_numbers(frame[name], f"'{path.name}', column '{name}'")
    bad = np.flatnonzero(acting & ~np.isfinite(numbers))
    if bad.size:
        raise UserError(
            f"'{path.name}', column '{name}', data row {bad[0] + 1}: expected a finite number, got "
            f"'{str(frame[name].iloc[bad[0]])[:40]}'; only the last row of an episode may lack one"
        )
    return np.where(acting, numbers, numbers[acting][0] if acting.any() else 0.0)


def read_actions(path: Path, columns: Sequence[ActionColumn]) -> Float:
    """A file of actions alone, a row per moment: ``[K, A]`` in [-1, 1].

    Raises:
        UserError: it cannot be read, or an entry is no number or not in its range; the last row may be empty.
    """
    frame = read_columns(path, [column.column for column in columns])
    acting = np.ones(len(frame), np.bool_)
    acting[-1:] = frame.iloc[-1:].notna().all(axis=1).to_numpy()
    return action_entries(path, frame, columns, acting)


def between_rows(per_row: NDArray[Any], starts: NDArray[np.int64], steps: int, stride: int) -> NDArray[Any]:
    """What acts between rows that are ``stride`` apart: all that acts meanwhile, one after the other.

    Args:
        per_row: ``[K, A]``. starts: first rows of the windows, ``[W]``. steps: of a window. stride: see above.

    Returns:
        ``[W, steps, stride * A]``.
    """
    rows = starts[:, None, None] + stride * np.arange(steps)[:, None] + np.arange(stride)
    return per_row[rows].reshape(len(starts), steps, -1)
