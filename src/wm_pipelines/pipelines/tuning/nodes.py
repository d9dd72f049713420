"""Nodes of the tuning pipeline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

logger = logging.getLogger(__name__)


def search(
    parameters: dict[str, Any], episodes_by_world: Mapping[str, Callable[[], dict[str, Any]]], journals: Path
) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
    """Search as `params:tuning` says; judged on the validation split, never on held-out episodes.

    Args:
        parameters: all of them. episodes_by_world: world -> loader of episodes, or of a field's arrays.
        journals: folder of the resumable studies.

    Returns:
        The best parameters as a tree of the parameter files, all trials, and a summary.
    """
    from wm_pipelines.errors import UserError
    from wm_pipelines.families import get_family
    from wm_pipelines.learning.search_space import check_space, tuning_config
    from wm_pipelines.learning.tuning import run_study
    from wm_pipelines.pipelines.combinations import combinations
    from wm_pipelines.pipelines.tuning.field_objective import FieldObjective
    from wm_pipelines.pipelines.tuning.objective import TuningObjective
    from wm_pipelines.pipelines.tuning.pixel_objective import PixelObjective

    config = tuning_config(parameters.get("tuning", {}))
    for name in (config.world, config.family):
        if name not in parameters:
            raise UserError(f"parameter 'tuning': '{name}' has no parameter file; add conf/base/parameters_{name}.yml")
    lists = combinations()
    kinds: dict[str, type[FieldObjective | PixelObjective]] = {
        **dict.fromkeys(lists.field_worlds, FieldObjective),
        **dict.fromkeys((*lists.image_worlds, *lists.video_worlds), PixelObjective),
    }
    kind = kinds.get(config.world, TuningObjective)
    if config.world not in episodes_by_world:
        maker = "field_eval --tags=ingest" if kind is FieldObjective else "data_ingestion"
        raise UserError(f"no data of '{config.world}'; run: kedro run --pipeline={maker}")
    data = episodes_by_world[config.world]()
    objective = kind.create(config, parameters, data)
    check_space(config, get_family(config.family).Config, objective.base)
    journal = journals / f"{config.study_name.replace('/', '.')}.journal"
    logger.info("Study %s: up to %d trials; it can be stopped and started again.", config.study_name, config.trials)
    result = run_study(config, objective, journal, context=objective.context)
    of_world = {"variants": {config.variant: result.best_parameters}}
    summary = {
        "study": config.study_name,
        "best_value": result.best_value,
        "best_trial": result.best_trial,
        "best_parameters": result.best_parameters,
        "importances": result.importances,
    }
    return {config.family: {"worlds": {config.world: of_world}}}, result.trials, summary
