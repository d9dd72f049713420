"""The page's headline: who conserves energy, predicts longest and most accurately, trains fastest, by how much."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
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
_MOST = 3  # names of a card


@dataclass(frozen=True)
class Finding:
    """One answer of the headline.

    Attributes:
        question: that is answered. models: which answer it. text: the numbers behind it.
        told: model -> what it was told where it is among the best.
        many: said instead of names where there are too many; else empty.
    """

    question: str
    models: tuple[str, ...]
    text: str
    told: Mapping[str, Sequence[str]] = field(default_factory=dict)
    many: str = ""


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
    told = {m: _told(main, m, [world for world, best in won.items() if m in best]) for m in winners}
    if len(winners) > _MOST:
        judged = len({m for own in values.values() for m in own})
        return Finding(
            question, winners, _size(main, values, metric, winners, claim), told, _many(winners, judged, won)
        )
    parts = [f"The {claim}, or one that cannot be told from it, {_where(winners, most, values)}"]
    if ties := [len(best) > 1 for best in won.values() if set(best) & set(winners)].count(True):
        parts.append(f"{ties} of these shared" if len(values) > 1 else "shared")
    first = winners[0]
    if absent := len(values) - sum(first in own for own in values.values()):
        parts.append(f"{model_label(first)} not judged in {absent}")
    rest = {m: count for m, count in wins.items() if m not in winners}
    if rest:
        second = max(rest, key=lambda m: rest[m])
        parts.append(f"next {model_label(second)}: {rest[second]}")
    return Finding(question, winners, "; ".join(parts) + ". " + _size(main, values, metric, winners), told)


def _where(winners: Sequence[str], most: int, values: Mapping[str, Any]) -> str:
    """``in 3 of 4 worlds``, or the name of the only one."""
    if len(values) == 1:
        return f"in {next(iter(values))}"
    return f"in {most} of {len(values)} worlds{' each' * (len(winners) > 1)}"


def _many(winners: Sequence[str], judged: int, won: Mapping[str, Sequence[str]]) -> str:
    """``20 of 22 cannot be told apart``."""
    alike = "cannot be told apart" if len(won) == 1 else "are among the best equally often"
    return f"{len(winners)} of {judged} {alike}"


def _told(main: Rows, model: str, worlds: Collection[str]) -> list[str]:
    """What a model was told in any of these worlds."""
    known = [row["knows"] for world in worlds for row in main[world, model].values() if "knows" in row]
    return sorted({word for knows in known for word in knows.split(",")} - {""})


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


def _size(
    main: Rows,
    values: Mapping[str, Mapping[str, float]],
    metric: str,
    winners: Sequence[str],
    claim: str = "",
) -> str:
    """The typical value of the best of the winners beside that of the best of another family."""
    lower = bool(lower_is_better(metric))
    typical = {m: float(np.median([own[m] for own in values.values() if m in own])) for m in winners}
    model = min(typical, key=lambda m: typical[m] if lower else -typical[m])
    unit = next(rows[metric]["unit"] for (_, m), rows in main.items() if m == model and metric in rows)
    what = "Mean" if len(values) == 1 else "Median"
    number = f"{model_label(model)} {pretty_number(typical[model])} {unit}"
    text = f"{claim.partition(' ')[0].capitalize()} {what.lower()}: {number}" if claim else f"{what} of {number}"
    better, others = min if lower else max, []
    for own in values.values():
        rivals = [v for m, v in own.items() if split_model(m)[0] != split_model(model)[0]]
        others += [better(rivals)] if rivals and model in own else []
    return text + (f", of the best other family there {pretty_number(float(np.median(others)))}." if others else ".")
