"""Collocation of differential equations with features that are linear in their coefficients, by Gauss-Newton.

An equation is a pointwise function ``R(D_1, D_2, …)`` of fields and derivatives ``D_j = Phi_j c``. Its Jacobian is
``sum_j (dR/dD_j) Phi_j``: the partial derivatives are taken by automatic differentiation, the rest is linear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wm_pipelines.blocks.least_squares import least_squares


@dataclass(frozen=True)
class Rows:
    """Linearised rows: residual ``[S, R]``, Jacobian by coefficients ``[S, R, n]`` and by parameters ``[S, R, P]``."""

    residual: Tensor
    jacobian: Tensor
    by_parameter: Tensor

    @staticmethod
    def stacked(parts: Sequence[Rows]) -> Rows:
        """All rows below each other."""
        return Rows(
            torch.cat([p.residual for p in parts], 1),
            torch.cat([p.jacobian for p in parts], 1),
            torch.cat([p.by_parameter for p in parts], 1),
        )

    def weighted(self, weight: Tensor) -> Rows:
        """Rows times ``[S, R]``."""
        return Rows(weight * self.residual, weight[..., None] * self.jacobian, weight[..., None] * self.by_parameter)

    def equilibrated(self, weight: float = 1.0) -> Rows:
        """Rows of one length: steep places and stiff equations weigh no more than others."""
        return self.weighted(weight / self.jacobian.norm(dim=-1).clamp_min(1e-300))


def linearise(
    equation: Callable[[Mapping[str, Tensor], Tensor], Tensor],
    features: Mapping[str, Tensor],
    field_of: Mapping[str, int],
    coefficients: Tensor,
    parameters: Tensor,
) -> Rows:
    """Residual and Jacobian of one equation at all points.

    Args:
        equation: values by symbol (each ``[S, N]``) and parameters ``[S, N, P]`` -> residual ``[S, N]``.
        features: ``Phi`` of every symbol it reads ``[S, N, K]``. field_of: which field each symbol belongs to.
        coefficients: ``[S, F, K]``. parameters: ``[S, P]``.
    """
    seeds, fields, count = coefficients.shape
    points = next(iter(features.values())).shape[1]
    values = {
        symbol: (phi @ coefficients[:, field_of[symbol], :, None])[..., 0].requires_grad_()
        for symbol, phi in features.items()
    }
    spread = parameters[:, None].expand(-1, points, -1).clone().requires_grad_()
    with torch.enable_grad():
        residual = equation(values, spread)
        partials = torch.autograd.grad(residual.sum(), [*values.values(), spread], allow_unused=True)
    *by_symbol, by_parameter = partials
    jacobian = residual.new_zeros(seeds, points, fields, count)
    for (symbol, phi), slope in zip(features.items(), by_symbol, strict=True):
        if slope is not None:
            jacobian[:, :, field_of[symbol]].add_(slope[..., None] * phi)
    return Rows(
        residual.detach(),
        jacobian.flatten(2),
        torch.zeros_like(spread) if by_parameter is None else by_parameter,
    )


def gauss_newton(
    rows_at: Callable[[Tensor], Rows], start: Tensor, ridge: float, iterations: int, tolerance: float = 0.7
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise the norm of the rows over the coefficients, all seeds at once.

    A step that does not lower the norm is halved; the iteration ends when the norm falls by less than the factor
    ``tolerance`` in every seed.

    Args:
        rows_at: rows (already weighted; the weights may follow the coefficients) at coefficients ``[S, F, K]``.
        start: ``[S, F, K]``. ridge: see `least_squares`. iterations: at most.

    Returns:
        Coefficients ``[S, F, K]``, their derivative by the parameters ``[S, F, K, P]`` at the last linearisation,
        and the root mean square of the weighted rows ``[S]``.
    """
    coefficients, shape = start, start.shape
    rows = rows_at(coefficients)
    norm = rows.residual.norm(dim=1)
    for _ in range(iterations):
        solved = least_squares(rows.jacobian, -torch.cat([rows.residual[..., None], rows.by_parameter], 2), ridge)
        step, sensitivity = solved[..., 0].reshape(shape), solved[..., 1:].reshape(*shape, -1)
        length = torch.ones(len(step), 1, 1, dtype=step.dtype)
        for _ in range(6):
            trial = rows_at(coefficients + length * step)
            after = trial.residual.norm(dim=1)
            worse = ~(after <= norm)
            if not worse.any():
                break
            length[worse] /= 2
        else:
            length[worse] = 0.0
            trial = rows_at(coefficients + length * step)
            after = trial.residual.norm(dim=1)
        coefficients, rows = coefficients + length * step, trial
        finished = bool((after > tolerance * norm).all())
        norm = after
        if finished:
            break
    return coefficients, sensitivity, norm / rows.residual.shape[1] ** 0.5
