"""What a family and a metric may know of the world in front of them.

Worlds and families do not import each other. A world describes itself once, as a `System`; the pipelines hand that
description on. A family takes from it what its paper assumes (masses, a known energy) and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Array = Any  # numpy.ndarray or torch.Tensor; every callable below works with both


@dataclass(frozen=True)
class System:
    """A mechanical system with state ``z = (q, p)``, coordinates first, along the last axis (length ``2 * dof``).

    For particles, ``q.reshape(particles, space)`` are positions and ``p`` likewise momenta.

    Attributes:
        name: the world's name.
        dof: degrees of freedom ``d``; a state has ``2 d`` entries.
        step: time between two rows of an episode, in seconds.
        particles, space: number of particles and dimension of their space; None in generalised coordinates.
        attributes: per-particle constants, each ``particles`` long; ``mass`` always, ``charge`` where it exists.
        angles: indices of ``q`` that are angles, 2 pi periodic.
        structure: what is *declared* about H: any of ``separable`` (H = T(p) + V(q)), ``even`` (unchanged under
            q -> -q and under p -> -p, each alone), ``pairwise`` (sum of T(p_i^2) per particle and phi(|r_ij|) per
            pair).
        energy: ``z [..., 2d] -> [...]`` in joules, or None where no formula is known.
        momentum: ``z -> [..., space]``; angular_momentum: ``z -> [..., 1 | 3]``; None if not
            conserved.
        simulate: the true law, ``(z0 [E, 2d], step, steps) -> [E, steps + 1, 2d]``, numpy float64; None if unknown.
        dynamics: the true ``z -> dz/dt``; None if unknown.
        lyapunov_time: 1 / largest Lyapunov exponent in seconds, for chaotic systems.
        constants: further numbers a family may ask for by name.
    """

    name: str
    dof: int
    step: float
    particles: int | None = None
    space: int | None = None
    attributes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    angles: tuple[int, ...] = ()
    structure: frozenset[str] = frozenset()
    energy: Callable[[Array], Array] | None = None
    momentum: Callable[[Array], Array] | None = None
    angular_momentum: Callable[[Array], Array] | None = None
    simulate: Callable[[Any, float, int], Any] | None = None
    dynamics: Callable[[Array], Array] | None = None
    lyapunov_time: float | None = None
    constants: Mapping[str, float] = field(default_factory=dict)

    def facts(self) -> list[Any]:
        """What decides the outcome of a training, as JSON types."""
        return [
            self.name, self.dof, self.step, self.particles, self.space, sorted(self.structure),
            {k: list(v) for k, v in self.attributes.items()}, dict(self.constants), list(self.angles),
        ]  # fmt: skip

    @property
    def state_size(self) -> int:
        """Length of the state vector, ``2 * dof``."""
        return 2 * self.dof
