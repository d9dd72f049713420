"""The energy of a transition, its gradient, and the two ways to walk down it: by descent, and by Langevin dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Gradient = Callable[[Tensor], Tensor]
"""``u [N, D] -> dE/du [N, D]``."""

_WAVES = 4  # cosines of log sigma that a network sees


class Given(NamedTuple):
    """What `Energy.given` has worked out of a condition and a sigma."""

    mean: Tensor  # m(c) [N, D]
    hidden: Tensor  # [N, hidden], what c and sigma say to the first layer
    sigma: Tensor
    scale: Tensor  # of u - m, which a network sees in units of its spread at this sigma


class Energy(nn.Module):
    """``E(u | c, sigma) = |u - g(u, c, sigma)|^2 / 2 sigma^2 + e(u, c, sigma)``, of one seed.

    ``g = m(c) + f(u - m, c, sigma)``; f and e are outputs of one perceptron. With ``f = 0``, as at first, this is a
    Gaussian of width sigma about m; where f moves with u there are several valleys, and e says how deep each is.

    Args:
        size: D. condition: entries of c. hidden: width. depth: hidden layers that u goes through.
        largest, smallest: sigma, between which it is used.
    """

    def __init__(self, size: int, condition: int, hidden: int, depth: int, largest: float, smallest: float) -> None:
        super().__init__()
        self.size = size
        self.range = (math.log(smallest), math.log(largest))
        self.conditioned = nn.Sequential(nn.Linear(condition, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.mean = nn.Sequential(nn.SiLU(), nn.Linear(hidden, size))
        self.place = nn.Linear(size, hidden, bias=False)
        self.width = nn.Linear(_WAVES, hidden, bias=False)
        self.layers = nn.Sequential(*(p for _ in range(depth - 1) for p in (nn.Linear(hidden, hidden), nn.SiLU())))
        self.point = nn.Linear(hidden, size)
        nn.init.zeros_(self.point.weight)
        nn.init.zeros_(self.point.bias)
        self.depth = nn.Linear(hidden, 1, bias=False)  # a constant would say nothing

    def forward(self, u: Tensor, c: Tensor, sigma: Tensor) -> Tensor:
        """Energies ``[N]`` of ``u [N, D]`` given what `conditioned` makes of conditions ``[N, hidden]``.

        Args:
            u: changes. c: conditions. sigma: ``[N, 1]`` or ``[1, 1]``.
        """
        return self.of(u, self.given(c, sigma))

    def given(self, c: Tensor, sigma: Tensor) -> Given:
        """What of the energy does not depend on u: a walk down it asks for many gradients at the same condition."""
        return Given(self.mean(c), c + self.width(self._waves(sigma)), sigma, (1.0 + sigma.square()).rsqrt())

    def of(self, u: Tensor, given: Given) -> Tensor:
        """See `forward`."""
        beside = u - given.mean
        h = self.layers(nn.functional.silu(given.hidden + self.place(beside * given.scale)))
        apart = (beside - self.point(h)) / given.sigma
        return 0.5 * apart.square().sum(-1) + self.depth(h)[..., 0]

    def gradient(self, u: Tensor, given: Given) -> Tensor:
        """``dE/du [N, D]``; minus the score of ``p(u | c, sigma)``. With a graph, to learn from."""
        with torch.enable_grad():
            if not u.requires_grad:
                u = u.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.of(u, given).sum(), u, create_graph=True)
        return found

    @torch.no_grad()
    def slope(self, u: Tensor, given: Given) -> Tensor:
        """`gradient` by the chain rule, without a graph: in half the time where batches are small."""
        beside = u - given.mean
        before = [given.hidden + self.place(beside * given.scale)]
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for layer in linear:
            before.append(layer(nn.functional.silu(before[-1])))
        pull = (beside - self.point(nn.functional.silu(before[-1]))) / given.sigma.square()
        back = self.depth.weight - pull @ self.point.weight
        for layer in reversed(linear):
            back = torch.ops.aten.silu_backward(back, before.pop()) @ layer.weight
        return pull + given.scale * (torch.ops.aten.silu_backward(back, before.pop()) @ self.place.weight)

    def _waves(self, sigma: Tensor) -> Tensor:
        low, high = self.range
        at = (sigma.log() - low) / max(high - low, 1e-6)
        return torch.cos(math.pi * at * torch.arange(1, _WAVES + 1, device=sigma.device))


def ladder(largest: float, smallest: float, count: int) -> list[float]:
    """Noise scales from the largest to the smallest, geometric; of one, the largest."""
    if count == 1:
        return [largest]
    return [largest * (smallest / largest) ** (k / (count - 1)) for k in range(count)]


def descend(u: Tensor, gradients: Sequence[tuple[float, Gradient]]) -> Tensor:
    """Steps ``u <- u - sigma^2 dE/du`` for each scale in turn: to where the data are expected, seen at that scale."""
    for sigma, gradient in gradients:
        u = u - sigma * sigma * gradient(u)
    return u


def langevin(u: Tensor, gradient: Gradient, alpha: float, steps: int, draw: Callable[[], Tensor]) -> Tensor:
    """``u <- u - alpha / 2 dE/du + sqrt(alpha) xi``: for small alpha samples of ``exp(-E)``, at temperature 1.

    Args:
        u: start ``[N, D]``. gradient: of E. alpha: step. steps: how many. draw: standard normal ``xi [N, D]``.
    """
    for _ in range(steps):
        u = u - 0.5 * alpha * gradient(u) + math.sqrt(alpha) * draw()
    return u
