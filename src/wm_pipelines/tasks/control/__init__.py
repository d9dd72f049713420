"""Acting: what a planner makes of what a model imagines, from starts that nobody was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, model_validator

from wm_pipelines.errors import UserError
from wm_pipelines.tasks import register
from wm_pipelines.tasks.base import Results, Task, TaskConfig

if TYPE_CHECKING:
    from wm_pipelines.episodes import Episodes
    from wm_pipelines.families.base import Family
    from wm_pipelines.laws import Laws
    from wm_pipelines.tasks.judgement import Judgement


class ControlConfig(TaskConfig):
    """How models are planned with, and from where. `planner` and `objective`: see `control`."""

    starts: int = Field(200, ge=2, description="held-out starts in the manifest of a split")
    judged: int = Field(100, ge=2, description="of these, the first so many are acted from")
    transfer_judged: int = Field(
        30, ge=0, description="the same for worlds with other parameters; 0: nobody acts there"
    )
    steps: int = Field(200, ge=1, description="budget of an episode")
    true_planner: bool = Field(
        True,
        description="let the planner act on the true world; false where that takes too long: then 1 is success",
    )
    seed: int = Field(1000, ge=0, description="of the starts and goals")
    planner: dict[str, Any] = Field(default_factory=dict, description="see control.planners.PlannerConfig")
    objective: dict[str, Any] = Field(default_factory=dict, description="see control.policies.ObjectiveConfig")
    error_steps: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 5, 20], min_length=1, description="steps at which predictions under actions are judged"
    )
    doses: dict[str, Any] | None = Field(
        None, description="of what wrong laws do, see control.corruptions.DoseConfig; null: not measured"
    )
    kept: int = Field(4, ge=1, description="episodes kept for the report")
    imagined_steps: int = Field(60, ge=1, description="length of the imagined futures that are kept for the report")

    @model_validator(mode="after")
    def _comparable(self) -> ControlConfig:
        if self.doses is not None and not self.true_planner:
            raise ValueError("doses are compared with the planner on the true world: true_planner has to be true")
        if self.transfer_judged == 1:
            raise ValueError("transfer_judged: one start has no interval; 0 for none, else 2 at least")
        return self


def _said(value: Any) -> str:
    return " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


@register
class Control(Task):
    """Returns and successes under one planner, one budget, on the same starts for all."""

    name: ClassVar[str] = "control"
    pipeline: ClassVar[str] = "control_eval"
    title: ClassVar[str] = "Control"
    file: ClassVar[str] = "control.html"
    Config: ClassVar[type[TaskConfig]] = ControlConfig
    shows: ClassVar[tuple[str, ...]] = ("frames|states", "actions", "rewards")
    has_manifest: ClassVar[bool] = True
    has_doses: ClassVar[bool] = True
    main_metrics: ClassVar[tuple[str, ...]] = (
        "normalised_score", "policy_normalised_score", "return", "success_rate", "planning_gap", "ignores_actions",
        "decision_ms", "train_seconds",
    )  # fmt: skip

    def thresholds(self, config: ControlConfig) -> list[str]:
        """What the scale of scores means, and the budget."""
        planner = {"kind": "icem", **config.planner}
        judged = min(config.starts, config.judged)
        told = [
            f"Every policy acts for at most {config.steps} steps from the same {judged} held-out starts; "
            "a score of 0 is random, 1 the same planner on the true world.",
            "Planner: " + ", ".join(f"{k} {v}" for k, v in planner.items() if v is not None) + ".",
        ]
        for world, changed in config.worlds.items():
            if own := {k: v for k, v in changed.items() if k in ("steps", "judged", "planner", "objective")}:
                told.append(f"In {world}: {', '.join(f'{k} {_said(v)}' for k, v in own.items())}.")
        return told

    def check(self, config: ControlConfig) -> None:
        """Planner, objective and doses, which are settings of their own."""
        from wm_pipelines.control.corruptions import DoseConfig
        from wm_pipelines.errors import validate

        self.planner(config), self.objective(config)
        if config.doses is not None:
            validate(DoseConfig, config.doses, "control.doses")

    def manifest(self, episodes: Mapping[str, Episodes], config: ControlConfig) -> dict[str, Any]:
        """Starts and goals by split, with what reference policies make of them; see `control.manifest`.

        Raises:
            UserError: the world takes no actions.
        """
        from wm_pipelines.control import manifest
        from wm_pipelines.laws import laws_of

        found = {}
        for split in self.splits(episodes):
            judged = config.judged if split == "test" else config.transfer_judged
            if not judged:
                continue
            plant = laws_of(episodes[split].spec).plant
            if plant is None:
                raise UserError(f"world '{episodes[split].spec.name}' cannot be acted in; list it under another task")
            found[split] = manifest.draw(
                plant,
                episodes["train"],
                starts=config.starts,
                judged=min(config.starts, judged),
                steps=config.steps,
                seed=config.seed,
                split=split,
                planner=self.planner(config),
                objective=self.objective(config),
                true_planner=config.true_planner,
            )
        return found

    def doses(
        self, manifest: Mapping[str, Any], episodes: Mapping[str, Episodes], config: ControlConfig
    ) -> dict[str, Any]:
        """What planners make of wrong laws from the starts of the test split; see `control.doses`. Empty: not measured.

        Raises:
            UserError: a dose cannot be, or the manifest belongs to other data.
        """
        from wm_pipelines.control.corruptions import DoseConfig
        from wm_pipelines.control.doses import measure
        from wm_pipelines.errors import validate
        from wm_pipelines.laws import laws_of

        if config.doses is None:
            return {}
        doses = validate(DoseConfig, config.doses, "control.doses")
        laws, own = laws_of(episodes["test"].spec), manifest["test"]
        return measure(laws.plant, laws.energy, own, episodes, doses, self.planner(config), self.objective(config))

    def conclusions(self, results: Results) -> dict[str, Any]:
        """Dose and response, and which error foretells success best."""
        from wm_pipelines.tasks.control.dose_report import conclusions

        return conclusions(results)

    @staticmethod
    def planner(config: ControlConfig) -> Any:
        """The planner's settings.

        Raises:
            UserError: one of them cannot be.
        """
        from wm_pipelines.control.planners import PlannerConfig
        from wm_pipelines.errors import validate

        return validate(PlannerConfig, config.planner, "control.planner")

    @staticmethod
    def objective(config: ControlConfig) -> Any:
        """What plans are scored by.

        Raises:
            UserError: a setting cannot be.
        """
        from wm_pipelines.control.policies import ObjectiveConfig
        from wm_pipelines.errors import validate

        return validate(ObjectiveConfig, config.objective, "control.objective")

    def refuses(self, model: Family, episodes: Episodes) -> str | None:
        """Models that say nothing of actions."""
        from wm_pipelines.families.base import Acts, GivenLaws, Imagines

        del episodes
        return None if isinstance(model, Imagines | Acts | GivenLaws) else "predicts nothing under actions"

    def judge(
        self,
        model: Family,
        episodes: Mapping[str, Episodes],
        split: str,
        laws: Laws,
        config: ControlConfig,
        trained: bool = True,  # noqa: ARG002
        manifest: Mapping[str, Any] | None = None,
    ) -> Judgement:
        """Predictions under the actions of held-out episodes; then acting from the manifest's starts, if there is one.

        Raises:
            UserError: the manifest belongs to other data.
        """
        from wm_pipelines.tasks.control.judge import judge

        acts = split == "test" or config.transfer_judged > 0
        own = manifest[split] if manifest is not None and acts else None
        return judge(model, episodes, split, laws, config, self.planner(config), self.objective(config), own)

    def figures(self, results: Results) -> dict[str, Any]:
        """What wrong laws do to planning, world by world."""
        from wm_pipelines.tasks.control.dose_report import dose_figures

        return dose_figures(results)

    def page(self, results: Results) -> str:
        """Scores, tables, courses in motion, learning curves."""
        from wm_pipelines.tasks.control.report import page

        return page(results)
