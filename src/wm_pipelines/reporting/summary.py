"""The leaderboard in short: seeds pooled, the best marked, as a table, as text for a terminal, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wm_pipelines.metrics.comparison import best_set, overlapping_set
from wm_pipelines.metrics.ranges import value_range
from wm_pipelines.metrics.statistics import pool_seeds
from wm_pipelines.registry import tasks
from wm_pipelines.reporting.style import (
    COST_METRICS,
    REFERENCES,
    UNTRAINED,
    above_floor,
    is_floor,
    lower_is_better,
    metric_order,
    metric_title,
    model_label,
    model_order,
    plain_number,
)


class Key(NamedTuple):
    """What one row of a wide table is about."""

    task: str
    world: str
    split: str
    family: str
    variant: str
    view: str
    knows: str

    @property
    def model(self) -> str:
        """``"family/variant"``."""
        return f"{self.family}/{self.variant}"


BestSets = Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
"""World -> split -> metric -> models that cannot be told from the best."""

Float = NDArray[np.float64]

Limits = Mapping[str, Mapping[str, Mapping[str, float]]]
"""World -> split -> metric -> the largest value it can have there."""

PairedValues = Mapping[str, Mapping[str, Mapping[str, Mapping[str, NDArray[np.float64]]]]]
"""World -> split -> metric -> model -> value of every seed on every episode ``[S, E]``."""

FLAGS = ("collapsed", "ignores_actions")
"""Metrics that are 1 for a seed which cannot be right, whatever else it scores."""

_GROUP = [*Key._fields, "metric", "unit"]
_MODEL = ["task", "world", "family", "variant"]

_CHANCE = "_chance"  # metrics that say what comes by chance: nobody is best at that


def _pool_seeds(value: Float, low: Float, high: Float, within: tuple[float, float]) -> dict[str, float | int]:
    """One metric of one model over its seeds; an interval ends where the metric does: few seeds would promise more."""
    pooled, (least, most) = pool_seeds(value, low, high), within
    mean = float(pooled.value)
    # Where a value is outside the range that its name promises, the name promises nothing.
    ends = (max(float(pooled.ci_low), min(least, mean)), min(float(pooled.ci_high), max(most, mean)))
    unknown = np.isnan(pooled.ci_low)
    return {
        "value": mean,
        "median": float(np.median(value)),
        "ci_low": np.nan if unknown else ends[0],
        "ci_high": np.nan if unknown else ends[1],
        "seeds": len(value),
    }


def _groups(table: pd.DataFrame, names: list[str]) -> list[NDArray[np.intp]]:
    """Rows that agree in columns ``names``, sorted by them: thousands of groups, of which pandas would make frames."""
    if table.empty:
        return []
    group = table.groupby(names, sort=True, observed=True, dropna=False).ngroup().to_numpy()
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def summary_table(
    leaderboard: pd.DataFrame, best: Mapping[str, BestSets] | None = None, limits: Mapping[str, Limits] | None = None
) -> pd.DataFrame:
    """Pool the seeds of a leaderboard and mark the best models of every world: all that cannot be told from the best.

    Args:
        leaderboard: long table; rows by step (``step >= 0``) are left out.
        best: task -> world -> split -> metric -> models that paired comparisons do not tell from the best
            (`contest`). Where there is none, those whose intervals meet the best's are not told from it.
        limits: task -> world -> split -> metric -> the largest value it can have there, at which intervals end.

    Returns:
        One row per task, world, split, family, variant, view, knows, metric, unit with ``value`` (mean over seeds),
        ``median``, ``ci_low``, ``ci_high`` (95 %), ``seeds``, ``n`` (values averaged, over all seeds), ``best``: in the
        set of the best trained models there. References, untrained models and models of which a seed collapsed or
        ignores actions are never among them; a metric that diverged is not either; and where all are equal nobody is.
        ``starred``: those of them that are to be marked, since they are better than the floor.
        Sorted by task, world, split, family as in the report, metric.
    """
    table = _pooled(leaderboard, limits or {})
    columns = [*_GROUP, "value", "median", "ci_low", "ci_high", "seeds", "n", "best", "starred"]
    if table.empty:
        return pd.DataFrame(columns=columns)
    table["best"] = False
    for (task, world, split, metric), contenders in _contests(table):
        paired = (best or {}).get(task, {}).get(world, {}).get(split, {}).get(metric)
        chosen = _overlapping(contenders, metric) if paired is None else paired
        table.loc[contenders.index[contenders["model"].isin(chosen)], "best"] = True
    table["starred"] = table["best"] & ~_no_better_than_floor(table)
    return table[columns]


def _pooled(leaderboard: pd.DataFrame, limits: Mapping[str, Limits]) -> pd.DataFrame:
    """Every metric of every model over its seeds, in the order of the summary, nobody marked."""
    overall = leaderboard[leaderboard["step"] < 0]
    numbers = {name: overall[name].to_numpy(dtype=np.float64) for name in ("value", "ci_low", "ci_high", "n")}
    keys = {name: overall[name].tolist() for name in _GROUP}
    rows = []
    for group in _groups(overall, _GROUP):
        key = {name: values[group[0]] for name, values in keys.items()}
        value, low, high, n = (values[group] for values in numbers.values())
        rows.append(key | _pool_seeds(value, low, high, _within(key, limits)) | {"n": int(n.sum())})
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    names = _model_names(table)
    table["_model"] = names.map({m: i for i, m in enumerate(model_order(names))})
    table["_metric"] = table["metric"].map({m: i for i, m in enumerate(metric_order(table["metric"]))})
    return table.sort_values(["task", "world", "split", "_model", "_metric"], ignore_index=True)


def _within(key: Mapping[str, Any], limits: Mapping[str, Limits]) -> tuple[float, float]:
    """The range of a metric on one split of a world."""
    least, most = value_range(str(key["metric"]))
    there = limits.get(key["task"], {}).get(key["world"], {}).get(key["split"], {})
    return least, min(most, there.get(key["metric"], most))


def _no_better_than_floor(table: pd.DataFrame) -> pd.Series:
    """Which rows of metrics that a floor can be beaten in are not better, by their interval, than the best floor."""
    measured = pd.Series([above_floor(m) for m in table["metric"]], index=table.index, dtype=bool)
    sign = np.array([1.0 if lower_is_better(m) else -1.0 for m in table["metric"]])
    loss = table["value"] * sign
    worst = table["ci_high"].where(sign > 0, -table["ci_low"]).fillna(loss)
    place = ["task", "world", "split", "metric"]
    floor = loss.where(_model_names(table).map(is_floor)).groupby([table[name] for name in place]).transform("min")
    return measured & (worst >= floor)


def _contests(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str, str], pd.DataFrame]]:
    """(task, world, split, metric) and the rows of those who compete there, where somebody can be better.

    With the column ``model``, made once for all of them.
    """
    if table.empty:
        return
    rows = table[competes(table)]
    rows = rows.assign(model=_model_names(rows))
    for key, contenders in rows.groupby(["task", "world", "split", "metric"], observed=True):
        alike = len(contenders) > 1 and contenders["value"].min() == contenders["value"].max()
        if lower_is_better(str(key[3])) is not None and not alike and not str(key[3]).endswith(_CHANCE):
            task, world, split, metric = map(str, key)
            yield (task, world, split, metric), contenders


def _overlapping(contenders: pd.DataFrame, metric: str) -> list[str]:
    ends = contenders[["value", "ci_low", "ci_high"]].itertuples(index=False, name=None)
    return overlapping_set(dict(zip(contenders["model"], ends, strict=True)), bool(lower_is_better(metric)))


def _model_names(table: pd.DataFrame) -> pd.Series:
    return table["family"] + "/" + table["variant"]


def contest(scores: pd.DataFrame, values: PairedValues) -> dict[str, dict[str, dict[str, list[str]]]]:
    """The sets of the best of one task by paired comparisons, world -> split -> metric -> models; see `best_set`.

    Args:
        scores: the task's part of the leaderboard.
        values: world -> split -> metric -> model -> ``[S, E]``, of the same episodes. A metric that lacks one of those
            who compete is left out.
    """
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for (_, world, split, metric), contenders in _contests(_pooled(scores, {})):
        known = values.get(world, {}).get(split, {}).get(metric, {})
        competing = list(contenders["model"])
        if set(competing) <= set(known):
            own = {model: known[model] for model in competing}
            among = best_set(own, bool(lower_is_better(metric)), value_range(metric))
            found.setdefault(world, {}).setdefault(split, {})[metric] = among
    return found


def competes(table: pd.DataFrame) -> pd.Series:
    """Which rows can be the best: finite, of no floor or ceiling, of a model of which no seed is flagged there."""
    model = table["task"] + "/" + table["world"] + "/" + _model_names(table)
    flagged = model.isin(model[table["metric"].isin(FLAGS) & (table["value"] > 0)])
    floor = table["family"].isin(REFERENCES) | table["variant"].str.endswith(UNTRAINED)
    return ~floor & ~flagged & np.isfinite(table["value"])


def chosen(metrics: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Those that match one of the patterns (``relative_l2_*``), in the patterns' order; duplicates removed."""
    there = metric_order(metrics)
    return list(dict.fromkeys(m for pattern in patterns for m in there if fnmatchcase(m, pattern)))


def main_split(splits: Iterable[str]) -> str:
    """The split that is shown: ``test`` if it is there, else the first by name; empty if there is none."""
    names = sorted(set(splits))
    return "test" if "test" in names else next(iter(names), "")


def on_main_split(summary: pd.DataFrame) -> pd.Series:
    """Which rows of a summary are of their world's `main_split`, training costs among them."""
    if summary.empty:
        return pd.Series(index=summary.index, dtype=bool)
    cost = summary["metric"].isin(COST_METRICS)
    judged = summary[~cost] if (~cost).any() else summary
    main = judged.groupby(["task", "world"])["split"].agg(main_split)
    places = pd.MultiIndex.from_frame(summary[["task", "world"]])
    return (summary["split"].to_numpy() == main.reindex(places).to_numpy()) | (cost & (summary["split"] == "train"))


def rows_by_model(summary: pd.DataFrame) -> Iterator[tuple[Key, dict[str, dict[str, Any]]]]:
    """Every model on every evaluation split, and its summary rows by metric, its training cost included."""
    is_cost = summary["metric"].isin(COST_METRICS)
    costs: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in _records(summary[is_cost]):
        costs.setdefault(tuple(row[name] for name in _MODEL), {})[row["metric"]] = row
    judged = summary[~is_cost] if (~is_cost).any() else summary
    found: dict[Key, dict[str, dict[str, Any]]] = {}
    for row in _records(judged):
        values = [row[name] for name in Key._fields]
        if not any(value is None or value != value for value in values):  # as pandas groups: nowhere without a name
            found.setdefault(Key(*map(str, values)), {})[row["metric"]] = row
    for key, rows in found.items():
        yield key, costs.get((key.task, key.world, key.family, key.variant), {}) | rows


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def wide_table(summary: pd.DataFrame, patterns: Sequence[str]) -> list[list[str]]:
    """Cells of a table with one row per world, split and model; the first row holds titles, ``*`` marks the best set.

    Training is no part of any evaluation split: its cost is repeated on every row of the model.
    """
    shown = chosen(summary["metric"], patterns)
    units = summary.drop_duplicates("metric").set_index("metric")["unit"].to_dict()
    header = ["world", "split", "model", *(_titled(m, units[m]) for m in shown), "knows"]
    body = []
    for key, rows in rows_by_model(summary):
        cells = [_cell(rows[metric]) if metric in rows else "" for metric in shown]
        body.append([key.world, key.split, model_label(key.model), *cells, key.knows.replace(",", ", ")])
    return [header, *body]


def _titled(metric: str, unit: str) -> str:
    return metric_title(metric) + (f" [{unit}]" if unit not in ("", "1") else "")


def _cell(row: Mapping[Any, Any]) -> str:
    return plain_number(row["value"]) + ("*" if row["starred"] else "")


def _other_splits(summary: pd.DataFrame) -> pd.DataFrame:
    """What was judged beside every world's main split; costs stand in the main table."""
    return summary[~on_main_split(summary) & ~summary["metric"].isin(COST_METRICS)]


def format_terminal(summary: pd.DataFrame, patterns: Sequence[str], over: str = "seeds and held-out episodes") -> str:
    """The summary as aligned text; worlds separated by rules, ``*`` marks the best trained models of a world.

    Splits beside the main one have a table of their own under it.

    Args:
        summary: see `summary_table`. patterns: of the metrics to show, see `chosen`. over: what means are taken over.
    """
    if summary.empty:
        return "The leaderboard is empty."
    others = _other_splits(summary)
    note = f"* not to be told from the best trained model of that world, and above the floor; means over {over}"
    tables = [_terminal_table(summary[on_main_split(summary)], patterns)]
    if len(others):
        tables += ["", "Other splits", _terminal_table(others, patterns)]
    return "\n".join([*tables, note])


def _terminal_table(summary: pd.DataFrame, patterns: Sequence[str]) -> str:
    header, *body = [row[:-1] for row in wide_table(summary, patterns)]
    widths = [max(len(row[i]) for row in (header, *body)) for i in range(len(header))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))

    def line(cells: list[str]) -> str:
        left = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
        # A star hangs to the right of its number, so that digits stay under each other.
        right = [
            (cell if cell.endswith("*") else cell + " ").rjust(width + 1)
            for cell, width in zip(cells[3:], widths[3:], strict=True)
        ]
        return " ".join([*(c + " " for c in left), *right]).rstrip()

    lines = [line(header)]
    previous: list[str] = []
    for row in body:
        again = row[:2] == previous
        lines += [line(["", "", *row[2:]])] if again else [rule, line(row)]
        previous = row[:2]
    return "\n".join([*lines, rule])


def format_markdown(summary: pd.DataFrame) -> str:
    """The summary as Markdown: a table of every task's main metrics, the best in bold; another of its other splits."""
    parts = []
    for name, own in summary.groupby("task", sort=False):
        task, others = tasks.get(str(name)), _other_splits(own)
        parts.append(f"## {task.title}\n\n" + _markdown_table(own[on_main_split(own)], task.main_metrics))
        if len(others):
            parts.append(f"### {task.title}: other splits\n\n" + _markdown_table(others, task.main_metrics))
    return "\n\n".join(parts)


def _markdown_table(summary: pd.DataFrame, patterns: Sequence[str]) -> str:
    header, *body = wide_table(summary, patterns)
    rows = [[f"**{c[:-1]}**" if c.endswith("*") else c for c in row] for row in body]
    rule = ["---"] * 3 + ["--:"] * (len(header) - 4) + ["---"]
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
