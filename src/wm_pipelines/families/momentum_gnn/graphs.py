"""Batched graphs of particles: who meets whom, and sums over edges that act on both ends at once.

Every undirected edge is listed once. What an edge gives to one end it takes from the other, the very same number with
its sign changed: Newton's third law holds bit by bit, because there is nothing else that could hold.

Layout: particles are the *last* axis, their components the one before: positions ``[S, E, D, N]`` for ``S`` seeds,
``E`` episodes, ``D`` dimensions, ``N`` particles; edge quantities ``[S, X, D, M]``, where a complete graph has its
``M`` edges in each of ``X = E`` episodes and a neighbour list has all episodes' edges in one row, ``X = 1``.

Source of the cell lists: Allen & Tildesley, *Computer Simulation of Liquids* (2nd ed. 2017), 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

# Above this many nodes the incidence matrix of a complete graph costs more than index lists.
DENSE_NODES = 32
_WIDEST = 2**14  # cells per dimension that an integer key can hold for three dimensions and many systems


class PairGraph(Protocol):
    """Undirected edges of a batch of particle systems."""

    def difference(self, x: Tensor) -> Tensor:
        """``x_i - x_j`` on every edge: ``[S, E, D, N] -> [S, X, D, M]``."""

    def total(self, x: Tensor) -> Tensor:
        """``x_i + x_j`` on every edge: ``[S, E, D, N] -> [S, X, D, M]``."""

    def antisymmetric(self, f: Tensor) -> Tensor:
        """Give ``+f`` to the first and ``-f`` to the second end, summed per node: ``[S, X, D, M] -> [S, E, D, N]``."""

    def symmetric(self, f: Tensor) -> Tensor:
        """Give ``f`` to both ends, summed per node: ``[S, X, D, M] -> [S, E, D, N]``."""

    def ends(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Constants of the nodes ``[N]`` at both ends of every edge: two of ``[M]`` or ``[S, X, M]``."""

    def mask(self) -> Tensor | None:
        """``[S, X, M]``, False where an edge is padding; None if every edge is real."""


@dataclass(frozen=True)
class CompleteGraph:
    """All ``N (N - 1) / 2`` pairs of few nodes, the same in every episode, as one incidence matrix.

    Attributes:
        first, second: node numbers ``[M]``, ``first < second``.
        signed: incidence ``[N, M]``, +1 at the first and -1 at the second end of each edge.
    """

    first: Tensor
    second: Tensor
    signed: Tensor

    def difference(self, x: Tensor) -> Tensor:
        """``x_i - x_j``; the zeros of the matrix add nothing, so the rounding is that of one subtraction."""
        return x @ self.signed

    def total(self, x: Tensor) -> Tensor:
        """``x_i + x_j``."""
        return x @ self.unsigned

    def antisymmetric(self, f: Tensor) -> Tensor:
        """``+f`` on the first end, ``-f`` on the second."""
        return f @ self.signed_transposed

    def symmetric(self, f: Tensor) -> Tensor:
        """``f`` on both ends."""
        return f @ self.unsigned.T

    def ends(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Node constants at both ends, each ``[M]``."""
        return a[self.first], a[self.second]

    def mask(self) -> None:
        """Every edge is real."""
        return

    @cached_property
    def unsigned(self) -> Tensor:
        """``|signed|``: 1 at both ends of each edge."""
        return self.signed.abs()

    @cached_property
    def signed_transposed(self) -> Tensor:
        """``[M, N]``, laid out for the product."""
        return self.signed.T.contiguous()


@dataclass(frozen=True)
class EdgeList:
    """Edges of any batch by node numbers, padded to the same number ``M`` for every seed.

    Attributes:
        first, second: ``[S, M]``, numbers of nodes among the ``E * N`` of a seed.
        real: ``[S, M]``, False where an edge only fills the row up.
        episodes, nodes: ``E`` and ``N``.
    """

    first: Tensor
    second: Tensor
    real: Tensor
    episodes: int
    nodes: int
    _offsets: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def difference(self, x: Tensor) -> Tensor:
        """``x_i - x_j``."""
        at_first, at_second = self._gather(x)
        return at_first - at_second

    def total(self, x: Tensor) -> Tensor:
        """``x_i + x_j``."""
        at_first, at_second = self._gather(x)
        return at_first + at_second

    def antisymmetric(self, f: Tensor) -> Tensor:
        """``+f`` on the first end, ``-f`` on the second."""
        return self._scatter(f, -f)

    def symmetric(self, f: Tensor) -> Tensor:
        """``f`` on both ends."""
        return self._scatter(f, f)

    def ends(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Node constants at both ends, each ``[S, 1, M]``."""
        return a[self.first % self.nodes][:, None], a[self.second % self.nodes][:, None]

    def mask(self) -> Tensor | None:
        """``[S, 1, M]``."""
        return self.real[:, None]

    def _flat(self, components: int) -> tuple[Tensor, Tensor]:
        """Places of both ends' components in a flattened ``[S, E, D, N]``: two of ``[S, D, M]``."""
        if components not in self._offsets:
            self._offsets[components] = (self._places(self.first, components), self._places(self.second, components))
        return self._offsets[components]

    def _places(self, node: Tensor, components: int) -> Tensor:
        seeds = torch.arange(len(node), device=node.device)[:, None]
        graph = seeds * self.episodes + torch.div(node, self.nodes, rounding_mode="floor")
        row = graph[:, None] * components + torch.arange(components, device=node.device)[:, None]
        return row * self.nodes + (node % self.nodes)[:, None]

    def _gather(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self._flat(x.shape[-2])
        flat, shape = x.reshape(-1), (first.shape[0], 1, *first.shape[1:])
        return flat[first.reshape(-1)].reshape(shape), flat[second.reshape(-1)].reshape(shape)

    def _scatter(self, to_first: Tensor, to_second: Tensor) -> Tensor:
        components = to_first.shape[-2]
        first, second = self._flat(components)
        size = first.shape[0] * self.episodes * components * self.nodes
        out = to_first.new_zeros(size).scatter_add(0, first.reshape(-1), to_first.reshape(-1))
        out = out.scatter_add(0, second.reshape(-1), to_second.reshape(-1))
        return out.reshape(first.shape[0], self.episodes, components, self.nodes)


# ---------------------------------------------------------------- all pairs


def complete_graph(x: Tensor) -> PairGraph:
    """The graph of all pairs for positions ``x [S, E, D, N]``."""
    seeds, episodes, _, nodes = x.shape
    first, second = torch.triu_indices(nodes, nodes, 1, device=x.device)
    if nodes <= DENSE_NODES:
        edges = torch.arange(len(first), device=x.device)
        signed = x.new_zeros(nodes, len(first))
        signed[first, edges], signed[second, edges] = 1.0, -1.0
        return CompleteGraph(first, second, signed)
    offset = (torch.arange(episodes, device=x.device) * nodes)[:, None]
    first, second = ((offset + end).reshape(1, -1).expand(seeds, -1) for end in (first, second))
    return EdgeList(first, second, torch.ones_like(first, dtype=torch.bool), episodes, nodes)


# ---------------------------------------------------------------- neighbours within a cutoff


def neighbour_pairs(x: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs closer than a cutoff, found by cell lists: cost grows with nodes and edges, not with nodes squared.

    Space is cut into cells as wide as the cutoff, nodes are sorted by cell, and each node looks into its own and the
    adjacent cells. Cells that follow one another along the last dimension are neighbours in the sorted order too, so a
    row of three cells is one interval: one look-up for each of the ``(3^(D-1) + 1) / 2`` rows ahead.

    Args:
        x: positions ``[G, D, N]`` of ``G`` systems; a system with a non-finite position has no pairs.
        cutoff: largest distance, in the unit of ``x``.

    Returns:
        System, first and second node, each ``[M]``; every pair once, ordered by system.
    """
    systems, dimensions, nodes = x.shape
    finite = x.isfinite().all(dim=-1).all(dim=-1)
    system = torch.arange(systems, device=x.device).repeat_interleave(nodes)
    node = torch.arange(nodes, device=x.device).repeat(systems)
    position = x.mT.reshape(-1, dimensions)
    alive = finite[system]
    system, node, position = system[alive], node[alive], position[alive]

    key, rows_ahead = _cell_keys(position, system, cutoff)
    key, order = torch.sort(key, stable=True)
    system, node, position = system[order], node[order], position[order]

    here = torch.arange(len(key), device=x.device)
    begin = [here + 1]  # own row: the nodes behind this one, up to the next cell
    end = [torch.searchsorted(key, key + 1, right=True)]
    for row in rows_ahead:
        begin.append(torch.searchsorted(key, key + row - 1))
        end.append(torch.searchsorted(key, key + row + 1, right=True))
    first, second = _expand_intervals(torch.cat(begin), torch.cat(end), len(key))

    close = (position[first] - position[second]).square().sum(dim=-1) < cutoff * cutoff
    first, second = first[close], second[close]
    by_system = torch.sort(system[first], stable=True).indices
    first, second = first[by_system], second[by_system]
    return system[first], node[first], node[second]


def _cell_keys(position: Tensor, system: Tensor, cutoff: float) -> tuple[Tensor, list[int]]:
    """One integer per node that orders cells row by row, and the key distances to the rows ahead."""
    dimensions = position.shape[1]
    if len(position) == 0:
        return system, []
    cell = torch.floor((position - position.amin(dim=0)) / cutoff).clamp_max(2.0**52).long()
    if int(cell.max()) >= _WIDEST:
        cell = _close_gaps(cell)
    cell = cell + 1
    count = [int(c) + 2 for c in cell.amax(dim=0)]  # an empty cell on each side: rows never wrap
    key = system
    for d in range(dimensions):
        key = key * count[d] + cell[:, d]
    strides = [1]
    for c in reversed(count[1:]):
        strides.insert(0, strides[0] * c)
    if dimensions == 1:
        return key, []
    if dimensions == 2:
        return key, [strides[0]]
    return key, [strides[1], *(strides[0] + step * strides[1] for step in (-1, 0, 1))]


def _close_gaps(cell: Tensor) -> Tensor:
    """Cell numbers with every run of empty cells shortened to one: a stray particle must not overflow the key."""
    closed = []
    for numbers in cell.T:
        occupied, place = torch.unique(numbers, return_inverse=True)
        steps = torch.diff(occupied, prepend=occupied[:1]).clamp_max(2)
        closed.append(steps.cumsum(0)[place])
    return torch.stack(closed, dim=1)


def _expand_intervals(begin: Tensor, end: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Pairs (node, partner) for all partners in ``[begin, end)``; interval ``n`` belongs to node ``n % nodes``."""
    count = (end - begin).clamp_min(0)
    interval = torch.repeat_interleave(count)
    skipped = count.cumsum(0) - count
    partner = begin[interval] + torch.arange(len(interval), device=begin.device) - skipped[interval]
    return interval % max(nodes, 1), partner


def neighbour_graph(x: Tensor, cutoff: float) -> EdgeList:
    """The graph of all pairs closer than ``cutoff`` for positions ``x [S, E, D, N]``."""
    seeds, episodes, dimensions, nodes = x.shape
    system, first, second = neighbour_pairs(x.reshape(seeds * episodes, dimensions, nodes), cutoff)
    seed, episode = torch.div(system, episodes, rounding_mode="floor"), system % episodes
    count = torch.bincount(seed, minlength=seeds)
    length = int(count.max()) if len(system) else 0
    column = torch.arange(len(seed), device=x.device) - (count.cumsum(0) - count)[seed]
    ends = []
    for node in (first, second):
        padded = torch.zeros(seeds, length, dtype=torch.long, device=x.device)
        padded[seed, column] = episode * nodes + node
        ends.append(padded)
    real = torch.arange(length, device=x.device) < count[:, None]
    return EdgeList(ends[0], ends[1], real, episodes, nodes)


class NeighbourList:
    """A graph that follows moving particles: a neighbour list, rebuilt only when it may have become incomplete.

    It lists pairs up to ``cutoff * (1 + skin)`` and holds until some particle has moved by half the skin (Verlet 1967).
    Few nodes, or no cutoff at all, make a complete graph, built once.

    Args:
        cutoff: distance beyond which pairs do not interact; None: all pairs.
        skin: extra reach, as a share of the cutoff.
    """

    def __init__(self, cutoff: float | None, skin: float = 0.3) -> None:
        self.cutoff, self.skin = cutoff, skin
        self.builds = 0
        self._graph: PairGraph | None = None
        self._anchor: Tensor | None = None

    def graph(self, x: Tensor) -> PairGraph:
        """The graph for positions ``x [S, E, D, N]``: complete up to the cutoff."""
        if self._graph is None or not self._holds(x):
            self.builds += 1
            if self.cutoff is None or x.shape[-1] <= DENSE_NODES:
                self._graph = complete_graph(x)
            else:
                self._graph = neighbour_graph(x, self.cutoff * (1 + self.skin))
                self._anchor = x.clone()
        return self._graph

    def _holds(self, x: Tensor) -> bool:
        if self._anchor is None or self.cutoff is None:
            return True
        moved = (x - self._anchor).square().sum(dim=-2)
        # A system that has diverged (NaN) compares False and asks for nothing more.
        return not bool((moved > (0.5 * self.skin * self.cutoff) ** 2).any())
