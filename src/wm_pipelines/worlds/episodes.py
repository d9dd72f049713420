"""Episodes: what a world produced, the same shape for every world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

@dataclass(frozen=True)
class Episodes:
    """``E`` episodes of ``T`` steps of one world; one split (train, validation, test …) is one `Episodes`.

    Attributes:
        time: ``[E, T+1]`` seconds. state: ``[E, T+1, 2d]`` float64, what an observer measured (may carry noise).
        derivative: ``[E, T+1, 2d]`` or None: dz/dt at the noise-free state, where the simulator gives it.
        action ``[E, T, A]``, reward ``[E, T]``, frames ``[E, T+1, H, W, C]`` uint8, caption ``[E]``: or None.
        metadata: world, parameters, seed, generator version … JSON types only; kept in the file's header.
    """

    time: NDArray[np.float64]
    state: NDArray[np.float64]
    derivative: NDArray[np.float64] | None = None
    action: NDArray[np.float64] | None = None
    reward: NDArray[np.float64] | None = None
    frames: NDArray[np.uint8] | None = None
    caption: NDArray[np.str_] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
