"""Search for good parameters of any family on any world of any task, judged on the validation split."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.pipeline import Node, Pipeline

from wm_pipelines.mappings import deep_merge
from wm_pipelines.pipelines.combinations import combinations
from wm_pipelines.pipelines.nodes import figure_library

if TYPE_CHECKING:  # torch and optuna are imported by the node
    from wm_pipelines.episodes import Episodes
    from wm_pipelines.learning.fitting import Assignment

logger = logging.getLogger(__name__)


def create_pipeline() -> Pipeline:
    """``params:tuning`` and stored episodes → best parameters, written where the next run finds them; a report."""
    found, tags = ["tuned_parameters", "tuning_trials", "tuning_summary"], ["tuning"]
    inputs = ["parameters", "episodes_by_world", "study_storage"]
    made = [
        Node(search, inputs=inputs, outputs=found, name="search", tags=tags),
        Node(report, inputs=found[1:], outputs="tuning_page", name="report", tags=tags),
        Node(figure_library, inputs=None, outputs="figure_library", name="figure_library", tags=tags),
    ]
    outputs = {*found, "tuning_page", "figure_library"}
    return Pipeline(made, namespace="tuning", inputs=set(inputs[1:]), outputs=outputs, parameters={"parameters"})


def report(trials: pd.DataFrame, summary: dict[str, Any]) -> str:
    """The studies as a page: what was found and gained; of a single one its history, and which parameters mattered."""
    from wm_pipelines.reporting.study import page

    return page(trials, summary)


def search(
    parameters: dict[str, Any], episodes_by_world: Mapping[str, Callable[[], dict[str, Any]]], storage: Path
) -> tuple[dict[str, Any], pd.DataFrame, dict[str, Any]]:
    """Search as `params:tuning` says; judged on the validation split, never on held-out episodes.

    Args:
        parameters: all of them. episodes_by_world: world -> loader of its episodes. storage: folder of the studies.

    Returns:
        The best parameters as a tree of the parameter files, all trials, and a summary by study: what the settings that
        stood in the parameter files reach (trial 0), what the best reach.
    """
    from wm_pipelines.learning.search_space import check_space, starting_point, tuning_configs
    from wm_pipelines.learning.tuning import run_study
    from wm_pipelines.registry import families

    configs = tuning_configs(parameters.get("tuning", {}))
    studies = []
    for config in configs:  # all are checked before the first begins
        kind, objective = families.get(config.family).Config, Objective.create(config, parameters, episodes_by_world)
        check_space(config, kind, objective.base)
        studies.append((config, objective, starting_point(config, kind, objective.base)))
    tuned: dict[str, Any] = {}
    tables, summary = [], {}
    for config, objective, start in studies:
        name = config.study_name
        logger.info("Study %s: up to %d trials; it can be stopped and started again.", name, config.trials)
        result = run_study(config, objective, config.place(storage), objective.context, start)
        of_world = {"variants": {config.variant: result.best_parameters}}
        tuned = deep_merge(tuned, {config.family: {"worlds": {config.world: of_world}}})
        tables.append(result.trials.assign(study=name, metric=config.metric))
        summary[name] = {
            "metric": config.metric,
            "minimise": config.direction == "minimize",
            "start_value": result.start_value,
            "best_value": result.best_value,
            "best_trial": result.best_trial,
            "best_parameters": result.best_parameters,
            "importances": result.importances,
        }
    return tuned, pd.concat(tables, ignore_index=True).set_index(["study", "metric"]).reset_index(), summary


@dataclass(frozen=True)
class Objective:
    """What one trial does: train with the proposed parameters, judge on the validation split.

    Holds plain data alone, so that it travels to other processes.
    """

    variant: str
    metric: str
    base: Mapping[str, Any]
    assignment: Assignment
    episodes: Mapping[str, Episodes]
    evaluation: Mapping[str, Any]

    @classmethod
    def create(
        cls, config: Any, parameters: Mapping[str, Any], episodes_by_world: Mapping[str, Callable[[], dict[str, Any]]]
    ) -> Objective:
        """Pick from all parameters what the study needs.

        Raises:
            UserError: no such task, world, family or variant, no validation split, or parameters that are wrong.
        """
        from wm_pipelines.errors import UserError, did_you_mean, validate
        from wm_pipelines.learning.config import FamilyParameters, LearningConfig, check_seeds
        from wm_pipelines.learning.fitting import Assignment
        from wm_pipelines.registry import tasks

        for name in (config.world, config.family):
            if name not in parameters:
                raise UserError(
                    f"parameter 'tuning': '{name}' has no parameter file{did_you_mean(name, list(parameters))}"
                )
        family = validate(FamilyParameters, parameters[config.family], config.family)
        if config.variant not in family.variants:
            known = did_you_mean(config.variant, list(family.variants))
            raise UserError(f"parameter 'tuning.variant': {config.family} has no variant '{config.variant}'{known}")
        if config.world not in episodes_by_world:
            raise UserError(f"no episodes of '{config.world}'; run: kedro run --pipeline=data_ingestion")
        task, episodes = _task_of(config), episodes_by_world[config.world]()
        if "validation" not in episodes:
            raise UserError(f"world '{config.world}' has no split 'validation' to tune on; add one to its splits")
        own = parameters["tasks"][task]
        learning = validate(LearningConfig, own.get("learning", {}), f"tasks.{task}.learning")
        assignment = Assignment(
            task,
            config.family,
            config.world,
            tasks.get(task).shows,
            episodes["train"],
            learning.model_copy(update={"progress": False}),
            tuple(check_seeds(own.get("seeds"), f"tasks.{task}.seeds")),
        )
        base = family.resolve(task, config.variant, config.world)
        if (reason := assignment.unsuitable(base, config.variant)) is not None:
            raise UserError(f"parameter 'tuning.family': {config.family} does not fit {config.world}: {reason}")
        kept = {split: episodes[split] for split in ("train", "validation")}
        return cls(config.variant, config.metric, base, assignment, kept, parameters.get(task) or {})

    @property
    def context(self) -> str:
        """What a value depends on beside the searched parameters; a study is resumed in the same context only."""
        hashes = [part.content_hash for part in self.episodes.values()]
        what = [dict(self.base), list(self.assignment.seeds), hashes, dict(self.evaluation)]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def __call__(self, proposal: Mapping[str, Any]) -> float:
        """Train and judge: the metric's mean over seeds."""
        from wm_pipelines.errors import UserError
        from wm_pipelines.laws import laws_of
        from wm_pipelines.learning.fitting import fit_variant
        from wm_pipelines.mappings import nested
        from wm_pipelines.pipelines.judging import judge_on_one_thread
        from wm_pipelines.registry import tasks

        fitted = fit_variant(self.assignment, self.variant, deep_merge(self.base, nested(proposal)), None)
        task, laws = tasks.get(self.assignment.task)(), laws_of(self.episodes["validation"].spec)
        config = task.config(self.evaluation, self.assignment.world)
        judged = judge_on_one_thread(task, fitted.model.restore(laws), self.episodes, "validation", laws, config)
        value = judged.value(self.metric)
        if value is None:
            known = ", ".join(sorted({row["metric"] for row in judged.rows if row["step"] < 0}))
            raise UserError(
                f"parameter 'tuning.metric': no '{self.metric}' on {self.assignment.world}; there is {known}"
            )
        return value


def _task_of(config: Any) -> str:
    """The first task in which family and world meet."""
    from wm_pipelines.errors import UserError

    for name, c in combinations().items():
        if config.world in c.worlds and config.family in c.families:
            return name
    raise UserError(
        f"parameter 'tuning': no task lists both the family '{config.family}' and the world '{config.world}'; "
        "add them in globals.yml"
    )
