"""What every task is: its parameters, a judge, its part of the report.

A task says which views families are shown, and measures what they make of them. Everything between (ingestion,
training, tuning, the leaderboard) is the same for all: `pipelines.bench`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from wm_pipelines.errors import validate
from wm_pipelines.mappings import Settings, deep_merge
from wm_pipelines.spec import Spec

if TYPE_CHECKING:  # torch and pandas are imported by those who judge, not by those who list pipelines
    import pandas as pd
    from numpy.typing import NDArray

    from wm_pipelines.episodes import Episodes
    from wm_pipelines.families.base import Family
    from wm_pipelines.laws import Laws
    from wm_pipelines.reporting.summary import BestSets
    from wm_pipelines.tasks.judgement import Judgement


class TaskConfig(Settings):
    """Base of every task's parameters, ``parameters_<task>.yml``."""

    untrained: bool = Field(False, description="also judge every trained model as it was before training")
    worlds: dict[str, dict[str, Any]] = Field(default_factory=dict, description="what single worlds change")


@dataclass(frozen=True)
class Results:
    """All that a report is made from; what is empty vanishes from it.

    Attributes:
        scores: this task's part of the leaderboard.
        specs: world -> split -> spec of the episodes that were judged.
        arrays: world -> model (``"family/variant"``) -> what its judge kept: ``split/name`` -> array.
        best: world -> split -> metric -> models that cannot be told from the best, of metrics judged by episodes.
        curves: ``"world/family/variant"`` -> learning curve, of what was trained in more than one step.
        not_applicable: (world, family, reason) of combinations that do not exist.
        provenance: where the numbers come from; names to text, numbers, lists or further such mappings.
        doses: world -> what wrong laws do there, of tasks that have doses: `Task.doses`.
        about: world -> what a reader must know of its episodes: `pipelines.judging.about`.
        limits: world -> split -> metric -> the largest value it can have there: `Task.limits`.
    """

    scores: pd.DataFrame
    specs: Mapping[str, Mapping[str, Spec]] = field(default_factory=dict)
    arrays: Mapping[str, Mapping[str, Mapping[str, NDArray[Any]]]] = field(default_factory=dict)
    best: BestSets = field(default_factory=dict)
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    not_applicable: Sequence[tuple[str, str, str]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    doses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @property
    def worlds(self) -> list[str]:
        """All worlds with scores: as they were listed, then any other by name."""
        there = set(self.scores["world"])
        return [*(world for world in self.specs if world in there), *sorted(there - set(self.specs))]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The scores with seeds pooled and the sets of the best marked: `reporting.summary.summary_table`."""
        from wm_pipelines.reporting.summary import summary_table

        task = str(self.scores["task"].iloc[0]) if len(self.scores) else ""
        return summary_table(self.scores, {task: self.best}, {task: self.limits})


class Task(ABC):
    """One yardstick. Subclasses set the class variables and give `judge`, and `page` where tables do not say it all.

    Attributes:
        name: in parameter files and on the leaderboard. pipeline: what users type.
        title: of the report. file: of the report, beside all others.
        shows: views that families are handed, in training and as the past of a prediction; of ``"frames|states"`` the
            first that there is. has_manifest: whether `manifest` says what is judged.
        has_doses: whether `doses` says what laws that are wrong by a known amount do, on the manifest's terms.
        takes_outside: whether roll-outs that were made elsewhere can be judged (the pipeline ``submission``).
        not_judged: splits that are no test.
        jury: a family whose trained encoder `compare` uses; None: nothing is compared.
        costs_left_out: costs that mean nothing here.
        main_metrics: shown in the terminal and on the first page, the decisive one first; ``*`` stands for any text.
    """

    name: ClassVar[str]
    pipeline: ClassVar[str]
    title: ClassVar[str]
    file: ClassVar[str]
    Config: ClassVar[type[TaskConfig]] = TaskConfig
    shows: ClassVar[tuple[str, ...]]
    has_manifest: ClassVar[bool] = False
    has_doses: ClassVar[bool] = False
    takes_outside: ClassVar[bool] = False
    not_judged: ClassVar[frozenset[str]] = frozenset({"train", "validation"})
    jury: ClassVar[str | None] = None
    costs_left_out: ClassVar[frozenset[str]] = frozenset()
    main_metrics: ClassVar[tuple[str, ...]] = ()

    def config(self, evaluation: Mapping[str, Any], world: str | None = None) -> Any:
        """The task's parameters, with what one world changes.

        Raises:
            UserError: a parameter is unknown or cannot be.
        """
        common = validate(self.Config, evaluation, self.name)
        if world is None or world not in common.worlds:
            return common
        changed = deep_merge({k: v for k, v in evaluation.items() if k != "worlds"}, common.worlds[world])
        return validate(self.Config, changed, f"{self.name}.worlds.{world}")

    def thresholds(self, config: Any) -> list[str]:
        """The limits that scores depend on, a sentence each, for the first page; here: none.

        Args:
            config: see `config`.
        """
        del config
        return []

    def limits(self, spec: Spec) -> dict[str, float]:
        """Metric -> the largest value it can have on episodes of a spec, where its name does not say; here: none."""
        del spec
        return {}

    def splits(self, episodes: Mapping[str, Episodes]) -> list[str]:
        """The splits to judge on, in order."""
        return sorted(set(episodes) - self.not_judged)

    def check(self, config: Any) -> None:
        """Settings that `Config` holds as they are written, before anything runs; here there are none.

        Raises:
            UserError: one of them cannot be.
        """
        del config

    def refuses(self, model: Family, episodes: Episodes) -> str | None:
        """Why a model cannot be judged on these episodes, in a few words; None (here) where it can."""
        del model, episodes
        return None

    def manifest(self, episodes: Mapping[str, Episodes], config: Any) -> dict[str, Any]:
        """What every model of a world is judged on, JSON types, drawn once; tasks that have none do not give it."""
        del episodes, config
        raise TypeError(f"task {self.name} has no manifest")

    def doses(self, manifest: Mapping[str, Any], episodes: Mapping[str, Episodes], config: Any) -> dict[str, Any]:
        """What laws that are wrong by a known amount do, JSON types; tasks that have none do not give it.

        Args:
            manifest: see `manifest`. episodes: all splits. config: see `config`.
        """
        del manifest, episodes, config
        raise TypeError(f"task {self.name} has no doses")

    def conclusions(self, results: Results) -> dict[str, Any]:
        """What follows from doses and results together, JSON types, kept with the task's part; here: nothing."""
        del results
        return {}

    @abstractmethod
    def judge(
        self,
        model: Family,
        episodes: Mapping[str, Episodes],
        split: str,
        laws: Laws,
        config: Any,
        trained: bool = True,
        manifest: Mapping[str, Any] | None = None,
    ) -> Judgement:
        """Everything that can be said of one model on one held-out split.

        Args:
            model: restored. episodes: all splits, for probes that are fitted to ``train``.
            split: what it is judged on (``validation`` in a search for parameters). laws: of that split's world.
            config: see `config`. trained: False for the untrained control, of which features alone are judged.
            manifest: see `manifest`; None where there is none (yet): in a search for parameters.

        Raises:
            UserError: the model or the episodes do not fit what is asked.
        """

    def compare(
        self, jury: Family, episodes: Mapping[str, Episodes], arrays: Mapping[str, Mapping[str, NDArray[Any]]]
    ) -> list[dict[str, Any]]:
        """Rows (with ``model``: ``"family/variant"``) that need one encoder for all models of a world.

        Args:
            jury: the encoder. episodes: of the world. arrays: model -> what its judge kept.
        """
        del jury, episodes, arrays
        return []

    def summary(self, summary: pd.DataFrame) -> str:
        """The main metrics, seeds pooled (`reporting.summary.summary_table`), as text for the terminal."""
        from wm_pipelines.reporting.summary import format_terminal

        return format_terminal(summary, self.main_metrics)

    def page(self, results: Results) -> str:
        """The report: one HTML page that needs nothing else; here: tables and learning curves."""
        from wm_pipelines.reporting.tables import page

        r = results
        shown = (r.scores, r.summary, r.curves, r.not_applicable, r.provenance)
        return page(self.name, self.title, *shown, listed=r.worlds, about=r.about)

    def figures(self, results: Results) -> dict[str, Any]:
        """Plotly figures for kedro viz, ``"world_name"`` -> figure; here: none."""
        del results
        return {}
