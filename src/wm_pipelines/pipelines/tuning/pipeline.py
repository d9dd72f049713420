"""Wiring of the tuning pipeline."""

from kedro.pipeline import Node, Pipeline

from wm_pipelines.pipelines.tuning.nodes import search


def create_pipeline() -> Pipeline:
    """``params:tuning`` and stored episodes → best parameters, written where the next run finds them."""
    nodes = [
        Node(
            search,
            inputs=["parameters", "episodes_by_world", "study_journal"],
            outputs=["tuned_parameters", "tuning_trials", "tuning_summary"],
            name="search",
            tags=["tuning"],
        )
    ]
    return Pipeline(
        nodes,
        namespace="tuning",
        inputs={"episodes_by_world", "study_journal"},
        outputs={"tuned_parameters", "tuning_trials", "tuning_summary"},
        parameters={"parameters"},
    )
