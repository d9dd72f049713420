"""Layers with a leading seed axis: ``S`` small networks evaluated and trained as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
    "softplus": nn.functional.softplus,
    "gelu": nn.functional.gelu,
}


# gradient with respect to the output, input -> gradient with respect to the input: what autograd itself calls
_BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda g, a: torch.ops.aten.tanh_backward(g, a.tanh()),
    "silu": torch.ops.aten.silu_backward,
    "softplus": lambda g, a: torch.ops.aten.softplus_backward(g, a, 1, 20),
    "gelu": torch.ops.aten.gelu_backward,
}


def generators(seeds: Sequence[int], salt: int = 0) -> list[torch.Generator]:
    """One random generator per seed; ``salt`` keeps the streams of different purposes apart."""
    return [torch.Generator().manual_seed(1_000_003 * salt + seed) for seed in seeds]


class EnsembleLinear(nn.Module):
    """``y_s = x_s W_s + b_s``: ``[S, ..., n_in] -> [S, ..., n_out]``; each seed draws from its own generator.

    Without ``bias`` ``b_s`` is 0.
    """

    bias: nn.Parameter | None

    def __init__(
        self, n_in: int, n_out: int, draws: Sequence[torch.Generator], gain: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__()
        bound = gain * math.sqrt(3.0 / n_in)
        weight = [(2 * torch.rand(n_in, n_out, generator=g, dtype=torch.float64) - 1) * bound for g in draws]
        self.weight = nn.Parameter(torch.stack(weight))
        zero = torch.zeros(len(draws), 1, n_out, dtype=torch.float64)
        self.register_parameter("bias", nn.Parameter(zero) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply every seed's map to its own input."""
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        y = torch.bmm(flat, self.weight) if self.bias is None else torch.baddbmm(self.bias, flat, self.weight)
        return y.reshape(*x.shape[:-1], -1)


class EnsembleMLP(nn.Module):
    """A multilayer perceptron per seed: ``[S, ..., sizes[0]] -> [S, ..., sizes[-1]]``, float64 unless converted.

    ``last_bias: False`` is for outputs of which only differences or slopes count, as of an energy: an optimiser would
    move a constant without any influence by the rounding of its gradient.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        seeds: Sequence[int],
        activation: str = "silu",
        salt: int = 0,
        last_gain: float = 1.0,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        draws = generators(seeds, salt)
        hidden = [EnsembleLinear(n_in, n_out, draws) for n_in, n_out in pairwise(sizes[:-1])]
        last = EnsembleLinear(sizes[-2], sizes[-1], draws, last_gain, last_bias)
        self.layers = nn.ModuleList([*hidden, last])
        self.activation, self.backward = ACTIVATIONS[activation], _BACKWARD[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Apply every seed's network to its own input."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)

    def pulled_back(self, x: Tensor, g: Tensor) -> Tensor:
        """``g . dy/dx`` at ``x [S, R, n]`` for ``g [S, R, m]``: the chain rule without the cost of a graph."""
        *hidden, last = (cast("EnsembleLinear", layer) for layer in self.layers)
        inputs = []
        for layer in hidden:
            inputs.append(layer(x))
            x = self.activation(inputs[-1])
        g = g @ last.weight.mT
        for layer, a in zip(reversed(hidden), reversed(inputs), strict=True):
            g = self.backward(g, a) @ layer.weight.mT
        return g
