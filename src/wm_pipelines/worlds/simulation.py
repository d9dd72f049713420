"""How a world is carried through time, and how it proves it right: every episode checks its own energy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from wm_pipelines.integrators import IntegrationError, dop853, rollout_separable
from wm_pipelines.worlds.base import Array, Float

Law = Callable[[Array], Array]

_REFINEMENTS = 6


def energy_drift(states: Float, energy: Law, kinetic: Law) -> Float:
    """Largest ``|H(t) - H(0)|`` of every episode over its largest kinetic energy: ``[E, K, 2d] -> [E]``.

    Kinetic energy is the scale because, unlike H, it has no arbitrary zero. An episode at rest has drift 0.
    """
    values = energy(states)
    drift = np.abs(values - values[:, :1]).max(axis=1)
    # Rounding (and underflow) of H itself, which is all there is to see in an episode (almost) at rest.
    floor = 16 * np.finfo(np.float64).eps * np.abs(values).max(axis=1) + 1e-290
    scale = kinetic(states).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(drift <= floor, 0.0, drift / scale)


def _failed(drift: Float, tolerance: float) -> np.ndarray:
    return np.flatnonzero(~(drift <= tolerance))  # written so that NaN fails


def check_energy(world: str, states: Float, energy: Law, kinetic: Law, tolerance: float) -> None:
    """Refuse episodes that do not keep their energy.

    Raises:
        IntegrationError: names the first such episode, its drift and the tolerance.
    """
    drift = energy_drift(states, energy, kinetic)
    failed = _failed(drift, tolerance)
    if failed.size:
        raise IntegrationError(
            f"{world}: episode {failed[0]} fails its energy check (relative drift {drift[failed[0]]:.1e}, allowed "
            f"{tolerance:.0e}; {failed.size} of {drift.size} episodes fail); use a shorter step or gentler start states"
        )


def simulate_separable(
    world: str,
    z0: Float,
    step: float,
    steps: int,
    *,
    velocity: Law,
    force: Law,
    energy: Law,
    kinetic: Law,
    longest: float,
    tolerance: float = 1e-10,
    chunk: int | None = None,
) -> Float:
    """Simulate ``H = p^2 / 2m + V(q)`` by Blanes and Moan's order 6, sub-stepped until every episode keeps its energy.

    Args:
        world: name, for messages.
        z0: start states ``[E, 2d]``.
        step: seconds between rows.
        steps: rows after the start.
        velocity: ``p -> dT/dp``.
        force: ``q -> -dV/dq``.
        energy: ``z -> H``.
        kinetic: ``z -> T``.
        longest: longest sub-step in seconds to begin with; episodes that fail the check are redone with half of it.
        tolerance: allowed `energy_drift`.
        chunk: rows simulated together, see `rollout_separable`.

    Returns:
        ``[E, steps + 1, 2d]``.

    Raises:
        IntegrationError: an episode fails its energy check with the shortest sub-step too.
    """
    substeps = max(1, math.ceil(abs(step) / longest))
    law = (velocity, force, "blanes_moan6")
    with np.errstate(over="ignore", invalid="ignore"):
        states = rollout_separable(z0, step, steps, *law, substeps, chunk)
        for _ in range(_REFINEMENTS):
            failed = _failed(energy_drift(states, energy, kinetic), tolerance)
            if failed.size == 0:
                return states
            substeps *= 2
            states[failed] = rollout_separable(z0[failed], step, steps, *law, substeps, chunk)
    check_energy(world, states, energy, kinetic, tolerance)
    return states


def simulate_adaptive(
    world: str,
    z0: Float,
    step: float,
    steps: int,
    *,
    dynamics: Law,
    energy: Law,
    kinetic: Law,
    tolerance: float = 1e-9,
    accuracy: float = 1e-12,
) -> Float:
    """Simulate any law by DOP853, every episode with step sizes of its own; for close encounters and for chaos.

    Args:
        world: name, for messages.
        z0: start states ``[E, 2d]``.
        step: seconds between rows.
        steps: rows after the start.
        dynamics: ``z -> dz/dt``.
        energy: ``z -> H``.
        kinetic: ``z -> T``.
        tolerance: allowed `energy_drift`.
        accuracy: relative and absolute tolerance of DOP853.

    Returns:
        ``[E, steps + 1, 2d]``.

    Raises:
        IntegrationError: an episode cannot be integrated (a collision), or fails its energy check.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            states = dop853(dynamics, z0, step, steps, rtol=accuracy, atol=accuracy)
    except IntegrationError as error:
        raise IntegrationError(f"{world}: {error}") from None
    check_energy(world, states, energy, kinetic, tolerance)
    return states
