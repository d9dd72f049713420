"""The true law, started from the same state as every other family: the ceiling of every table.

It is as good as the state it starts from: with noise on the past it shows what the noise alone costs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from wm_pipelines.families import register
from wm_pipelines.families.base import Family, Prediction, Views
from wm_pipelines.laws import Laws
from wm_pipelines.spec import Spec


@register
class Oracle(Family):
    """Calls the world's own simulator. Nothing to train; the only family that is given the laws."""

    name: ClassVar[str] = "oracle"
    needs: ClassVar[tuple[str, ...]] = ("states|frames",)
    laws: Laws = Laws()

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:  # noqa: ARG003
        """Everything."""
        return frozenset({"simulator"})

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Only a world whose law is known has an oracle."""
        return super().unsuitable(spec, config) or (None if "simulator" in spec.facts else "the law is unknown")

    def predict(
        self,
        past: Views,
        steps: int,
        actions: Tensor | None = None,  # noqa: ARG002
        step: float | None = None,
    ) -> Prediction:
        """Simulate from the last state of the past; the same for every seed."""
        assert self.laws.simulate is not None, "an oracle was asked for a world whose law is unknown"
        start = past["states"][:, -1].to("cpu", torch.float64).numpy()
        truth = torch.from_numpy(self.laws.simulate(start, self.spec.step if step is None else step, steps))
        return Prediction(states=truth.to(past["states"].device).expand(len(self.seeds), *truth.shape).clone())
