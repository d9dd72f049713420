"""Random ridge features with analytic derivatives of any order, on coordinates that stretch where a field is steep.

``phi_k(x) = sigma(w_k · xi(x) + b_k)`` with frozen random ``(w_k, b_k)``: a field ``u = sum_k c_k phi_k`` is linear in
``c`` and so are all its derivatives (random features for differential equations: Dong & Li 2021, Comput. Methods Appl.
Mech. Eng. 387; Chen et al. 2022, arXiv 2207.13380). The stretching is the equidistribution of adaptive meshes (Huang &
Russell, *Adaptive Moving Mesh Methods*, 2011, ch. 2) applied to the coordinates of the features.

``S`` seeds lead every shape; coordinates lie in [-1, 1].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.ensemble import generators

Orders = tuple[int, ...]
"""How often to differentiate along each coordinate."""

_NODES = 1001  # of the tables from which a stretching is made and inverted


def tanh_derivatives(a: Tensor, highest: int) -> list[Tensor]:
    """``tanh, tanh', …`` up to an order; each is a polynomial in ``T = tanh``, since ``T' = 1 - T²``."""
    value = torch.tanh(a)
    found, polynomial = [], [0.0, 1.0]
    for _ in range(highest + 1):
        found.append(_horner(polynomial, value))
        slope = [i * c for i, c in enumerate(polynomial)][1:]
        polynomial = [
            (slope[i] if i < len(slope) else 0.0) - (slope[i - 2] if i >= 2 else 0.0) for i in range(len(slope) + 2)
        ]
    return found


def sin_derivatives(a: Tensor, highest: int) -> list[Tensor]:
    """``sin, sin', …`` up to an order."""
    sine, cosine = torch.sin(a), torch.cos(a) if highest else a
    return [(sine, cosine, -sine, -cosine)[order % 4] for order in range(highest + 1)]


ACTIVATIONS = {"tanh": tanh_derivatives, "sin": sin_derivatives}


def _horner(polynomial: Sequence[float], value: Tensor) -> Tensor:
    result = torch.full_like(value, polynomial[-1])
    for coefficient in reversed(polynomial[:-1]):
        result.mul_(value)
        if coefficient:
            result.add_(coefficient)
    return result


class Stretch(nn.Module):
    """Monotone maps ``xi_i(x_i)`` of [-1, 1] onto itself, ``l x + a sum_q tanh((x - mu_q) / s_q) + c``, one per axis.

    Args:
        shape: leading axes of the models (seeds, slabs …). axes: coordinates ``d``. kinks: terms of the sum.
    """

    centre: Tensor  # [*shape, d, Q]
    width: Tensor  # [*shape, d, Q]
    affine: Tensor  # [*shape, d, 3]: l, a, c

    def __init__(self, shape: Sequence[int], axes: int, kinks: int = 40) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(*shape, axes, kinks, dtype=torch.float64))
        self.register_buffer("width", torch.ones(*shape, axes, kinks, dtype=torch.float64))
        self.register_buffer("affine", torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(*shape, axes, 1))

    def reset(self) -> None:
        """Back to the identity."""
        self.affine.copy_(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand_as(self.affine))

    def fit(self, at: tuple[int, ...], axis: int, steepness: Tensor, grading: float, smoothing: float) -> None:
        """Make the map of one axis of one model dense where a field is steep.

        Args:
            at: which model. axis: which coordinate.
            steepness: ``|u'| / range(u)`` at equidistant nodes ``[n]``, the density of points wanted there.
            grading: how fast the spacing may grow with the distance from a steep place, so that the wake of a layer
                is resolved, too. smoothing: widths of the kinks in units of their spacing.
        """
        x = torch.linspace(-1, 1, len(steepness), dtype=torch.float64)
        wanted = steepness + 0.5
        density = (wanted / (1 + grading * wanted * (x[:, None] - x).abs())).amax(1)
        share = torch.cat([density.new_zeros(1), torch.cumulative_trapezoid(density, x)])
        kinks = self.centre.shape[-1]
        centre = _interpolate((torch.arange(kinks, dtype=torch.float64) + 0.5) / kinks, share / share[-1], x)
        self.centre[(*at, axis)] = centre
        self.width[(*at, axis)] = smoothing * torch.gradient(centre)[0]
        self.affine[(*at, axis)] = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        low, high = self._derivatives(torch.tensor([-1.0, 1.0], dtype=torch.float64), at, axis, 0)[0]
        gain = 2 / (high - low)
        self.affine[(*at, axis)] = torch.stack([0 * gain, gain, -1 - gain * low])

    def _derivatives(self, x: Tensor, at: tuple[int, ...], axis: int, highest: int) -> list[Tensor]:
        """``xi, xi', …`` at ``x [N]`` for one axis of one model."""
        straight, gain, shift = self.affine[(*at, axis)]
        centre, width = self.centre[(*at, axis)], self.width[(*at, axis)]
        if gain == 0:
            return [x, torch.ones_like(x), *[torch.zeros_like(x)] * (highest - 1)][: highest + 1]
        parts = tanh_derivatives((x[:, None] - centre) / width, highest)
        found = [gain * (part / width**order).sum(1) for order, part in enumerate(parts)]
        found[0] = found[0] + straight * x + shift
        return found

    def forward(self, x: Tensor, at: Sequence[tuple[int, ...]], highest: int) -> list[Tensor]:
        """``xi`` and its derivatives by order, ``[S, N, d] -> (highest + 1) x [S, N, d]``, with one model per seed."""
        orders: list[list[Tensor]] = [[] for _ in range(highest + 1)]
        for s, model in enumerate(at):
            by_axis = [self._derivatives(x[s, :, axis], model, axis, highest) for axis in range(x.shape[-1])]
            for order, parts in enumerate(zip(*by_axis, strict=True)):
                orders[order].append(torch.stack(parts, -1))
        return [torch.stack(parts) for parts in orders]

    def inverse(self, xi: Tensor, at: Sequence[tuple[int, ...]]) -> Tensor:
        """Points whose image is about ``xi`` (to the accuracy of a table): ``[S, N, d] -> [S, N, d]``."""
        nodes = torch.linspace(-1, 1, _NODES, dtype=xi.dtype)
        back = xi.clone()
        for s, model in enumerate(at):
            for axis in range(xi.shape[-1]):
                if self.affine[(*model, axis)][1] != 0:
                    image = self._derivatives(nodes, model, axis, 0)[0]
                    back[s, :, axis] = _interpolate(xi[s, :, axis].contiguous(), image, nodes)
        return back


def _interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Piecewise linear ``y(x)`` at ``at``, ``x`` ascending."""
    high = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    x0, x1, y0, y1 = x[high - 1], x[high], y[high - 1], y[high]
    return y0 + (y1 - y0) * ((at - x0) / (x1 - x0)).clamp(0, 1)


def bell_polynomials(slopes: Sequence[Tensor], order: int) -> list[Tensor | float]:
    """Partial Bell polynomials ``B_{n,k}(xi', xi'', …)``, k = 0 … n: the coefficients of Faà di Bruno's formula.

    Args:
        slopes: ``xi', xi'', …`` up to order ``n``. order: ``n``.
    """
    table: list[list[Tensor | float]] = [[1.0]]
    for n in range(1, order + 1):
        row: list[Tensor | float] = [0.0]
        for k in range(1, n + 1):
            terms = (
                math.comb(n - 1, i - 1) * slopes[i - 1] * table[n - i][k - 1]
                for i in range(1, n - k + 2)
                if k - 1 < len(table[n - i])
            )
            row.append(sum(terms))
        table.append(row)
    return table[order]


class RidgeFeatures(nn.Module):
    """``K`` features per model; models have leading axes ``shape``, the first of which are the seeds.

    Args:
        inputs: coordinates ``d``. count: ``K``. shape: leading axes. activation: ``tanh`` or ``sin``.
    """

    weight: Tensor  # [*shape, d, K]
    bias: Tensor  # [*shape, K]

    def __init__(self, inputs: int, count: int, shape: Sequence[int], activation: str = "tanh") -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.stretch = Stretch(shape, inputs)
        self.register_buffer("weight", torch.zeros(*shape, inputs, count, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(*shape, count, dtype=torch.float64))

    def draw(self, seeds: Sequence[int], steepness: Tensor, salt: int = 0) -> None:
        """Draw the frozen weights of all models: slopes uniform up to ``steepness [d]``, centres all over the box."""
        for s, generator in enumerate(generators(seeds, salt)):
            shape = self.weight[s].shape
            weight = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * steepness[:, None]
            centre = 1.1 * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
            self.weight[s] = weight
            self.bias[s] = -(weight * centre).sum(-2)

    def derivatives(self, x: Tensor, at: Sequence[tuple[int, ...]], orders: Iterable[Orders]) -> dict[Orders, Tensor]:
        """Derivatives of all features by the stretched coordinates' chain rule.

        Args:
            x: ``[S, N, d]``. at: for each seed the model to use, an index into the leading axes.
            orders: which derivatives.

        Returns:
            ``[S, N, K]`` by order.
        """
        wanted = list(dict.fromkeys(orders))
        highest = max((sum(o) for o in wanted), default=0)
        steepest = max((max(o) for o in wanted), default=0)
        xi = self.stretch(x, at, steepest)
        weight = torch.stack([self.weight[m] for m in at])
        bias = torch.stack([self.bias[m] for m in at])
        sigma = self.activation(torch.baddbmm(bias[:, None], xi[0], weight), highest)
        return {order: self._one(order, xi[1:], weight, sigma) for order in wanted}

    @staticmethod
    def _one(order: Orders, slopes: Sequence[Tensor], weight: Tensor, sigma: Sequence[Tensor]) -> Tensor:
        """``sum_k prod_i B_{n_i, k_i}(xi_i) w_i^{k_i} sigma^(|k|)``."""
        bells = [bell_polynomials([d[..., i] for d in slopes], n) for i, n in enumerate(order)]
        total: Tensor | None = None
        for powers in itertools.product(*(range(min(n, 1), n + 1) for n in order)):
            term = sigma[sum(powers)]
            for i, k in enumerate(powers):
                if k:
                    bell = torch.as_tensor(bells[i][k], dtype=term.dtype)
                    term = term * (bell[..., None] * weight[:, None, i] ** k)
            total = term if total is None else total + term
        assert total is not None
        return total
