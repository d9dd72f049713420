"""For notebooks and scripts: load a trained model, make episodes of a world, judge a model as the leaderboard does.

    import wm_pipelines as wm

    test = wm.world("pendulum").episodes(20, seed=1)
    model = wm.load("physics/hnn/pendulum/gradient")
    future = model.predict(test, steps=100)["states"]  # [S, E, 101, 2d]
    wm.judge(model, test)

Arrays are numpy; the leading axis ``S`` of what a model says holds its seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from wm_pipelines.datasets.local import EpisodesDataset, ModelsDataset
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError, unknown
from wm_pipelines.families.base import Acts, Encodes, Family, Views
from wm_pipelines.laws import laws_of
from wm_pipelines.learning.artifacts import TrainedModel
from wm_pipelines.pipelines.judging import Outside, judge_on_one_thread
from wm_pipelines.registry import tasks
from wm_pipelines.tasks.judgement import table
from wm_pipelines.worlds.making import WorldConfig, ingest

Arrays = Mapping[str, NDArray[Any]]
Roll = Callable[[NDArray[Any], int], NDArray[Any]]


# ---------------------------------------------------------------- models


@dataclass(frozen=True)
class Model:
    """A trained variant of a family, with all its seeds.

    Attributes:
        stored: weights and card. root: the data folder that it was read from.
    """

    stored: TrainedModel
    root: Path = Path("data")

    @property
    def name(self) -> str:
        """``task/family/world/variant``."""
        return "/".join(str(self.stored.card[key]) for key in ("task", "family", "world", "variant"))

    @property
    def card(self) -> Mapping[str, Any]:
        """What it is: seeds, settings, what it was told, which data it has seen."""
        return self.stored.card

    @cached_property
    def family(self) -> Family:
        """The PyTorch module, for all that this class has no method for."""
        return self.stored.restore()

    def __repr__(self) -> str:
        told = ", ".join(self.card["knows"]) or "nothing"
        return f"<model {self.name}, {len(self.card['seeds'])} seeds, told {told}>"

    def predict(
        self, past: Episodes | Arrays, steps: int, actions: NDArray[Any] | None = None, step: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """What follows: the views that the family predicts, ``[S, E, …]``; states begin with the start.

        Args:
            past: episodes, of which the first rows are taken (as many as the family needs), or views ``[E, C, …]``,
                of which the last row is where the prediction starts. steps: how many.
            actions: ``[E, steps, A]``, where the world takes any; of episodes, those that were taken there.
            step: seconds between steps (default: the world's).

        Raises:
            UserError: actions are missing, too few, or of another shape.
        """
        if steps != int(steps) or steps < 1:
            raise UserError(f"steps: a whole number from 1 on, got {steps!r}")
        if step is not None and not 0 < step < float("inf"):
            raise UserError(f"step: seconds above 0, got {step!r}")
        views = self._first_rows(past) if isinstance(past, Episodes) else _tensors(past)
        self._check_shapes(views)
        given = self._actions(past, steps) if actions is None else torch.as_tensor(np.array(actions))
        if self.family.takes_actions:
            wanted = [len(next(iter(views.values()))), steps, *self.family.spec.views["actions"].shape]
            if (got := None if given is None else list(given.shape)) != wanted:
                raise UserError(f"{self.name} takes actions {wanted} for {steps} steps, got {got}")
        with torch.no_grad():
            found = self.family.predict(views, steps, actions=given, step=step)
        return {str(name): value.numpy() for name, value in found.items() if isinstance(value, Tensor)}

    def _check_shapes(self, views: Views) -> None:
        """What a model is shown has to look like its world."""
        for name, space in self.family.spec.views.items():
            if name in views and space.per == "row" and tuple(views[name].shape[2:]) != tuple(space.shape):
                wanted = ", ".join(map(str, ("E", "C", *space.shape)))
                raise UserError(f"{self.name} is shown {name} [{wanted}], got {list(views[name].shape)}")
        missing = [name for name in self.family.shown(self.family.spec)[:1] if name not in views]
        if missing:
            raise UserError(f"{self.name} predicts from {missing[0]}; given are {', '.join(views) or 'no views'}")

    def _actions(self, past: Episodes | Arrays, steps: int) -> Tensor | None:
        """Those that were taken after the first rows of episodes."""
        if not isinstance(past, Episodes) or "actions" not in past:
            return None
        first = self._context - 1
        return torch.as_tensor(np.array(past["actions"][:, first : first + steps]))

    @property
    def _context(self) -> int:
        """Rows that a prediction starts from."""
        return max(1, int(getattr(self.family, "context", 1)))

    def encode(self, views: Episodes | Arrays) -> NDArray[Any]:
        """Frozen features, one vector per latent step: ``[S, E, T', D]``.

        Raises:
            UserError: the family has no features.
        """
        if not isinstance(self.family, Encodes):
            raise UserError(f"{self.name} does not encode; families of images and videos do")
        with torch.no_grad():
            return self.family.encode(_tensors(views)).pooled.numpy()

    def act(self, seen: Arrays, actions: NDArray[Any] | None = None, seed: int = 0) -> NDArray[Any]:
        """What the family's own policy does after a history: actions ``[E, A]`` in [-1, 1].

        Args:
            seen: views ``[E, C, …]``, the last row is now. actions: those taken between them, ``[E, C - 1, A]``.
            seed: index of the model among its seeds.

        Raises:
            UserError: it has no policy, or no such seed.
        """
        family = self.family
        if seed not in range(len(family.seeds)):
            raise UserError(f"seed: an index from 0 to {len(family.seeds) - 1}, got {seed!r}")
        if not isinstance(family, Acts) or not family.behaves:
            raise UserError(f"{self.name} has no policy of its own; plan with it (wm_pipelines.control)")
        views = _tensors(seen)
        taken = torch.zeros(0) if actions is None else torch.as_tensor(np.array(actions))
        rows = next(iter(views.values())).shape[1]
        if rows > 1 and taken.shape[1:2] != (rows - 1,):
            raise UserError(f"{rows} rows are seen: actions must be [E, {rows - 1}, A], got {list(taken.shape)}")
        with torch.no_grad():
            belief = family.start({name: view[:, 0] for name, view in views.items()}, seed)
            for t in range(1, rows):
                belief = family.update(belief, taken[:, t - 1], {n: v[:, t] for n, v in views.items()}, seed)
            return family.act(belief, seed).numpy()

    def _first_rows(self, episodes: Episodes) -> Views:
        return {
            name: view if episodes.spec.views[name].per == "episode" else view[:, : self._context]
            for name, view in _tensors(episodes).items()
        }


def load(name: str, root: str | Path = "data") -> Model:
    """A trained model.

    Args:
        name: ``task/family/world/variant``, such as ``physics/hnn/pendulum/gradient``; the variant may be left out
            where there is one alone. root: the data folder, ``data/<environment>`` of an environment other than base.

    Raises:
        UserError: there is none of that name; says which there are.
    """
    parts = name.strip("/").split("/")
    if len(parts) not in (3, 4):
        raise UserError(f"'{name}' is no model; give task/family/world/variant, such as physics/hnn/pendulum/gradient")
    folder = Path(root) / "06_models" / "/".join(parts[:3])
    if not folder.is_dir():
        _no_model(parts, Path(root))
    models = ModelsDataset(filepath=folder.as_posix()).load()
    known = sorted(models.variants)
    if len(parts) == 3 and len(known) == 1:
        parts.append(known[0])
    if len(parts) == 3:
        raise UserError(f"'{name}' has {', '.join(known) or 'no variants'}; add one to the name")
    if parts[3] not in models.variants:
        reason = models.not_applicable.get(parts[3])
        raise UserError(f"'{name}' does not exist: {reason}" if reason else unknown("variant", parts[3], known))
    return Model(models.variants[parts[3]], Path(root))


def _no_model(parts: Sequence[str], root: Path) -> NoReturn:
    """Say which part of a name is not there, and what is."""
    folder = root / "06_models"
    for kind, part in zip(("task", "family", "world"), parts, strict=False):
        there = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
        if not there:
            raise UserError(f"'{folder.as_posix()}' holds no models: run kedro run --pipeline=training")
        if part not in there:
            raise UserError(f"{unknown(kind, part, there)}; more are trained by kedro run --pipeline=training")
        folder /= part
    raise UserError(f"'{folder.as_posix()}' cannot be read")


# ---------------------------------------------------------------- worlds


@dataclass(frozen=True)
class World:
    """A world as the parameter files have it.

    Attributes:
        name: there. config: its parameters. root: the data folder of the environment.
    """

    name: str
    config: WorldConfig
    root: Path = Path("data")

    def episodes(self, count: int | None = None, seed: int | None = None, split: str = "test") -> Episodes:
        """Fresh episodes of a split, simulated (or read, where the world brings its own).

        Args:
            count: how many (default: the split's). seed: of the draw (default: the world's, which gives the stored
                episodes again). split: whose lengths and laws are taken.

        Raises:
            UserError: the world has no such split, or its episodes are files and cannot be drawn.
        """
        config = self.config if seed is None else self.config.model_copy(update={"seed": seed})
        if config.splits:
            if split not in config.splits:
                raise UserError(unknown("split", split, config.splits))
            own = config.splits[split].model_copy(update={} if count is None else {"episodes": count})
            config = config.model_copy(update={"splits": config.splits | {split: own}})
        elif count is not None:
            raise UserError(f"'{self.name}' brings its own episodes: leave out count")
        made = ingest(config, self.name)
        if split not in made:
            raise UserError(unknown("split", split, made))
        return made[split]

    def all_stored(self) -> dict[str, Episodes]:
        """The episodes that a run has stored, by split.

        Raises:
            UserError: there are none, or they are damaged.
        """
        found: dict[str, Episodes] = EpisodesDataset(filepath=(self.root / "03_primary" / self.name).as_posix()).load()
        return found


def world(name: str, env: str = "base", project: str | Path = ".") -> World:
    """A world of the parameter files.

    Args:
        name: such as ``pendulum``. env: the environment. project: folder of the project.

    Raises:
        UserError: there is none.
    """
    parameters = _parameters(Path(project).resolve(), env)
    known = sorted(k for k, v in parameters.items() if isinstance(v, WorldConfig))
    if name not in known:
        raise UserError(unknown("world", name, known))
    root = "data" if env == "base" else f"data/{env}"
    return World(name, parameters[name], Path(project) / root)


# ---------------------------------------------------------------- judging


def judge(
    model: Model | Roll,
    on: str | Episodes | Mapping[str, Episodes],
    split: str = "test",
    env: str = "base",
    project: str | Path = ".",
) -> pd.DataFrame:
    """The leaderboard's metrics of a model: a row per metric, seed and step, with intervals.

    Args:
        model: one that was loaded, or a function of your own, ``roll(start [E, 2d], steps) -> [E, steps + 1, 2d]``,
            which is judged as the task of states judges all others.
        on: a world's name, for the episodes that a run has stored; episodes of your own, held out; or those by split,
            where a task fits probes to ``train``. split: which is judged. env, project: whose parameters of judging
            are used.

    Raises:
        UserError: no such split; the task needs more than episodes; the function returned something else.
    """
    splits = _splits(on, split, env, project)
    episodes, laws = splits[split], laws_of(splits[split].spec)
    if isinstance(model, Model):
        task_name, called, family = str(model.card["task"]), model.name.split("/"), model.stored.restore(laws)
    else:
        task_name, called = "physics", ["physics", "outside", "", getattr(model, "__name__", "model")]
        family = Outside(lambda start, steps: np.asarray(model(start, steps))[None], episodes.spec)
    task = tasks.get(task_name)()
    if task.has_manifest:
        raise UserError(f"task '{task_name}' draws starts before it judges: kedro run --pipeline={task.pipeline}")
    if task_name != "physics" and "train" not in splits:
        raise UserError(f"task '{task_name}' fits probes to training episodes: give the world's name, or all splits")
    config = task.config(_parameters(Path(project).resolve(), env)[task_name], episodes.spec.name)
    judged = judge_on_one_thread(task, family, splits, split, laws, config)
    card: Mapping[str, Any] = model.card if isinstance(model, Model) else {"view": "", "knows": ()}
    told = {"variant": called[3], "view": card["view"], "knows": ",".join(card["knows"])}
    rows = [{**told, **row} for row in judged.rows]
    return table(rows, task=task_name, world=episodes.spec.name, family=called[1])


def _splits(
    on: str | Episodes | Mapping[str, Episodes], split: str, env: str, project: str | Path
) -> Mapping[str, Episodes]:
    if isinstance(on, str):
        on = world(on, env, project).all_stored()
    splits = {split: on} if isinstance(on, Episodes) else on
    if split not in splits:
        raise UserError(unknown("split", split, splits))
    return splits


def _parameters(project: Path, env: str) -> dict[str, Any]:
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(project)
    with KedroSession.create(project, env=env) as session:
        found: dict[str, Any] = session.load_context().params
    return found


def _tensors(views: Episodes | Arrays) -> dict[str, Tensor]:
    given = views.views if isinstance(views, Episodes) else views
    if not isinstance(given, Mapping):
        raise UserError(
            f"expected episodes, or views by name such as {{'states': [E, C, 2d]}}, got {type(given).__name__}"
        )
    return {name: torch.as_tensor(np.array(v)) for name, v in given.items() if np.asarray(v).dtype.kind != "U"}
