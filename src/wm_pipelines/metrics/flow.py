"""What law has a model learned? Properties of its flow ``z -> Phi(z)``, asked at single states.

States ``z = (q, p)`` of length ``n = 2d``; ``S`` seeds, ``N`` states. All lengths of states are in units of the truth's
`horizon.spread` (one number for coordinates, one for momenta), so that nothing depends on the choice of units. The flow
of every Hamiltonian is symplectic, and reversible if its energy is even in the momenta (Hairer, Lubich, Wanner,
*Geometric Numerical Integration*, 2006, chapters V and VI).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.metrics.prediction import infinite_where_undefined, state_error

Float = NDArray[np.float64]

DIFFERENCE = 1e-3
"""Half distance of the central differences, in units of the spread: beyond the rounding of a solver that is good to
1e-12, within what two distances can extrapolate."""

_FORWARD = np.array([48.0, -36.0, 16.0, -3.0]) / 12.0  # first derivative at the first of five points, from the others
_SIZES = (1.0, -1.0, 2.0, -2.0)


def random_directions(size: int, count: int, seed: int = 0) -> Float:
    """``m = min(count, size)`` orthonormal directions, uniform (QR of a Gaussian matrix, Mezzadri 2007): ``[m, n]``."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return np.ascontiguousarray((q * np.sign(np.diagonal(r))).T[:count])


def displaced(states: Float, directions: Float, unit: Float) -> Float:
    """States moved along every direction, by one and by two distances, forwards and backwards.

    Args:
        states: ``[N, n]``. directions: ``[m, n]``, scaled. unit: the spread ``[n]``.

    Returns:
        ``[4 m N, n]``, for `directional_derivatives`.
    """
    moved = DIFFERENCE * np.multiply.outer(_SIZES, directions * unit)
    return (states + moved[:, :, None]).reshape(-1, states.shape[-1])


def directional_derivatives(images: Float, directions: int, unit: Float) -> tuple[Float, Float]:
    """``J u`` of a flow by central differences at two distances, extrapolated (Richardson).

    Args:
        images: of `displaced` states, ``[S, 4 m N, n]``. directions: m. unit: the spread ``[n]``.

    Returns:
        ``[S, N, m, n]`` in scaled variables, error ``O(DIFFERENCE^4)``; and the same without extrapolation.
    """
    seeds, _, size = images.shape
    forward, backward, forward2, backward2 = np.moveaxis(images.reshape(seeds, 4, directions, -1, size) / unit, 1, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        near = (forward - backward) / (2.0 * DIFFERENCE)
        far = (forward2 - backward2) / (4.0 * DIFFERENCE)
        return np.swapaxes((4.0 * near - far) / 3.0, 1, 2), np.swapaxes(near, 1, 2)


def symplecticity_error(pushed: Float, directions: Float) -> Float:
    """``‖JᵀΩJ - Ω‖ / ‖Ω‖`` (Frobenius) from ``m`` of ``n`` directions: ``[S, N]``, dimensionless.

    With all directions it is exact. With fewer, those of a uniform orthonormal set ``Q``, the mean square of
    ``ω(Ju, Jv) - ω(u, v)`` over their pairs estimates the square of the norm without bias, for on average it is the
    same for all pairs of a basis: ``‖M‖² = n (n - 1) / (m (m - 1)) E ‖QᵀMQ‖²``.

    Args:
        pushed: ``J u``, ``[S, N, m, n]``. directions: ``u``, ``[m, n]``, at least two.
    """
    m, n = directions.shape
    with np.errstate(invalid="ignore", over="ignore"):
        change = _omega(pushed) - _omega(directions)
        norm = np.sqrt(np.square(change).sum(axis=(-2, -1)) * (n * (n - 1)) / (m * (m - 1)))
    return infinite_where_undefined(norm / np.sqrt(n))


def _omega(vectors: Float) -> Float:
    """``ω(u_i, u_j) = q_i · p_j - p_i · q_j`` of all pairs: ``[..., m, n] -> [..., m, m]``."""
    q, p = np.split(vectors, 2, axis=-1)
    product = q @ np.swapaxes(p, -1, -2)
    return product - np.swapaxes(product, -1, -2)


def turned_back(states: Float) -> Float:
    """``(q, p) -> (q, -p)``."""
    q, p = np.split(states, 2, axis=-1)
    return np.concatenate([q, -p], axis=-1)


def reversal_error(returned: Float, starts: Float, unit: Float, angles: Sequence[int] = ()) -> Float:
    """Distance from the start after there and back, root mean square over the state, ``[S, N]``, dimensionless.

    Args:
        returned: ``R Phi R Phi (z)`` with ``R`` = `turned_back`, ``[S, N, n]``. starts: ``z [N, n]``. unit: the spread.
        angles: entries of the state that are angles.
    """
    with np.errstate(over="ignore"):
        return np.sqrt(np.square(state_error(returned, starts, angles) / unit).mean(axis=-1))


def initial_slope(paths: Float, step: float) -> Float:
    """``dz/dt`` at the start of paths, from their first five rows; its error is ``O(step^4)``.

    Args:
        paths: ``[..., 5, n]``, from the start on. step: s, between rows.

    Returns:
        ``[..., n]``, unit of the state per second.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        # Differences from the start: what rests has no slope, not one of rounding.
        return np.tensordot(paths[..., 1:, :] - paths[..., :1, :], _FORWARD, axes=(-2, 0)) / step


def force_error(forces: Float, truth: Float) -> Float:
    """``‖dp/dt - true dp/dt‖`` relative to the root mean square of the true one over all states: ``[S, N]``.

    Args:
        forces: ``[S, N, d]``, N. truth: ``[N, d]``.

    Raises:
        ValueError: no force acts at any of the states.
    """
    scale = np.sqrt(np.square(truth).sum(axis=-1).mean())
    if not scale > 0.0:
        raise ValueError("force_error needs states at which a force acts")
    with np.errstate(invalid="ignore", over="ignore"):
        return infinite_where_undefined(np.linalg.norm(forces - truth, axis=-1) / scale)
