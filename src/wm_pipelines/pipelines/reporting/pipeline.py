"""Wiring of the reporting pipeline."""

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines.binding import Bound
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.reporting.nodes import FIGURES, draw_world, summarise, write_report


def create_pipeline() -> Pipeline:
    """``leaderboard`` and roll-outs → figures, summary, ``report``."""
    worlds, families, elsewhere = combinations().worlds, combinations().families, combinations().elsewhere()
    collected = [f"{family}_{kind}" for kind in ("rollouts", "curves", "facts") for family in families]
    draw = [
        Node(
            Bound(draw_world, world_name=world, families=families),
            inputs=["leaderboard", f"params:{world}", "params:evaluation", *(f"{f}_rollouts" for f in families)],
            outputs=[f"{world}_{figure}_figure" for figure in FIGURES],
            name=f"draw_{world}",
            tags=["report"],
        )
        for world in worlds
    ]
    results = ["summary", "summary_json", "summary_text", "summary_markdown"]
    return Pipeline(
        [
            Node(Bound(summarise, elsewhere=elsewhere), "leaderboard", results, name="summarise", tags=["report"]),
            *draw,
            Node(
                Bound(write_report, worlds=worlds, families=families, elsewhere=elsewhere),
                inputs=["leaderboard", "params:evaluation", *(f"params:{world}" for world in worlds), *collected],
                outputs="report",
                name="write",
                tags=["report"],
            ),
        ],
        namespace="report",
        inputs={"leaderboard", *collected},
        outputs={"report", *results},
        parameters={"params:evaluation", *(f"params:{world}" for world in worlds)},
    )
