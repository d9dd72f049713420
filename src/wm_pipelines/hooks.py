"""Kedro hooks: early checks, and the closing lines of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from wm_pipelines.pipelines.combinations import combinations, read_globals

# What a run ends with: the summary for the terminal, the report and its file, per evaluation pipeline.
REPORTS = (
    ("summary_text", "report", "index.html"),
    ("field_summary", "field_report", "fields.html"),
    ("image_summary", "image_report", "images.html"),
    ("video_summary", "video_report", "videos.html"),
)


class ProjectHooks:
    """What happens around every run."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check every parameter that pipelines read, before anything else does."""
        check_parameters(context.config_loader["parameters"])

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Fail before the first node where a world's laws or a family's settings are impossible."""
        del run_params
        check_worlds_and_families(pipeline, catalog)

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Show the table, and where the report lies."""
        made, folder = pipeline.all_outputs(), Path(read_globals()["data_root"], "08_reporting")
        for summary, report, page in REPORTS:
            if summary in made:
                click.echo(f"\n{catalog.load(summary)}")
            if report in made:
                click.echo(f"Report: {(folder / page).resolve()}")


def check_parameters(parameters: dict[str, Any]) -> None:
    """Validate the shape of all parameters.

    Raises:
        UserError: the first fault, on one line.
    """
    from wm_pipelines.errors import UserError, validate
    from wm_pipelines.learning.config import LearningConfig
    from wm_pipelines.pipelines.configuration import (
        EvaluationConfig,
        FamilyParameters,
        ImageEvaluationConfig,
        VideoEvaluationConfig,
        check_seeds,
    )
    from wm_pipelines.worlds.episodes import WorldConfig
    from wm_pipelines.worlds.fields.data import FieldConfig

    wanted = combinations()
    families = wanted.worlds_of_families()
    seen = (*wanted.image_worlds, *wanted.video_worlds)
    for name in (*wanted.worlds, *wanted.field_worlds, *seen, *families):
        if not isinstance(parameters.get(name), dict):
            raise UserError(
                f"no parameters for '{name}': add conf/base/parameters_{name}.yml with the top-level key '{name}'"
            )
    check_seeds(parameters.get("seeds"))
    validate(LearningConfig, parameters.get("learning", {}), "learning")
    validate(EvaluationConfig, parameters.get("evaluation", {}), "evaluation")
    if seen:
        check_seeds(parameters.get("pixel_seeds"), "pixel_seeds")
        validate(LearningConfig, parameters.get("pixel_learning", {}), "pixel_learning")
        validate(ImageEvaluationConfig, parameters.get("image_evaluation", {}), "image_evaluation")
        videos = validate(VideoEvaluationConfig, parameters.get("video_evaluation", {}), "video_evaluation")
        for name in wanted.video_worlds:
            videos.on(name)
    for name in (*wanted.worlds, *seen):
        validate(WorldConfig, parameters[name], name)
    for name in wanted.field_worlds:
        validate(FieldConfig, parameters[name], name)
    for name in families:
        validate(FamilyParameters, parameters[name], name)


def check_worlds_and_families(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Build every world, and every family's configuration, that this run will need.

    Raises:
        UserError: unknown world or family, or an impossible parameter.
    """
    from wm_pipelines.errors import validate
    from wm_pipelines.worlds.episodes import build_world

    wanted, inputs = combinations(), pipeline.inputs()
    for name in (*wanted.worlds, *wanted.image_worlds, *wanted.video_worlds):
        if f"params:{name}" in inputs:
            build_world(catalog.load(f"params:{name}"), where=name)
    for name in wanted.field_worlds:
        if f"params:{name}" in inputs:
            check_field(catalog.load(f"params:{name}"), name)
    families = {n: worlds for n, worlds in wanted.worlds_of_families().items() if f"params:{n}" in inputs}
    if not families:
        return
    from wm_pipelines.families import get_family

    for name, worlds in families.items():
        parameters = catalog.load(f"params:{name}")
        for variant in parameters.variants:
            for world in worlds:
                validate(get_family(name).Config, parameters.resolve(variant, world), f"{name} ({variant} on {world})")


def check_field(config: Any, name: str) -> None:
    """Build a field world; compare its conditions, read its measurements.

    Raises:
        UserError: unknown world, an impossible parameter, conditions that contradict each other, a faulty table.
    """
    from wm_pipelines.worlds.fields.data import build_field_system, check_conditions, ingest_field

    check_conditions(build_field_system(config, name), name)
    if config.measurements.table is not None:
        ingest_field(config, name)
