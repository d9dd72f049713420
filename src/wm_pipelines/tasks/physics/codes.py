"""How the judge keeps what is no number in arrays, and how the page reads it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.pair_force import PairForce

QUANTITIES = ("energy", "momentum", "angular_momentum")
"""In the order of the kept array ``changing``."""

COUPLINGS = ("1", "mass", "charge")
"""What pair forces may be proportional to: nothing, or the product of an attribute."""

_KINDS = ("power", "spring")


def coded(law: PairForce | None) -> list[float]:
    """A pair force as six numbers; NaN where none was found."""
    if law is None:
        return [np.nan] * 6
    kind, coupling = _KINDS.index(law.kind), COUPLINGS.index(law.coupling)
    return [kind, coupling, law.strength, law.constant, law.softening, law.explained]


def decoded(code: NDArray[np.float64]) -> PairForce | None:
    """Inverse of `coded`."""
    if np.isnan(code[0]):
        return None
    return PairForce(_KINDS[int(code[0])], COUPLINGS[int(code[1])], *map(float, code[2:]))
