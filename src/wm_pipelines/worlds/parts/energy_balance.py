"""What a recorded motion loses of its energy per second: by a declared energy, or by one estimated from the motion.

An energy that is lost in proportion to itself obeys ``E(t) = E(0) - r int_0^t E dt'`` in every episode: a straight line
in the integral, whose slope is the loss per second ``r``, whatever the course of the loss within a period.
Without a declared energy, work and kinetic energy ``T`` give one: ``T = E(0) - V(q) - gamma int_0^t 2 T dt'``, linear
in the coefficients of V, in gamma and in each episode's ``E(0)``. No acceleration enters, so noise hardly does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_MISFIT = 0.05  # share of the kinetic energy's variance that an estimated potential may leave unexplained
_ROWS = 20  # per coefficient of the potential
_DEGREES = (6, 4, 2)  # of the polynomials, the richest first that there are rows for
_VIOLATES = 0.01  # of the energy, over an episode


@dataclass(frozen=True)
class EnergyLoss:
    """How an energy changes along a motion.

    Attributes:
        rate: share of the energy that is lost per second; negative where it grows. lost: over an episode.
        scatter: of the energy about that course, standard deviation as a share of the mean energy.
        power: loss per second, in the energy's unit.
    """

    rate: float
    lost: float
    scatter: float
    power: float

    @property
    def clear(self) -> bool:
        """Whether the energy is not conserved, beyond what its scatter explains."""
        return abs(self.lost) > max(_VIOLATES, self.scatter)


def energy_loss(times: Sequence[Float], energies: Sequence[Float], floor: float) -> EnergyLoss | None:
    """The loss of an energy along episodes; None where there is none to speak of.

    Args:
        times: of every episode, ``[K]``. energies: along it, ``[K]``. floor: the energy at rest.
    """
    above = [e - floor for e in energies]
    scale = float(np.mean(np.concatenate(above)))
    if not scale > 0.0:
        return None
    integrals = [_integral(t, e / scale) for t, e in zip(times, above, strict=True)]
    x = np.concatenate([i - i.mean() for i in integrals])
    y = np.concatenate([(e - e.mean()) / scale for e in above])
    squares = float((x * x).sum())
    if squares == 0.0:
        return None
    rate = -float((x * y).sum()) / squares
    duration = float(np.mean([t[-1] - t[0] for t in times]))
    scatter = float(np.sqrt(np.mean((y + rate * x) ** 2)))
    return EnergyLoss(rate, -math.expm1(-max(rate * duration, -700.0)), scatter, rate * scale)


def estimated_energy(
    times: Sequence[Float], coordinates: Sequence[Float], kinetic: Sequence[Float], angles: Sequence[int]
) -> list[Float] | None:
    """Energy along episodes from the motion alone, 0 at rest in the deepest place seen; None where none explains it.

    Linear friction alike for all coordinates is allowed for.

    Args:
        times: of every episode, ``[K]``. coordinates: ``[K, d]``. kinetic: ``T [K]``. angles: which of the coordinates.
    """
    rows = sum(map(len, kinetic))
    sizes = np.abs(np.concatenate(coordinates)).max(axis=0)
    inputs = [_inputs(q / np.where(sizes > 0, sizes, 1.0), q, angles) for q in coordinates]
    width = inputs[0].shape[1]
    degree = next((n for n in _DEGREES if math.comb(width + n, n) * _ROWS < rows), None)
    if degree is None:
        return None
    potential = [_monomials(x, degree) for x in inputs]
    scale = float(np.mean(np.concatenate(kinetic)))
    if not scale > 0.0:
        return None
    energies = [t / scale for t in kinetic]
    design = [np.column_stack([phi, _integral(t, 2 * e)]) for phi, t, e in zip(potential, times, energies, strict=True)]
    # Each episode's own E(0) drops out with the episode's mean.
    left = np.concatenate([d - d.mean(axis=0) for d in design])
    right = np.concatenate([e - e.mean() for e in energies])
    coefficients = np.linalg.lstsq(left, right)[0]
    if float(np.var(right - left @ coefficients)) > _MISFIT * float(np.var(right)):
        return None
    total = [e - phi @ coefficients[:-1] for e, phi in zip(energies, potential, strict=True)]
    deepest = min(float((-phi @ coefficients[:-1]).min()) for phi in potential)
    return [scale * (e - deepest) for e in total]


def _integral(time: Float, values: Float) -> Float:
    """By trapezoids from the start: ``[K] -> [K]``."""
    return np.concatenate([[0.0], np.cumsum(0.5 * (values[1:] + values[:-1]) * np.diff(time))])


def _inputs(scaled: Float, q: Float, angles: Sequence[int]) -> Float:
    """What a potential is a polynomial of: coordinates, and sine and cosine of angles."""
    plain = [i for i in range(q.shape[1]) if i not in set(angles)]
    turns = q[:, list(angles)]
    return np.concatenate([scaled[:, plain], np.sin(turns), np.cos(turns)], axis=1)


def _monomials(x: Float, degree: int) -> Float:
    """All products of 1 to ``degree`` of the inputs: ``[K, n] -> [K, M]``."""
    products = [
        x[:, list(chosen)].prod(axis=1)
        for order in range(1, degree + 1)
        for chosen in combinations_with_replacement(range(x.shape[1]), order)
    ]
    return np.stack(products, axis=1)
