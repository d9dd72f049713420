"""The one way from a world to the table: ingest → train → evaluate → gather → report, the same for every task.

Built from the list in ``globals.yml``; imports no torch, so that listing pipelines stays quick. Every node has its
namespace from the start: pipelines of pipelines would check and rename everything once more at each level.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines import nodes
from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import Combinations, combinations
from wm_pipelines.registry import tasks

# One box of kedro viz for a task, in it one for each family: results are named by where they come from.
warnings.filterwarnings("ignore", message=".*dataset names contain '.'.*")


class Collecting(Node):
    """A node with one input for every family on every world.

    Kedro looks nodes up in sets for every edge of the graph, and hashes the names of all their inputs each time: with
    5,000 of them a pipeline took ten seconds to build instead of one. A node's name is unique.
    """

    def __hash__(self) -> int:
        return hash(self.name)


def register() -> dict[str, Pipeline]:
    """All pipelines by the names that users type."""
    known = combinations()
    made = {name: task_nodes(c) for name, c in known.items()}
    everything = [*_ingestions(known.values()), *(node for own in made.values() for node in own), *_board(known)]
    stages = {
        name: Pipeline([node for node in everything if tag in node.tags])
        for name, tag in (
            ("data_ingestion", "ingest"),
            ("training", "train"),
            ("evaluation", "evaluate"),
            ("reporting", "report"),
        )
    }
    evaluations = {
        tasks.get(name).pipeline: Pipeline(
            [*_ingestions([known[name]]), *made[name], *_board([name])] if name in known else []
        )
        for name in tasks.names()
    }
    return {"__default__": Pipeline(everything), **stages, **evaluations}


def _ingestions(chosen: Iterable[Combinations]) -> list[Node]:
    """``params:<world>`` → ``<world>_episodes``, for every world that any of the tasks names."""
    return [
        Node(
            Bound(nodes.ingest, world_name=world),
            inputs={"world": f"params:{world}"},
            outputs=f"{world}_episodes",
            name="ingest",
            namespace=world,
            tags=["ingest", world],
        )
        for world in dict.fromkeys(world for c in chosen for world in c.worlds)
    ]


def task_nodes(c: Combinations) -> list[Node]:
    """Episodes → the task's part of the leaderboard and its page."""
    pairs = [(family, world) for family in c.families for world in c.worlds]
    manifests = [_draw_manifest(c, world) for world in c.worlds] if tasks.get(c.task).has_manifest else []
    doses = [_dose(c, world) for world in c.worlds] if tasks.get(c.task).has_doses else []
    fitted = [node for family, world in pairs for node in (_train(c, family, world), _evaluate(c, family, world))]
    return [*manifests, *doses, *fitted, _gather(c), _report(c)]


def _draw_manifest(c: Combinations, world: str) -> Node:
    own = f"{c.task}.manifest"
    return Node(
        Bound(nodes.draw_manifest, task_name=c.task, world_name=world),
        inputs={"episodes": f"{world}_episodes", "evaluation": f"params:{c.task}"},
        outputs=f"{own}.{world}_manifest",
        name=f"draw_{world}",
        namespace=own,
        tags=["evaluate", world, "manifest"],
    )


def _dose(c: Combinations, world: str) -> Node:
    own = f"{c.task}.manifest"
    return Node(
        Bound(nodes.dose, task_name=c.task, world_name=world),
        inputs={
            "manifest": f"{own}.{world}_manifest",
            "episodes": f"{world}_episodes",
            "evaluation": f"params:{c.task}",
        },
        outputs=f"{own}.{world}_doses",
        name=f"dose_{world}",
        namespace=own,
        tags=["evaluate", world, "doses"],
    )


def _train(c: Combinations, family: str, world: str) -> Node:
    own = f"{c.task}.{family}"
    return Node(
        _bound(nodes.train, c, family, world),
        inputs={
            "episodes": f"{world}_episodes",
            "family": f"params:{family}",
            "learning": f"params:tasks.{c.task}.learning",
            "seeds": f"params:tasks.{c.task}.seeds",
            "checkpoints": "checkpoints",
        },
        outputs=[f"{own}.{world}_models", f"{own}.{world}_training"],
        name=f"train_{world}",
        namespace=own,
        tags=["train", world, family, *(["longest"] if family in c.longest else [])],
    )


def _evaluate(c: Combinations, family: str, world: str) -> Node:
    own = f"{c.task}.{family}"
    drawn = {"manifest": f"{c.task}.manifest.{world}_manifest"} if tasks.get(c.task).has_manifest else {}
    return Node(
        _bound(nodes.evaluate, c, family, world),
        inputs={
            "models": f"{own}.{world}_models",
            "episodes": f"{world}_episodes",
            "training": f"{own}.{world}_training",
            "evaluation": f"params:{c.task}",
            **drawn,
        },
        outputs=f"{own}.{world}_results",
        name=f"evaluate_{world}",
        namespace=own,
        tags=["evaluate", world, family],
    )


def _bound(function: Callable[..., Any], c: Combinations, family: str, world: str) -> Bound:
    return Bound(function, task_name=c.task, family_name=family, world_name=world)


def _collected(c: Combinations, *kinds: str) -> dict[str, str]:
    """Inputs by name: what every family made on every world."""
    return {
        f"{family}_on_{world}_{kind}": f"{c.task}.{family}.{world}_{kind}"
        for family in c.families
        for world in c.worlds
        for kind in kinds
    }


def _doses(c: Combinations) -> dict[str, str]:
    """Inputs by name: what wrong laws do in every world."""
    return {f"{w}_doses": f"{c.task}.manifest.{w}_doses" for w in c.worlds if tasks.get(c.task).has_doses}


def _outside(c: Combinations) -> dict[str, str]:
    """Inputs by name: models from outside, of tasks that take such."""
    return {"outside": f"{c.task}_outside"} if tasks.get(c.task).takes_outside else {}


def _gather(c: Combinations) -> Node:
    inputs, jury = _collected(c, "results") | _doses(c) | _outside(c), tasks.get(c.task).jury
    if jury in c.families:
        for world in c.worlds:
            inputs |= {f"jury_{world}": f"{c.task}.{jury}.{world}_models", f"episodes_{world}": f"{world}_episodes"}
    outputs = [f"{c.task}_scores", f"{c.task}_made_from"]
    space = f"{c.task}.leaderboard"
    return Collecting(nodes.gather, inputs=inputs, outputs=outputs, name="gather", namespace=space, tags=["report"])


def _report(c: Combinations) -> Node:
    part = {kind: f"{c.task}_{kind}" for kind in ("scores", "made_from")}
    inputs = {**part, **_collected(c, "results", "training"), **_doses(c), **_outside(c)}
    outputs = [f"{c.task}_page", f"{c.task}_summary", f"{c.task}_figures"]
    space = f"{c.task}.report"
    return Collecting(nodes.report, inputs=inputs, outputs=outputs, name="report", namespace=space, tags=["report"])


def _board(names: Collection[str]) -> list[Node]:
    """The leaderboard, once the parts of these tasks are written (the union of all parts there are), and page one.

    With it the one file that all pages share.
    """
    if not names:
        return []
    parts = {f"{name}_{kind}": f"{name}_{kind}" for name in names for kind in ("scores", "made_from")}
    inputs = {"parts": "leaderboard_parts", **parts}
    outputs, pages = ["leaderboard", "leaderboard_csv"], ["first_page", "summary", "summary_markdown", "metrics"]
    whole = {"leaderboard": "leaderboard", "parts": "leaderboard_parts", "played": "play_written"}
    return [
        Node(nodes.figure_library, None, "figure_library", name="figure_library", namespace="board", tags=["report"]),
        Node(nodes.leaderboard, inputs, outputs, name="leaderboard", namespace="board", tags=["report"]),
        Node(nodes.board, whole, pages, name="first_page", namespace="board", tags=["report"]),
    ]
