"""The true law, started from the same state as every other family: the ceiling of every table.

It is as good as the state it starts from: with noise on the context it shows what the noise alone costs.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from wm_pipelines.families import register
from wm_pipelines.families.protocol import Family, Prediction
from wm_pipelines.system import System


@register
class Oracle(Family):
    """Calls the world's own simulator. Nothing to train."""

    name: ClassVar[str] = "oracle"

    @classmethod
    def unsuitable(cls, system: System) -> str | None:
        """Only a system whose law is known has an oracle."""
        return "the law is unknown" if system.simulate is None else None

    def predict(
        self,
        context: Tensor,
        steps: int,
        step: float | None = None,
        actions: Tensor | None = None,  # noqa: ARG002
    ) -> Prediction:
        """Simulate from the last state of the context; the same for every seed."""
        assert self.system.simulate is not None, "an oracle was asked for a system whose law is unknown"
        start = context[:, -1].to("cpu", torch.float64).numpy()
        truth = torch.from_numpy(self.system.simulate(start, self.system.step if step is None else step, steps))
        return Prediction(states=truth.to(context.device).expand(len(self.seeds), *truth.shape).clone())
