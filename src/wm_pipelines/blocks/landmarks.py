"""How many steps apart two observations are, from what training episodes went through: a graph over landmarks.

Landmarks are spread over the features of the training episodes (farthest-point sampling, Gonzalez 1985); two are
neighbours where an episode stepped from the cell of one to the cell of the other; the distance of two landmarks is the
shortest path between them (Savinov et al., *Semi-parametric topological memory*, ICLR 2018; Eysenbach et al., *Search
on the replay buffer*, NeurIPS 2019). A straight line through a wall is short in features, and long in this graph.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor, nn

_VOTES = 3  # landmarks whose distances are averaged


class LandmarkGraph(nn.Module):
    """Distances in steps.

    Args:
        landmarks: ``L``, how many. features: ``D``.
    """

    at: Tensor
    between: Tensor
    unit: Tensor

    def __init__(self, landmarks: int, features: int) -> None:
        super().__init__()
        self.register_buffer("at", torch.zeros(landmarks, features))
        self.register_buffer("between", torch.zeros(landmarks, landmarks))
        self.register_buffer("unit", torch.ones(()))

    @torch.no_grad()
    def build(self, episodes: Tensor) -> None:
        """Choose landmarks among the features of training episodes ``[E, T, D]``, and find the paths between them.

        Where no path leads, the distance is twice the longest there is.
        """
        count, rows = len(self.at), episodes.flatten(0, 1)
        chosen = spread_out(rows, count)
        self.at.copy_(rows[chosen])
        cell = nearest(rows, self.at, 1)[1][:, 0].unflatten(0, episodes.shape[:2])
        source, target = cell[:, :-1].flatten().numpy(), cell[:, 1:].flatten().numpy()
        moved = source != target
        edges = coo_matrix((np.ones(int(moved.sum())), (source[moved], target[moved])), shape=(count, count)).tocsr()
        edges.data[:] = 1.0  # seen once or often: one step
        steps = dijkstra(edges, directed=False)
        finite = np.isfinite(steps)
        steps[~finite] = 2.0 * steps[finite].max(initial=1.0)
        self.between.copy_(torch.from_numpy(steps))
        self.unit.copy_((episodes[:, 1:] - episodes[:, :-1]).norm(dim=-1).mean().clamp_min(1e-12))

    def forward(self, features: Tensor, goal: Tensor) -> Tensor:
        """Steps from ``features [..., D]`` to ``goal [..., D]``, ``[...]``; both shapes alike.

        The mean over the nearest landmarks, weighted by nearness; what decides within a cell is the straight line, in
        units of a mean step.
        """
        flat, goals = features.flatten(0, -2), goal.flatten(0, -2)
        unique, which = torch.unique(goals, dim=0, return_inverse=True)
        home = nearest(unique, self.at, 1)[1][:, 0][which]
        distance, near = nearest(flat, self.at, min(_VOTES, len(self.at)))
        weights = 1.0 / (distance + 1e-3 * self.unit)
        steps = (weights * self.between[near, home[:, None]]).sum(1) / weights.sum(1)
        straight = (flat - goals).norm(dim=1) / self.unit
        return (steps + 0.1 * straight.clamp_max(10.0)).unflatten(0, features.shape[:-1])


def nearest(points: Tensor, centres: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices ``[N, count]`` of the nearest centres ``[L, D]`` of points ``[N, D]``."""
    found = [torch.cdist(part, centres).topk(count, dim=1, largest=False) for part in points.split(8192)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def spread_out(points: Tensor, count: int) -> Tensor:
    """Indices of ``count`` points ``[N, D]``, each the farthest from those before it; the first is the first."""
    chosen = [0]
    distance = (points - points[0]).square().sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)
