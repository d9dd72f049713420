"""States of mechanical systems, rolled out: who obeys the laws, for how long, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from wm_pipelines.tasks import register
from wm_pipelines.tasks.base import Results, Task, TaskConfig

if TYPE_CHECKING:
    from wm_pipelines.episodes import Episodes
    from wm_pipelines.families.base import Family
    from wm_pipelines.laws import Laws
    from wm_pipelines.spec import Spec
    from wm_pipelines.tasks.judgement import Judgement


class PhysicsConfig(TaskConfig):
    """How roll-outs are judged."""

    tolerance: float = Field(
        0.01, gt=0, allow_inf_nan=False, description="relative energy or momentum error that counts as a violation"
    )
    horizon_threshold: float = Field(
        0.4, gt=0, allow_inf_nan=False, description="share of the truth's spread at which a prediction is lost"
    )
    error_steps: list[int] = Field([1, 2, 5, 10, 20, 50, 100, 200], description="steps at which `mse` is also reported")
    asked_episodes: int = Field(
        8, ge=0, description="episodes at whose states the learned flow is asked for its laws; 0: it is not asked"
    )
    asked_rows: int = Field(4, ge=1, description="rows of every episode at which it is asked for forces")
    reversal_steps: int = Field(5, ge=1, description="steps there, and back, of `reversal_error`")
    samples: int = Field(0, ge=0, description="futures drawn from each start, of families that draw them; 0: none")
    rollout_episodes: int = Field(3, ge=1, description="episodes kept for the report's figures")
    animation_frames: int = Field(40, ge=2)
    animation_size: int = Field(96, ge=16, description="pixels")


@register
class Physics(Task):
    """Roll-outs in state space."""

    name: ClassVar[str] = "physics"
    pipeline: ClassVar[str] = "physics_eval"
    title: ClassVar[str] = "Mechanics"
    file: ClassVar[str] = "physics.html"
    Config: ClassVar[type[TaskConfig]] = PhysicsConfig
    shows: ClassVar[tuple[str, ...]] = ("times", "states", "derivatives", "actions", "rewards")
    takes_outside: ClassVar[bool] = True
    main_metrics: ClassVar[tuple[str, ...]] = (
        "horizon", "violation_rate", "energy_error", "relative_error", "train_seconds", "step_ms",
    )  # fmt: skip

    def thresholds(self, config: PhysicsConfig) -> list[str]:
        """Where a horizon ends, and what counts as a violation."""
        return [
            f"The horizon ends where the error reaches {config.horizon_threshold:g} of how far the true state ranges.",
            f"A step violates a law where energy or momentum is off by more than {100 * config.tolerance:g} %.",
        ]

    def limits(self, spec: Spec) -> dict[str, float]:
        """A horizon ends with the episode."""
        from wm_pipelines.laws import laws_of

        length, time = spec.step * (spec.rows - 1), laws_of(spec).lyapunov_time
        return {"horizon": length} | ({} if time is None else {"horizon_lyapunov": length / time})

    def judge(
        self,
        model: Family,
        episodes: Mapping[str, Episodes],
        split: str,
        laws: Laws,
        config: PhysicsConfig,
        trained: bool = True,  # noqa: ARG002
        manifest: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Judgement:
        """Roll out from the first true state of every episode; measure against the rest of it."""
        from wm_pipelines.tasks.physics.judge import judge

        return judge(model, episodes[split], split, laws, config, episodes.get("train"))

    def refuses(self, model: Family, episodes: Episodes) -> str | None:
        """Actions, where a model takes none; another step than it was trained on, where it knows no other."""
        learns = next(model.parameters(), None) is not None  # floor and ceiling stay
        if "actions" in episodes and learns and not model.takes_actions:
            return "takes no actions, and these episodes were moved by some"
        if model.any_step or math.isclose(episodes.spec.step, model.spec.step):
            return None
        return f"predicts steps of {model.spec.step:g} s only"

    def page(self, results: Results) -> str:
        """Who conserves energy, whose predictions last, what it cost; figures and animations of every world."""
        from wm_pipelines.tasks.physics.report import page

        return page(results)

    def figures(self, results: Results) -> dict[str, Any]:
        """Energy error over time and growth of the error, world by world."""
        from wm_pipelines.tasks.physics.report import figures

        return figures(results)
