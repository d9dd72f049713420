"""Random features with their gradients, and the least squares that fits them: models without a gradient descent.

A model ``f(u) = sum_k c_k phi_k(u)`` with frozen random ``phi_k(u) = sigma_k(w_k . u + b_k)`` is linear in ``c``, and
so is everything linear in its derivatives: Hamilton's equations, an integral over a time step, a boundary condition.

Sources: Huang et al. 2006 (extreme learning machines); Bolager et al. 2023, arXiv 2306.16830 (weights sampled from
pairs of data points); Rahma et al. 2024, arXiv 2411.17511 (Hamiltonians fitted so). ``S`` seeds lead every shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.ensemble import generators

# kind -> (sigma, sigma' from the pre-activation a and s = sigma(a))
RIDGE_FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "tanh": (torch.tanh, lambda a, s: 1 - s**2),  # noqa: ARG005
    "power": (torch.exp, lambda a, s: s),  # noqa: ARG005  # of a logarithm: r^alpha
    "linear": (lambda a: a, lambda a, s: torch.ones_like(a)),  # noqa: ARG005
    "square": (lambda a: a * a / 2, lambda a, s: a),  # noqa: ARG005
    "constant": (torch.ones_like, lambda a, s: torch.zeros_like(a)),  # noqa: ARG005
}


def weighted_tanh_slope(c: Tensor, a: Tensor) -> Tensor:
    """``c (1 - tanh(a)^2) = 4 c s (1 - s)``, ``s = 1 / (1 + exp(2 |a|))``: a logistic function costs a third of a tanh.

    Of ``|a|``, the slope is even in ``a`` to the last bit.
    """
    return torch.ops.aten.sigmoid_backward(4 * c, a.abs().mul_(-2).sigmoid_())


# kind -> c sigma'(a), in few passes
WEIGHTED_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": weighted_tanh_slope,
    "power": lambda c, a: c * a.exp(),
    "linear": lambda c, a: c.expand_as(a),
    "square": lambda c, a: c * a,
}


class RandomFeatures(nn.Module):
    """``phi_k(u) = sigma_k(w_k . u + b_k)`` for ``K`` frozen random ``(w_k, b_k)`` per seed; inputs of order one.

    Kinds: ``tanh``: its centre at one data point, its direction towards another one, so that features lie where data
    lie and ignore directions in which the data never move; ``power``: exponents uniform in (-3, 3), for logarithmic
    inputs; ``constant``, ``linear``, ``square``: a polynomial tail, which extrapolates where saturating features
    cannot.

    Args:
        inputs: n, length of ``u``. counts: features of each kind, e.g. ``{"tanh": 100}``.
        seeds: one per model; salt: keeps the streams of different purposes apart.
    """

    weight: Tensor  # [S, n, K]
    bias: Tensor  # [S, 1, K]

    def __init__(self, inputs: int, counts: Mapping[str, int], seeds: Sequence[int], salt: int = 0) -> None:
        super().__init__()
        self.counts = {kind: count for kind, count in counts.items() if count > 0}
        self.seeds, self.salt = tuple(seeds), salt
        self.size = sum(self.counts.values())
        self.register_buffer("weight", torch.zeros(len(self.seeds), inputs, self.size, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(len(self.seeds), 1, self.size, dtype=torch.float64))

    def draw(self, points: Tensor, steepness: Sequence[float]) -> None:
        """Draw the frozen weights; the same seeds and points give the same weights.

        Args:
            points: data ``[S, R, n]`` among which ``tanh`` features are placed.
            steepness: slope of the ``tanh`` features in units of one over the data's spread, per seed.
        """
        for s, generator in enumerate(generators(self.seeds, self.salt)):
            drawn = [self._draw_kind(kind, k, points[s], steepness[s], generator) for kind, k in self.counts.items()]
            self.weight[s] = torch.cat([w for w, _ in drawn], dim=1)
            self.bias[s] = torch.cat([b for _, b in drawn], dim=1)

    @staticmethod
    def _draw_kind(
        kind: str, count: int, points: Tensor, steepness: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Weights ``[n, K]`` and biases ``[1, K]`` of one kind."""
        n = points.shape[1]
        none = torch.zeros(1, count, dtype=torch.float64)
        if kind == "constant":
            return torch.zeros(n, count, dtype=torch.float64), none
        if kind == "linear":
            return torch.eye(n, count, dtype=torch.float64), none
        if kind == "square":  # n (n + 1) / 2 generic directions span all quadratic forms
            return torch.randn(n, count, generator=generator, dtype=torch.float64) / n**0.5, none
        if kind == "power":
            return 6 * torch.rand(n, count, generator=generator, dtype=torch.float64) - 3, none
        here, there = points[torch.randint(len(points), (2, count), generator=generator)]
        direction = there - here
        length = direction.norm(dim=1, keepdim=True).clamp_min(1e-9)
        spreads = points.std(dim=0)
        spread = (
            spreads[spreads > 1e-9].square().mean().sqrt() if bool((spreads > 1e-9).any()) else spreads.new_ones(())
        )
        slope = steepness / spread * (0.5 + torch.rand(count, 1, generator=generator, dtype=torch.float64))
        weight = slope * direction / length
        return weight.T, -(weight * here).sum(dim=1)[None]

    def forward(self, u: Tensor) -> Tensor:
        """``phi``: ``[S, R, n] -> [S, R, K]``."""
        return torch.cat([sigma(a) for (sigma, _), a in self._activations(u)], dim=-1)

    def slopes(self, u: Tensor) -> Tensor:
        """``sigma'(w_k . u + b_k)``: ``[S, R, n] -> [S, R, K]``; the gradient of ``phi_k`` is this times ``w_k``."""
        return torch.cat([slope(a, sigma(a)) for (sigma, slope), a in self._activations(u)], dim=-1)

    def with_slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` and `slopes` for little more than one of them."""
        values = [(slope, a, sigma(a)) for (sigma, slope), a in self._activations(u)]
        return torch.cat([s for *_, s in values], dim=-1), torch.cat([slope(a, s) for slope, a, s in values], dim=-1)

    def _activations(self, u: Tensor) -> list[tuple[Any, Tensor]]:
        """Functions and pre-activations, kind by kind."""
        parts = torch.baddbmm(self.bias, u, self.weight).split(list(self.counts.values()), dim=-1)
        return [(RIDGE_FUNCTIONS[kind], a) for kind, a in zip(self.counts, parts, strict=True)]

    def gradients(self, u: Tensor) -> Tensor:
        """Gradient of every feature: ``[S, R, n] -> [S, R, n, K]``."""
        return self.slopes(u)[:, :, None, :] * self.weight[:, None, :, :]

    def gradient(self, u: Tensor, coefficients: Tensor) -> Tensor:
        """Gradient of ``sum_k c_k phi_k``: ``[S, R, n], [S, K] -> [S, R, n]``."""
        return self.gradient_function(coefficients[:, None])(u)

    def gradient_function(self, coefficients: Tensor) -> Callable[[Tensor], Tensor]:
        """Gradient of ``sum_k c_mk phi_k`` where row ``r`` is of copy ``m = r mod M``: of ``[S, R, n]``.

        Args:
            coefficients: ``[S, M, K]``.
        """
        sizes = list(self.counts.values())
        kinds = [
            (kind, weight, weight.mT.contiguous(), bias, c[:, None])
            for kind, weight, bias, c in zip(
                self.counts,
                self.weight.split(sizes, -1),
                self.bias.split(sizes, -1),
                coefficients.split(sizes, -1),
                strict=True,
            )
            if kind != "constant"
        ]
        copies = coefficients.shape[1]

        def gradient(u: Tensor) -> Tensor:
            parts = [
                WEIGHTED_SLOPES[kind](c, torch.baddbmm(bias, u, weight).unflatten(1, (-1, copies))).flatten(1, 2)
                @ transposed
                for kind, weight, transposed, bias, c in kinds
            ]
            return sum(parts[1:], start=parts[0])

        return gradient


class LeastSquares:
    """Least squares of any number of rows, kept as the triangular factor of ``[A | y]``; never the normal equations.

    The factor holds all there is to know: the minimiser for every ridge, and the residual of any coefficients.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None  # [S, <= K + 1, K + 1]
        self.rows = 0

    def add(self, design: Tensor, target: Tensor) -> None:
        """Add rows: ``design [S, R, K]``, ``target [S, R]``."""
        rows = torch.cat([design, target[..., None]], dim=-1)
        self.rows += rows.shape[1]
        self._absorb(rows)

    def merge(self, other: LeastSquares) -> LeastSquares:
        """The least squares of both sets of rows."""
        if self.factor is None or other.factor is None:
            raise ValueError("an empty least squares cannot be merged; add rows first")
        both = LeastSquares()
        both.factor, both.rows = self.factor, self.rows + other.rows
        both._absorb(other.factor)
        return both

    def _absorb(self, rows: Tensor) -> None:
        stacked = rows if self.factor is None else torch.cat([self.factor, rows], dim=1)
        self.factor = torch.linalg.qr(stacked, mode="r").R

    def solve(self, ridges: Sequence[float]) -> Tensor:
        """Minimisers of ``|A c - y|^2 + ridge^2 K |D c|^2``, one per ridge: ``[len(ridges), S, K]``.

        ``D`` holds the lengths of the columns of ``A``, so a ridge is a relative accuracy: combinations that
        the data determine worse than that are left at zero.
        """
        if self.factor is None:
            raise ValueError("least squares without rows; add rows first")
        matrix, target = self.factor[..., :-1], self.factor[..., -1:]
        lengths = matrix.norm(dim=-2, keepdim=True)
        lengths = torch.where(lengths > 0, lengths, 1.0)
        size = matrix.shape[-1]
        unit = torch.eye(size, dtype=matrix.dtype) * size**0.5
        damping = torch.stack([torch.cat([ridge * unit, unit.new_zeros(size, 1)], dim=1) for ridge in ridges])
        scaled = torch.cat([matrix / lengths, target], dim=-1)
        stacked = torch.cat(
            [scaled.expand(len(ridges), *scaled.shape), damping[:, None].expand(-1, scaled.shape[0], -1, -1)], dim=2
        )
        factor = torch.linalg.qr(stacked, mode="r").R[..., :size, :]
        return torch.linalg.solve_triangular(factor[..., :-1], factor[..., -1:], upper=True)[..., 0] / lengths[:, 0]

    def residual(self, coefficients: Tensor) -> Tensor:
        """Root mean square of ``A c - y`` over the rows: ``[..., S, K] -> [..., S]``."""
        if self.factor is None:
            raise ValueError("least squares without rows; add rows first")
        matrix, target = self.factor[..., :-1], self.factor[..., -1]
        return ((matrix @ coefficients[..., None])[..., 0] - target).norm(dim=-1) / self.rows**0.5
