"""A reward for obeying the laws of a ball above a floor, computed from predicted states alone.

Four terms, each an error of a step relative to what is usual in the training data, so that 0.01 is 1 %:

* ``energy``: it changes at impacts alone, by the share ``1 - e^2`` of the vertical part, e the restitution;
* ``momentum``: the horizontal part stays as it is, and is what the ball moves on with, *where it moves*;
* ``gravity``: between impacts the vertical momentum falls by ``m g`` per second, *where the ball moves*: what does not
  move counts as held, as it would where accelerations are read off videos;
* ``contact``: as many impacts as are due since the start by the law of flight, and never below the floor.

The first three ask how things change. Where nothing moves they find nothing to complain about; only the contact term,
which has a clock, says what must happen. The truth has all errors zero, to rounding.

Shapes: ``H`` steps, states ``[..., H + 1, 2d]`` of coordinates and momenta in the world's own units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from wm_pipelines.mappings import Settings
from wm_pipelines.spec import Spec

FACTS = frozenset({"attributes", "conserved", "contact", "energy", "gravity"})
"""What the reward is told of the world."""

_HELD = 0.1  # of the way that the momentum asks for, below which a ball counts as held
_LARGEST = 1.0  # an error beyond it is no worse: 100 %


class RewardWeights(Settings):
    """What each term weighs; 0: it is left out."""

    energy: float = Field(1.0, ge=0)
    momentum: float = Field(1.0, ge=0)
    gravity: float = Field(1.0, ge=0)
    contact: float = Field(1.0, ge=0)


class PhysicsReward:
    """The reward on one world.

    Args:
        spec: of the world, told `FACTS`. weights: of the terms.
    """

    def __init__(self, spec: Spec, weights: RewardWeights) -> None:
        facts = spec.facts
        self.weights: Mapping[str, float] = {n: w for n, w in weights.model_dump().items() if w}
        self.step, self.dof = spec.step, spec.dof
        (self.mass,) = facts["attributes"]["mass"]
        self.gravity: float = facts["gravity"]
        self.height, self.restitution = facts["contact"]["height"], facts["contact"]["restitution"]
        self.energy: Callable[[Any], Any] = facts["energy"]
        self.sideways = [i for i in range(self.dof) if i != self.height]

    def units(self, states: Tensor) -> Tensor:
        """What counts as 100 % of energy, momentum and height: the mean kinetic energy, ``|p|`` and ``|h|``, ``[3]``.

        states: of training ``[..., 2d]``.
        """
        p = states[..., self.dof :]
        at_rest = torch.cat([states[..., : self.dof], torch.zeros_like(p)], -1)
        kinetic = self.energy(states) - self.energy(at_rest)
        means = [
            kinetic.abs().mean(),
            torch.linalg.vector_norm(p, dim=-1).mean(),
            states[..., self.height].abs().mean(),
        ]
        return torch.stack(means)

    def __call__(self, states: Tensor, units: Tensor) -> Tensor:
        """The reward of every step ``[..., H]``: less its weighted errors. units: see `units`."""
        errors = self.errors(states, units)
        return -sum((w * errors[name] for name, w in self.weights.items()), torch.zeros_like(states[..., 1:, 0]))

    def errors(self, states: Tensor, units: Tensor) -> dict[str, Tensor]:
        """Errors of every step by term, each ``[..., H]`` in 0 … 1."""
        energy, momentum, length = units.unbind()
        h, p = states[..., self.height], states[..., self.dof + self.height]
        v, impact = p / self.mass, turns(p)
        due = impacts_due(h[..., 0], v[..., 0], self.step, h.shape[-1], self.gravity, self.restitution)
        vertical = self.mass * (0.5 * v.square() + self.gravity * h)[..., :-1]
        lost = (1.0 - self.restitution**2) * vertical * impact
        free = ~impact & _moves(h, v, self.step) & (due.diff(dim=-1) == 0)
        fallen = p.diff(dim=-1) + self.mass * self.gravity * self.step
        missed = (impact.cumsum(-1) - due[..., 1:]).abs() + (-h[..., 1:]).clamp(min=0) / length
        found = {
            "energy": (self.energy(states).diff(dim=-1) + lost).abs() / energy,
            "momentum": sum(self._inertia(states, i) for i in self.sideways) / momentum,
            "gravity": torch.where(free, fallen.abs() / momentum, 0.0),
            "contact": missed,
        }
        return {name: error.nan_to_num(_LARGEST).clamp(max=_LARGEST) for name, error in found.items()}

    def _inertia(self, states: Tensor, i: int) -> Tensor:
        """How far a horizontal momentum changes, and is not what the ball moves with, in kg m/s: ``[..., H]``."""
        x, p = states[..., i], states[..., self.dof + i]
        apart = self.mass * x.diff(dim=-1) / self.step - p[..., :-1]
        return p.diff(dim=-1).abs() + torch.where(_moves(x, p / self.mass, self.step), apart.abs(), 0.0)

    def possible(self, states: Tensor) -> Tensor:
        """Whether a ball can be there, ``[...]``: above the floor."""
        return states[..., self.height] >= 0


def _moves(q: Tensor, v: Tensor, step: float) -> Tensor:
    """Whether a coordinate moves in a step by more than a tenth of what its velocities ask for: ``[..., H]``."""
    return q.diff(dim=-1).abs() >= _HELD * step * (0.5 * (v[..., 1:] + v[..., :-1])).abs()


def turns(p: Tensor) -> Tensor:
    """Whether a vertical momentum ``[..., H + 1]`` turns upwards in a step, ``[..., H]``: the sign of an impact."""
    return (p[..., :-1] < 0) & (p[..., 1:] > 0)


def impacts_due(h: Tensor, v: Tensor, step: float, rows: int, gravity: float, restitution: float) -> Tensor:
    """Impacts since the start that a ball at height ``h [...]`` with vertical velocity ``v [...]`` must have had.

    At most one in a step is counted, as more cannot be seen. Returns ``[..., rows]``, 0 at the start.
    """
    speed = (v.square() + 2.0 * gravity * h.clamp(min=0)).sqrt()  # of the first impact
    flights = torch.cumsum(restitution ** torch.arange(rows, dtype=h.dtype, device=h.device), 0) - 1.0
    when = ((v + speed) / gravity)[..., None] + (2.0 * speed / gravity)[..., None] * flights  # of impact 1, 2, …
    times = step * torch.arange(rows, dtype=h.dtype, device=h.device)
    return (when[..., None, :] <= times[:, None]).sum(-1)
