"""Black-box dynamics ``dz/dt = f_theta(z)``: the yardstick that the physics families must beat.

The baseline of Greydanus, Dzamba, Yosinski, *Hamiltonian Neural Networks* (2019), section 3: the same data and the
same kind of network, nothing known about physics. Fitted by derivative matching, ``|f_theta(z) - dz/dt|^2``, where
derivatives were recorded, else through Runge-Kutta 4 on pairs ``(z_t, z_{t+dt})``, or longer windows.

``second_order`` is told one thing more: that velocities are constant multiples of momenta, ``dq/dt = M^{-1} p`` with M
diagonal. Then only ``dp/dt = f_theta(q, p)``, which is M times the acceleration, is learned by the network, and the
unknown masses by one least squares per coordinate (Gruver, Finzi, Stanton, Wilson, *Deconstructing the inductive biases
of Hamiltonian neural networks*, ICLR 2022: most of what an HNN gains over a black box is this).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from wm_pipelines.blocks.splines import spline_slopes
from wm_pipelines.blocks.vector_field import VectorField, cut, substeps_for
from wm_pipelines.families import register
from wm_pipelines.families.base import Prediction, TrainedConfig, Views
from wm_pipelines.families.parts.matching import MatchingConfig, MatchingFamily
from wm_pipelines.integrators import rollout_runge_kutta4
from wm_pipelines.spec import Spec


class MLPConfig(MatchingConfig):
    """Configuration of the black-box baseline."""

    angles: bool = Field(True, description="be told which coordinates are angles; they are seen as sine and cosine")
    second_order: bool = Field(False, description="be told that dq/dt = p / m, and learn dp/dt alone")


class SecondOrderField(VectorField):
    """``dq/dt = w p`` with inverse masses ``w`` found in the data, ``dp/dt`` a network: see the module's text.

    Args:
        size: length ``2d`` of the state. hidden, seeds, activation, angles: see `VectorField`.
    """

    inverse_mass: Tensor

    def __init__(
        self, size: int, hidden: Sequence[int], seeds: Sequence[int], activation: str, angles: Sequence[int] = ()
    ) -> None:
        super().__init__(size, hidden, seeds, activation, angles, size // 2)
        self.register_buffer("inverse_mass", torch.ones(size // 2, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        """``dz/dt``: ``[S, ..., 2d] -> [S, ..., 2d]``."""
        d = len(self.inverse_mass)
        force = self.slope_mean[d:] + self.slope_scale[d:] * self.net(self.features(z))
        return torch.cat([self.inverse_mass * z[..., d:], force], dim=-1)

    def fit_masses(self, episodes: Views) -> None:
        """``w = <v p> / <p^2>`` of every coordinate over the training rows; 0 where nothing ever moves.

        ``v`` are the recorded ``dq/dt``, else the slopes of splines through the coordinates, angles unwrapped.
        """
        d, states = len(self.inverse_mass), episodes["states"]
        q, p = states[..., :d], states[..., d:]
        if episodes.get("derivatives") is not None:
            velocity = episodes["derivatives"][..., :d]
        else:
            q = q[:, :1] + torch.cat([torch.zeros_like(q[:, :1]), self.wrap(states.diff(dim=1))[..., :d].cumsum(1)], 1)
            velocity = spline_slopes(episodes["times"], q)
        square = p.square().sum((0, 1))
        self.inverse_mass.copy_((velocity * p).sum((0, 1)) / torch.where(square > 0, square, torch.ones_like(square)))


@register
class MLP(MatchingFamily):
    """Black-box vector field."""

    name: ClassVar[str] = "mlp"
    Config: ClassVar[type[TrainedConfig]] = MLPConfig
    config: MLPConfig

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """Which coordinates are angles; with ``second_order`` that velocities are multiples of momenta."""
        return frozenset({"angles"} if config.angles else ()) | ({"second_order"} if config.second_order else set())

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """A second-order form needs a world of that form: M(q) of a double pendulum, for one, is not constant."""
        if (missing := super().unsuitable(spec, config)) is not None:
            return missing
        if config.second_order and not spec.facts.get("second_order", False):
            return "its velocities are no constant multiples of its momenta, or not declared so"
        return None

    def __init__(self, config: MLPConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        angles = self.spec.facts.get("angles", ()) if config.angles else ()
        kind = SecondOrderField if config.second_order else VectorField
        self.f: VectorField = kind(spec.state_size, config.hidden, seeds, config.activation, angles)

    def examples(self, episodes: Views) -> Views:
        """Rows with derivatives, or windows of states; also standardises the network by them."""
        examples = cut(episodes, self.config.target, self.config.window)
        self.f.fit_scales(examples)
        if isinstance(self.f, SecondOrderField):
            self.f.fit_masses(episodes)
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
