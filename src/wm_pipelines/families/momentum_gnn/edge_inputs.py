"""What edge networks see of a pair, beside its motion: the common laws, or nothing but how far apart its ends are.

`LawInputs` hold the form of the answer on many worlds: a spring, a charge and a mass are one coupling times one input
each. `DistanceInputs` hold none: the standardised distance, and an embedding of the attributes.

A symmetric function of two ends is a function of sums over them (Zaheer et al. 2017, *Deep Sets*, theorem 7): of
``h(a_i) + h(a_j)`` with a learned ``h``, as Sharma & Fink 2025 embed nodes; or, where nothing may be learned by
gradient, of ``a_i + a_j`` and ``(a_i - a_j)^2``, of which every symmetric polynomial is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.ensemble import EnsembleMLP
from wm_pipelines.families.momentum_gnn.graphs import PairGraph
from wm_pipelines.families.momentum_gnn.pair_laws import (
    LENGTH,
    LOGARITHM,
    RADIAL,
    Edges,
    couplings,
    independent,
    pair_laws,
)


class LawInputs(nn.Module):
    """Standardised ``log rho, 1/rho, rho, rho^2`` and couplings ``1, a_i a_j, a_i + a_j``, those that differ."""

    inner: Tensor
    mean: Tensor  # [4]
    scale: Tensor  # [4]
    coupling_scale: Tensor  # [C]
    size = RADIAL
    tail = True  # the laws themselves, beside what networks make of them
    learned = False

    def __init__(self, attributes: int) -> None:
        super().__init__()
        self.register_buffer("inner", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(RADIAL, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(RADIAL, dtype=torch.float64))
        self.register_buffer("coupling_scale", torch.zeros(1 + 2 * attributes, dtype=torch.float64))

    @property
    def length(self) -> Tensor:
        """Spread of the distances in training, the unit of radial slopes."""
        return self.scale[LENGTH]

    def calibrate_attributes(self, attributes: Tensor, graph: PairGraph) -> None:
        """Which couplings the pairs of a graph can tell apart, and their sizes."""
        table = couplings(attributes, graph)
        self.coupling_scale.copy_(independent(table.reshape(-1, table.shape[-1])))

    def calibrate_distances(self, near: Tensor) -> None:
        """Mean and spread of the laws at distances seen in training; `inner` must be known by then."""
        for k, law in enumerate(pair_laws(near, self.inner)[0].unbind(-1)):
            # A logarithm has no size of its own, only a spread.
            self.mean[k], self.scale[k] = centre_and_scale(law, law.new_ones(()) if k == LOGARITHM else None)

    def of_pairs(self, attributes: Tensor, graph: PairGraph) -> tuple[Tensor, None]:
        """``kappa_c`` of every edge in units of its size in training, 0 for those left out: ``[.., M, C]``."""
        return couplings(attributes, graph) * self.coupling_scale, None

    def radial(self, edges: Edges) -> tuple[Tensor, Tensor]:
        """Inputs and their derivative by the distance in units of its spread: two of ``[S, X, M, 4]``."""
        u, slope = pair_laws(edges.distance, self.inner)
        return (u - self.mean) / self.scale, slope * (self.length / self.scale)


class DistanceInputs(nn.Module):
    """The standardised distance and an embedding of the attributes.

    Args:
        attributes: A, of a node. channels: of the learned embedding; 0: sums and squared differences, 2 A of them.
        seeds: one embedding each.
    """

    mean: Tensor
    scale: Tensor
    attribute_mean: Tensor  # [A]
    attribute_scale: Tensor  # [A]
    coupling_scale: Tensor  # [1]
    tail = False

    def __init__(self, attributes: int, channels: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.seeds, self.learned = tuple(seeds), channels > 0
        self.size = 1 + (channels or 2 * attributes)
        if channels:
            self.node = EnsembleMLP([attributes, channels, channels], seeds, "tanh", salt=7)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("attribute_mean", torch.zeros(attributes, dtype=torch.float64))
        self.register_buffer("attribute_scale", torch.ones(attributes, dtype=torch.float64))
        self.register_buffer("coupling_scale", torch.ones(1, dtype=torch.float64))

    @property
    def length(self) -> Tensor:
        """Spread of the distances in training, the unit of radial slopes."""
        return self.scale

    def calibrate_attributes(self, attributes: Tensor, graph: PairGraph) -> None:  # noqa: ARG002
        """Mean and spread of the attributes ``[A, N]`` trained on; one that all nodes share is 0 from then on."""
        spread = attributes.std(dim=1, correction=0)
        self.attribute_mean.copy_(attributes.mean(dim=1))
        self.attribute_scale.copy_(torch.where(spread > 1e-9 * attributes.abs().amax(dim=1), spread, torch.inf))

    def calibrate_distances(self, near: Tensor) -> None:
        """Mean and spread of the distances seen in training."""
        mean, scale = centre_and_scale(near)
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def of_pairs(self, attributes: Tensor, graph: PairGraph) -> tuple[Tensor, Tensor]:
        """One coupling, 1, ``[1]``, and the embedding of every edge, ``[S, 1, M, E]``: ``[A, N] -> …``."""
        standard = (attributes - self.attribute_mean[:, None]) / self.attribute_scale[:, None]
        ends = [graph.ends(a) for a in standard]
        first, second = (torch.stack([pair[k] for pair in ends], dim=-1) for k in (0, 1))  # [M, A] or [S, 1, M, A]
        shape = first.shape if first.ndim == 4 else (len(self.seeds), 1, *first.shape)
        first, second = first.expand(shape), second.expand(shape)
        if not self.learned:
            return self.coupling_scale, torch.cat([first + second, (first - second).square()], dim=-1)
        return self.coupling_scale, self.node(first) + self.node(second)

    def radial(self, edges: Edges) -> tuple[Tensor, Tensor]:
        """Inputs and their derivative by the distance in units of its spread: two of ``[S, X, M, 1 + E]``."""
        x = ((edges.distance - self.mean) / self.scale)[..., None]
        assert edges.embedding is not None
        embedding = edges.embedding.expand(*x.shape[:-1], -1)
        return torch.cat([x, embedding], dim=-1), torch.cat([torch.ones_like(x), torch.zeros_like(embedding)], dim=-1)


def centre_and_scale(x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean, and spread or, where they hardly vary, a share of the numbers' size (default: their mean)."""
    return x.mean(), torch.maximum(x.std(correction=0), 0.05 * (x.abs().mean() if size is None else size))
