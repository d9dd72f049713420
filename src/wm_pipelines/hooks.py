"""Kedro hooks: early checks, one run at a time on a data folder, and the closing lines of a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline

from wm_pipelines.files import hold
from wm_pipelines.pipelines.combinations import combinations, data_root
from wm_pipelines.registry import tasks

_FIRST = os.environ.get("RANK", "0") == "0"  # of the workers that torchrun starts, each of which runs the pipeline


class ProjectHooks:
    """What happens around every run."""

    def __init__(self) -> None:
        self._parameters: dict[str, Any] = {}
        self._given: dict[str, Any] = {}
        self._data = Path()
        self._held: Any = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check every parameter that pipelines read, before anything else does."""
        from wm_pipelines.pipelines.checks import check_parameters

        self._parameters = context.config_loader["parameters"]
        self._given = context.config_loader.runtime_params or {}
        self._data = context.project_path / data_root()  # as Kedro resolves the catalog's paths
        check_parameters(self._parameters, self._given)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Fail before the first node where a world or a family's settings are impossible; hold the data folder."""
        from wm_pipelines.pipelines.checks import check_settings

        del run_params
        check_settings(self._parameters, pipeline.inputs() | {f"params:{name}" for name in self._given})
        if _FIRST:
            self._held = hold(self._data, "kedro " + " ".join(sys.argv[1:]))
            return
        for name in pipeline.all_outputs():  # the first worker writes files, others keep what they make
            catalog[name] = MemoryDataset()

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Show the tables, and where the reports lie."""
        made, folder = pipeline.all_outputs() if _FIRST else set(), self._data / "08_reporting"
        for name in combinations():
            if f"{name}_summary" in made:
                click.echo(f"\n{catalog.load(f'{name}_summary')}")
                click.echo(f"Report: {(folder / tasks.get(name).file).resolve()}")
        if "replications_summary" in made:
            click.echo(f"\n{catalog.load('replications_summary')}")
            click.echo(f"Table: {(folder / 'replications.csv').resolve()}")
        if "tuning_page" in made:
            click.echo(f"Search for parameters: {(folder / 'tuning.html').resolve()}")
        if "play_page" in made:
            click.echo(f"To be steered: {(folder / 'play.html').resolve()}")
        if "first_page" in made:
            click.echo(f"All results: {(folder / 'index.html').resolve()}")
        self._release()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Another run may have the folder."""
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
