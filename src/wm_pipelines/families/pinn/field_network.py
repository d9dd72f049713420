"""Fields as perceptrons on Fourier features of their coordinates (Tancik et al. 2020, arXiv 2006.10739)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.ensemble import EnsembleMLP, generators
from wm_pipelines.equations import Problem, box
from wm_pipelines.families.pinn import jets
from wm_pipelines.families.pinn.derivatives import derivatives

Data = Mapping[str, Tensor]
Record = list[tuple[Tensor, Tensor]]
"""Jets into and out of every linear layer."""


class FieldNetwork(nn.Module):
    """Fields as a perceptron per seed, on unit coordinates and their Fourier features ``sin(B x), cos(B x)``."""

    waves: Tensor  # B, [S, d, m]

    def __init__(
        self, hidden: Sequence[int], fourier: int, fourier_scale: float, problem: Problem, seeds: Sequence[int]
    ) -> None:
        super().__init__()
        self.problem = problem
        self.low, self.size = (torch.tensor(c) for c in (box(problem)[0], box(problem)[1] - box(problem)[0]))
        width = len(problem.coordinates)
        draws = [torch.randn(width, fourier, generator=g, dtype=torch.float64) for g in generators(seeds, 1)]
        self.register_buffer("waves", fourier_scale * torch.stack(draws))
        inputs = width + 2 * fourier
        self.layers = EnsembleMLP([inputs, *hidden, len(problem.fields)], seeds, "tanh")

    def forward(self, points: Tensor, weights: Data | None = None) -> Tensor:
        """``[S, N, d] -> [S, N, F]``, with other weights than the module's own if they are given."""
        found = self._weights(weights)
        x = 2 * (points - self.low.to(points)) / self.size.to(points) - 1
        if self.waves.shape[-1]:
            phase = x @ self.waves
            x = torch.cat([x, phase.sin(), phase.cos()], -1)
        last = len(self.layers.layers) - 1
        for number in range(last + 1):
            x = x @ found[f"layers.layers.{number}.weight"] + found[f"layers.layers.{number}.bias"]
            x = x if number == last else torch.tanh(x)
        return x

    def _weights(self, weights: Data | None) -> Data:
        return dict(self.named_parameters()) if weights is None else weights

    def values(self, points: Tensor, symbols: Sequence[str]) -> dict[str, Tensor]:
        """Fields and derivatives at ``points [S, N, d]``, by torch.func: each ``[S, N]``."""
        wanted = {symbol: self.problem.derivative(symbol) for symbol in symbols}
        found = derivatives(self, points, (order for _, order in wanted.values()))
        return {symbol: found[order][..., number] for symbol, (number, order) in wanted.items()}

    def traced(
        self, points: Tensor, symbols: Sequence[str], weights: Data | None = None, record: Record | None = None
    ) -> dict[str, Tensor]:
        """The same values, fast enough for every step of a training (see `jets`).

        Args:
            points: ``[S, N, d]``. symbols: fields and derivatives. weights: as in `forward`.
            record: takes input and output of every layer, for `slopes`.
        """
        found = self._weights(weights)
        wanted = {symbol: self.problem.derivative(symbol) for symbol in symbols}
        orders = jets.closure((order for _, order in wanted.values()), points.shape[-1])
        size = self.size.to(points)
        jet = jets.of_inputs(2 * (points - self.low.to(points)) / size - 1, 2 / size, orders)
        if self.waves.shape[-1]:
            phase = jets.linear(jet, self.waves)
            quarter = torch.cat([phase[:, :1] + torch.pi / 2, phase[:, 1:]], 1)
            jet = torch.cat([jet, *(jets.composed(p, orders, jets.wave_ladder) for p in (phase, quarter))], -1)
        last = len(self.layers.layers) - 1
        for number in range(last + 1):
            weight, bias = (found[f"layers.layers.{number}.{kind}"] for kind in ("weight", "bias"))
            out = jets.linear(jet, weight, bias)
            if record is not None:
                if not out.requires_grad:
                    out.requires_grad_()
                record.append((jet, out))
            jet = out if number == last else jets.composed(out, orders, jets.tanh_ladder)
        return {symbol: jet[:, orders.index(order), :, number] for symbol, (number, order) in wanted.items()}

    def slopes(self, rows: Tensor, record: Record) -> Tensor:
        """Slope of pointwise ``rows [S, N]`` by all weights in the order of `named_parameters`: ``[S, N, n]``."""
        parts = jets.by_weights(rows, [jet for jet, _ in record], [out for _, out in record])
        return torch.cat([part.flatten(2) for pair in parts for part in pair], 2)
