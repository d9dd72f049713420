"""What the families share that are trained on roll-outs of growing length from the last few observations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from wm_pipelines.blocks.videos import Symmetry
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import FamilyConfig, TrainedConfig, Views
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.spec import Spec


class PredictorConfig(TrainedConfig):
    """What a roll-out in training starts from, and how long it grows."""

    context: int = Field(4, ge=1, description="observations that a prediction starts from")
    horizon: int = Field(8, ge=1, description="K, steps of the longest roll-out in training")
    ramp: float = Field(0.5, ge=0, le=1, description="share of training (of a phase of it) during which K grows from 1")
    symmetries: tuple[Symmetry, ...] = Field((), description="of the world, by which videos are turned at random")


class Predictor(MemberFamily):
    """A family that predicts observations from the last ``context`` ones."""

    Config: ClassVar[type[FamilyConfig]] = PredictorConfig
    config: PredictorConfig

    @classmethod
    def knows(cls, config: PredictorConfig) -> frozenset[str]:
        """The symmetries by which its videos are turned, if any."""
        return frozenset({"symmetries"} if config.symmetries else ())

    @classmethod
    def unsuitable(cls, spec: Spec, config: PredictorConfig) -> str | None:
        """Single observations have no future."""
        return super().unsuitable(spec, config) or (None if spec.rows > 1 else "needs videos")

    def __init__(self, config: PredictorConfig, spec: Spec, seeds: Sequence[int]) -> None:
        shape = spec.views[self.shown(spec)[0]].shape
        if "transpose" in config.symmetries and shape[0] != shape[1]:
            raise UserError(f"{self.name}: symmetry transpose needs square frames")
        super().__init__(config, spec, seeds)

    @property
    def context(self) -> int:
        """Observations that a prediction starts from."""
        return self.config.context

    def examples(self, episodes: Views) -> Views:
        """Whole episodes.

        Raises:
            UserError: they are shorter than context and horizon.
        """
        rows, context, horizon = episodes[self.view].shape[1], self.config.context, self.config.horizon
        if rows < context + horizon:
            raise UserError(
                f"{self.name}: episodes of {rows} {self.view} are shorter than context {context} "
                f"+ horizon {horizon} = {context + horizon}; lengthen the episodes or lower one of the two"
            )
        return super().examples(episodes)

    def known(self, past: Views) -> Tensor:
        """The last observations, as many as a prediction starts from: ``[E, context, …]``.

        Raises:
            UserError: there are fewer.
        """
        view = past[self.view]
        if view.shape[1] < self.context:
            raise UserError(f"{self.name}: {view.shape[1]} {self.view} of context; it was trained on {self.context}")
        return view[:, -self.context :]
