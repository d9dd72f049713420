"""Nothing changes, ``z_{t+k} = z_t``: the floor of every table."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from wm_pipelines.families import register
from wm_pipelines.families.protocol import Family, Prediction


@register
class Persistence(Family):
    """Repeats the last state it saw. Nothing to train."""

    name: ClassVar[str] = "persistence"

    def predict(
        self,
        context: Tensor,
        steps: int,
        step: float | None = None,  # noqa: ARG002
        actions: Tensor | None = None,  # noqa: ARG002
    ) -> Prediction:
        """The last state of the context, again and again."""
        episodes, _, size = context.shape
        return Prediction(states=context[None, :, -1:].expand(len(self.seeds), episodes, steps + 1, size).clone())
