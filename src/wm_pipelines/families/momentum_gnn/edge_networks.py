"""Scalar functions on the edges of a graph, with their derivative along a direction in closed form.

Two kinds with one interface: `FeatureModel`, linear in its weights and fitted by least squares, and `NetworkModel`,
trained by gradient. ``S`` seeds lead every shape; ``R`` rows are edges of all systems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.ensemble import EnsembleLinear, EnsembleMLP, generators
from wm_pipelines.blocks.features import LeastSquares, RandomFeatures, weighted_tanh_slope


class FeatureModel(nn.Module):
    """``g(x) = sum_k W_k phi_k(x)`` with frozen random ``phi``: fitted by least squares.

    ``phi`` are tanh features and, with a ``tail``, the inputs themselves: where those are the common pair laws, that
    tail holds them, and extrapolates where tanh saturates.
    """

    coefficients: nn.Parameter  # [S, K, C]

    def __init__(self, inputs: int, outputs: int, features: int, seeds: Sequence[int], salt: int, tail: bool) -> None:
        super().__init__()
        self.features = RandomFeatures(inputs, {"tanh": features, "linear": inputs if tail else 0}, seeds, salt)
        start = torch.zeros(len(seeds), self.features.size, outputs, dtype=torch.float64)
        self.coefficients = nn.Parameter(start, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``g``: ``[S, R, n] -> [S, R, C]``."""
        return self.features(x) @ self.coefficients

    def slope(self, x: Tensor, dx: Tensor) -> Tensor:
        """``dg/dx . dx``: ``[S, R, n], [S, R, n] -> [S, R, C]``; the innermost product of a roll-out.

        The same as ``basis_slope(x, dx) @ coefficients``, weights and coefficients multiplied first: that leaves one
        array of the features' size to read instead of three.
        """
        tanh = self.features.counts["tanh"]
        weight, coefficients = self.features.weight[..., :tanh], self.coefficients
        both = (weight.mT[..., :, None] * coefficients[:, :tanh, None, :]).flatten(2)  # [S, K, n C]
        a = torch.baddbmm(self.features.bias[..., :tanh], x, weight)
        gradient = weighted_tanh_slope(a.new_ones(()), a) @ both
        if coefficients.shape[1] > tanh:
            gradient = gradient + coefficients[:, None, tanh:].flatten(2)
        return (dx[..., None] * gradient.unflatten(-1, (x.shape[-1], -1))).sum(dim=-2)

    def basis_slope(self, x: Tensor, dx: Tensor) -> Tensor:
        """``dphi/dx . dx``: ``[S, R, n], [S, R, n] -> [S, R, K]``."""
        return self.features.slopes(x) * (dx @ self.features.weight)


class NetworkModel(nn.Module):
    """``g(x) = MLP(x)``, tanh, with a ``tail`` plus ``A x``; its derivative along a direction in closed form."""

    def __init__(
        self, inputs: int, outputs: int, hidden: Sequence[int], seeds: Sequence[int], salt: int, tail: bool
    ) -> None:
        super().__init__()
        self.mlp = EnsembleMLP([inputs, *hidden, outputs], seeds, "tanh", salt, last_gain=0.3)
        self.linear = EnsembleLinear(inputs, outputs, generators(seeds, salt + 1), gain=0.3) if tail else None

    def forward(self, x: Tensor) -> Tensor:
        """``g``: ``[S, R, n] -> [S, R, C]``."""
        return self.mlp(x) if self.linear is None else self.linear(x) + self.mlp(x)

    def slope(self, x: Tensor, dx: Tensor) -> Tensor:
        """``dg/dx . dx``: the chain rule, layer by layer: ``[S, R, n], [S, R, n] -> [S, R, C]``."""
        y, dy = x, dx
        *hidden, last = (cast("EnsembleLinear", layer) for layer in self.mlp.layers)
        for layer in hidden:
            y = torch.tanh(layer(y))
            dy = (1 - y * y) * (dy @ layer.weight)
        slope = dy @ last.weight
        return slope if self.linear is None else dx @ self.linear.weight + slope


def per_row(function: Callable[..., Tensor], *x: Tensor) -> Tensor:
    """Apply a model of rows ``[S, R, n]`` to edges ``[S, X, M, n]``."""
    return function(*(a.flatten(1, 2) for a in x)).unflatten(1, x[0].shape[1:3])


def solve_laws_first(factor: Tensor, laws: Tensor, ridge: float) -> Tensor:
    """Weights ``[S, P]``: first those of ``laws [P]`` alone, then all of them on what those leave.

    A law that the tail holds is left to it, and is right at distances never seen; tanh features only get what
    is missing, and say nothing where nothing is.

    Args:
        factor: ``[S, P + 1, P + 1]`` of the equations (`LeastSquares`), the target last.
        laws: which weights belong to laws, true or false. ridge: of `LeastSquares.solve`.
    """
    first, rest = LeastSquares(), LeastSquares()
    first.factor = torch.cat([factor[..., :-1][..., laws], factor[..., -1:]], dim=-1)
    solution = torch.zeros_like(factor[:, 0, :-1])
    solution[:, laws] = first.solve([ridge])[0]
    left = factor[..., -1] - (factor[..., :-1] @ solution[..., None])[..., 0]
    rest.factor = torch.cat([factor[..., :-1], left[..., None]], dim=-1)
    return solution + rest.solve([ridge])[0]
