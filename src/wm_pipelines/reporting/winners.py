"""Who wins where, by how much over the best model that was told nothing, and what the winner was told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wm_pipelines.metrics.ranges import value_range
from wm_pipelines.registry import tasks
from wm_pipelines.reporting.style import (
    COST_METRICS,
    lower_is_better,
    metric_title,
    model_label,
    model_order,
    pretty_number,
)
from wm_pipelines.reporting.summary import chosen, competes, main_split

Row = Mapping[str, Any]
_MOST = 2  # names in a sentence


@dataclass(frozen=True)
class Win:
    """The decisive metric of a task on one world: the best trained models, and the best that was told nothing.

    Attributes:
        task, world, metric: whose, in the names of the leaderboard.
        best: summary rows of those that are marked as best, the best value first; empty where nobody stands out.
        generic: summary row of the best trained model that was told nothing; None where there is none.
    """

    task: str
    world: str
    metric: str
    best: tuple[Row, ...]
    generic: Row | None

    @property
    def models(self) -> list[str]:
        """``"family/variant"`` of the best."""
        return [model_of(row) for row in self.best]

    @property
    def told(self) -> list[str]:
        """What any of the best was told, or its form contains."""
        return sorted({word for row in self.best for word in row["knows"].split(",")} - {""})

    @property
    def generic_wins(self) -> bool:
        """Whether a model that was told nothing is among the best."""
        return any(not row["knows"] for row in self.best)

    @property
    def ratio(self) -> float | None:
        """How many times better the best is than the generic model; None where that says nothing.

        The generic model's error over the best's, or the best's score over the generic model's.
        """
        if self.generic is None or not self.best:
            return None
        best, generic = float(self.best[0]["value"]), float(self.generic["value"])
        better, worse = (generic, best) if lower_is_better(self.metric) else (best, generic)
        return better / worse if better > 0 and worse > 0 else None

    @property
    def gain(self) -> str:
        """The same in words: ``4.2×``, or percentage points of a share."""
        if self.generic is None:
            return "no model here was told nothing"
        if not self.best:
            return "nobody stands out"
        if self.generic_wins:
            return (
                "none: one that was told nothing cannot be told from the best"
                if self.told
                else "the best was told nothing"
            )
        best, generic = float(self.best[0]["value"]), float(self.generic["value"])
        if value_range(self.metric)[1] == 1.0:
            points = 100 * abs(best - generic)
            return f"{points:.1f} points" if points >= 0.05 else "less than 0.1 points"
        if (ratio := self.ratio) is not None:
            return f"{pretty_number(ratio)}×"
        return f"{pretty_number(abs(best - generic))} {self.generic['unit']}"


def model_of(row: Row) -> str:
    """``"family/variant"`` of a summary row."""
    return f"{row['family']}/{row['variant']}"


def best_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that the summary marks as best: one model, or several that cannot be told apart."""
    return rows[rows["best"].astype(bool)]


def wins(summary: pd.DataFrame) -> list[Win]:
    """Every task on every world, on its main split, by the first of the task's main metrics that it has there.

    Args:
        summary: see `summary_table`.
    """
    if summary.empty:
        return []
    contending = summary[competes(summary) & ~summary["metric"].isin(COST_METRICS)]
    return [win for (task, world), own in contending.groupby(["task", "world"], sort=False)
            if (win := _win(str(task), str(world), own)) is not None]  # fmt: skip


def _win(task: str, world: str, own: pd.DataFrame) -> Win | None:
    judged = own[own["split"] == main_split(own["split"])]
    metric = next(iter(chosen(judged["metric"], tasks.get(task).main_metrics)), None)
    if metric is None:
        return None
    ranked = judged[judged["metric"] == metric].sort_values(
        "value", ascending=bool(lower_is_better(metric)), kind="stable"
    )
    generic = ranked[ranked["knows"] == ""]
    return Win(task, world, metric, tuple(_records(best_rows(ranked))), next(iter(_records(generic)), None))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


# ---------------------------------------------------------------- in words


@dataclass(frozen=True)
class Answer:
    """One sentence of the first page: the question, and for each task what there is to say."""

    question: str
    clauses: tuple[tuple[str, str], ...]  # task, text


def answers(found: Sequence[Win]) -> list[Answer]:
    """Three sentences: who wins where, by how much over the best model that was told nothing, and why."""
    of_task: dict[str, list[Win]] = {}
    for win in found:
        of_task.setdefault(win.task, []).append(win)
    clauses = {task: _clauses(own) for task, own in of_task.items()}
    questions = ("Who wins?", "By how much over the best model that was told nothing?", "What was the winner told?")
    return [
        Answer(question, tuple((task, texts[i]) for task, texts in clauses.items()))
        for i, question in enumerate(questions)
        if clauses
    ]


def _clauses(own: Sequence[Win]) -> tuple[str, str, str]:
    """Who, by how much and why, of one task."""
    counts = {m: sum(m in win.models for win in own) for m in model_order(m for win in own for m in win.models)}
    if not counts:
        nobody = "nobody stands out"
        return nobody, nobody, nobody
    most = max(counts.values())
    first = [model for model, count in counts.items() if count == most]
    won = [win for win in own if set(win.models) & set(first)]
    alone = sum(len(win.best) == 1 for win in won)
    where = win_worlds(won, len(own))
    shared = f", {'shared' if not alone else f'{len(won) - alone} of them shared'}" if alone < len(won) else ""
    who = f"{_named(first)} ({_metrics(won)}; {where}{shared})"
    return who, _size(won), _why(won, first)


def win_worlds(won: Sequence[Win], total: int) -> str:
    """``on pendulum``; ``on 5 of 8 worlds``."""
    if len(won) == 1:
        return f"on {won[0].world}"
    return f"on all {total} worlds" if len(won) == total else f"on {len(won)} of {total} worlds"


def _named(models: Sequence[str]) -> str:
    shown = [model_label(model) for model in models[:_MOST]]
    more = len(models) - len(shown)
    return " and ".join(shown) if not more else f"{', '.join(shown)} and {more} more"


def _metrics(won: Sequence[Win]) -> str:
    return ", ".join(dict.fromkeys(_in_text(win.metric) for win in won))


def _in_text(metric: str) -> str:
    """A title within a sentence: ``horizon``, but ``R² position`` and ``MSE``."""
    title = metric_title(metric)
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def _size(won: Sequence[Win]) -> str:
    """Gains over the generic models: one as it is, of several the median and the range."""
    compared = [win for win in won if win.generic is not None]
    if not compared:
        return "no model was told nothing"
    resolved = [win for win in compared if not win.generic_wins]
    if not resolved:
        return _nothing_gained(compared)
    texts = []
    for metric, same in _by_metric(resolved):
        rivals = _named(model_order(model_of(win.generic) for win in same if win.generic is not None))
        texts.append(f"{_gains(metric, same)} over {rivals}")
    ties = len(compared) - len(resolved)
    return "; ".join(texts) + (f"; none on {ties} world{'s' * (ties > 1)}" if ties else "")


def _nothing_gained(compared: Sequence[Win]) -> str:
    """Where a model that was told nothing is among the best in every world."""
    if not any(win.told for win in compared):
        return "nothing: it was told nothing itself" if len(compared) == 1 else "nothing: the winners were told nothing"
    untold = model_order(model_of(row) for win in compared for row in win.best if not row["knows"])
    return f"nothing that can be told: {_named(untold)}, told nothing, cannot be told from the best"


def _by_metric(found: Sequence[Win]) -> Iterator[tuple[str, list[Win]]]:
    for metric in dict.fromkeys(win.metric for win in found):
        yield metric, [win for win in found if win.metric == metric]


def _gains(metric: str, same: Sequence[Win]) -> str:
    lower = lower_is_better(metric)
    what = f"{'smaller' if lower else 'larger'} {_in_text(metric)}"
    if value_range(metric)[1] == 1.0 or len(same) == 1 or any(win.ratio is None for win in same):
        listed = [win.gain for win in same]
        return f"{', '.join(listed[:3])}{' …' if len(listed) > 3 else ''} ({what})"
    ratios = np.array([win.ratio for win in same], dtype=np.float64)
    low, middle, high = (pretty_number(float(r)) for r in (ratios.min(), np.median(ratios), ratios.max()))
    return f"{middle}× (median of {len(same)} worlds, from {low}× to {high}×; {what})"


def _why(won: Sequence[Win], first: Sequence[str]) -> str:
    """What the winners were told; where some were told nothing, who."""
    told = {
        model: {w for win in won for row in win.best if model_of(row) == model for w in row["knows"].split(",")} - {""}
        for model in first
    }
    words = ", ".join(w.replace("_", " ") for w in sorted(set().union(*told.values())))
    if not words:
        return "nothing: it learned from the data alone"
    if not (untold := [model for model in first if not told[model]]):
        return words
    return f"{_named(untold)} nothing, {_named([model for model in first if told[model]])} {words}"
