"""Judge every trained variant of a family on one world; the same for every task."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from time import process_time
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family, FamilyConfig, Prediction, Views
from wm_pipelines.laws import laws_of
from wm_pipelines.learning.artifacts import Models, TrainedModel
from wm_pipelines.registry import tasks
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.base import Task
from wm_pipelines.tasks.judgement import Judgement, cost_rows, table
from wm_pipelines.threads import threads

logger = logging.getLogger(__name__)


def judge_models(
    task_name: str,
    family: str,
    world: str,
    models: Models,
    episodes: Mapping[str, Episodes],
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    manifest: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores, arrays and facts of all variants, and scores of their untrained controls where the task wants them.

    Args:
        task_name, family, world: who is judged. models: its variants. episodes: all splits.
        training: what was written with the models: ``cost`` by variant, ``fingerprints`` of the trainings.
        evaluation: the task's parameters. manifest: what is judged on, of tasks that have one.

    Raises:
        UserError: a model was trained on other episodes than those given, or the costs are those of other trainings.
    """
    began, task = process_time(), tasks.get(task_name)()
    config = task.config(evaluation, world)
    drawn = {"manifest": manifest} if task.has_manifest else {}
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    not_applicable = dict(models.not_applicable)
    for variant, model in models.variants.items():
        called, cost = f"{family}/{variant} on {world}", training["cost"].get(variant, {})
        check_data(model, episodes["train"], called)
        if training["fingerprints"].get(variant) != model.card["fingerprint"]:
            raise UserError(f"{called}: its costs and learning curves are those of another training; train it again")
        told = {"variant": variant, "view": model.card["view"], "knows": ",".join(model.card["knows"])}
        paid = {name: value for name, value in cost.items() if name not in task.costs_left_out}
        rows += [{**told, **row} for row in cost_rows(paid, model.card["seeds"])]
        refused: list[str] = []
        flagged: dict[str, dict[str, list[int]]] = {}
        for split in task.splits(episodes):
            laws = laws_of(episodes[split].spec)
            restored = model.restore(laws)
            if (reason := task.refuses(restored, episodes[split])) is not None:
                logger.info("%s is not judged on '%s': it %s.", called, split, reason)
                refused.append(reason)
                continue
            judged = judge_on_one_thread(task, restored, episodes, split, laws, config, **drawn)
            for metric, seeds in _flagged(judged).items():
                flagged.setdefault(metric, {})[split] = seeds
            rows += [{**told, **row} for row in judged.rows]
            arrays |= {f"{variant}/{split}/{name}": array for name, array in judged.arrays.items()}
            if config.untrained and cost["parameters"]:
                control = judge_on_one_thread(task, model.untrained(), episodes, split, laws, config, trained=False)
                rows += [{**told, "variant": f"{variant}_untrained", **row} for row in control.rows]
        _call_flagged(flagged, called)
        if refused and len(refused) == len(task.splits(episodes)):
            not_applicable[variant] = refused[0]
    facts = facts_of(task, family, world, episodes, config) | {
        "not_applicable": not_applicable,
        "seconds": process_time() - began,
    }
    if manifest is not None:
        facts["manifest"] = {split: own["hash"] for split, own in sorted(manifest.items())}
    return {"scores": table(rows, task=task_name, world=world, family=family), "arrays": arrays, "facts": facts}


def facts_of(task: Task, family: str, world: str, episodes: Mapping[str, Episodes], config: Any) -> dict[str, Any]:
    """Who was judged on what, and how: what stands beside the scores."""
    return {
        "family": family,
        "world": world,
        "task": task.name,
        "not_applicable": {},
        "about": about(episodes),
        "data": {split: part.content_hash for split, part in sorted(episodes.items())},
        "specs": {split: episodes[split].spec.to_json() for split in task.splits(episodes)},
        "evaluation": config.model_dump(mode="json", exclude={"worlds"}),
    }


def about(episodes: Mapping[str, Episodes]) -> dict[str, Any]:
    """What a reader must know of the episodes: how many in every split, how they were split, what ingestion found."""
    train = episodes["train"]
    return {
        "counts": {split: len(part) for split, part in episodes.items()},
        "in_time": train.spec.rows > 1,
        "split_by": train.metadata.get("split_by"),
        "found": list(train.metadata.get("found", [])),
    }


class Outside(Family):
    """A model that is none of the project's, in the place of a family: what it predicts is all that it can be asked.

    Args:
        roll: ``(starts [E, 2d], steps) -> states [S, E, steps + 1, 2d]``. spec: of the world. models: S.
    """

    name: ClassVar[str] = "outside"
    any_step: ClassVar[bool] = False

    def __init__(self, roll: Callable[[NDArray[Any], int], NDArray[Any]], spec: Spec, models: int = 1) -> None:
        super().__init__(FamilyConfig(), spec, range(models))
        self.roll = roll

    def predict(self, past: Views, steps: int, actions: Tensor | None = None, step: float | None = None) -> Prediction:
        """Ask it.

        Raises:
            UserError: for another step than the world's.
        """
        del actions
        if step is not None and not math.isclose(step, self.spec.step):
            raise UserError("a model from outside is judged at the world's own step")
        found = np.asarray(self.roll(past["states"][:, -1].numpy(), steps), np.float64)
        return Prediction(states=torch.from_numpy(found))


def judge_on_one_thread(task: Task, *arguments: Any, **options: Any) -> Judgement:
    """`Task.judge`, with sums that do not depend on the number of cores, and no more threads than there is work."""
    with threads(1):
        return task.judge(*arguments, **options)


def check_data(model: TrainedModel, train: Episodes, called: str) -> None:
    """Refuse a model that was trained on other episodes than those it stands beside.

    Raises:
        UserError: names both hashes and where they come from.
    """
    if model.card["data_hash"] != train.content_hash:
        raise UserError(
            f"{called}: the model was trained on episodes {model.card['data_hash'][:12]}, those of "
            f"'{train.spec.name}' are {train.content_hash[:12]} now (made with seed {train.metadata.get('seed')}); "
            "train it again, or make the old episodes again"
        )


def _flagged(judged: Judgement) -> dict[str, list[int]]:
    """Metric -> seeds that it says cannot be right."""
    found = {
        metric: [row["seed"] for row in judged.rows if row["metric"] == metric and row["value"]] for metric in _FLAGGED
    }
    return {metric: seeds for metric, seeds in found.items() if seeds}


def _call_flagged(flagged: Mapping[str, Mapping[str, list[int]]], called: str) -> None:
    """One line per model and flag, however many splits.

    Args:
        flagged: metric -> split -> seeds. called: the model, and where it was judged.
    """
    for metric, by_split in flagged.items():
        same: dict[str, list[str]] = {}
        for split, seeds in by_split.items():
            same.setdefault(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}", []).append(split)
        where = "; ".join(f"{', '.join(splits)}: {seeds}" for seeds, splits in same.items())
        logger.warning(_FLAGGED[metric], called, where)


_FLAGGED = {
    "collapsed": "%s COLLAPSED (%s): its features hardly tell one input from another.",
    "ignores_actions": "%s IGNORES ACTIONS (%s): it predicts hardly worse under those of other episodes.",
}
