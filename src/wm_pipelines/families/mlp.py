"""Black-box dynamics ``dz/dt = f_theta(z)``: the yardstick that the physics families must beat.

The baseline of Greydanus, Dzamba, Yosinski, *Hamiltonian Neural Networks* (2019), section 3: the same data and the
same kind of network, nothing known about physics. Fitted by derivative matching, ``|f_theta(z) - dz/dt|^2``, where
derivatives were recorded, else through Runge-Kutta 4 on pairs ``(z_t, z_{t+dt})``, or longer windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from wm_pipelines.families import register
from wm_pipelines.families.protocol import Family, FamilyConfig, Prediction, Schedule
from wm_pipelines.integrators import rollout_runge_kutta4
from wm_pipelines.nets.vector_field import VectorField, cut, substeps_for
from wm_pipelines.system import System


class MLPConfig(FamilyConfig):
    """Configuration of the black-box baseline."""

    schedule: Schedule = Schedule(steps=1500, batch_size=128, learning_rate=1e-2)
    hidden: tuple[int, ...] = Field((64, 64), min_length=1, description="widths of the hidden layers")
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
    Config: ClassVar[type[FamilyConfig]] = MLPConfig
    config: MLPConfig

    def __init__(self, config: MLPConfig, system: System, seeds: Sequence[int]) -> None:
        super().__init__(config, system, seeds)
        self.f = VectorField(system.state_size, config.hidden, seeds, config.activation, system.angles)

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Rows with derivatives, or windows of states; also standardises the network by them."""
        examples = cut(episodes, self.config.target, self.config.window)
        self.f.fit_scales(examples)
        return examples

    def loss(self, batch: Mapping[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
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
        context: Tensor,
        steps: int,
        step: float | None = None,
        actions: Tensor | None = None,  # noqa: ARG002
    ) -> Prediction:
        """Roll out by Runge-Kutta 4 from the last state of the context.

        A field that leaves its training region may grow without bound: its states become inf or NaN and stay so.
        """
        step = self.system.step if step is None else step
        substeps = substeps_for(step, self.system.step, self.config.substeps)
        start = context[:, -1].expand(len(self.seeds), -1, -1)
        return Prediction(states=rollout_runge_kutta4(start, step, steps, self.f, substeps))
