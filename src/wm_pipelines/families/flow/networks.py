"""The velocity field of one seed, and what observations are to it beside those of `parts.transitions`: bare pixels.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wm_pipelines.blocks.encoders import ENCODERS
from wm_pipelines.blocks.vector_field import entry_spread
from wm_pipelines.spec import Space

_WAVES = 6  # cosines of t that a network sees


class Condition(nn.Module):
    """What a flow is conditioned on, in named parts: ``[N, sum of sizes] -> [N, hidden]``.

    Each part enters by a linear map of its own, and one that is left out by a learned vector in its place, so that a
    flow can be asked what it says without it. A new kind of condition (the embedding of a caption) is a new part.

    Args:
        parts: entries of each, in the order in which they come. hidden: width. dropped: parts that can be left out.
    """

    def __init__(self, parts: Mapping[str, int], hidden: int, dropped: tuple[str, ...]) -> None:
        super().__init__()
        self.sizes = {name: size for name, size in parts.items() if size}
        self.enter = nn.ModuleDict(
            {name: nn.Linear(size, hidden, bias=k == 0) for k, (name, size) in enumerate(self.sizes.items())}
        )
        self.missing = nn.ParameterDict({n: nn.Parameter(torch.zeros(hidden)) for n in self.sizes if n in dropped})
        self.out = nn.Linear(hidden, hidden)

    def forward(self, condition: Tensor, known: Tensor) -> Tensor:
        """Embed conditions ``[N, ·]``; of rows not ``known [N, 1]`` the parts that can be left out are."""
        entered = []
        for (name, enter), part in zip(self.enter.items(), condition.split([*self.sizes.values()], -1), strict=True):
            h = enter(part)
            entered.append(torch.where(known, h, self.missing[name]) if name in self.missing else h)
        return self.out(nn.functional.silu(torch.stack(entered).sum(0)))


class VelocityField(nn.Module):
    """``v(x, t | c) = (d(x, t, c) - x) / (1 - t)``, of a network d of the data that x is on the way to.

    ``d = m(c) + f(x - t m, t, c)``; as ``f = 0`` at first, all paths then end in m. A network of v itself would have to
    resolve ``x / (1 - t)`` near the end, where the data are certain (Li and He, *Back to basics: let denoising
    generative models denoise*, 2025, regress v by a network of the data as well).

    Args:
        size: D. parts, dropped: see `Condition`. hidden: width. depth: hidden layers that x goes through.
    """

    def __init__(self, size: int, parts: Mapping[str, int], dropped: tuple[str, ...], hidden: int, depth: int) -> None:
        super().__init__()
        self.size = size
        self.condition = Condition(parts, hidden, dropped)
        self.mean = nn.Sequential(nn.SiLU(), nn.Linear(hidden, size))
        self.place = nn.Linear(size, hidden, bias=False)
        self.time = nn.Linear(_WAVES, hidden, bias=False)
        self.layers = nn.Sequential(*(p for _ in range(depth - 1) for p in (nn.Linear(hidden, hidden), nn.SiLU())))
        self.point = nn.Linear(hidden, size, bias=False)
        nn.init.zeros_(self.point.weight)

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Velocities ``[N, D]`` at ``x [N, D]``, at times t < 1 ``[N, 1]`` or ``[1, 1]``, given embedded conditions."""
        mean = self.mean(c)
        waves = torch.cos(math.pi * t * torch.arange(1, _WAVES + 1, device=t.device))
        data = mean + self.point(self.layers(nn.functional.silu(c + self.place(x - t * mean) + self.time(waves))))
        return (data - x) / (1.0 - t)


class Pixels(nn.Module):
    """Frames ``[N, C, H, W]``, less their background and in units of their spread, are their own z ``[N, C H W]``."""

    centre: Tensor
    scale: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        shape = ENCODERS["frames"].inputs(torch.empty(space.shape)).shape
        self.size = math.prod(shape)
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def learn_units(self, view: Tensor) -> None:
        """The background of training episodes ``[E, T, H, W, C]`` and the spread about it, one for all pixels."""
        self.centre.copy_(ENCODERS["frames"].units(view)[0])
        apart = ENCODERS["frames"].inputs(view) - self.centre
        self.scale.copy_(entry_spread(apart.reshape(1, -1, 1))[0])

    def encode(self, x: Tensor) -> Tensor:
        """What is predicted, z, of observations."""
        return ((x.to(self.centre.dtype) - self.centre) / self.scale).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """Observations of z."""
        return self.centre + self.scale * z.unflatten(1, self.centre.shape)
