"""Positions and momenta read from latents: what is read in place of a state, and the linear probes that read it.

Axes: ``S`` seeds, ``E`` episodes, ``T`` frames, ``I`` latent steps, ``D`` features, ``Q`` quantities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.metrics.readout import RidgeProbe, ridge_probe, windows
from wm_pipelines.spec import Spec

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Observables:
    """Positions and momenta of states; an angle is read as its sine and cosine, which are continuous.

    Attributes:
        dof: degrees of freedom d. angles: which coordinates are angles.
    """

    dof: int
    angles: tuple[int, ...] = ()

    @classmethod
    def of(cls, spec: Spec) -> Observables:
        """Those of a world."""
        return cls(spec.dof, tuple(spec.facts.get("angles", ())))

    @property
    def _straight(self) -> list[int]:
        return [i for i in range(self.dof) if i not in self.angles]

    def position(self, states: Float) -> Float:
        """``[..., 2d] -> [..., P]``: sines and cosines of angles, other coordinates as they are."""
        q = states[..., : self.dof]
        angles = q[..., list(self.angles)]
        return np.concatenate([np.sin(angles), np.cos(angles), q[..., self._straight]], axis=-1)

    def velocity(self, states: Float) -> Float:
        """``[..., 2d] -> [..., d]``: momenta, that is velocities times masses."""
        return states[..., self.dof :]

    def states(self, position: Float, velocity: Float) -> Float:
        """The states that were read, ``[..., 2d]``; angles in (-pi, pi]."""
        turns = len(self.angles)
        q = np.empty((*position.shape[:-1], self.dof))
        q[..., list(self.angles)] = np.arctan2(position[..., :turns], position[..., turns : 2 * turns])
        q[..., self._straight] = position[..., 2 * turns :]
        return np.concatenate([q, velocity], axis=-1)


class PhysicsProbe:
    """Ridge regressions from frozen features to physics, a pair per seed.

    Positions are read from one latent step, velocities from a window of them: so many that they span the same frames,
    and the same seconds, whatever a family's latent step spans.

    Args:
        observables: of the world. frames: of a window. stride: frames per latent step.
        latents: ``[S, E, I, D]``. states: ``[E, T, 2d]``, of the same training episodes.

    Attributes:
        window: latent steps that a velocity is read from.

    Raises:
        UserError: a window is no whole number of latent steps, or episodes are shorter.
    """

    def __init__(self, observables: Observables, frames: int, stride: int, latents: Float, states: Float) -> None:
        if frames % stride:
            raise UserError(
                f"videos.window: {frames} frames are no whole number of latent steps of {stride}; use a multiple of it"
            )
        self.observables, self.window, self.stride = observables, (window := frames // stride), stride
        if latents.shape[2] < window:
            raise UserError(
                f"videos.window: {window} latents of {stride} frame(s) do not fit into episodes of "
                f"{states.shape[1]} frames; shorten it or lengthen the episodes"
            )
        at = self.latent_steps(states)[:, window - 1 :]
        where, how_fast = (_flat(f(at)) for f in (observables.position, observables.velocity))
        self.position: list[RidgeProbe] = []
        self.velocity: list[RidgeProbe] = []
        for seed, z in enumerate(latents):
            if seed and np.array_equal(z, latents[seed - 1]):  # pixels are the same for all seeds
                self.position.append(self.position[-1])
                self.velocity.append(self.velocity[-1])
            else:
                self.position.append(ridge_probe(_flat(z[:, window - 1 :]), where))
                self.velocity.append(ridge_probe(_flat(windows(z, window)), how_fast))

    def latent_steps(self, states: Float) -> Float:
        """States at the last frame of every latent step, ``[E, I, 2d]``."""
        return np.asarray(states[:, self.stride - 1 :: self.stride])

    def read(self, latents: Float) -> tuple[Float, Float]:
        """Positions and velocities from the window's last latent step on: ``[S, E, I, D] -> [S, E, I', Q]``."""
        last = latents[:, :, self.window - 1 :]
        where = [p.predict(_flat(z)).reshape(*z.shape[:2], -1) for p, z in zip(self.position, last, strict=True)]
        how_fast = [
            p.predict(_flat(w)).reshape(*w.shape[:2], -1)
            for p, w in zip(self.velocity, (windows(z, self.window) for z in latents), strict=True)
        ]
        return np.stack(where), np.stack(how_fast)


def _flat(x: Float) -> Float:
    return x.reshape(-1, x.shape[-1])
