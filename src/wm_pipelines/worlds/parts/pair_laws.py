"""Laws between two particles, ``phi(r)``: gravity and charges, springs, bonds that can break, screened charges.

All are softened alike, ``rho^2 = r^2 + eps^2`` in the place of the distance, and give what a sum over pairs needs of
the squared distance: `potential` and `tension` ``phi'(r) / r``; and the `curvature` that a simulator's first sub-steps
follow from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from array_api_compat import array_namespace, device

from wm_pipelines.worlds.base import Array, Float


def like(z: Array, values: Float) -> Array:
    """A constant as an array of the kind, precision and device of ``z``."""
    return array_namespace(z).asarray(values, dtype=z.dtype, device=device(z))


@dataclass(frozen=True)
class InverseDistance:
    """``phi = c_ij / rho``, ``rho^2 = r^2 + eps^2`` (Plummer): gravity ``c = -G m_i m_j``, charges ``c = k e_i e_j``.

    Attributes:
        coupling: ``c [N, N]``, symmetric, in J m.
        softening: ``eps`` in metres; 0 is the singular law.
    """

    coupling: Float
    softening: float = 0.0

    def potential(self, r2: Array) -> Array:
        """``phi [..., N, N]`` of squared distances."""
        return like(r2, self.coupling) / array_namespace(r2).sqrt(r2 + self.softening**2)

    def tension(self, r2: Array) -> Array:
        """``phi'(r) / r [..., N, N]``: the pull along ``q_i - q_j``, positive where bodies attract."""
        rho2 = r2 + self.softening**2
        return -like(r2, self.coupling) / (rho2 * array_namespace(r2).sqrt(rho2))

    def curvature(self, bodies: int) -> float:  # noqa: ARG002
        """The largest ``|phi''|`` to expect, in N/m: of the strongest pair, one body passing through the other."""
        return 2.0 * _strongest(self.coupling) / self.softening**3

    def between(self, rows: slice, columns: slice) -> InverseDistance:
        """The law of the pairs of these bodies with those."""
        return replace(self, coupling=self.coupling[rows, columns])


@dataclass(frozen=True)
class Springs:
    """``phi = k (rho - L)^2 / 2`` between all pairs, ``rho^2 = r^2 + eps^2``.

    Attributes:
        stiffness: ``k`` in N/m.
        rest_length: ``L`` in metres.
        softening: ``eps`` in metres; without it the force jumps where two bodies pass through each other.
    """

    stiffness: float
    rest_length: float
    softening: float = 0.0

    def potential(self, r2: Array) -> Array:
        """``phi [..., N, N]`` of squared distances."""
        return 0.5 * self.stiffness * (array_namespace(r2).sqrt(r2 + self.softening**2) - self.rest_length) ** 2

    def tension(self, r2: Array) -> Array:
        """``phi'(r) / r [..., N, N]``."""
        return self.stiffness * (1.0 - self.rest_length / array_namespace(r2).sqrt(r2 + self.softening**2))

    def curvature(self, bodies: int) -> float:
        """Stiffness against all others together, or of one spring whose ends pass through each other, in N/m."""
        return self.stiffness * max(bodies, 2.0 * self.rest_length / self.softening)

    def between(self, rows: slice, columns: slice) -> Springs:  # noqa: ARG002
        """The law of the pairs of these bodies with those: the same for all."""
        return self


@dataclass(frozen=True)
class Morse:
    """``phi = D (1 - exp(-a (rho - L)))^2 - D``, ``rho^2 = r^2 + eps^2``: a bond that can break.

    P. M. Morse, Phys. Rev. 34, 57 (1929). Zero far away, ``-D`` where ``rho = L``, steep but finite closer in.

    Attributes:
        depth: ``D`` in J. steepness: ``a`` in 1/m. rest_length: ``L`` in metres.
        softening: ``eps`` in metres; without it the force jumps where two bodies pass through each other.
    """

    depth: float
    steepness: float
    rest_length: float
    softening: float = 0.0

    def potential(self, r2: Array) -> Array:
        """``phi [..., N, N]`` of squared distances."""
        decay = self._decay(array_namespace(r2).sqrt(r2 + self.softening**2))
        return self.depth * decay * (decay - 2.0)

    def tension(self, r2: Array) -> Array:
        """``phi'(r) / r [..., N, N]``, which is ``phi'(rho) / rho``."""
        rho = array_namespace(r2).sqrt(r2 + self.softening**2)
        decay = self._decay(rho)
        return 2.0 * self.steepness * self.depth * decay * (1.0 - decay) / rho

    def curvature(self, bodies: int) -> float:  # noqa: ARG002
        """A dozen times ``2 a^2 D``, that of a bond at rest: what close encounters at bound energies reach, in N/m."""
        return 24.0 * self.steepness**2 * self.depth

    def between(self, rows: slice, columns: slice) -> Morse:  # noqa: ARG002
        """The law of the pairs of these bodies with those: the same for all."""
        return self

    def _decay(self, rho: Array) -> Array:
        return array_namespace(rho).exp(-self.steepness * (rho - self.rest_length))


@dataclass(frozen=True)
class Yukawa:
    """``phi = c_ij exp(-rho / lambda) / rho``, ``rho^2 = r^2 + eps^2``: charges ``c = k e_i e_j`` that are screened.

    H. Yukawa, Proc. Phys.-Math. Soc. Japan 17, 48 (1935); in a plasma, Debye and Hückel (1923).

    Attributes:
        coupling: ``c [N, N]``, symmetric, in J m. screening_length: ``lambda`` in metres.
        softening: ``eps`` in metres; 0 is the singular law.
    """

    coupling: Float
    screening_length: float
    softening: float = 0.0

    def potential(self, r2: Array) -> Array:
        """``phi [..., N, N]`` of squared distances."""
        xp = array_namespace(r2)
        rho = xp.sqrt(r2 + self.softening**2)
        return like(r2, self.coupling) * xp.exp(-rho / self.screening_length) / rho

    def tension(self, r2: Array) -> Array:
        """``phi'(r) / r [..., N, N]``, which is ``phi'(rho) / rho``."""
        xp = array_namespace(r2)
        rho2 = r2 + self.softening**2
        rho = xp.sqrt(rho2)
        screened = xp.exp(-rho / self.screening_length) * (1.0 / rho + 1.0 / self.screening_length)
        return -like(r2, self.coupling) * screened / rho2

    def curvature(self, bodies: int) -> float:  # noqa: ARG002
        """The largest ``|phi''|`` to expect, in N/m: that of the same charges unscreened, which is larger."""
        return 2.0 * _strongest(self.coupling) / self.softening**3

    def between(self, rows: slice, columns: slice) -> Yukawa:
        """The law of the pairs of these bodies with those."""
        return replace(self, coupling=self.coupling[rows, columns])


def _strongest(coupling: Float) -> float:
    """The largest coupling between two different bodies."""
    return float(np.abs(coupling - np.diag(np.diag(coupling))).max())


PairLaw = InverseDistance | Springs | Morse | Yukawa
