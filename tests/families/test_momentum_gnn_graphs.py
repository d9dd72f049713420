"""Graphs of particles: every close pair once, and what one end of an edge gets the other loses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.families.momentum_gnn import graphs
from wm_pipelines.families.momentum_gnn.graphs import NeighbourList, complete_graph, neighbour_graph, neighbour_pairs


def cloud(seed, systems, dimensions, nodes, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    return size * torch.rand(systems, dimensions, nodes, generator=generator, dtype=torch.float64)


def all_close_pairs(x, cutoff):
    """By looking at every pair: sorted (system, i, j)."""
    square = (x[..., :, None] - x[..., None, :]).square().sum(dim=1)
    close = (square < cutoff**2) & torch.ones_like(square, dtype=torch.bool).triu(1)
    return sorted(map(tuple, close.nonzero().tolist()))


def as_set(pairs):
    system, first, second = pairs
    ordered = torch.stack([system, torch.minimum(first, second), torch.maximum(first, second)], dim=1)
    return sorted(map(tuple, ordered.tolist()))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dimensions=st.integers(1, 3),
    nodes=st.integers(1, 40),
    systems=st.integers(1, 4),
    size=st.floats(0.1, 20.0),
    stray=st.sampled_from([0.0, 1e3, 1e7, 1e12]),
)
def test_cell_lists_find_every_close_pair_once(seed, dimensions, nodes, systems, size, stray):
    x = cloud(seed, systems, dimensions, nodes, size)
    x[0, 0, 0] += stray
    assert as_set(neighbour_pairs(x, 1.0)) == all_close_pairs(x, 1.0)


def test_particles_on_cell_borders_are_found():
    lattice = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 3).T[None]
    assert as_set(neighbour_pairs(lattice, 1.0 + 1e-12)) == all_close_pairs(lattice, 1.0 + 1e-12)
    assert as_set(neighbour_pairs(lattice, 1.0)) == []  # closer than, not as close as


@pytest.mark.parametrize("dimensions", [2, 3])
def test_candidate_pairs_grow_with_nodes_not_with_their_square(dimensions, monkeypatch):
    looked_at = []
    expand = graphs._expand_intervals

    def counted(begin, end, nodes):
        first, second = expand(begin, end, nodes)
        looked_at.append(len(first) / nodes)
        return first, second

    monkeypatch.setattr(graphs, "_expand_intervals", counted)
    for nodes in (1_000, 8_000):
        neighbour_pairs(cloud(0, 1, dimensions, nodes, nodes ** (1 / dimensions)), 1.5)
    few, many = looked_at
    assert many < 1.25 * few  # per node; the rest is fewer nodes at the border


def test_a_diverged_system_has_no_pairs_and_leaves_the_others_alone():
    x = cloud(1, 3, 2, 30, 4.0)
    alone = as_set(neighbour_pairs(x[2:], 1.0))
    x[1, 0, 7] = float("nan")
    pairs = as_set(neighbour_pairs(x, 1.0))
    assert not [p for p in pairs if p[0] == 1]
    assert [(0, i, j) for s, i, j in pairs if s == 2] == alone
    assert neighbour_graph(torch.full((1, 1, 2, 40), float("inf")), 1.0).first.shape == (1, 0)


@pytest.mark.parametrize("nodes", [2, 5, 9])
def test_dense_and_listed_complete_graphs_agree(nodes, monkeypatch):
    x = cloud(2, 6, 3, nodes).reshape(2, 3, 3, nodes)
    dense = complete_graph(x)
    monkeypatch.setattr(graphs, "DENSE_NODES", 0)
    listed = complete_graph(x)
    edges = nodes * (nodes - 1) // 2
    for name in ("difference", "total"):
        on_edges = getattr(dense, name)(x)
        assert torch.equal(on_edges.transpose(1, 2).reshape(2, 1, 3, -1), getattr(listed, name)(x))
    f = torch.randn(2, 3, 3, edges, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    flat = f.transpose(1, 2).reshape(2, 1, 3, -1)
    for name in ("antisymmetric", "symmetric"):
        torch.testing.assert_close(getattr(dense, name)(f), getattr(listed, name)(flat), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dense", [True, False])
def test_third_law_bit_by_bit_on_every_edge(dense, monkeypatch):
    monkeypatch.setattr(graphs, "DENSE_NODES", 32 if dense else 0)
    nodes, edges = 6, 15
    graph = complete_graph(cloud(4, 1, 2, nodes)[None])
    force = torch.randn(2, edges, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for e in range(edges):  # each edge alone: what one end gets, the other loses, and nobody else feels it
        only = torch.zeros(1, 1, 2, edges, dtype=torch.float64)
        only[..., e] = force[:, e]
        on_nodes = graph.antisymmetric(only)[0, 0]
        touched = on_nodes.abs().sum(0).nonzero().flatten()
        assert len(touched) == 2
        assert torch.equal(on_nodes[:, touched[0]], -on_nodes[:, touched[1]])
        assert torch.equal(on_nodes[:, touched[0]].abs(), force[:, e].abs())


def test_padding_touches_nobody():
    x = cloud(6, 2, 2, 40, 5.0)[:, None]
    x[1] *= 3.0  # fewer pairs in the second seed: its row is padded
    graph = neighbour_graph(x, 1.0)
    count = graph.real.sum(1)
    assert count[0] > count[1]
    f = torch.ones(2, 1, 2, graph.first.shape[1], dtype=torch.float64) * graph.mask()[..., None, :]
    degree = graph.symmetric(f)[:, 0, 0].sum(1)
    assert torch.equal(degree, 2.0 * count)


def test_neighbour_list_stays_complete_while_particles_move():
    x = cloud(7, 1, 2, 200, 14.0)[:, None]
    generator = torch.Generator().manual_seed(8)
    neighbours = NeighbourList(cutoff=1.5, skin=0.4)
    for _ in range(40):
        x = x + 0.03 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        graph = neighbours.graph(x)
        near = graph.difference(x).square().sum(-2) < 1.5**2
        assert int((near & graph.mask()).sum()) == len(all_close_pairs(x[:, 0], 1.5))
    assert 1 < neighbours.builds < 30  # rebuilt when needed, and only then
