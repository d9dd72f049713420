"""Layers with a leading seed axis: ``S`` small networks evaluated and trained as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
    "softplus": nn.functional.softplus,
    "gelu": nn.functional.gelu,
}


def generators(seeds: Sequence[int], salt: int = 0) -> list[torch.Generator]:
    """One random generator per seed; ``salt`` keeps the streams of different purposes apart."""
    return [torch.Generator().manual_seed(1_000_003 * salt + seed) for seed in seeds]


class EnsembleLinear(nn.Module):
    """``y_s = x_s W_s + b_s``: ``[S, ..., n_in] -> [S, ..., n_out]``; each seed draws from its own generator."""

    def __init__(self, n_in: int, n_out: int, draws: Sequence[torch.Generator], gain: float = 1.0) -> None:
        super().__init__()
        bound = gain * math.sqrt(3.0 / n_in)
        weight = [(2 * torch.rand(n_in, n_out, generator=g, dtype=torch.float64) - 1) * bound for g in draws]
        self.weight = nn.Parameter(torch.stack(weight))
        self.bias = nn.Parameter(torch.zeros(len(draws), 1, n_out, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Apply every seed's map to its own input."""
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        return torch.baddbmm(self.bias, flat, self.weight).reshape(*x.shape[:-1], -1)


class EnsembleMLP(nn.Module):
    """A multilayer perceptron per seed: ``[S, ..., sizes[0]] -> [S, ..., sizes[-1]]``, float64 unless converted."""

    def __init__(
        self,
        sizes: Sequence[int],
        seeds: Sequence[int],
        activation: str = "silu",
        salt: int = 0,
        last_gain: float = 1.0,
    ) -> None:
        super().__init__()
        draws = generators(seeds, salt)
        gains = [1.0] * (len(sizes) - 2) + [last_gain]
        self.layers = nn.ModuleList(
            EnsembleLinear(n_in, n_out, draws, gain)
            for n_in, n_out, gain in zip(sizes[:-1], sizes[1:], gains, strict=True)
        )
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Apply every seed's network to its own input."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)
