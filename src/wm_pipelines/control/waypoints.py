"""Which place to go to next on the way to a far goal: search on what training episodes went through.

Rows of training episodes, in a model's features, are the nodes of a graph. Rows that followed each other are one step
apart; rows that nearly coincide, as far as they differ, in units of a mean step. Distances of landmarks, rows that are
spread over all (farthest-point sampling, Gonzalez 1985), are shortest paths between them, and a planner is sent to the
landmark within its reach from where the goal is nearest (Savinov et al., *Semi-parametric topological memory*, ICLR
2018; Eysenbach et al., *Search on the replay buffer*, NeurIPS 2019). The straight line through a wall is short in
features, and long in this graph.

A model that is wrong about a corner, say, would run against it for ever: a waypoint towards which nothing moved is
avoided for the rest of the episode.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

_ROWS = 20_000  # of training episodes that make the graph, at most
_NEIGHBOURS = 10  # rows that a row may coincide with
_SAME = 0.5  # mean steps within which two rows nearly coincide: a wall is to be thicker than that
_STILL = 0.2  # mean steps: one that leads less far counts as none


class LandmarkGraph:
    """Landmarks and the steps between them.

    Args:
        episodes: features of training episodes, ``[E, T, D]``. landmarks: ``L``, how many.

    Attributes:
        at: ``[L, D]``. between: steps, ``[L, L]``; where no path leads, twice the longest there is. unit: a mean step.
    """

    def __init__(self, episodes: Tensor, landmarks: int) -> None:
        episodes = episodes[: max(1, _ROWS // episodes.shape[1])]
        rows = episodes.flatten(0, 1)
        self.unit = (episodes[:, 1:] - episodes[:, :-1]).norm(dim=-1).mean().clamp_min(1e-12)
        chosen = spread_out(rows, min(landmarks, len(rows)))
        self.at = rows[chosen]
        steps = dijkstra(self._edges(episodes, rows), directed=False, indices=chosen.numpy())[:, chosen.numpy()]
        finite = np.isfinite(steps)
        steps[~finite] = 2.0 * steps[finite].max(initial=1.0)
        self.between = torch.from_numpy(steps).to(rows.dtype)

    def _edges(self, episodes: Tensor, rows: Tensor) -> csr_matrix:
        """Steps between rows that followed each other or nearly coincide, ``[E T, E T]``."""
        number = torch.arange(len(rows)).unflatten(0, episodes.shape[:2])
        distance, other = nearest(rows, rows, min(_NEIGHBOURS + 1, len(rows)))
        close = (distance < _SAME * self.unit) & (other != torch.arange(len(rows))[:, None])
        source = torch.cat([number[:, :-1].flatten(), torch.nonzero(close)[:, 0]])
        target = torch.cat([number[:, 1:].flatten(), other[close]])
        # 0 would count as no edge at all.
        apart = torch.cat([torch.ones(number[:, 1:].numel()), (distance[close] / self.unit).clamp_min(1e-3)])
        pairs, edge = torch.stack([source, target]).unique(dim=1, return_inverse=True)
        least = torch.full((pairs.shape[1],), torch.inf).scatter_reduce(0, edge, apart.float(), "amin")
        return coo_matrix((least.numpy(), (pairs[0].numpy(), pairs[1].numpy())), shape=(len(rows), len(rows))).tocsr()


class Guide:
    """Waypoints of a batch of episodes, one decision after the other.

    Args:
        graph: the landmarks. goal: features ``[N, D]`` of what is to be reached. reach: steps to a waypoint, at most.
    """

    def __init__(self, graph: LandmarkGraph, goal: Tensor, reach: float) -> None:
        self.graph, self.goal, self.reach = graph, goal, reach
        self._home = nearest(goal, graph.at, 1)[1][:, 0]
        self._avoided = torch.zeros(len(goal), len(graph.at), dtype=torch.bool)
        self._last: tuple[Tensor, Tensor] | None = None

    def waypoint(self, here: Tensor) -> Tensor:
        """Features ``[N, D]`` to go to from features ``[N, D]``: the goal itself where that is within reach.

        Remembers what was asked: a landmark asked for from a place that was not left since is not given again.
        """
        graph, rows = self.graph, torch.arange(len(here))
        if self._last is not None:
            before, asked = self._last
            still = (here - before).norm(dim=1) < _STILL * graph.unit
            self._avoided[rows[still], asked[still]] = True
        away = graph.between[nearest(here, graph.at, 1)[1][:, 0]]
        left = graph.between[:, self._home].T.masked_fill((away > self.reach) | self._avoided, torch.inf)
        chosen = (left + 1e-3 * away).argmin(1)
        self._last = here, chosen
        arrived = away[rows, self._home] <= self.reach
        return torch.where(arrived[:, None], self.goal, graph.at[chosen])


def nearest(points: Tensor, centres: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices ``[N, count]`` of the nearest centres ``[L, D]`` of points ``[N, D]``."""
    found = [torch.cdist(part, centres).topk(count, dim=1, largest=False) for part in points.split(2048)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def spread_out(points: Tensor, count: int) -> Tensor:
    """Indices of ``count`` points ``[N, D]``, each the farthest from those before it; the first is the first."""
    chosen = [0]
    distance = (points - points[0]).square().sum(1)
    for _ in range(count - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)
