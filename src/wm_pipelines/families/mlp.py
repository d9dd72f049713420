"""Black-box dynamics ``dz/dt = f_theta(z)``: the yardstick that the physics families must beat.

The baseline of Greydanus, Dzamba, Yosinski, *Hamiltonian Neural Networks* (2019), section 3: the same data and the
same kind of network, nothing known about physics. Fitted by derivative matching, ``|f_theta(z) - dz/dt|^2``, where
derivatives were recorded, else through Runge-Kutta 4 on pairs ``(z_t, z_{t+dt})``, or longer windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from wm_pipelines.blocks.vector_field import VectorField, cut, substeps_for
from wm_pipelines.families import register
from wm_pipelines.families.base import Family, Prediction, Schedule, TrainedConfig, Views
from wm_pipelines.integrators import rollout_runge_kutta4
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec


class MLPConfig(TrainedConfig):
    """Configuration of the black-box baseline."""

    schedule: Schedule = Schedule(steps=1500, batch_size=128, learning_rate=1e-2)
    hidden: tuple[Positive, ...] = Field((64, 64), min_length=1, description="widths of the hidden layers")
    activation: Literal["tanh", "silu", "softplus", "gelu"] = "tanh"
    target: Literal["auto", "derivative", "integrator"] = Field(
        "auto", description="what is matched; auto: derivatives where the episodes carry them"
    )
    window: int = Field(1, ge=1, description="rows that training through the integrator rolls over")
    substeps: int = Field(2, ge=1, description="Runge-Kutta steps per row of an episode")


@register
class MLP(Family):
    """Black-box vector field."""

    name: ClassVar[str] = "mlp"
    Config: ClassVar[type[TrainedConfig]] = MLPConfig
    config: MLPConfig

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:  # noqa: ARG003
        """Which coordinates are angles: networks see them as sine and cosine."""
        return frozenset({"angles"})

    def __init__(self, config: MLPConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        angles = self.spec.facts.get("angles", ())
        self.f = VectorField(spec.state_size, config.hidden, seeds, config.activation, angles)

    def examples(self, episodes: Views) -> Views:
        """Rows with derivatives, or windows of states; also standardises the network by them."""
        examples = cut(episodes, self.config.target, self.config.window)
        self.f.fit_scales(examples)
        return examples

    def loss(self, batch: Views, progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """Mean squared error of the derivative, in units of its spread."""
        if "derivative" in batch:
            error = self.f.derivative_error(batch)
        else:
            error = self.f.window_error(batch, self.f.unroll(batch, self.config.substeps))
        loss = error.square().flatten(1).mean(1)
        return loss, {"prediction": loss.detach()}

    @torch.no_grad()
    def predict(
        self,
        past: Views,
        steps: int,
        actions: Tensor | None = None,  # noqa: ARG002
        step: float | None = None,
    ) -> Prediction:
        """Roll out by Runge-Kutta 4 from the last state of the past.

        A field that leaves its training region may grow without bound: its states become inf or NaN and stay so.
        """
        step = self.spec.step if step is None else step
        substeps = substeps_for(step, self.spec.step, self.config.substeps)
        start = past["states"][:, -1].expand(len(self.seeds), -1, -1)
        return Prediction(states=rollout_runge_kutta4(start, step, steps, self.f, substeps))
