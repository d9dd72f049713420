"""Does a roll-out keep what nature keeps: energy, linear and angular momentum.

The functions take the conserved quantity already evaluated along the roll-out, by the *true* law of the world, never by
a law the model has learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.prediction import infinite_where_undefined, mean_over_steps

Float = NDArray[np.float64]


def departure(vector: Float) -> Float:
    """Distance of a conserved vector from its own start, ``‖P(t) - P(0)‖``: ``[..., K, c] -> [..., K]``, its unit."""
    with np.errstate(invalid="ignore", over="ignore"):
        return infinite_where_undefined(np.linalg.norm(vector - vector[..., :1, :], axis=-1))


def energy_mse(energy: Float, true_energy: Float) -> Float:
    """Mean squared difference to the true energy at the same time, ``1/T Σ_t (E(z_t) - E(x_t))²``: ``[S, E]``, J².

    The yardstick of Greydanus, Dzamba, Yosinski, *Hamiltonian Neural Networks* (2019), table 1.

    Args:
        energy: along the prediction ``[S, E, K]``, J.
        true_energy: along the truth ``[E, K]``, J.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return mean_over_steps(infinite_where_undefined(np.square(energy - true_energy)))


def energy_error(energy: Float) -> Float:
    """``1/T Σ_t |E(t) - E(0)|`` from energies ``[S, E, K]`` in J: ``[S, E]``, J."""
    return mean_over_steps(departure(energy[..., None]))


def momentum_error(momentum: Float) -> Float:
    """``1/T Σ_t ‖P(t) - P(0)‖`` from total momenta ``[S, E, K, space]``: ``[S, E]``, kg m/s."""
    return mean_over_steps(departure(momentum))


def angular_momentum_error(angular_momentum: Float) -> Float:
    """``1/T Σ_t ‖L(t) - L(0)‖`` from total angular momenta ``[S, E, K, 1 | 3]``: ``[S, E]``, kg m²/s."""
    return mean_over_steps(departure(angular_momentum))


def energy_drift(energy: Float, time: Float) -> Float:
    """Steady gain or loss of energy: size of the least-squares slope of ``E(t) - E(0)`` over time.

    A symplectic roll-out lets the energy swing about a constant: its error is not zero, its drift is. The sign is
    dropped so that a gain in one episode does not hide a loss in another.

    Args:
        energy: ``[S, E, K]``, J.
        time: ``[K]`` or ``[E, K]``, s, at least two distinct instants.

    Returns:
        ``[S, E]``, W (joules per second).
    """
    centred = time - time.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", over="ignore"):
        gained = energy - energy[..., :1]
        slope = (centred * gained).sum(axis=-1) / np.square(centred).sum(axis=-1)
    return infinite_where_undefined(np.abs(slope))


# ---------------------------------------------------------------- violations: errors relative to a natural scale


def energy_scale(truth: Float, energy: Callable[[Any], Any]) -> Float:
    """Energy that counts as 100 % in an episode: the larger of ``|E(0)|`` and the mean kinetic energy, ``[E]``, J.

    ``|E(0)|`` alone depends on where the potential was given the value zero, and can vanish. The kinetic energy
    ``E(q, p) - E(q, 0)`` does not.

    Args:
        truth: ``[E, K, 2d]``.
        energy: ``z [..., 2d] -> [...]``, J.
    """
    at_rest = truth.copy()
    at_rest[..., truth.shape[-1] // 2 :] = 0.0
    along = np.asarray(energy(truth), dtype=np.float64)
    kinetic = np.abs(along - np.asarray(energy(at_rest), dtype=np.float64)).mean(axis=-1)
    return np.maximum(np.abs(along[..., 0]), kinetic)


def momentum_scale(truth: Float) -> Float:
    """Momentum that counts as 100 %: time mean of ``‖p‖`` over all coordinates, ``[E, K, 2d] -> [E]``, kg m/s.

    The total momentum itself cannot serve: it is zero in the centre-of-mass frame.
    """
    return np.linalg.norm(truth[..., truth.shape[-1] // 2 :], axis=-1).mean(axis=-1)


def angular_momentum_scale(truth: Float) -> Float:
    """Angular momentum that counts as 100 %: time mean of ``‖q‖ ‖p‖``, which bounds ``|L|``; ``[E]``, kg m²/s."""
    q, p = np.split(truth, 2, axis=-1)
    return (np.linalg.norm(q, axis=-1) * np.linalg.norm(p, axis=-1)).mean(axis=-1)


def violation_rate(laws: Mapping[str, tuple[Float, Float]], tolerance: float) -> Float:
    """Share of predicted steps at which at least one conserved quantity is further from its start than tolerated.

    Args:
        laws: per law the `departure` ``[S, E, K]`` and its scale ``[E]``, same unit.
        tolerance: largest allowed departure, as a share of the scale. A departure that is not finite is outside.

    Returns:
        ``[S, E]`` in 0 … 1.

    Raises:
        ValueError: no law is given; there is nothing to violate.
    """
    if not laws:
        raise ValueError("violation_rate needs at least one conserved quantity")
    # `not <=` rather than `>`: what cannot be compared is not inside.
    outside = [~(departed <= tolerance * scale[..., None]) for departed, scale in laws.values()]
    return mean_over_steps(np.logical_or.reduce(outside).astype(np.float64))
