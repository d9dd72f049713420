"""Time integrators, array-agnostic and batched.

The simulator that makes the data and the roll-out of a learned model step through time with the very same code, so a
difference between the two is a difference between the *laws*, not between the integrators. Every function takes numpy
arrays or torch tensors (differentiable: nothing is written in place on the torch path), any leading axes are a batch.

State layout: ``z = (q, p)`` along the last axis, coordinates first, each ``d`` long.

Sources: Hairer, Lubich, Wanner, *Geometric Numerical Integration* (2006): II.1.3 (Gauss), V.3.2 (composition);
Yoshida, Phys. Lett. A 150 (1990); Kahan & Li, Math. Comp. 66 (1997), schemes s9odr6a and s17odr8a;
Blanes & Moan, J. Comput. Appl. Math. 142 (2002), Runge-Kutta-Nystrom scheme of order 6 with 11 stages (type b);
Hairer, Norsett, Wanner, *Solving ODEs I* (1993), II.10 (DOP853; tableau taken from scipy);
Benettin et al., Meccanica 15 (1980) (Lyapunov exponents).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

Array = Any  # numpy.ndarray or torch.Tensor
Field = Callable[[Array], Array]


class IntegrationError(RuntimeError):
    """An integration could not be carried to its end with the accuracy asked for."""


# ---------------------------------------------------------------- explicit symplectic: H(q, p) = T(p) + V(q)


@dataclass(frozen=True)
class Splitting:
    """An explicit symplectic scheme: drift ``c_0``, kick ``d_0``, drift ``c_1``, … kick ``d_{s-1}``, drift ``c_s``.

    Coefficients are fractions of the step; ``sum(drifts) = sum(kicks) = 1``.

    Attributes:
        order: global order; for a ``nystrom`` scheme only where T is quadratic in p.
        drifts, kicks: ``c_0 … c_s`` and ``d_0 … d_{s-1}``. A scheme that starts with a kick has ``c_0 = c_s = 0``.
        nystrom: the order conditions used that T is quadratic in p: fit for mechanics, not for any learned T.
    """

    order: int
    drifts: tuple[float, ...]
    kicks: tuple[float, ...]
    nystrom: bool = False

    def repeated(self, substeps: int) -> Splitting:
        """The scheme applied ``substeps`` times with a step ``substeps`` times smaller; what touches is merged."""
        drifts, kicks = list(self.drifts), list(self.kicks)
        for _ in range(substeps - 1):
            joint = drifts.pop() + self.drifts[0]
            if joint == 0.0:  # kick meets kick: one evaluation of the force less
                kicks[-1] += self.kicks[0]
                drifts.extend(self.drifts[1:])
                kicks.extend(self.kicks[1:])
            else:
                drifts.extend((joint, *self.drifts[1:]))
                kicks.extend(self.kicks)
        scaled = (tuple(x / substeps for x in drifts), tuple(x / substeps for x in kicks))
        return Splitting(self.order, *scaled, nystrom=self.nystrom)


def _symmetric_composition(order: int, *half: float) -> Splitting:
    """Compose leapfrog steps of lengths ``w_1 … w_m … w_1`` (``half`` lists ``w_1 … w_m``)."""
    weights = (*half, *half[-2::-1])
    drifts = (weights[0] / 2, *((a + b) / 2 for a, b in pairwise(weights)), weights[-1] / 2)
    return Splitting(order, drifts, weights)


def _symmetric_nystrom(order: int, half_kicks: tuple[float, ...], half_drifts: tuple[float, ...]) -> Splitting:
    """Kick ``b_1``, drift ``a_1`` … to the middle, and back; the two central coefficients follow from consistency."""
    kicks = (*half_kicks, 0.5 - sum(half_kicks))
    drifts = (*half_drifts, 1.0 - 2.0 * sum(half_drifts), *half_drifts[::-1])
    return Splitting(order, (0.0, *drifts, 0.0), (*kicks, *kicks[::-1]), nystrom=True)


_CUBE_ROOT_2 = math.cbrt(2.0)

SPLITTINGS: dict[str, Splitting] = {
    "leapfrog": _symmetric_composition(2, 1.0),
    "yoshida4": _symmetric_composition(4, 1 / (2 - _CUBE_ROOT_2), -_CUBE_ROOT_2 / (2 - _CUBE_ROOT_2)),
    "kahan_li6": _symmetric_composition(
        6,
        0.39216144400731413927925056,
        0.33259913678935943859974864,
        -0.70624617255763935980996482,
        0.08221359629355080023149045,
        0.79854399093482996339895035,
    ),
    "kahan_li8": _symmetric_composition(
        8,
        0.13020248308889008087881763,
        0.56116298177510838456196441,
        -0.38947496264484728640807860,
        0.15884190655515560089621075,
        -0.39590389413323757733623154,
        0.18453964097831570709183254,
        0.25837438768632204729397911,
        0.29501172360931029887096624,
        -0.60550853383003451169892108,
    ),
    "blanes_moan6": _symmetric_nystrom(
        6,
        (0.0414649985182624, 0.198128671918067, -0.0400061921041533, 0.0752539843015807, -0.0115113874206879),
        (0.123229775946271, 0.290553797799558, -0.127049212625417, -0.246331761062075, 0.357208872795928),
    ),
}


def splitting_step(
    q: Array, p: Array, step: float, velocity: Field, force: Field, scheme: str | Splitting = "kahan_li8"
) -> tuple[Array, Array]:
    """One step of an explicit symplectic scheme for a separable ``H = T(p) + V(q)``.

    Args:
        q: coordinates ``[..., d]``.
        p: momenta ``[..., d]``.
        step: time step.
        velocity: ``p -> dT/dp``, keeps the shape.
        force: ``q -> -dV/dq``, keeps the shape.
        scheme: a name in `SPLITTINGS` or a `Splitting`.
    """
    scheme = SPLITTINGS[scheme] if isinstance(scheme, str) else scheme
    for drift, kick in zip(scheme.drifts, scheme.kicks, strict=False):
        if drift:
            q = q + (drift * step) * velocity(p)
        p = p + (kick * step) * force(q)
    if scheme.drifts[-1]:
        q = q + (scheme.drifts[-1] * step) * velocity(p)
    return q, p


# ---------------------------------------------------------------- implicit symplectic: any H(q, p)

_R15 = math.sqrt(15.0)
_GAUSS_TABLEAUX: dict[int, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    1: (((0.5,),), (1.0,)),
    2: (
        ((0.25, 0.25 - math.sqrt(3) / 6), (0.25 + math.sqrt(3) / 6, 0.25)),
        (0.5, 0.5),
    ),
    3: (
        (
            (5 / 36, 2 / 9 - _R15 / 15, 5 / 36 - _R15 / 30),
            (5 / 36 + _R15 / 24, 2 / 9, 5 / 36 - _R15 / 24),
            (5 / 36 + _R15 / 30, 2 / 9 + _R15 / 15, 5 / 36),
        ),
        (5 / 18, 4 / 9, 5 / 18),
    ),
}


def gauss_legendre_step(
    z: Array, step: float, field: Field, stages: int = 3, tolerance: float = 1e-14, iterations: int = 50
) -> Array:
    """One step of `gauss_legendre`: the states ``[..., D]`` one step later."""
    return gauss_legendre(z, step, field, stages, tolerance, iterations)[0]


def gauss_legendre(
    z: Array,
    step: float,
    field: Field,
    stages: int = 3,
    tolerance: float = 1e-14,
    iterations: int = 50,
    guess: Array | None = None,
) -> tuple[Array, Array]:
    """One step of the Gauss-Legendre Runge-Kutta method of order ``2 * stages`` (1 stage: implicit midpoint).

    Symplectic for every Hamiltonian, separable or not. The stage equations are solved by fixed-point iteration until
    the stages move by less than ``tolerance`` (relative to ``1 + |z|``), or stop getting closer.

    Args:
        z: states ``[..., D]``.
        step: time step.
        field: ``z -> dz/dt``, called with a leading axis of stages.
        stages: 1, 2 or 3.
        tolerance: when the stages count as solved.
        iterations: how often they may be improved.
        guess: slopes ``[stages, ..., D]`` that the iteration starts from (see `prolonged_slopes`), without gradients;
            without them all stages start from the slope at ``z``.

    Returns:
        The states ``[..., D]`` one step later, and the slopes ``[stages, ..., D]`` of its stages.

    Raises:
        IntegrationError: the iteration does not contract (the step is too long for this field).
    """
    xp = array_namespace(z)
    matrix, weights = _GAUSS_TABLEAUX[stages]
    axes = (stages, *[1] * z.ndim)
    columns = [xp.reshape(xp.asarray(c, dtype=z.dtype, device=z.device), axes) for c in zip(*matrix, strict=True)]

    def improved(start: Array, slopes: Array) -> Array:
        # One call of the field for all stages: a batch axis in front.
        return field(start + step * sum(a * k for a, k in zip(columns, slopes, strict=True)))

    fixed = _detached(z)
    slopes = xp.stack([field(z)] * stages) if guess is None else guess
    differentiable, slopes = getattr(slopes, "requires_grad", False), _detached(slopes)
    previous, contraction = math.inf, 0.0
    scale = 1.0 + float(xp.max(xp.abs(fixed)))
    for _ in range(iterations):
        updated = _detached(improved(fixed, slopes))
        change = abs(step) * float(xp.max(xp.abs(updated - slopes)))
        slopes = updated
        if not math.isfinite(change):
            raise IntegrationError(
                "Gauss-Legendre: a state became non-finite; use a shorter time step or more sub-steps"
            )
        if change <= tolerance * scale or (change >= previous and change <= 1e3 * tolerance * scale):
            break
        if math.isfinite(previous):
            contraction = max(contraction, change / previous)
        previous = change
    else:
        raise IntegrationError(
            f"Gauss-Legendre: stage equations not solved after {iterations} iterations (last change {change:.1e}); "
            "use a shorter time step or more sub-steps"
        )
    if differentiable:
        # The values are solved, their derivatives not: these follow the same contraction, from the start. (At a fixed
        # point of the flow the values are solved at once, and differentiating that one iteration would be wrong.)
        rate = min(contraction or 0.1, 0.9)
        for _ in range(min(iterations, math.ceil(math.log(0.1 * tolerance) / math.log(rate)))):
            slopes = improved(z, slopes)
    return z + step * sum(b * k for b, k in zip(weights, slopes, strict=True)), slopes


def prolonged_slopes(slopes: Array) -> Array:
    """A guess for the stages of the next step of equal length: the polynomial through the last one's, prolonged.

    Its error is ``O(step ** stages)``, that of the slope at the start ``O(step)`` (Hairer, Lubich & Wanner, Geometric
    Numerical Integration, VIII.6.1).

    Args:
        slopes: ``[stages, ..., D]``, of `gauss_legendre`.
    """
    xp = array_namespace(slopes)
    nodes = [sum(row) for row in _GAUSS_TABLEAUX[slopes.shape[0]][0]]

    def lagrange(i: int, time: float) -> float:
        return math.prod((time - c) / (nodes[i] - c) for c in nodes[:i] + nodes[i + 1 :])

    return xp.stack([sum(lagrange(i, 1.0 + time) * slope for i, slope in enumerate(slopes)) for time in nodes])


# ---------------------------------------------------------------- explicit, adaptive: DOP853


def dop853(
    field: Field,
    z0: Array,
    step: float,
    steps: int,
    rtol: float = 1e-12,
    atol: float = 1e-12,
    max_evaluations: int = 2_000_000,
    progress: Callable[[float], None] | None = None,
) -> Array:
    """Adaptive Dormand-Prince 8(5,3), every trajectory of the batch with a step size of its own.

    Args:
        field: ``z [B, D] -> dz/dt [B, D]``, autonomous, acting on each row alone.
        z0: ``[B, D]`` initial states.
        step: spacing of the output; negative: backwards.
        steps: number of output steps.
        rtol: relative tolerance per step, as in scipy.
        atol: absolute tolerance per step.
        max_evaluations: of the field, before giving up.
        progress: told after every step how many output steps are done, averaged over the batch.

    Returns:
        ``[B, steps + 1, D]``: the states at times ``0, step, …, steps * step``.

    Raises:
        IntegrationError: a step size fell below rounding, or a state became non-finite.
    """
    from scipy.integrate import DOP853  # the published tableau

    xp = array_namespace(z0)
    matrix = [row[:s] for s, row in enumerate(DOP853.A[: DOP853.n_stages])]

    z = z0 + 0.0
    output = [z0]
    size = xp.full_like(z[:, :1], abs(step) / 10.0)
    slope = field(z0) + 0.0  # both are updated in place: nothing that a gradient needs may alias them
    evaluations = 1
    for done in range(steps):
        remaining = xp.full_like(z[:, :1], abs(step))
        active = xp.arange(z.shape[0])
        while active.shape[0] > 0:
            x, left = z[active], remaining[active]
            h = xp.minimum(size[active], left)
            last = h >= left
            signed = h if step > 0 else -h
            slopes = [slope[active]]
            for row in matrix[1:]:
                slopes.append(field(x + signed * _combination(row, slopes)))
            new = x + signed * _combination(DOP853.B, slopes)
            slopes.append(field(new))
            evaluations += DOP853.n_stages
            # The step size is a choice, not a function to be differentiated.
            error = _dop853_error(
                _detached(x), _detached(new), _detached(h), [_detached(k) for k in slopes], rtol, atol
            )
            if not bool(xp.all(xp.isfinite(error))):
                raise IntegrationError("DOP853: a state became non-finite; do bodies coincide?")
            factor = xp.clip(0.9 * (error + 1e-30) ** (-1 / 8), 0.2, 10.0)
            accepted = error <= 1.0
            if bool(xp.any(~accepted & (h < 1e-14 * abs(step)))) or evaluations > max_evaluations:
                raise IntegrationError("DOP853: step size below rounding; do bodies collide?")
            z[active] = xp.where(accepted, new, x)
            slope[active] = xp.where(accepted, slopes[-1], slopes[0])
            left = xp.where(accepted, xp.where(last, 0.0 * left, left - h), left)
            remaining[active] = left
            # A step cut short by the output time says nothing about the size the error allows: do not shrink for it.
            proposal = h * xp.where(accepted, factor, xp.clip(factor, 0.2, 1.0))
            size[active] = xp.where(accepted & last, xp.maximum(proposal, size[active]), proposal)
            active = active[(left > 0.0)[:, 0]]
            if progress is not None:
                progress(done + 1.0 - float(xp.mean(remaining)) / abs(step))
        output.append(z + 0.0)
    return xp.stack(output, axis=1)


def _combination(coefficients: Any, slopes: list[Array]) -> Array:
    """``sum_j a_j k_j`` over the coefficients that are not zero."""
    return sum(float(a) * k for a, k in zip(coefficients, slopes, strict=True) if a != 0.0)


def _detached(x: Array) -> Array:
    return x.detach() if hasattr(x, "detach") else x


def _dop853_error(x: Array, new: Array, h: Array, slopes: list[Array], rtol: float, atol: float) -> Array:
    """Error of a step over the tolerance ``[B, 1]``: Hairer's combination of the estimates of order 5 and 3."""
    from scipy.integrate import DOP853

    xp = array_namespace(x)
    scale = atol + rtol * xp.maximum(xp.abs(x), xp.abs(new))
    e5, e3 = (_combination(e, slopes) / scale for e in (DOP853.E5, DOP853.E3))
    n5, n3 = (xp.sum(e * e, axis=-1, keepdims=True) for e in (e5, e3))
    # The floor keeps 0/0 out where the solution is a straight line.
    return h * n5 / xp.sqrt((n5 + 0.01 * n3) * x.shape[-1] + 1e-300)


# ---------------------------------------------------------------- roll-outs


def hamiltonian_field(gradient: Field) -> Field:
    """Turn ``z -> dH/dz`` into Hamilton's equations ``z -> (dH/dp, -dH/dq)``."""

    def field(z: Array) -> Array:
        slope = gradient(z)
        d = z.shape[-1] // 2
        return array_namespace(z).concat([slope[..., d:], -slope[..., :d]], axis=-1)

    return field


def rollout_separable(
    z0: Array,
    step: float,
    steps: int,
    velocity: Field,
    force: Field,
    method: str = "kahan_li8",
    substeps: int = 1,
    chunk: int | None = None,
) -> Array:
    """Roll a separable Hamiltonian system out.

    Args:
        z0: ``[..., 2d]``.
        step: time between outputs; negative: backwards.
        steps: how many outputs follow the start.
        velocity: ``p -> dT/dp``, row by row, keeps the shape.
        force: ``q -> -dV/dq``, row by row, keeps the shape.
        method: a name in `SPLITTINGS`.
        substeps: steps of the scheme per output step.
        chunk: numpy only, rows carried through all steps together; default: as many as stay in the cache.

    Returns:
        ``[..., steps + 1, 2d]``, including the start.
    """
    scheme = SPLITTINGS[method].repeated(substeps)
    if is_numpy_array(z0):
        return _rollout_separable_numpy(z0, step, steps, velocity, force, scheme, chunk)
    xp = array_namespace(z0)
    d = z0.shape[-1] // 2
    q, p = z0[..., :d], z0[..., d:]
    output = [z0]
    for _ in range(steps):
        q, p = splitting_step(q, p, step, velocity, force, scheme)
        output.append(xp.concat([q, p], axis=-1))
    return xp.stack(output, axis=-2)


_CHUNK_BYTES = 65536  # large enough to hide the cost of a call, small enough that five such arrays stay in the cache


def _rollout_separable_numpy(
    z0: Array, step: float, steps: int, velocity: Field, force: Field, scheme: Splitting, chunk: int | None
) -> Array:
    """`rollout_separable` for numpy: chunk by chunk, in place; the same arithmetic as `splitting_step`."""
    d = z0.shape[-1] // 2
    start = z0.reshape(-1, 2 * d)
    output = np.empty((start.shape[0], steps + 1, 2 * d), dtype=z0.dtype)
    output[:, 0] = start
    rows = chunk or max(1, _CHUNK_BYTES // (d * z0.dtype.itemsize))
    drifts, kicks = [c * step for c in scheme.drifts], [c * step for c in scheme.kicks]
    for first in range(0, start.shape[0], rows):
        part = slice(first, first + rows)
        q, p = start[part, :d].copy(), start[part, d:].copy()
        work, pull = np.empty_like(q), None
        for k in range(1, steps + 1):
            for drift, kick in zip(drifts, kicks, strict=False):
                if drift:
                    q += np.multiply(velocity(p), drift, out=work)
                    pull = None
                # A scheme that ends and begins with a kick needs the force between two steps only once.
                pull = force(q) if pull is None else pull
                p += np.multiply(pull, kick, out=work)
            if drifts[-1]:
                q += np.multiply(velocity(p), drifts[-1], out=work)
                pull = None
            output[part, k, :d], output[part, k, d:] = q, p
    return output.reshape(*z0.shape[:-1], steps + 1, 2 * d)


def rollout_runge_kutta4(z0: Array, step: float | Array, steps: int, field: Field, substeps: int = 1) -> Array:
    """Roll any field out with the classical (not symplectic) Runge-Kutta 4: ``[..., D] -> [..., steps + 1, D]``."""
    xp = array_namespace(z0)
    h = step / substeps
    z, output = z0, [z0]
    for _ in range(steps):
        for _ in range(substeps):
            k1 = field(z)
            k2 = field(z + (h / 2) * k1)
            k3 = field(z + (h / 2) * k2)
            k4 = field(z + h * k3)
            z = z + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)
        output.append(z)
    return xp.stack(output, axis=-2)
