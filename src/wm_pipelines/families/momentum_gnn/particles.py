"""Particles as tensors: states taken apart, products of vectors, and what recorded rows say about the forces.

States are ``[..., 2d]``, positions before momenta, particle by particle; inside a graph particles come last,
``[..., D, N]``, in space of ``D`` dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_GAUSS_POINTS = (0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15))
_GAUSS_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


def split_particles(z: Tensor, particles: int) -> tuple[Tensor, Tensor]:
    """States ``[..., 2d]`` to positions and momenta ``[..., D, N]``, particles last."""
    q, p = z.reshape(*z.shape[:-1], 2, particles, -1).mT.unbind(-3)
    return q, p


def join_particles(q: Tensor, p: Tensor) -> Tensor:
    """Inverse of `split_particles`."""
    return torch.stack([q, p], dim=-3).mT.flatten(-3)


def cross(a: Tensor, b: Tensor) -> Tensor:
    """``a x b`` along the last but one axis: ``[..., 2 | 3, M] -> [..., 1 | 3, M]``."""
    if a.shape[-2] == 2:
        return (a[..., 0, :] * b[..., 1, :] - a[..., 1, :] * b[..., 0, :])[..., None, :]
    return torch.linalg.cross(a, b, dim=-2)


def turn(w: Tensor, r: Tensor) -> Tensor:
    """``w x r`` for an angular velocity ``w [..., 1 | 3, M]``: ``[..., 2 | 3, M]``."""
    if r.shape[-2] == 2:
        return torch.cat([-w * r[..., 1:, :], w * r[..., :1, :]], dim=-2)
    return torch.linalg.cross(w, r, dim=-2)


@dataclass(frozen=True)
class Observations:
    """Mean forces over short spans and where the particles were: ``target = sum_q weight_q F(state_q)``.

    Attributes:
        state: ``[R, Q, 2d]``; one point where forces were recorded, else quadrature points between two rows.
        weight: ``[Q]``, sum 1. target: ``[R, D, N]`` newtons.
    """

    state: Tensor
    weight: Tensor
    target: Tensor


def observations(episodes: Mapping[str, Tensor], mass: Tensor) -> Observations:
    """Recorded forces, or mean forces ``(p_{t+1} - p_t) / dt`` seen along a cubic (Hermite) path between two rows.

    Between rows the path is known from positions and velocities to ``O(dt^4)``; three Gauss points integrate along it.

    Args:
        episodes: ``states [E, T+1, 2d]``, ``times [E, T+1]``, perhaps ``derivatives [E, T+1, 2d]``.
        mass: ``[N]`` kilograms.
    """
    state, particles = episodes["states"], len(mass)
    dim = state.shape[-1]
    if episodes.get("derivatives") is not None:
        target = split_particles(episodes["derivatives"].reshape(-1, dim), particles)[1]
        return Observations(state.reshape(-1, 1, dim), state.new_ones(1), target)
    q, p = split_particles(state, particles)
    v, dt = p / mass, episodes["times"].diff(dim=1)[..., None, None]
    nodes = [_hermite(q[:, :-1], v[:, :-1] * dt, q[:, 1:], v[:, 1:] * dt, s) for s in _GAUSS_POINTS]
    path = torch.stack([join_particles(x, mass * dx / dt) for x, dx in nodes], dim=2).flatten(0, 1)
    target = (p.diff(dim=1) / dt).flatten(0, 1)
    return Observations(path, torch.tensor(_GAUSS_WEIGHTS, dtype=state.dtype, device=state.device), target)


def _hermite(x0: Tensor, d0: Tensor, x1: Tensor, d1: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """Cubic through ``x0, x1`` with slopes ``d0, d1``, at ``0 <= s <= 1``: value and slope."""
    gap = x1 - x0
    a, b = 3 * gap - 2 * d0 - d1, d0 + d1 - 2 * gap
    return x0 + s * (d0 + s * (a + s * b)), d0 + s * (2 * a + 3 * s * b)
