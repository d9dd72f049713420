"""The law of distance in the forces that a model has learned: does it know gravity, or only orbits?

A model can predict trajectories and have learned no law (Vafa, Chang, Rambachan, Mullainathan, *What Has a Foundation
Model Found?*, 2025). Forces on particles are fitted by pair forces ``F_i = Σ_j κ_ij f(r_ij) e_ij`` along the line
between them, ``e_ij`` the unit vector from the other body to this one, ``κ_ij`` 1, the product of the masses or that of
the charges. ``f`` is one of a small dictionary:

- a power of the distance, ``c r^a``,
- a spring with a rest length, ``c (r - L)``,
- a softened power (Plummer), ``c r (r² + ε²)^((a - 1) / 2)``.

Of each the best in the sense of least squares is found. The softened power, which has a constant more, counts only
where it leaves a tenth of what the others leave unexplained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

Float = NDArray[np.float64]

LARGEST = 64
"""Particles beyond which pairs are too many to be fitted."""

_EXPONENTS = np.linspace(-5.0, 3.0, 33)  # looked through; the best is refined
_SOFTENINGS = (0.0, 0.1, 0.2, 0.4, 0.8)  # likewise, in units of the median distance
_LIMITS = (-6.0, 4.0)  # of exponents
_WORTH = 0.1  # of what simpler laws leave unexplained
_NOTHING = 1e-9  # share left unexplained that is rounding


@dataclass(frozen=True)
class PairForce:
    """One fitted law.

    Attributes:
        kind: ``power`` (softened where ``softening > 0``) or ``spring``. coupling: name of ``κ``.
        strength: ``c``. constant: the exponent ``a``, or the rest length ``L`` in metres. softening: ``ε`` in metres.
        explained: share of the mean square force that it explains.
    """

    kind: str
    coupling: str
    strength: float
    constant: float
    softening: float
    explained: float


class PairForces:
    """All candidate forces at ``N`` states of ``P`` particles, to be fitted to any number of models.

    Args:
        positions: ``[N, P, space]``, m.
        couplings: ``κ`` by name, each ``[P, P]``, symmetric; of equal ones the first is found, of zero ones none.

    Raises:
        ValueError: fewer than two particles, or two in the same place.
    """

    def __init__(self, positions: Float, couplings: Mapping[str, Float]) -> None:
        apart = positions[:, :, None] - positions[:, None]  # [N, P, P, space]
        distance = np.linalg.norm(apart, axis=-1)
        pairs = ~np.eye(distance.shape[-1], dtype=bool)
        if not pairs.any() or not distance[:, pairs].min() > 0.0:
            raise ValueError("pair forces need at least two particles, all in different places")
        self._distance = np.where(pairs, distance, 1.0)
        self._unit = apart / self._distance[..., None]
        self.couplings = {name: np.where(pairs, kappa, 0.0) for name, kappa in couplings.items() if kappa.any()}
        self._typical = float(np.median(distance[:, pairs]))
        self._grid = [(a, e * self._typical) for e in _SOFTENINGS for a in _EXPONENTS]
        self._bases = {n: np.stack([self._force(n, a, e) for a, e in self._grid]) for n in self.couplings}

    def fit(self, forces: Float) -> PairForce | None:
        """The simplest law that explains most of ``forces [N, P, space]``; None where there are none, or not finite."""
        y = forces.reshape(-1)
        if not (np.isfinite(y).all() and y.any()):
            return None
        simple = [law for n in self.couplings for law in (self.power(forces, n), self.spring(forces, n)) if law]
        best = max(simple, key=lambda law: law.explained)
        if 1.0 - best.explained <= _NOTHING:
            return best
        scores = {n: _explained(self._bases[n], y).max() for n in self.couplings}
        softened = self.power(forces, max(scores, key=lambda n: scores[n]), softened=True)
        worth = softened is not None and 1.0 - softened.explained < _WORTH * (1.0 - best.explained)
        return softened if worth else best

    def power(self, forces: Float, coupling: str, softened: bool = False) -> PairForce | None:
        """The best power of the distance with that coupling; see `fit`."""
        y = forces.reshape(-1)
        if not (np.isfinite(y).all() and y.any()):
            return None
        exponent, softening = self._softened(y, coupling) if softened else (self._exponent(y, coupling), 0.0)
        basis = self._force(coupling, exponent, softening)
        strength, share = float(basis @ y / (basis @ basis)), float(_explained(basis[None], y)[0])
        return PairForce("power", coupling, strength, exponent, softening, share)

    def _exponent(self, y: Float, coupling: str) -> float:
        best = float(_EXPONENTS[int(_explained(self._bases[coupling][: len(_EXPONENTS)], y).argmax())])
        width = float(_EXPONENTS[1] - _EXPONENTS[0])

        def unexplained(a: float) -> float:
            return 1.0 - float(_explained(self._force(coupling, a, 0.0)[None], y)[0])

        bounds = (best - width, best + width)
        return float(minimize_scalar(unexplained, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)

    def _softened(self, y: Float, coupling: str) -> tuple[float, float]:
        exponent, softening = self._grid[int(_explained(self._bases[coupling], y).argmax())]

        def unexplained(x: Float) -> float:
            return 1.0 - float(_explained(self._force(coupling, x[0], x[1] * self._typical)[None], y)[0])

        start = [exponent, max(softening / self._typical, 0.05)]
        ends = {"xatol": 1e-4, "fatol": 1e-14}
        found = minimize(unexplained, start, method="Nelder-Mead", bounds=[_LIMITS, (1e-3, 5.0)], options=ends).x
        return float(found[0]), float(found[1]) * self._typical

    def spring(self, forces: Float, coupling: str) -> PairForce | None:
        """The best spring with a rest length with that coupling; None as in `fit`, or where its stiffness is zero."""
        y = forces.reshape(-1)
        if not (np.isfinite(y).all() and y.any()):
            return None
        bases = np.stack([self._force(coupling, 1.0, 0.0), self._force(coupling, 0.0, 0.0)])
        (stiffness, tension), *_ = np.linalg.lstsq(bases.T, y, rcond=None)
        if stiffness == 0.0:
            return None
        left = y - stiffness * bases[0] - tension * bases[1]
        share = 1.0 - float(left @ left) / float(y @ y)
        return PairForce("spring", coupling, float(stiffness), float(-tension / stiffness), 0.0, share)

    def _force(self, coupling: str, exponent: float, softening: float) -> Float:
        """``Σ_j κ_ij r_ij (r_ij² + ε²)^((a - 1) / 2) e_ij``, flat ``[N * P * space]``."""
        r = self._distance
        size = r**exponent if softening == 0.0 else r * (r * r + softening**2) ** (0.5 * (exponent - 1.0))
        return ((self.couplings[coupling] * size)[..., None] * self._unit).sum(axis=2).ravel()


def _explained(bases: Float, forces: Float) -> Float:
    """Share of the square of ``forces [M]`` that the best multiple of every basis ``[G, M]`` explains: ``[G]``."""
    return np.square(bases @ forces) / np.square(bases).sum(axis=1) / (forces @ forces)
