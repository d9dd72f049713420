"""Wiring of the field_eval pipeline: one group per field world, one per family, then the leaderboard and the report."""

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.evaluation.nodes import collect_family, concatenate
from wm_pipelines.pipelines.evaluation.pipeline import union
from wm_pipelines.pipelines.field_eval.nodes import (
    evaluate_field,
    ingest_field,
    summarise_fields,
    train_field,
    write_field_report,
)


def create_pipeline() -> Pipeline:
    """From the equations to the report; empty where no field world or no family for one is listed."""
    lists = combinations()
    if not (lists.field_worlds and lists.field_families):
        return Pipeline([])
    groups = [_world(name) for name in lists.field_worlds] + [_family(name) for name in lists.field_families]
    return sum(groups, Pipeline([])) + _gather() + union("field_eval_scores") + _report()


def _world(name: str) -> Pipeline:
    ingest = Node(
        Bound(ingest_field, world_name=name),
        inputs=f"params:{name}",
        outputs=f"{name}_field",
        name="ingest",
        tags=["ingest", name],
    )
    return Pipeline([ingest], namespace=name, outputs={f"{name}_field"}, parameters={f"params:{name}"})


def _family(name: str) -> Pipeline:
    worlds = combinations().field_worlds
    collected = [f"{name}_field_{kind}" for kind in ("scores", "maps", "curves", "facts")]
    collect = Node(
        Bound(collect_family, worlds=worlds),
        inputs=[f"{world}_field_{kind}" for kind in ("scores", "maps", "curves", "models") for world in worlds],
        outputs=collected,
        name="collect_fields",
        tags=["collect"],
    )
    return Pipeline(
        [*(node for world in worlds for node in _family_on_world(name, world)), collect],
        namespace=name,
        inputs={"checkpoints", *(f"{world}_field" for world in worlds)},
        outputs=set(collected),
        parameters={"params:learning", "params:seeds", f"params:{name}", *(f"params:{world}" for world in worlds)},
    )


def _family_on_world(name: str, world: str) -> list[Node]:
    train = Node(
        Bound(train_field, family_name=name, world_name=world),
        inputs=[
            f"{world}_field",
            f"params:{world}",
            f"params:{name}",
            "params:learning",
            "params:seeds",
            "checkpoints",
        ],
        outputs=[f"{world}_field_{kind}" for kind in ("models", "curves", "cost")],
        name=f"train_{world}",
        tags=["train", world, name],
    )
    evaluate = Node(
        Bound(evaluate_field, family_name=name, world_name=world),
        inputs=[f"{world}_field_models", f"{world}_field", f"params:{world}", f"{world}_field_cost"],
        outputs=[f"{world}_field_scores", f"{world}_field_maps"],
        name=f"evaluate_{world}",
        tags=["evaluate", world, name],
    )
    return [train, evaluate]


def _gather() -> Pipeline:
    scores = [f"{family}_field_scores" for family in combinations().field_families]
    node = Node(concatenate, scores, "field_eval_scores", name="gather_fields", tags=["collect"])
    return Pipeline([node], namespace="evaluation", inputs=set(scores), outputs={"field_eval_scores"})


def _report() -> Pipeline:
    worlds, families = combinations().field_worlds, combinations().field_families
    collected = [f"{family}_field_{kind}" for kind in ("maps", "curves", "facts") for family in families]
    nodes = [
        Node(summarise_fields, "field_eval_scores", "field_summary", name="summarise", tags=["report"]),
        Node(
            Bound(write_field_report, worlds=worlds, families=families),
            inputs=["field_eval_scores", "leaderboard_parts", *(f"params:{world}" for world in worlds), *collected],
            outputs="field_report",
            name="write",
            tags=["report"],
        ),
    ]
    return Pipeline(
        nodes,
        namespace="field_report",
        inputs={"field_eval_scores", "leaderboard_parts", *collected},
        outputs={"field_report", "field_summary"},
        parameters={f"params:{world}" for world in worlds},
    )
