"""Replications: every seed draws the data *and* the weights anew, and the whole way is gone again for each.

The seeds of a task vary initial weights and the order of batches on one draw of the data; their spread says nothing of
another draw. Where a figure is to be a claim, `replicate` simulates (or draws) training and held-out episodes with the
seed, trains with the seed, judges, and the table holds the median and the range over seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd  # here, because Kedro reads the nodes' type hints
from kedro.pipeline import Node, Pipeline
from pydantic import Field

from wm_pipelines.errors import UserError
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.mappings import Settings
from wm_pipelines.pipelines import nodes
from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import Combinations, combinations
from wm_pipelines.registry import tasks
from wm_pipelines.worlds.making import WorldConfig

logger = logging.getLogger(__name__)

_SAME = ["task", "world", "family", "variant", "view", "knows", "split", "metric", "step", "unit"]


class ReplicationConfig(Settings):
    """``parameters_replication.yml``."""

    draws: int = Field(5, ge=2, description="how many times data and weights are drawn anew")
    first_seed: int = Field(1, ge=0, description="of the first draw; the others follow")


def create_pipeline() -> Pipeline:
    """``params:<world>``, ``params:<family>`` → ``replications``: median and range over draws of the data."""
    found = [node for c in combinations().values() for node in _nodes(c)]
    if not found:
        return Pipeline([])
    inputs = {node.outputs[0].replace(".", "_"): node.outputs[0] for node in found}
    outputs = ["replications", "replications_csv", "replications_summary"]
    table = Node(gather, inputs=inputs, outputs=outputs, name="table", namespace="replication", tags=["replication"])
    return Pipeline([*found, table])


def _nodes(c: Combinations) -> list[Node]:
    return [
        Node(
            Bound(replicate, task_name=c.task, family_name=family, world_name=world),
            inputs={
                "world": f"params:{world}",
                "family": f"params:{family}",
                "learning": f"params:tasks.{c.task}.learning",
                "evaluation": f"params:{c.task}",
                "replication": "params:replication",
                "checkpoints": "checkpoints",
            },
            outputs=f"replication.{c.task}.{family}.{world}_draws",
            name=f"replicate_{world}",
            namespace=f"replication.{c.task}.{family}",
            tags=["replication", world, family],
        )
        for family in c.families
        for world in c.worlds
    ]


def replicate(
    world: WorldConfig,
    family: FamilyParameters,
    learning: LearningConfig,
    evaluation: dict[str, Any],
    replication: ReplicationConfig,
    checkpoints: Path,
    *,
    task_name: str,
    family_name: str,
    world_name: str,
) -> pd.DataFrame:
    """Leaderboard rows of one family on one world, one seed after the other; ``seed`` names the draw of the data too.

    Raises:
        UserError: the world's data are files, of which there is one draw alone.
    """
    if world.paper_files is not None:
        raise UserError(f"'{world_name}' reads the paper's files: they are one draw of the data; leave out paper_files")
    names: dict[str, Any] = {"task_name": task_name, "family_name": family_name, "world_name": world_name}
    parts, drawn_before = [], None
    for done in range(replication.draws):
        seed = replication.first_seed + done
        episodes = nodes.ingest(world.model_copy(update={"seed": seed}), world_name=world_name)
        drawn_before = refuse_one_draw(world_name, episodes, drawn_before)
        place = checkpoints / "replication" / f"seed_{seed}"
        models, training = nodes.train(episodes, family, learning, [seed], place, **names)
        drawn = tasks.get(task_name).has_manifest
        manifest = (
            nodes.draw_manifest(episodes, evaluation, task_name=task_name, world_name=world_name) if drawn else None
        )
        parts.append(nodes.evaluate(models, episodes, training, evaluation, manifest, **names)["scores"])
        logger.info("%s on %s: %d of %d draws.", family_name, world_name, done + 1, replication.draws)
    return pd.concat(parts, ignore_index=True)


def refuse_one_draw(world: str, episodes: Mapping[str, Any], before: str | None) -> str:
    """What is judged on, as a hash.

    Args:
        world: its name. episodes: by split. before: the same of the draw before, None for the first one.

    Raises:
        UserError: it is the same as before: files that are read, of which there is one draw.
    """
    held_out = "".join(episodes[split].content_hash for split in sorted(set(episodes) - {"train", "validation"}))
    if held_out == before:
        raise UserError(
            f"'{world}' is read from files: its held-out episodes are the same in every draw. There is one draw of "
            "these data; the pipeline of its task varies the weights"
        )
    return held_out


def gather(**drawn: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Median and range over the draws, as Parquet, as CSV, and what the terminal shows.

    Args:
        drawn: rows of every family on every world.
    """
    table = over_draws(pd.concat(drawn.values(), ignore_index=True))
    return table, table, as_text(table) + "\n"


def over_draws(rows: pd.DataFrame) -> pd.DataFrame:
    """``median, lowest, highest, draws`` of every measurement whose rows differ in ``seed`` alone.

    Args:
        rows: of the leaderboard; every seed another draw of data and weights.

    Returns:
        Long table, sorted by task, world, split, metric and median.
    """
    value = rows.groupby(_SAME, dropna=False, observed=True)["value"]
    table = value.agg(median="median", lowest="min", highest="max", draws="size").reset_index()
    order = ["task", "world", "split", "metric", "step", "median"]
    return table.sort_values(order, kind="stable", ignore_index=True)[[*_SAME, "median", "lowest", "highest", "draws"]]


def as_text(table: pd.DataFrame) -> str:
    """The main metrics of every model, ``median (lowest … highest)``, as aligned text."""
    from wm_pipelines.registry import tasks
    from wm_pipelines.reporting.style import metric_title, plain_number
    from wm_pipelines.reporting.summary import chosen

    overall = table[table["step"] < 0]
    cost = overall[overall["split"] == "train"]
    parts = []
    for (name, world, split), own in overall[overall["split"] != "train"].groupby(["task", "world", "split"]):
        paid = cost[(cost["task"] == name) & (cost["world"] == world)]
        shown = chosen([*own["metric"], *paid["metric"]], tasks.get(str(name)).main_metrics)
        lines = [[f"{world} · {split}", *(metric_title(metric) for metric in shown)]]
        for (family, variant), model in pd.concat([own, paid]).groupby(["family", "variant"], sort=False):
            by_metric = {row["metric"]: row for row in model.to_dict("records")}
            lines.append([f"{family} · {variant}", *(_cell(by_metric.get(metric), plain_number) for metric in shown)])
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        parts += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        parts.append("")
    draws = sorted(set(table["draws"]))
    count = " to ".join(str(n) for n in dict.fromkeys((draws[0], draws[-1]))) if draws else "0"
    return "\n".join([*parts, f"median (lowest … highest) of {count} draws of data and weights"])


def _cell(row: dict[Any, Any] | None, number: Any) -> str:
    if row is None:
        return ""
    return f"{number(row['median'])} ({number(row['lowest'])} … {number(row['highest'])})"
