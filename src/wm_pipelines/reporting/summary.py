"""The leaderboard in short: seeds pooled, the best marked, as a table, as text for a terminal, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from wm_pipelines.registry import tasks
from wm_pipelines.reporting.style import (
    COST_METRICS,
    REFERENCES,
    UNTRAINED,
    largest_value,
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


_GROUP = [*Key._fields, "metric", "unit"]
_MODEL = ["task", "world", "family", "variant"]


def _pool_seeds(rows: pd.DataFrame, metric: str) -> dict[str, float | int]:
    """One metric of one model over its seeds.

    The seeds are judged on the same episodes, so the uncertainty that the choice of episodes brings does not shrink by
    averaging over seeds: its mean half-width stays, and Student's t of the seeds is added to it in quadrature. An
    interval ends where the metric does: few seeds would else promise more than all.
    """
    value = rows["value"].to_numpy(dtype=np.float64)
    low, high = rows["ci_low"].to_numpy(dtype=np.float64), rows["ci_high"].to_numpy(dtype=np.float64)
    seeds, mean = len(value), float(value.mean())
    summary = {"value": mean, "median": float(np.median(value)), "seeds": seeds, "n": int(rows["n"].sum())}
    if not np.isfinite(mean):
        finite = low[np.isfinite(low)]
        return summary | {"ci_low": float(finite.min()) if len(finite) else mean, "ci_high": mean}
    below, above = value - low, high - value
    known = ~np.isnan(below) & ~np.isnan(above)
    if not known.any() and seeds == 1:
        return summary | {"ci_low": np.nan, "ci_high": np.nan}
    of_seeds = stats.t.ppf(0.975, seeds - 1) * value.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else 0.0
    of_episodes = (below[known].mean(), above[known].mean()) if known.any() else (0.0, 0.0)
    ci_low, ci_high = mean - np.hypot(of_episodes[0], of_seeds), mean + np.hypot(of_episodes[1], of_seeds)
    if value.min() >= 0.0:
        ci_low = max(ci_low, 0.0)
    ci_high = min(ci_high, largest_value(metric))
    return summary | {"ci_low": float(ci_low), "ci_high": float(ci_high)}


def summary_table(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Pool the seeds of a leaderboard and mark the best family of every world.

    Args:
        leaderboard: long table; rows by step (``step >= 0``) are left out.

    Returns:
        One row per task, world, split, family, variant, view, knows, metric, unit with ``value`` (mean over seeds),
        ``median``, ``ci_low``, ``ci_high`` (95 %), ``seeds``, ``n`` (values averaged, over all seeds), ``best``: no
        other trained family is better there (several may tie). Oracle, persistence, raw pixels, untrained models and
        models of which a seed collapsed are never the best; a metric that diverged is not either. Sorted by task,
        world, split, family as in the report, metric.
    """
    overall = leaderboard[leaderboard["step"] < 0]
    rows = [
        dict(zip(_GROUP, key, strict=True)) | _pool_seeds(group, str(key[_GROUP.index("metric")]))
        for key, group in overall.groupby(_GROUP, sort=True, observed=True, dropna=False)
    ]
    columns = [*_GROUP, "value", "median", "ci_low", "ci_high", "seeds", "n", "best"]
    if not rows:
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame(rows)
    table["best"] = False
    contends = competes(table)
    for key, group in table.groupby(["task", "world", "split", "metric"], observed=True):
        contenders = group[contends[group.index]]
        direction = lower_is_better(str(key[3]))
        if len(contenders) and direction is not None:
            top = contenders["value"].min() if direction else contenders["value"].max()
            first = contenders.index[contenders["value"] == top]
            # Where all are equal, nobody is best.
            table.loc[first if len(first) < len(contenders) or len(contenders) == 1 else [], "best"] = True
    models = model_order(table["family"] + "/" + table["variant"])
    table["_model"] = (table["family"] + "/" + table["variant"]).map({m: i for i, m in enumerate(models)})
    table["_metric"] = table["metric"].map({m: i for i, m in enumerate(metric_order(table["metric"]))})
    return table.sort_values(["task", "world", "split", "_model", "_metric"], ignore_index=True)[columns]


def competes(table: pd.DataFrame) -> pd.Series:
    """Which rows can be the best: finite, of no floor or ceiling, of a model of which no seed collapsed there."""
    model = table[_MODEL].agg("/".join, axis=1)
    collapsed = model.isin(model[(table["metric"] == "collapsed") & (table["value"] > 0)])
    floor = table["family"].isin(REFERENCES) | table["variant"].str.endswith(UNTRAINED)
    return ~floor & ~collapsed & np.isfinite(table["value"])


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
    for values, group in judged.groupby(list(Key._fields), sort=False, observed=True):
        key = Key(*map(str, values))
        rows = {row["metric"]: row for row in _records(group)}
        yield key, costs.get((key.task, key.world, key.family, key.variant), {}) | rows


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def wide_table(summary: pd.DataFrame, patterns: Sequence[str]) -> list[list[str]]:
    """Cells of a table with one row per world, split and model; the first row holds titles, ``*`` marks the best.

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
    return plain_number(row["value"]) + ("*" if row["best"] else "")


def _other_splits(summary: pd.DataFrame) -> pd.DataFrame:
    """What was judged beside every world's main split; costs stand in the main table."""
    return summary[~on_main_split(summary) & ~summary["metric"].isin(COST_METRICS)]


def format_terminal(summary: pd.DataFrame, patterns: Sequence[str], over: str = "seeds and held-out episodes") -> str:
    """The summary as aligned text; worlds separated by rules, ``*`` marks the best trained model of a world.

    Splits beside the main one have a table of their own under it.

    Args:
        summary: see `summary_table`. patterns: of the metrics to show, see `chosen`. over: what means are taken over.
    """
    if summary.empty:
        return "The leaderboard is empty."
    note, others = f"* best trained model of that world; means over {over}", _other_splits(summary)
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
