"""The page's headline: who conserves energy, predicts longest and most accurately, trains fastest, by how much."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wm_pipelines.reporting.style import (
    REFERENCES,
    lower_is_better,
    model_label,
    model_order,
    pretty_number,
    split_model,
)

Rows = dict[tuple[str, str], dict[str, dict[str, Any]]]  # (world, "family/variant") -> metric -> summary row

_QUESTIONS = {
    "Who conserves energy?": ("energy_error", "smallest energy error"),
    "Whose predictions last longest?": ("horizon", "longest horizon"),
    "Who predicts most accurately?": ("mse", "smallest state error"),
    "Who trains fastest?": ("train_seconds", "shortest training"),
}


@dataclass(frozen=True)
class Finding:
    """One answer of the headline: the question, the models that answer it, and the numbers behind it."""

    question: str
    models: tuple[str, ...]
    text: str


def headline(main: Rows, losing: Collection[str] = ()) -> list[Finding]:
    """One finding per question, counted over the worlds.

    A model wins a world if it cannot be told from the best trained model there (`summary_table`); models may share a
    win. Oracle and persistence do not compete. Worlds that are ``losing`` (or gaining) energy do not count where energy
    is to be kept.
    """
    found = []
    for question, (metric, claim) in _QUESTIONS.items():
        rows = {at: r for at, r in main.items() if metric != "energy_error" or at[0] not in losing}
        found += [finding] if (finding := _finding(rows, question, metric, claim)) else []
    return found


def _finding(main: Rows, question: str, metric: str, claim: str) -> Finding | None:
    values = _values(main, metric)
    if not values:
        return None
    won = {world: _best(main, world, own, metric) for world, own in values.items()}
    wins = {m: sum(m in best for best in won.values()) for m in model_order(m for best in won.values() for m in best)}
    most = max(wins.values())
    winners = tuple(m for m, count in wins.items() if count == most)
    where = f"in {most} of {len(values)} world{'s' * (len(values) > 1)}{' each' * (len(winners) > 1)}"
    parts = [f"The {claim}, or one that cannot be told from it, {where}"]
    if ties := sum(len(best) > 1 for best in won.values()):
        parts.append(f"{ties} shared")
    first = winners[0]
    if absent := len(values) - sum(first in own for own in values.values()):
        parts.append(f"{model_label(first)} not judged in {absent}")
    rest = {m: count for m, count in wins.items() if m not in winners}
    if rest:
        second = max(rest, key=lambda m: rest[m])
        parts.append(f"next {model_label(second)}: {rest[second]}")
    return Finding(question, winners, "; ".join(parts) + ". " + _size(main, values, metric, first))


def _values(main: Rows, metric: str) -> dict[str, dict[str, float]]:
    """World -> trained model -> a finite value of the metric."""
    found: dict[str, dict[str, float]] = {}
    for (world, model), rows in main.items():
        if metric in rows and split_model(model)[0] not in REFERENCES and np.isfinite(rows[metric]["value"]):
            found.setdefault(world, {})[model] = rows[metric]["value"]
    return found


def _best(main: Rows, world: str, own: Mapping[str, float], metric: str) -> list[str]:
    """The set of the best; where all are equal, all."""
    return [model for model in own if main[world, model][metric]["best"]] or list(own)


def _size(main: Rows, values: Mapping[str, Mapping[str, float]], metric: str, model: str) -> str:
    """The winner's typical value beside that of the best of another family."""
    own = {world: found[model] for world, found in values.items() if model in found}
    unit = next(rows[metric]["unit"] for (_, m), rows in main.items() if m == model and metric in rows)
    text = f"Median of {model_label(model)} {pretty_number(float(np.median(list(own.values()))))} {unit}"
    better = min if lower_is_better(metric) else max
    others = []
    for world in own:
        rivals = [v for m, v in values[world].items() if split_model(m)[0] != split_model(model)[0]]
        others += [better(rivals)] if rivals else []
    return text + (f", of the best other family there {pretty_number(float(np.median(others)))}." if others else ".")
