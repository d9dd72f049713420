"""A learned vector field ``dz/dt = f_theta(z)``, one per seed, and the two ways to supervise it.

*Derivative matching* compares ``f_theta(z)`` with measured derivatives. Where only states were measured, the field is
trained *through an integrator*: Runge-Kutta 4 carries ``z_t`` over a window of rows and the states are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.ensemble import EnsembleMLP
from wm_pipelines.errors import UserError
from wm_pipelines.integrators import Field, rollout_runge_kutta4


def entry_spread(x: Tensor) -> Tensor:
    """Standard deviation over all axes but the last; 1 where a component never changes."""
    flat = x.reshape(-1, x.shape[-1])
    spread, size = flat.std(0, correction=0), flat.abs().amax(0)
    return torch.where(spread > 1e-12 * size, spread, torch.ones_like(spread))


def cut(episodes: Mapping[str, Tensor], target: str, window: int) -> dict[str, Tensor]:
    """Cut episodes into examples for derivative matching (`cut_rows`) or for an integrator (`cut_windows`).

    Args:
        episodes: ``states [E, T+1, 2d]``, ``times [E, T+1]``, perhaps ``derivatives``.
        window: time steps a window rolls over.
        target: ``derivative``, ``integrator``, or ``auto``: derivatives where the episodes carry them.

    Raises:
        UserError: derivatives are asked for and the episodes have none, or an episode is a single row.
    """
    recorded = episodes.get("derivatives") is not None
    if target == "derivative" and not recorded:
        raise UserError("target: derivative, but the episodes carry no derivatives; use target: integrator (or auto)")
    if target != "integrator" and recorded:
        return cut_rows(episodes)
    if episodes["states"].shape[1] < 2:
        raise UserError("the episodes are one row long: training through an integrator needs two rows or more")
    return cut_windows(episodes, window)


def cut_rows(episodes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every row of every episode: ``state [N, 2d]``, ``derivative [N, 2d]``."""
    return {"state": episodes["states"].flatten(0, 1), "derivative": episodes["derivatives"].flatten(0, 1)}


def cut_windows(episodes: Mapping[str, Tensor], window: int) -> dict[str, Tensor]:
    """Every run of ``window + 1`` consecutive rows: ``state [N, W+1, 2d]``, ``step [N, W]`` seconds between them."""
    window = min(window, episodes["states"].shape[1] - 1)
    state = episodes["states"].unfold(1, window + 1, 1).movedim(-1, 2)
    time = episodes["times"].unfold(1, window + 1, 1)
    return {"state": state.flatten(0, 1), "step": time.diff(dim=-1).flatten(0, 1)}


class StateFeatures(nn.Module):
    """What a network sees of a state: standardised entries, and angles as (sin, cos), which know no 2 pi seam.

    Args:
        size: length of the state. angles: entries that are angles.
    """

    mean: Tensor
    scale: Tensor
    plain: Tensor
    angle: Tensor

    def __init__(self, size: int, angles: Sequence[int] = ()) -> None:
        super().__init__()
        self.size = size + len(angles)
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(size, dtype=torch.float64))
        plain = [i for i in range(size) if i not in set(angles)]
        self.register_buffer("plain", torch.tensor(plain, dtype=torch.long), persistent=False)
        self.register_buffer("angle", torch.tensor(list(angles), dtype=torch.long), persistent=False)

    def fit(self, state: Tensor) -> None:
        """Take mean and spread from training states ``[..., 2d]``."""
        self.mean.copy_(state.reshape(-1, state.shape[-1]).mean(0))
        self.scale.copy_(entry_spread(state))

    def forward(self, z: Tensor) -> Tensor:
        """``[..., 2d] -> [..., size]``."""
        standard = (z - self.mean) / self.scale
        if not len(self.angle):
            return standard
        angle = z[..., self.angle]
        return torch.cat([standard[..., self.plain], torch.sin(angle), torch.cos(angle)], dim=-1)


class VectorField(nn.Module):
    """``f_theta``: standardised state in, derivative in units of its spread over the training set out.

    Args:
        size: length ``2d`` of the state. hidden: widths of the hidden layers. seeds: one network each.
        angles: entries of the state that are angles. outputs: of the network, where it is not all of ``dz/dt``.
    """

    slope_mean: Tensor
    slope_scale: Tensor

    def __init__(
        self,
        size: int,
        hidden: Sequence[int],
        seeds: Sequence[int],
        activation: str = "silu",
        angles: Sequence[int] = (),
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.features = StateFeatures(size, angles)
        self.net = EnsembleMLP([self.features.size, *hidden, outputs or size], seeds, activation)
        self.register_buffer("slope_mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("slope_scale", torch.ones(size, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        """``dz/dt``: ``[S, ..., 2d] -> [S, ..., 2d]``."""
        return self.slope_mean + self.slope_scale * self.net(self.features(z))

    def fit_scales(self, examples: Mapping[str, Tensor]) -> None:
        """Standardise inputs and outputs by the training examples (`cut_rows` or `cut_windows`)."""
        self.features.fit(examples["state"])
        slope = examples.get("derivative")
        if slope is None:
            slope = self.wrap(examples["state"].diff(dim=-2)) / examples["step"][..., None]
        self.slope_mean.copy_(slope.reshape(-1, slope.shape[-1]).mean(0))
        self.slope_scale.copy_(entry_spread(slope))

    def wrap(self, difference: Tensor) -> Tensor:
        """Differences of states, those of angles brought to [-pi, pi]."""
        if not len(self.features.angle):
            return difference
        angle = torch.zeros_like(self.slope_mean, dtype=torch.bool)
        angle[self.features.angle] = True
        return torch.where(angle, torch.remainder(difference + math.pi, 2 * math.pi) - math.pi, difference)

    def derivative_error(self, batch: Mapping[str, Tensor]) -> Tensor:
        """``(f_theta(z) - dz/dt) / scale`` on rows: ``[S, B, 2d]``."""
        return (self(batch["state"]) - batch["derivative"]) / self.slope_scale

    def unroll(self, batch: Mapping[str, Tensor], substeps: int = 1, field: Field | None = None) -> Tensor:
        """Carry the first state of each window through it by Runge-Kutta 4: ``[S, B, W+1, 2d]``, differentiable.

        ``field`` replaces the network where a family changes its output.
        """
        field = self if field is None else field
        z = batch["state"][..., 0, :]
        states = [z]
        for k in range(batch["step"].shape[-1]):
            z = rollout_runge_kutta4(z, batch["step"][..., k, None], 1, field, substeps)[..., 1, :]
            states.append(z)
        return torch.stack(states, dim=-2)

    def window_error(self, batch: Mapping[str, Tensor], unrolled: Tensor) -> Tensor:
        """Mean error of the slope over each part of a window, ``(z_hat_k - z_k) / (t_k scale)``: ``[S, B, W, 2d]``."""
        error = self.wrap(unrolled - batch["state"])[..., 1:, :]
        return error / (batch["step"].cumsum(-1)[..., None] * self.slope_scale)


def substeps_for(step: float, reference: float, substeps: int) -> int:
    """Sub-steps per ``step`` that are no longer than ``reference / substeps``."""
    return max(1, math.ceil(substeps * step / reference - 1e-9))
