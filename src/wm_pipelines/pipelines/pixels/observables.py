"""What a read-out is asked for, in place of a state: numbers that pictures show continuously."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.system import System

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Observables:
    """Positions and momenta of a system's states; an angle is read as its sine and cosine, which know no turn."""

    system: System

    @property
    def _straight(self) -> list[int]:
        return [i for i in range(self.system.dof) if i not in self.system.angles]

    def position(self, state: Float) -> Float:
        """``[..., 2d] -> [..., P]``: sines and cosines of angles, other coordinates as they are."""
        q = state[..., : self.system.dof]
        angles = q[..., list(self.system.angles)]
        return np.concatenate([np.sin(angles), np.cos(angles), q[..., self._straight]], axis=-1)

    def velocity(self, state: Float) -> Float:
        """``[..., 2d] -> [..., d]``: momenta, that is velocities times masses."""
        return state[..., self.system.dof :]

    def state(self, position: Float, velocity: Float) -> Float:
        """The state that was read, ``[..., 2d]``; angles in (-pi, pi]."""
        turns = len(self.system.angles)
        q = np.empty((*position.shape[:-1], self.system.dof))
        q[..., list(self.system.angles)] = np.arctan2(position[..., :turns], position[..., turns : 2 * turns])
        q[..., self._straight] = position[..., 2 * turns :]
        return np.concatenate([q, velocity], axis=-1)
