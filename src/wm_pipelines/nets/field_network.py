"""Fields as perceptrons on Fourier features of their coordinates (Tancik et al. 2020, arXiv 2006.10739)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.fields import FieldSystem, box
from wm_pipelines.nets.derivatives import derivatives
from wm_pipelines.nets.ensemble import EnsembleMLP, generators

Data = Mapping[str, Tensor]


class FieldNetwork(nn.Module):
    """Fields as a perceptron per seed, on unit coordinates and their Fourier features ``sin(B x), cos(B x)``."""

    waves: Tensor  # B, [S, d, m]

    def __init__(
        self, hidden: Sequence[int], fourier: int, fourier_scale: float, system: FieldSystem, seeds: Sequence[int]
    ) -> None:
        super().__init__()
        self.system = system
        self.low, self.size = (torch.tensor(c) for c in (box(system)[0], box(system)[1] - box(system)[0]))
        width = len(system.coordinates)
        draws = [torch.randn(width, fourier, generator=g, dtype=torch.float64) for g in generators(seeds, 1)]
        self.register_buffer("waves", fourier_scale * torch.stack(draws))
        inputs = width + 2 * fourier
        self.layers = EnsembleMLP([inputs, *hidden, len(system.fields)], seeds, "tanh")

    def forward(self, points: Tensor, weights: Data | None = None) -> Tensor:
        """``[S, N, d] -> [S, N, F]``, with other weights than the module's own if they are given.

        Weights of one seed without their leading axis take points ``[N, d]``.
        """
        found = dict(self.named_parameters()) | {"waves": self.waves} if weights is None else weights
        x = 2 * (points - self.low.to(points)) / self.size.to(points) - 1
        if self.waves.shape[-1]:
            phase = x @ found["waves"]
            x = torch.cat([x, phase.sin(), phase.cos()], -1)
        last = len(self.layers.layers) - 1
        for number in range(last + 1):
            x = x @ found[f"layers.layers.{number}.weight"] + found[f"layers.layers.{number}.bias"]
            x = x if number == last else torch.tanh(x)
        return x

    def values(self, points: Tensor, symbols: Sequence[str], weights: Data | None = None) -> dict[str, Tensor]:
        """Fields and derivatives at ``points [S, N, d]``: each ``[S, N]``; weights as in `forward`."""
        wanted = {symbol: self.system.derivative(symbol) for symbol in symbols}
        found = derivatives(lambda x: self(x, weights), points, (order for _, order in wanted.values()))
        return {symbol: found[order][..., number] for symbol, (number, order) in wanted.items()}
