"""Second-order minimisation in float64, a batch of independent problems at once.

`minimise`: the update of Broyden, Fletcher, Goldfarb and Shanno with the self-scaling of Al-Baali (1998, Comput. Optim.
Appl. 9), which keeps a curvature that was overestimated early from staying; on physics-informed losses it reaches
errors far below L-BFGS (Urbán, Stefanou, Pons 2025, J. Comput. Phys. 523). Its line search bisects for the weak Wolfe
conditions (Lewis & Overton 2013, Math. Program. 141).

`levenberg_marquardt`: Gauss-Newton steps, their damping lowered fast and raised slowly (Transtrum & Sethna 2012, arXiv
1201.5885): steps of long, narrow valleys stay short enough to follow them. Dearer per step, and best where there are
fewer than some thousand unknowns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``x [S, n] -> value [S], gradient [S, n]``; problems do not depend on each other."""

Linearised = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``x [S, n] -> rows [S, R], their Jacobian [S, R, n]``."""

_DECREASE, _CURVATURE, _TRIALS = 1e-4, 0.9, 25
_FIRST_DAMPING, _LOWER, _RAISE = 1e-3, 0.1, 1.5
_LEAST_DAMPING, _MOST_DAMPING = 1e-15, 1e10  # relative to the largest diagonal entry


def minimise(
    objective: Objective, start: Tensor, steps: int, inverse: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise all problems together.

    Args:
        objective: see `Objective`. start: ``[S, n]``. steps: iterations, at most.
        inverse: inverse Hessian to start from ``[S, n, n]``, changed in place (default: a scaled identity).

    Returns:
        The minimiser ``[S, n]``, its value ``[S]`` and the inverse Hessian ``[S, n, n]``. A problem in which no step
        lowers the value any more stays where it is.
    """
    x = start.clone()
    value, gradient = objective(x)
    first = inverse is None
    if inverse is None:
        inverse = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    for _ in range(steps):
        direction = -(inverse @ gradient[..., None])[..., 0]
        slope = (direction * gradient).sum(1)
        uphill = ~(slope < 0)
        direction[uphill], slope[uphill] = -gradient[uphill], -gradient[uphill].square().sum(1)
        length = 1 / gradient.norm(dim=1).clamp_min(1) if first else torch.ones_like(value)
        length, after, after_gradient = _wolfe(objective, x, value, slope, direction, length)
        if not (length > 0).any():
            break
        s, y = length[:, None] * direction, after_gradient - gradient
        if first:
            scale = (s * y).sum(1) / y.square().sum(1).clamp_min(1e-300)
            inverse *= torch.where(scale > 0, scale, 1.0)[:, None, None]
            first = False
        _update(inverse, s, y, -length * (gradient * s).sum(1))
        x, value, gradient = x + s, after, after_gradient
    return x, value, inverse


def _update(inverse: Tensor, s: Tensor, y: Tensor, s_hessian_s: Tensor) -> None:
    """``H <- (H - (Hy s' + s (Hy)') / y's + (y'Hy) s s' / (y's)²) / tau + s s' / y's``, ``tau = min(1, y's/s'Bs)``."""
    ys = (y * s).sum(1)
    usable = ys > 1e-14 * s.norm(dim=1) * y.norm(dim=1)
    usable &= ys > 0
    ys = torch.where(usable, ys, 1.0)
    tau = torch.where(usable, (ys / s_hessian_s.clamp_min(1e-300)).clamp(max=1.0), 1.0)
    hy = (inverse @ y[..., None])[..., 0]
    s_used = torch.where(usable[:, None], s, 0.0)
    u = s_used / ys[:, None]
    along = ((y * hy).sum(1) / tau + ys)[:, None] * u - hy / tau[:, None]
    inverse /= tau[:, None, None]
    inverse.baddbmm_(u[..., None], along[:, None, :])
    inverse.baddbmm_((-hy / tau[:, None])[..., None], u[:, None, :])


def _wolfe(
    objective: Objective, x: Tensor, value: Tensor, slope: Tensor, direction: Tensor, length: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Step lengths ``[S]`` (0 where none lowers the value), with value and gradient there."""
    low, high = torch.zeros_like(length), torch.full_like(length, torch.inf)
    for _ in range(_TRIALS):
        after, gradient = objective(x + length[:, None] * direction)
        too_long = ~(after <= value + _DECREASE * length * slope)
        too_short = ~too_long & ((gradient * direction).sum(1) < _CURVATURE * slope)
        if not (too_long | too_short).any():
            return length, after, gradient
        high = torch.where(too_long, length, high)
        low = torch.where(too_short, length, low)
        middle = torch.where(high.isinf(), 2 * low, (low + high) / 2)
        length = torch.where(too_long | too_short, middle, length)
    length = torch.where(too_long, low, length)  # low satisfies the decrease
    after, gradient = objective(x + length[:, None] * direction)
    return length, after, gradient


def levenberg_marquardt(
    rows: Callable[[Tensor], Tensor],
    linearised: Linearised,
    start: Tensor,
    steps: int,
    damping: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise the sum of squares of the rows of all problems together.

    Args:
        rows: ``x [S, n] -> [S, R]``. linearised: the same with the Jacobian. start: ``[S, n]``.
        steps: linearisations, at most.
        damping: to start with ``[S]``, relative to the largest diagonal entry of the normal matrix: what an earlier
            call ended with, where the rows have hardly changed.

    Returns:
        The minimiser ``[S, n]``, its sum of squares ``[S]`` and the damping ``[S]`` that the next step would take.
    """
    x = start.clone()
    left, jacobian = linearised(x)
    value = left.square().sum(1)
    damping = torch.full_like(value, _FIRST_DAMPING) if damping is None else damping.clone()
    for _ in range(steps):
        normal = jacobian.mT @ jacobian
        slope = (jacobian.mT @ left[..., None])[..., 0]
        largest = normal.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-300)
        accepted = torch.zeros_like(value, dtype=torch.bool)
        for _ in range(_TRIALS):
            step = _damped_step(normal, slope, damping * largest)
            after = rows(x + step).square().sum(1)
            better = ~accepted & (after < value)
            x, value = torch.where(better[:, None], x + step, x), torch.where(better, after, value)
            factor = torch.where(better, _LOWER, torch.where(accepted, 1.0, _RAISE))
            damping = (damping * factor).clamp(_LEAST_DAMPING, _MOST_DAMPING)
            accepted |= better | (damping >= _MOST_DAMPING)
            if accepted.all():
                break
        if bool((damping >= _MOST_DAMPING).all()):
            break
        left, jacobian = linearised(x)
    return x, value, damping


def _damped_step(normal: Tensor, slope: Tensor, damping: Tensor) -> Tensor:
    """``-(J'J + mu I)^-1 J'r``; a matrix that rounding made indefinite gives a step of zero, which is then rejected."""
    unit = torch.eye(normal.shape[1], dtype=normal.dtype, device=normal.device)
    factor, failed = torch.linalg.cholesky_ex(normal + damping[:, None, None] * unit)
    step = -torch.cholesky_solve(slope[..., None], factor)[..., 0]
    return torch.where((failed > 0)[:, None] | ~step.isfinite(), 0.0, step)
