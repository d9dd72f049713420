"""Noise on sampled states, judged by the integral of their derivatives.

The integral of a clean derivative gives each trajectory's shape, its place only up to one constant: what the states
scatter about that shape is noise.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from wm_pipelines.blocks.splines import interpolating_splines


def integrate_samples(time: Tensor, derivative: Tensor, degree: int = 7) -> Tensor:
    """Integral of sampled derivatives from each episode's start: ``[E, T+1], [E, T+1, D] -> [E, T+1, D]``."""
    splines = interpolating_splines(time, derivative, degree)
    return torch.stack([torch.from_numpy(f.antiderivative()(t)) for f, t in zip(splines, time.numpy(), strict=True)])


def input_noise(time: Tensor, state: Tensor, derivative: Tensor) -> Tensor | None:
    """Standard deviation ``[D]`` of noise on the states, judged by the integral of their derivatives; None if none.

    What the states scatter about that integral is noise, unless the integral itself is that uncertain: its error
    is taken as the difference between two spline degrees.
    """
    integral = integrate_samples(time, derivative)
    coarse = integrate_samples(time, derivative, degree=5)
    scatter = about_mean(state - integral)
    freedom = math.sqrt(state.shape[1] / max(1, state.shape[1] - 1))
    sigma = freedom * scatter.square().mean(dim=(0, 1)).sqrt()
    # Noise is white: neighbours differ as much as strangers. The error of an integral is a staircase.
    steps = (scatter[:, 1:] - scatter[:, :-1]).square().sum(-1).mean(1)
    white = (steps / (2 * scatter.square().sum(-1).mean(1)).clamp_min(1e-300)).median() > 0.8
    # Medians: one close encounter must not hide the noise of all other episodes, nor be taken for noise itself.
    typical = scatter.abs().amax(-1).median()
    doubt = about_mean(integral - coarse).abs().amax(-1).median()
    floor = 1e-4 * about_mean(state).square().mean().sqrt()
    return sigma if white and typical > 10 * doubt + floor else None


def about_mean(x: Tensor) -> Tensor:
    """What is left without each episode's mean: ``[E, T, D] -> [E, T, D]``."""
    return x - x.mean(dim=1, keepdim=True)


def integral_form(time: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hamilton's equations integrated over each interval: ``sum_g w_g J grad H(z(t_g)) = (z_{t+1} - z_t) / dt``.

    Returns:
        Nodes ``[E, T, 3, 2d]`` on a spline through the states, Gauss weights ``[3]``, mean slopes ``[E, T, 2d]``.
    """
    points, weights = np.polynomial.legendre.leggauss(3)
    spacing = time[:, 1:] - time[:, :-1]
    at = time[:, :-1, None] + spacing[..., None] * torch.from_numpy((1 + points) / 2)
    splines = interpolating_splines(time, state, 7)
    nodes = torch.stack([torch.from_numpy(f(t)) for f, t in zip(splines, at.numpy(), strict=True)])
    return nodes, torch.from_numpy(weights / 2), (state[:, 1:] - state[:, :-1]) / spacing[..., None]
