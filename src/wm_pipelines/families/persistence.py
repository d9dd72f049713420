"""Nothing changes, ``z_{t+k} = z_t``: the floor of every table."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from wm_pipelines.families import register
from wm_pipelines.families.base import Family, Prediction, Views


@register
class Persistence(Family):
    """Repeats the last state it saw. Nothing to train."""

    name: ClassVar[str] = "persistence"

    def predict(
        self,
        past: Views,
        steps: int,
        actions: Tensor | None = None,  # noqa: ARG002
        step: float | None = None,  # noqa: ARG002
    ) -> Prediction:
        """The last state of the past, again and again."""
        states = past["states"]
        episodes, _, size = states.shape
        return Prediction(states=states[None, :, -1:].expand(len(self.seeds), episodes, steps + 1, size).clone())
