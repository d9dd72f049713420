"""Does a roll-out keep what nature keeps: energy, linear and angular momentum.

The functions take the quantity already evaluated along the roll-out, by the *true* law of the world, never by a law
the model has learned. What nature keeps is compared with its start. What nature changes (friction, a drive) is compared
with the truth at the same time: keeping it would be a mistake. `truth_changes` tells the two apart by the truth alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, stats

from wm_pipelines.metrics.prediction import infinite_where_undefined, mean_over_steps

Float = NDArray[np.float64]


def departure(vector: Float, truth: Float | None = None) -> Float:
    """Distance of a vector from where nature has it: ``[..., K, c] -> [..., K]``, its unit.

    Args:
        vector: along the prediction. truth: along the truth ``[E, K, c]``, where it changes: ``‖P(t) - P_true(t)‖``;
            None where it is conserved: ``‖P(t) - P(0)‖``, the prediction's own start.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        reference = vector[..., :1, :] if truth is None else truth
        return infinite_where_undefined(np.linalg.norm(vector - reference, axis=-1))


def energy_mse(energy: Float, true_energy: Float) -> Float:
    """Mean squared difference to the true energy at the same time, ``1/T Σ_t (E(z_t) - E(x_t))²``: ``[S, E]``, J².

    The yardstick of Greydanus, Dzamba, Yosinski, *Hamiltonian Neural Networks* (2019), table 1.

    Args:
        energy: along the prediction ``[S, E, K]``, J.
        true_energy: along the truth ``[E, K]``, J.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return mean_over_steps(infinite_where_undefined(np.square(energy - true_energy)))


def energy_error(energy: Float, truth: Float | None = None) -> Float:
    """``1/T Σ_t |E(t) - E(0)|`` from energies ``[S, E, K]`` in J: ``[S, E]``, J; ``truth [E, K]``: see `departure`."""
    return mean_over_steps(departure(energy[..., None], None if truth is None else truth[..., None]))


def momentum_error(momentum: Float, truth: Float | None = None) -> Float:
    """``1/T Σ_t ‖P(t) - P(0)‖`` from total momenta ``[S, E, K, space]``: ``[S, E]``, kg m/s; truth: see `departure`."""
    return mean_over_steps(departure(momentum, truth))


def angular_momentum_error(angular_momentum: Float, truth: Float | None = None) -> Float:
    """``1/T Σ_t ‖L(t) - L(0)‖`` from ``[S, E, K, 1 | 3]``: ``[S, E]``, kg m²/s; truth: see `departure`."""
    return mean_over_steps(departure(angular_momentum, truth))


def energy_drift(energy: Float, time: Float, truth: Float | None = None) -> Float:
    """Steady gain or loss of energy: size of the least-squares slope of ``E(t) - E(0)`` over time.

    A symplectic roll-out lets the energy swing about a constant: its error is not zero, its drift is. The sign is
    dropped so that a gain in one episode does not hide a loss in another.

    Args:
        energy: ``[S, E, K]``, J.
        time: ``[K]`` or ``[E, K]``, s, at least two distinct instants.
        truth: ``[E, K]``, J, where the true energy changes: the slope is that of ``E(t) - E_true(t)``.

    Returns:
        ``[S, E]``, W (joules per second).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        slope = _slope(energy - (energy[..., :1] if truth is None else truth), time)
    return infinite_where_undefined(np.abs(slope))


def _slope(values: Float, time: Float) -> Float:
    """Least-squares slope along the last axis, ``[..., K] -> [...]``."""
    centred = time - time.mean(axis=-1, keepdims=True)
    return (centred * values).sum(axis=-1) / np.square(centred).sum(axis=-1)


# ---------------------------------------------------------------- what the truth itself does

_NOT_INTEGRATION = 1e-4  # share of the scale; simulators keep their energy to 1e-9 of the kinetic energy
_NOT_NOISE = 0.2  # of the squared rank correlation with time; of white noise 1/K, of a swing over n periods 0.6/n²
_NOT_A_STEP = 0.01  # share of the scale; the swing of a symplectic simulator at a usual step is below
_SLOW = 0.1  # share of the cosines that count as slow: periods over 20 samples; smoothed derivatives make shorter noise
_MOSTLY_SLOW = 0.5  # of the variation; of white noise it is a tenth


def truth_changes(truth: Float, time: Float, scale: float) -> bool:
    """Whether a quantity changes along the truth: steadily, or by a swing that is neither integration error nor noise.

    Args:
        truth: ``[E, K, c]``. time: ``[K]`` or ``[E, K]``, s. scale: what counts as 100 %, unit of the quantity.
    """
    if truth.shape[1] < 4:
        return False
    by_component = np.moveaxis(truth - truth.mean(axis=1, keepdims=True), -1, -2)  # [E, c, K]
    clock = np.broadcast_to(time, truth.shape[:2])
    return _steadily(by_component, clock, scale) or _swinging(by_component, scale)


def _steadily(centred: Float, clock: Float, scale: float) -> bool:
    """Friction, or any one-way change, of ``[E, c, K]`` over ``[E, K]``.

    Time orders it, the square of Spearman's rank correlation being a fifth or more (a mean over episodes and
    components, each by its variation), *and* a straight line through it changes by more than 1e-4 of the scale. Noise
    fails the first, the drift of an accurate simulator the second.
    """
    variation = np.square(centred).mean(axis=-1)
    ranks = stats.rankdata(centred, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    order = np.arange(ranks.shape[-1]) - (ranks.shape[-1] - 1) / 2.0
    squares = np.square(ranks).sum(axis=-1) * np.square(order).sum()
    ordered = np.divide(np.square(ranks @ order), squares, out=np.zeros_like(squares), where=squares > 0.0)
    change = np.linalg.norm(_slope(centred, clock[:, None]), axis=-1) * np.ptp(clock, axis=-1)
    by_time = (ordered * variation).sum() >= _NOT_NOISE * variation.sum()
    return bool(by_time and change.mean() > _NOT_INTEGRATION * scale)


def _swinging(centred: Float, scale: float) -> bool:
    """A drive, or constants that are not those of the recording: a slow swing of ``[E, c, K]``, rms 1 % of the scale.

    Half of its variation or more lies in the slowest tenth of its discrete cosines. A faster swing is not told from
    noise; a world can say what it keeps (``conserved``).
    """
    power = np.square(fft.dct(centred, norm="ortho", axis=-1)).sum(axis=(0, 1))
    slow = power[: 1 + max(1, int(_SLOW * power.size))].sum()
    swing = np.sqrt(power.sum() / (len(centred) * power.size))
    return bool(slow >= _MOSTLY_SLOW * power.sum() and swing > _NOT_A_STEP * scale)


# ---------------------------------------------------------------- violations: errors relative to a natural scale


def centre_of_mass_frame(states: Float, truth: Float, masses: Float, moving: bool = True) -> Float:
    """States of particles as seen from the truth's centre of mass: nothing depends on origin or inertial frame there.

    Args:
        states: ``[..., E, K, 2d]``. truth: ``[E, K, 2d]``. masses: ``[N]``, kg; d = N · space.
        moving: go along with the centre; False where the total momentum changes, so that its frame is not inertial:
            only the origin is moved, to where the centre is at the start.

    Returns:
        Shape of ``states``.
    """
    q, p = (half.reshape(*truth.shape[:2], len(masses), -1) for half in np.split(truth, 2, axis=-1))
    mass = np.asarray(masses, dtype=np.float64)[:, None]
    centre = (mass * q).sum(axis=-2, keepdims=True) / mass.sum()
    velocity = p.sum(axis=-2, keepdims=True) / mass.sum()
    if not moving:
        centre, velocity = centre[:, :1], np.zeros_like(velocity)
    shift = [np.broadcast_to(part, p.shape).reshape(*truth.shape[:2], -1) for part in (centre, mass * velocity)]
    return states - np.concatenate(shift, axis=-1)


def energy_scale(truth: Float, energy: Callable[[Any], Any]) -> float:
    """Energy that counts as 100 %: the mean kinetic energy ``E(q, p) - E(q, 0)`` over all episodes and times, J.

    The energy itself cannot serve: it depends on where the potential was given the value zero, and can vanish.

    Args:
        truth: ``[E, K, 2d]``; of particles in the frame of their centre of mass.
        energy: ``z [..., 2d] -> [...]``, J.
    """
    at_rest = truth.copy()
    at_rest[..., truth.shape[-1] // 2 :] = 0.0
    kinetic = np.asarray(energy(truth), dtype=np.float64) - np.asarray(energy(at_rest), dtype=np.float64)
    return float(np.abs(kinetic).mean())


def momentum_scale(truth: Float) -> float:
    """Momentum that counts as 100 %: mean of ``‖p‖`` over episodes and times, ``[E, K, 2d] ->`` kg m/s.

    The total momentum itself cannot serve: it is zero in the centre-of-mass frame.
    """
    return float(np.linalg.norm(truth[..., truth.shape[-1] // 2 :], axis=-1).mean())


def angular_momentum_scale(truth: Float) -> float:
    """Angular momentum that counts as 100 %: mean of ``‖q‖ ‖p‖``, which bounds ``|L|``; kg m²/s."""
    q, p = np.split(truth, 2, axis=-1)
    return float((np.linalg.norm(q, axis=-1) * np.linalg.norm(p, axis=-1)).mean())


def violation_rate(laws: Mapping[str, tuple[Float, float]], tolerance: float) -> Float:
    """Share of predicted steps at which at least one quantity is further from where nature has it than tolerated.

    Args:
        laws: per law the `departure` ``[S, E, K]`` and its scale, same unit.
        tolerance: largest allowed departure, as a share of the scale. A departure that is not finite is outside.

    Returns:
        ``[S, E]`` in 0 … 1.

    Raises:
        ValueError: no law is given; there is nothing to violate.
    """
    if not laws:
        raise ValueError("violation_rate needs at least one conserved quantity")
    # `not <=` rather than `>`: what cannot be compared is not inside.
    outside = [~(departed <= tolerance * scale) for departed, scale in laws.values()]
    return mean_over_steps(np.logical_or.reduce(outside).astype(np.float64))


def obeyed_alone(
    states: Float, can_be: NDArray[np.bool_], simulate: Callable[[Float, float, int], Float], step: float
) -> Float:
    """Where the true law leads from every predicted state alone, in one step: ``[..., K, 2d] -> [..., K - 1, 2d]``.

    NaN from states that cannot be (``can_be [..., K]``), which no law takes further.
    """
    here = states[..., :-1, :].reshape(-1, states.shape[-1])
    there, known = np.full_like(here, np.nan), can_be[..., :-1].reshape(-1)
    if known.any():
        there[known] = simulate(here[known], step, 1)[:, 1]
    return there.reshape(states[..., :-1, :].shape)
