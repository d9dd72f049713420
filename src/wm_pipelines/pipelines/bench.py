"""The one way from a world to the table: ingest → train → evaluate → gather → report, the same for every task.

Built from the list in ``globals.yml``; imports no torch, so that listing pipelines stays quick.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines import nodes
from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import Combinations, combinations
from wm_pipelines.registry import tasks

# One box of kedro viz for a task, in it one for each family: results are named by where they come from.
warnings.filterwarnings("ignore", message=".*dataset names contain '.'.*")


def bench(names: Iterable[str] | None = None) -> Pipeline:
    """Everything of some tasks (default: all), with one leaderboard after all their parts."""
    known = combinations()
    chosen = [known[name] for name in (known if names is None else names) if name in known]
    worlds = dict.fromkeys(world for c in chosen for world in c.worlds)
    parts = [ingestion(world) for world in worlds] + [task_pipeline(c) for c in chosen]
    return sum(parts, Pipeline([])) + _board([c.task for c in chosen]) if chosen else Pipeline([])


def ingestion(world: str) -> Pipeline:
    """``params:<world>`` → ``<world>_episodes``."""
    node = Node(
        Bound(nodes.ingest, world_name=world),
        inputs={"world": f"params:{world}"},
        outputs=f"{world}_episodes",
        name="ingest",
        tags=["ingest", world],
    )
    return Pipeline([node], namespace=world, outputs={f"{world}_episodes"}, parameters={f"params:{world}"})


def task_pipeline(c: Combinations) -> Pipeline:
    """Episodes → the task's part of the leaderboard and its page."""
    groups = [_family(c, family) for family in c.families]
    return sum(groups, Pipeline([])) + _gather(c) + _report(c)


def _family(c: Combinations, family: str) -> Pipeline:
    """One family on all worlds of the task: one box of kedro viz."""
    shared = {f"params:{c.task}", f"params:{family}", f"params:tasks.{c.task}.learning", f"params:tasks.{c.task}.seeds"}
    return Pipeline(
        [node for world in c.worlds for node in (_train(c, family, world), _evaluate(c, family, world))],
        namespace=f"{c.task}.{family}",
        inputs={"checkpoints", *(f"{world}_episodes" for world in c.worlds)},
        parameters=shared,
    )


def _train(c: Combinations, family: str, world: str) -> Node:
    return Node(
        Bound(nodes.train, task_name=c.task, family_name=family, world_name=world),
        inputs={
            "episodes": f"{world}_episodes",
            "family": f"params:{family}",
            "learning": f"params:tasks.{c.task}.learning",
            "seeds": f"params:tasks.{c.task}.seeds",
            "checkpoints": "checkpoints",
        },
        outputs=[f"{world}_models", f"{world}_training"],
        name=f"train_{world}",
        tags=["train", world, family],
    )


def _evaluate(c: Combinations, family: str, world: str) -> Node:
    return Node(
        Bound(nodes.evaluate, task_name=c.task, family_name=family, world_name=world),
        inputs={
            "models": f"{world}_models",
            "episodes": f"{world}_episodes",
            "training": f"{world}_training",
            "evaluation": f"params:{c.task}",
        },
        outputs=f"{world}_results",
        name=f"evaluate_{world}",
        tags=["evaluate", world, family],
    )


def _collected(c: Combinations, *kinds: str) -> dict[str, str]:
    """Inputs by name: what every family made on every world."""
    return {
        f"{family}_on_{world}_{kind}": f"{c.task}.{family}.{world}_{kind}"
        for family in c.families
        for world in c.worlds
        for kind in kinds
    }


def _gather(c: Combinations) -> Pipeline:
    inputs, jury = _collected(c, "results"), tasks.get(c.task).jury
    if jury in c.families:
        for world in c.worlds:
            inputs |= {f"jury_{world}": f"{c.task}.{jury}.{world}_models", f"episodes_{world}": f"{world}_episodes"}
    outputs = [f"{c.task}_scores", f"{c.task}_made_from"]
    node = Node(nodes.gather, inputs=inputs, outputs=outputs, name="gather", tags=["report"])
    return Pipeline([node], namespace=f"{c.task}.leaderboard", inputs=set(inputs.values()), outputs=set(outputs))


def _report(c: Combinations) -> Pipeline:
    inputs = {"scores": f"{c.task}_scores", **_collected(c, "results", "training")}
    outputs = [f"{c.task}_page", f"{c.task}_summary", f"{c.task}_figures"]
    node = Node(nodes.report, inputs=inputs, outputs=outputs, name="report", tags=["report"])
    return Pipeline([node], namespace=f"{c.task}.report", inputs=set(inputs.values()), outputs=set(outputs))


def _board(names: list[str]) -> Pipeline:
    """The leaderboard, once the parts of these tasks are written (the union of all parts there are), and page one."""
    parts = {f"{name}_scores": f"{name}_scores" for name in names} | {
        f"{name}_made_from": f"{name}_made_from" for name in names
    }
    outputs = ["leaderboard", "leaderboard_csv"]
    pages = ["first_page", "summary", "summary_markdown", "metrics"]
    return Pipeline(
        [
            Node(
                nodes.leaderboard,
                inputs={"parts": "leaderboard_parts", **parts},
                outputs=outputs,
                name="leaderboard",
                tags=["report"],
            ),
            Node(nodes.board, inputs={"leaderboard": "leaderboard"}, outputs=pages, name="first_page", tags=["report"]),
        ],
        namespace="board",
        inputs={"leaderboard_parts", *parts.values()},
        outputs={*outputs, *pages},
    )


def register() -> dict[str, Pipeline]:
    """All pipelines by the names that users type."""
    whole = bench()
    stages = {
        name: whole.only_nodes_with_tags(tag)
        for name, tag in (
            ("data_ingestion", "ingest"),
            ("training", "train"),
            ("evaluation", "evaluate"),
            ("reporting", "report"),
        )
    }
    evaluations = {tasks.get(name).pipeline: bench([name]) for name in tasks.names()}
    return {"__default__": whole, **stages, **evaluations}
