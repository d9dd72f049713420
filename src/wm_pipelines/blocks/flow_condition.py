"""What flows are conditioned on, and what frames are to them where they work on the pixels themselves.

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
        return self.out(nn.functional.silu(sum(entered[1:], entered[0])))


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
