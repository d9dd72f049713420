"""How many steps apart two observations are, from what training episodes went through: a graph over their rows.

Rows that followed each other are one step apart; rows that nearly coincide in features, as far as they differ there, in
units of a mean step. The distance of two landmarks, rows that are spread over all (farthest-point sampling, Gonzalez
1985), is the shortest path between them (Savinov et al., *Semi-parametric topological memory*, ICLR 2018; Eysenbach et
al., *Search on the replay buffer*, NeurIPS 2019). A straight line through a wall is short in features, and long in this
graph.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor, nn

_VOTES = 3  # landmarks whose distances are averaged
_ROWS = 20_000  # of training episodes that make the graph, at most
_NEIGHBOURS = 10  # rows that a row may coincide with
_JUMP = 3.0  # steps between the landmarks of rows that follow each other: more than that is a jump
_SAME = 0.5  # mean steps within which two rows nearly coincide: a wall is to be thicker than that


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
        episodes = episodes[: max(1, _ROWS // episodes.shape[1])]
        rows = episodes.flatten(0, 1)
        self.unit.copy_((episodes[:, 1:] - episodes[:, :-1]).norm(dim=-1).mean().clamp_min(1e-12))
        chosen = spread_out(rows, len(self.at))
        self.at.copy_(rows[chosen])
        steps = dijkstra(self._graph(episodes, rows), directed=False, indices=chosen.numpy())[:, chosen.numpy()]
        finite = np.isfinite(steps)
        steps[~finite] = 2.0 * steps[finite].max(initial=1.0)
        self.between.copy_(torch.from_numpy(steps))

    def _graph(self, episodes: Tensor, rows: Tensor) -> csr_matrix:
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

    def forward(self, path: Tensor, goal: Tensor) -> Tensor:
        """Steps from each row of imagined paths ``[N, H, D]`` to goals ``[N, D]``: ``[N, H]``.

        The mean over the nearest landmarks, weighted by nearness; what decides within a cell is the straight line, in
        units of a mean step. A jump that no episode ever made, through a wall, say, counts as the steps that it leaves
        out: what a model imagines there is wrong.
        """
        distance, near = nearest(path.flatten(0, 1), self.at, min(_VOTES, len(self.at)))
        weights = 1.0 / (distance + 1e-3 * self.unit).square()
        home = nearest(goal, self.at, 1)[1].expand(-1, path.shape[1]).flatten()
        steps = ((weights * self.between[near, home[:, None]]).sum(1) / weights.sum(1)).unflatten(0, path.shape[:2])
        at = near[:, 0].unflatten(0, path.shape[:2])
        left_out = (self.between[at[:, :-1], at[:, 1:]] - _JUMP).clamp_min(0.0).cumsum(1)
        straight = (path - goal[:, None]).norm(dim=2) / self.unit
        return steps + torch.nn.functional.pad(left_out, (1, 0)) + 0.1 * straight.clamp_max(10.0)


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
