"""Time integrators, array-agnostic and batched.

The simulator that makes the data and the roll-out of a learned model step through time with the very same code, so a
difference between the two is a difference between the *laws*, not between the integrators. Every function takes numpy
arrays or torch tensors (differentiable: nothing is written in place on the torch path), any leading axes are a batch.

State layout: ``z = (q, p)`` along the last axis, coordinates first, each ``d`` long.

Sources: Hairer, Lubich, Wanner, *Geometric Numerical Integration* (2006): II.1.3 (Gauss), V.3.2 (composition);
Yoshida, Phys. Lett. A 150 (1990); Kahan & Li, Math. Comp. 66 (1997), schemes s9odr6a and s17odr8a;
Hairer, Norsett, Wanner, *Solving ODEs I* (1993), II.10 (DOP853; tableau taken from scipy).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

Array = Any  # numpy.ndarray or torch.Tensor
Field = Callable[[Array], Array]


class IntegrationError(RuntimeError):
    """An integration could not be carried to its end with the accuracy asked for."""


# ---------------------------------------------------------------- explicit symplectic: H(q, p) = T(p) + V(q)


@dataclass(frozen=True)
class Splitting:
    """An explicit symplectic scheme: drift ``c_0``, kick ``d_0``, drift ``c_1``, … kick ``d_{s-1}``, drift ``c_s``.

    Coefficients are fractions of the step; ``sum(drifts) = sum(kicks) = 1``.
    """

    order: int
    drifts: tuple[float, ...]
    kicks: tuple[float, ...]

    def repeated(self, substeps: int) -> Splitting:
        """The scheme applied ``substeps`` times with a step ``substeps`` times smaller, touching drifts merged."""
        drifts, kicks = list(self.drifts), list(self.kicks)
        for _ in range(substeps - 1):
            drifts[-1] += self.drifts[0]
            drifts.extend(self.drifts[1:])
            kicks.extend(self.kicks)
        return Splitting(self.order, tuple(c / substeps for c in drifts), tuple(d / substeps for d in kicks))


def _symmetric_composition(order: int, *half: float) -> Splitting:
    """Compose leapfrog steps of lengths ``w_1 … w_m … w_1`` (``half`` lists ``w_1 … w_m``)."""
    weights = (*half, *half[-2::-1])
    drifts = (weights[0] / 2, *((a + b) / 2 for a, b in zip(weights, weights[1:], strict=False)), weights[-1] / 2)
    return Splitting(order, drifts, weights)


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
}


def splitting_step(
    q: Array, p: Array, step: float, velocity: Field, force: Field, scheme: str | Splitting = "kahan_li8"
) -> tuple[Array, Array]:
    """One step of an explicit symplectic scheme for a separable ``H = T(p) + V(q)``.

    Args:
        q, p: coordinates and momenta ``[..., d]``.
        step: time step.
        velocity: ``p -> dT/dp``; force: ``q -> -dV/dq``; both keep the shape.
        scheme: a name in `SPLITTINGS` or a `Splitting`.
    """
    scheme = SPLITTINGS[scheme] if isinstance(scheme, str) else scheme
    for drift, kick in zip(scheme.drifts, scheme.kicks, strict=False):
        q = q + (drift * step) * velocity(p)
        p = p + (kick * step) * force(q)
    return q + (scheme.drifts[-1] * step) * velocity(p), p


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
    """One step of the Gauss-Legendre Runge-Kutta method of order ``2 * stages`` (1 stage: implicit midpoint).

    Symplectic for every Hamiltonian, separable or not. The stage equations are solved by fixed-point iteration until
    the stages move by less than ``tolerance`` (relative to ``1 + |z|``), or stop getting closer.

    Args:
        z: states ``[..., D]``; step: time step; field: ``z -> dz/dt``.

    Raises:
        IntegrationError: the iteration does not contract (the step is too long for this field).
    """
    xp = array_namespace(z)
    matrix, weights = _GAUSS_TABLEAUX[stages]
    slope = field(z)
    slopes = [slope] * stages
    previous = math.inf
    scale = 1.0 + float(xp.max(xp.abs(z)))
    for _ in range(iterations):
        points = [z + step * sum(a * k for a, k in zip(row, slopes, strict=True)) for row in matrix]
        # One call of the field for all stages: a batch axis in front.
        updated = list(field(xp.stack(points)))
        change = max(abs(step) * float(xp.max(xp.abs(new - old))) for new, old in zip(updated, slopes, strict=True))
        slopes = updated
        if change <= tolerance * scale or (change >= previous and change <= 1e3 * tolerance * scale):
            break
        previous = change
    else:
        raise IntegrationError(
            f"Gauss-Legendre: stage equations not solved after {iterations} iterations (last change {change:.1e}); "
            "use a shorter time step or more sub-steps"
        )
    return z + step * sum(b * k for b, k in zip(weights, slopes, strict=True))


# ---------------------------------------------------------------- explicit, adaptive: DOP853


def dop853(
    field: Field,
    z0: Array,
    step: float,
    steps: int,
    rtol: float = 1e-12,
    atol: float = 1e-12,
    max_evaluations: int = 2_000_000,
) -> Array:
    """Adaptive Dormand-Prince 8(5,3), every trajectory of the batch with a step size of its own.

    Args:
        field: ``z [B, D] -> dz/dt [B, D]``, autonomous, acting on each row alone.
        z0: ``[B, D]`` initial states. step: spacing of the output. steps: number of output steps.
        rtol, atol: tolerances per step, as in scipy.

    Returns:
        ``[B, steps + 1, D]``: the states at times ``0, step, …, steps * step``.

    Raises:
        IntegrationError: a step size fell below rounding, or a state became non-finite.
    """
    from scipy.integrate import DOP853  # the published tableau

    xp = array_namespace(z0)
    stages = DOP853.n_stages
    matrix, weights = DOP853.A[:stages, :stages], DOP853.B
    error5, error3 = DOP853.E5, DOP853.E3

    z = z0 + 0.0
    output = [z0]
    size = xp.full((z.shape[0], 1), abs(step) / 10.0, dtype=z.dtype)
    slope = field(z)
    evaluations = 1
    for _ in range(steps):
        remaining = xp.full((z.shape[0], 1), abs(step), dtype=z.dtype)
        active = xp.arange(z.shape[0])
        while active.shape[0] > 0:
            x, k1, left = z[active], slope[active], remaining[active]
            h = xp.minimum(size[active], left)
            last = h >= left
            signed = h if step > 0 else -h
            ks = [k1]
            for s in range(1, stages):
                x_s = x + signed * sum(float(a) * k for a, k in zip(matrix[s, :s], ks, strict=True) if a != 0.0)
                ks.append(field(x_s))
            new = x + signed * sum(float(b) * k for b, k in zip(weights, ks, strict=True) if b != 0.0)
            end_slope = field(new)
            evaluations += stages
            ks.append(end_slope)
            scale = atol + rtol * xp.maximum(xp.abs(x), xp.abs(new))
            e5 = sum(float(e) * k for e, k in zip(error5, ks, strict=True) if e != 0.0) / scale
            e3 = sum(float(e) * k for e, k in zip(error3, ks, strict=True) if e != 0.0) / scale
            n5 = xp.sum(e5 * e5, axis=-1, keepdims=True)
            n3 = xp.sum(e3 * e3, axis=-1, keepdims=True)
            # Hairer's combined estimate; the floor keeps 0/0 out where the solution is a straight line.
            error = h * n5 / xp.sqrt(((n5 + 0.01 * n3) * x.shape[-1]) + 1e-300)
            if not bool(xp.all(xp.isfinite(error))):
                raise IntegrationError("DOP853: a state became non-finite; do bodies coincide?")
            factor = xp.clip(0.9 * (error + 1e-30) ** (-1 / 8), 0.2, 10.0)
            accepted = error <= 1.0
            if bool(xp.any(~accepted & (h < 1e-14 * abs(step)))) or evaluations > max_evaluations:
                raise IntegrationError("DOP853: step size below rounding; do bodies collide?")
            z[active] = xp.where(accepted, new, x)
            slope[active] = xp.where(accepted, end_slope, k1)
            left = xp.where(accepted, xp.where(last, 0.0 * left, left - h), left)
            remaining[active] = left
            # A step cut short by the output time says nothing about the size the error allows: do not shrink for it.
            proposal = h * xp.where(accepted, factor, xp.clip(factor, 0.2, 1.0))
            size[active] = xp.where(accepted & last, xp.maximum(proposal, size[active]), proposal)
            active = active[(left > 0.0)[:, 0]]
        output.append(z + 0.0)
    return xp.stack(output, axis=1)


# ---------------------------------------------------------------- roll-outs


def hamiltonian_field(gradient: Field) -> Field:
    """Turn ``z -> dH/dz`` into Hamilton's equations ``z -> (dH/dp, -dH/dq)``."""

    def field(z: Array) -> Array:
        slope = gradient(z)
        d = z.shape[-1] // 2
        return array_namespace(z).concat([slope[..., d:], -slope[..., :d]], axis=-1)

    return field


def rollout_separable(
    z0: Array, step: float, steps: int, velocity: Field, force: Field, method: str = "kahan_li8", substeps: int = 1
) -> Array:
    """Roll a separable Hamiltonian system out: ``z0 [..., 2d] -> [..., steps + 1, 2d]``, including the start."""
    xp = array_namespace(z0)
    d = z0.shape[-1] // 2
    scheme = SPLITTINGS[method].repeated(substeps)
    q, p = z0[..., :d], z0[..., d:]
    output = [z0]
    for _ in range(steps):
        q, p = splitting_step(q, p, step, velocity, force, scheme)
        output.append(xp.concat([q, p], axis=-1))
    return xp.stack(output, axis=-2)


def rollout_gauss_legendre(
    z0: Array, step: float, steps: int, field: Field, stages: int = 3, substeps: int = 1, tolerance: float = 1e-14
) -> Array:
    """Roll any Hamiltonian system out with the implicit Gauss method: ``[..., D] -> [..., steps + 1, D]``."""
    xp = array_namespace(z0)
    z, output = z0, [z0]
    for _ in range(steps):
        for _ in range(substeps):
            z = gauss_legendre_step(z, step / substeps, field, stages, tolerance)
        output.append(z)
    return xp.stack(output, axis=-2)


def rollout_runge_kutta4(z0: Array, step: float, steps: int, field: Field, substeps: int = 1) -> Array:
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
