"""Particles in motion: steps that change momenta by pair sums alone, and sums that keep what rounding takes.

A step alternates drifts ``q_i += c h p_i / m_i`` and kicks ``p_i += d h F_i``; kicks from forces with ``f_ij = -f_ji``
keep ``sum_i p_i`` up to the rounding of the sum itself, which `Sum` compensates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wm_pipelines.families.momentum_gnn.particles import join_particles, split_particles
from wm_pipelines.integrators import Splitting

Rates = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""``p [S, E, D, N], spins or None -> forces [S, E, D, N], torques or None``, at given positions."""


@dataclass
class Sum:
    """A running sum that remembers what rounding took from it (Kahan 1965), where ``lost`` is given.

    Over ``10^5`` kicks plain sums lose some ``10^-14`` of a conserved momentum; this one stays at one rounding.
    """

    value: Tensor
    lost: Tensor | None = None

    def add(self, change: Tensor) -> None:
        """``value += change``."""
        if self.lost is None:
            self.value = self.value + change
            return
        change = change + self.lost
        total = self.value + change
        self.lost = change - (total - self.value)
        self.value = total


@dataclass
class Bodies:
    """Positions and momenta ``[S, E, D, N]`` and spins ``[S, E, A, N]`` (A = 1 in the plane, 3 in space) or None."""

    q: Sum
    p: Sum
    spin: Sum | None

    @classmethod
    def at(cls, z: Tensor, particles: int, spin: Tensor | None, compensated: bool) -> Bodies:
        """Bodies in states ``z [S, E, 2d]``; their sums remember what rounding takes where ``compensated``."""
        q, p = split_particles(z, particles)
        sums = [None if x is None else Sum(x, torch.zeros_like(x) if compensated else None) for x in (q, p, spin)]
        return cls(*sums)  # type: ignore[arg-type]


def symplectic_step(
    bodies: Bodies, step: Tensor | float, scheme: Splitting, mass: Tensor, force: Callable[[Tensor], Tensor]
) -> None:
    """Drift, kick, drift … as the scheme says, in place, under forces of the positions alone: symplectic."""
    for c, d in zip(scheme.drifts, scheme.kicks, strict=False):
        _drift(bodies, c, step, mass)
        bodies.p.add((d * step) * force(bodies.q.value))
    _drift(bodies, scheme.drifts[-1], step, mass)


def _drift(bodies: Bodies, share: float, step: Tensor | float, mass: Tensor) -> None:
    if share:
        bodies.q.add(bodies.p.value * (share * step / mass))


def midpoint_kick(bodies: Bodies, step: Tensor | float, rates: Rates) -> None:
    """Momenta and spins under forces that depend on them, positions at rest: the explicit midpoint rule, in place."""
    p, spin = bodies.p.value, None if bodies.spin is None else bodies.spin.value
    f, torque = rates(p, spin)
    middle = None if spin is None or torque is None else spin + (0.5 * step) * torque
    f, torque = rates(p + (0.5 * step) * f, middle)
    bodies.p.add(step * f)
    if bodies.spin is not None and torque is not None:
        bodies.spin.add(step * torque)


def trajectory(bodies: Bodies, steps: int, advance: Callable[[], None]) -> tuple[Tensor, Tensor | None]:
    """States ``[S, E, K + 1, 2d]`` and spins ``[S, E, K + 1, A N]`` or None, while ``advance`` moves the bodies.

    An episode that diverges is NaN from there on; once all have, the rest is not computed.
    """
    start = join_particles(bodies.q.value, bodies.p.value)
    states = start.new_full((*start.shape[:2], steps + 1, start.shape[-1]), math.nan)
    spins = None if bodies.spin is None else states.new_zeros(*states.shape[:3], bodies.spin.value[0, 0].numel())
    states[:, :, 0] = start
    for k in range(1, steps + 1):
        advance()
        states[:, :, k] = join_particles(bodies.q.value, bodies.p.value)
        if spins is not None and bodies.spin is not None:
            spins[:, :, k] = bodies.spin.value.flatten(2)
        if k % 64 == 0 and not bool(states[:, :, k].isfinite().all(dim=-1).any()):
            break
    broken = (~states.isfinite().all(dim=-1)).cummax(dim=-1).values
    spins = None if spins is None else spins.masked_fill(broken[..., None], math.nan)
    return states.masked_fill(broken[..., None], math.nan), spins
