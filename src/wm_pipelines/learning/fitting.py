"""Fit every variant of a family on one world's episodes; shared by training and tuning, the same for every task."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from wm_pipelines.episodes import Episodes, codec_of
from wm_pipelines.errors import UserError, validate
from wm_pipelines.families.base import Family
from wm_pipelines.learning.artifacts import Models, TrainedModel, versions
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import FamilyParameters, LearningConfig
from wm_pipelines.learning.group import is_first_worker, together, worker_count
from wm_pipelines.learning.loop import TrainingRun, train, training_fingerprint
from wm_pipelines.registry import families
from wm_pipelines.spec import Spec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained model with its learning curve (``variant, seed, step, loss …``) and its cost."""

    model: TrainedModel
    curve: pd.DataFrame
    cost: dict[str, Any]


@dataclass(frozen=True)
class Assignment:
    """Who is to be trained on what, for which task.

    Attributes:
        task, family, world: names. shows: views that the task shows to families.
        train: the training episodes. learning, seeds: how.
    """

    task: str
    family: str
    world: str
    shows: tuple[str, ...]
    train: Episodes
    learning: LearningConfig
    seeds: Sequence[int]

    @property
    def spec(self) -> Spec:
        """Of the world, with the views that are shown."""
        return self.train.spec.showing(self.shows)

    def config(self, settings: Mapping[str, Any], variant: str) -> Any:
        """The family's configuration.

        Raises:
            UserError: a setting is unknown or cannot be.
        """
        return validate(families.get(self.family).Config, settings, f"{self.family} ({variant} on {self.world})")

    def unsuitable(self, settings: Mapping[str, Any], variant: str) -> str | None:
        """Why the family cannot model the world with these settings; None if it can."""
        kind, config = families.get(self.family), self.config(settings, variant)
        return kind.unsuitable(self.spec.told(kind.knows(config), self.family), config)


def fit_family(
    assignment: Assignment, parameters: FamilyParameters, checkpoints: Path
) -> tuple[Models, pd.DataFrame, dict[str, Any]]:
    """Fit every variant: models, learning curves, and what they cost.

    Variants that cannot model the world, or whose equations have no solution there, have no model but a reason.

    Raises:
        UserError: the world has nothing that the task shows.
    """
    a = assignment
    if not a.spec.views:
        shown = " or ".join(a.shows).replace("|", " or ")
        raise UserError(
            f"task '{a.task}' shows {shown}, world '{a.world}' has {', '.join(sorted(a.train.views))}: "
            "list it in globals.yml under a task for what it has"
        )
    store = CheckpointStore(checkpoints / a.task / a.family / a.world)
    fitted, reasons = {}, {}
    for variant in parameters.variants_for(a.task, a.world):
        settings = parameters.resolve(a.task, variant, a.world)
        if (reason := a.unsuitable(settings, variant)) is not None:
            reasons[variant] = reason
            continue
        try:
            fitted[variant] = fit_variant(a, variant, settings, store)
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:  # must not take the other worlds with it
            reasons[variant] = f"these episodes do not determine it ({str(error).splitlines()[0]})"
            logger.warning("%s/%s on %s was not fitted: %s.", a.family, variant, a.world, reasons[variant])
    curves = [one.curve for one in fitted.values()] or [pd.DataFrame({"variant": [], "seed": [], "step": []})]
    return (
        Models({variant: one.model for variant, one in fitted.items()}, reasons),
        pd.concat(curves, ignore_index=True),
        {variant: one.cost for variant, one in fitted.items()},
    )


def fit_variant(
    assignment: Assignment, variant: str, settings: Mapping[str, Any], store: CheckpointStore | None
) -> Fitted:
    """Train with these settings of the family's `Config`, and pack what came of it.

    Args:
        assignment: who, on what. variant: its name. settings: of its `Config`.
        store: where checkpoints go; None keeps none.
    """
    a, kind, config = assignment, families.get(assignment.family), assignment.config(settings, variant)
    model = kind(config, a.spec, a.seeds)
    called = f"{a.family}/{variant} on {a.world}"
    if a.learning.workers == 1 or worker_count() > 1:
        run = _trained(model, a, variant, store)
    else:
        with nullcontext(store) if store is not None else _short_lived() as store:
            others = partial(together, a.learning.workers, _train_along, a, variant, settings, store.folder)
            run = _trained(model, a, variant, store, others)
    count = sum(p.numel() for p in model.parameters()) // len(a.seeds)
    if is_first_worker():
        logger.info("%s: %d parameters, %.1f s for %d seeds.", called, count, run.seconds, len(a.seeds))
    card = {
        "task": a.task,
        "family": a.family,
        "world": a.world,
        "variant": variant,
        "view": "+".join(kind.observed(a.spec, config)),
        "knows": known(kind, config, a.spec),
        "spec": a.spec.to_json(),
        "config": config.model_dump(mode="json"),
        "seeds": list(a.seeds),
        "data_hash": a.train.content_hash,
        "fingerprint": training_fingerprint(model, a.learning, a.train.content_hash),
        "versions": versions(),
        "summary": model.extra_summary(),
    }
    cost = {
        "train_seconds": run.seconds / len(a.seeds),
        "parameters": count,
        "peak_memory_mb": run.memory_mb,
        "train_flops": None if math.isnan(run.flops) else run.flops / len(a.seeds),
    }
    return Fitted(TrainedModel(model.state_dict(), card), curve_table(variant, run.curve), cost)


def _trained(
    model: Family,
    a: Assignment,
    variant: str,
    store: CheckpointStore | None,
    elsewhere: Callable[[], None] | None = None,
) -> TrainingRun:
    """Train in place; see `train`."""
    called = f"{a.family}/{variant} on {a.world}"
    views = as_tensors(a.train, a.shows)
    return train(model, views, a.learning, store, variant, a.train.content_hash, called, elsewhere)


def _train_along(assignment: Assignment, variant: str, settings: Mapping[str, Any], folder: Path) -> None:
    """What each of several workers does; what comes of it is the finished checkpoint in the folder."""
    a = assignment
    model = families.get(a.family)(a.config(settings, variant), a.spec, a.seeds)
    _trained(model, a, variant, CheckpointStore(folder))


@contextmanager
def _short_lived() -> Iterator[CheckpointStore]:
    with TemporaryDirectory() as folder:
        yield CheckpointStore(folder)


def known(kind: Any, config: Any, spec: Spec) -> list[str]:
    """What a configuration was told of this world or contains in its form: the leaderboard's ``knows``, sorted.

    A fact that this world does not have tells nothing.
    """
    return sorted({word for word in kind.knows(config) if word in spec.facts} | kind.contains(config, spec))


def curve_table(variant: str, rows: list[dict[str, float]]) -> pd.DataFrame:
    """Learning curve with columns in one order, however the rows came about: ``variant, step, seed, loss``, terms."""
    first = ["step", "seed", "loss"]
    terms = sorted({name for row in rows for name in row} - set(first))
    table = pd.DataFrame(rows, columns=[*first, *terms])
    table.insert(0, "variant", variant)
    return table


def as_tensors(episodes: Episodes, views: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Views as torch tensors (copied: stored episodes are read-only); those named, default all."""
    names = episodes.views if views is None else episodes.spec.shown(views)
    return {name: torch.tensor(codec_of(episodes.spec.views[name]).to_numbers(episodes[name])) for name in names}
