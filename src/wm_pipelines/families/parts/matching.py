"""Vector fields that match recorded derivatives, and where there are none are trained through an integrator."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from wm_pipelines.families.base import Family, Schedule, TrainedConfig, with_derivatives
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec


class MatchingConfig(TrainedConfig):
    """What such families have in common: a network ``f_theta``, and how it is fitted."""

    schedule: Schedule = Schedule(steps=1500, batch_size=128, learning_rate=1e-2)
    hidden: tuple[Positive, ...] = Field((64, 64), min_length=1, description="widths of the hidden layers of f_theta")
    activation: Literal["tanh", "silu", "softplus", "gelu"] = "tanh"
    target: Literal["auto", "derivative", "integrator"] = Field(
        "auto", description="what is matched; auto: derivatives where the episodes carry them"
    )
    window: int = Field(1, ge=1, description="rows that training through the integrator rolls over")
    substeps: int = Field(2, ge=1, description="Runge-Kutta steps per row of an episode")
    integrator_share: float = Field(
        1.0, gt=0, le=1, description="share of the steps done where they go through the integrator, and cost more"
    )


class MatchingFamily(Family):
    """A family of such fields: it sees derivatives where there are any, and takes fewer steps where there are none."""

    Config: ClassVar[type[TrainedConfig]] = MatchingConfig
    config: MatchingConfig

    @classmethod
    def observed(cls, spec: Spec, config: Any) -> tuple[str, ...]:
        """States, and their derivatives where episodes carry them."""
        return with_derivatives(cls.shown(spec), spec, config.target != "integrator")

    @property
    def schedule(self) -> Schedule:
        """As configured; of training through the integrator ``integrator_share`` of the steps."""
        c = self.config
        matched = "derivatives" in self.observed(self.spec, c)
        return c.schedule if matched else c.schedule.shortened(c.integrator_share)
