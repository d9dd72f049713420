"""A codebook: vectors are replaced by the nearest of K codes (van den Oord, Vinyals, Kavukcuoglu 2017).

Codes start at the centres of k-means and follow the running mean of what they replace (appendix A.1 of the paper). One
to which hardly anything is left is set to a vector that is far from all codes, drawn as k-means++ draws its centres.
All that is drawn comes from a generator that is handed in, and all statistics are those of the global batch: bits
depend on (seed, step) alone, not on who trains beside or how many workers there are. Shapes: ``N`` vectors, ``D``
numbers in each, ``K`` codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wm_pipelines.blocks import workers

_ROUNDS = 25  # of k-means


class Codebook(nn.Module):
    """``K`` codes of ``D`` numbers.

    Args:
        codes: ``K``. width: ``D``. kept: of the running means, per step. dead: share of an even part, ``1 / K`` of all,
            below which a code is set anew.

    Attributes:
        vectors: the codes ``[K, D]``. share: running share of the vectors that each code replaces, ``[K]``.
        started: whether the codes are those of `start` or later.
    """

    vectors: Tensor
    share: Tensor
    started: Tensor

    def __init__(self, codes: int, width: int, kept: float = 0.95, dead: float = 0.1) -> None:
        super().__init__()
        self.kept, self.dead = kept, dead
        self.register_buffer("vectors", torch.randn(codes, width))
        self.register_buffer("share", torch.full((codes,), 1.0 / codes))
        self.register_buffer("started", torch.tensor(False))

    def __len__(self) -> int:
        return len(self.vectors)

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator) -> None:
        """Set the codes to the centres of k-means of ``x [N, D]``, from the start of k-means++."""
        centres = [x[_drawn(torch.ones(len(x)), generator)]]
        for _ in range(len(self) - 1):
            nearest = torch.cdist(x, torch.stack(centres)).amin(1).square()
            centres.append(x[_drawn(nearest, generator)])
        vectors = torch.stack(centres)
        for _ in range(_ROUNDS):
            chosen = self._one_hot(torch.cdist(x, vectors).argmin(1), x)
            count = chosen.sum(0)
            vectors = torch.where(count[:, None] > 0, chosen.T @ x / count[:, None].clamp(min=1), vectors)
        self.vectors.copy_(vectors)
        self.share.copy_(self._one_hot(self.nearest(x), x).mean(0))
        self.started.fill_(True)

    def nearest(self, x: Tensor) -> Tensor:
        """Which code is nearest: ``[..., D] -> [...]``, integers."""
        return torch.cdist(x.flatten(0, -2), self.vectors).argmin(-1).unflatten(0, x.shape[:-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest codes of ``[..., D]`` and their numbers ``[...]``; gradients pass straight through to ``x``."""
        chosen = self.nearest(x)
        return x + (self.vectors[chosen] - x).detach(), chosen

    def crowding(self, x: Tensor, temperature: float = 1.0) -> Tensor:
        """``log K - H``, with the entropy ``H`` of the mean of soft choices ``softmax(-|x - c|^2 / temperature)``.

        0 where all codes are used alike, ``log K`` where there is one left. ``x [N, D]``.
        """
        soft = (-torch.cdist(x, self.vectors).square() / temperature).softmax(1)
        mean = workers.averaged(soft.mean(0))
        return (mean * (mean + 1e-12).log()).sum() + torch.tensor(float(len(self))).log()

    @torch.no_grad()
    def follow(self, x: Tensor, generator: torch.Generator) -> None:
        """Move the codes towards what they replace of ``x [N, D]``; set those anew that replace next to nothing.

        Args:
            x: of the global batch. generator: draws what is set anew.
        """
        chosen = self._one_hot(self.nearest(x), x)
        share = self.kept * self.share + (1 - self.kept) * chosen.mean(0)
        # The running mean, of weights that are the shares: a code that is rarely used moves little.
        now = chosen.T @ x / len(x)
        moved = self.kept * self.share[:, None] * self.vectors + (1 - self.kept) * now
        self.vectors.copy_(torch.where(share[:, None] > 0, moved / share[:, None].clamp(min=1e-12), self.vectors))
        self.share.copy_(share)
        for code in (self.share < self.dead / len(self)).nonzero()[:, 0].tolist():
            # Where the codes are furthest away: what two share is divided.
            self.vectors[code] = x[_drawn(torch.cdist(x, self.vectors).amin(1).square(), generator)]
            self.share[code] = 1.0 / len(self)

    def _one_hot(self, chosen: Tensor, like: Tensor) -> Tensor:
        return nn.functional.one_hot(chosen, len(self)).to(like)


def _drawn(weights: Tensor, generator: torch.Generator) -> int:
    """A row, by its weight; any where all are 0."""
    weights = weights.cpu().double()
    weights = weights if weights.sum() > 0 else torch.ones_like(weights)
    at = torch.rand((), generator=generator, dtype=torch.float64) * weights.sum()
    return min(int((weights.cumsum(0) < at).sum()), len(weights) - 1)
