"""The velocity field of one seed.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from wm_pipelines.blocks.flow_condition import Condition
from wm_pipelines.blocks.frame_network import FrameNetwork

_WAVES = 6  # cosines of t that a network sees


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
        return (self.data(x, t, c) - x) / (1.0 - t)

    def data(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """The data d ``[N, D]`` that are expected from there."""
        mean = self.mean(c)
        waves = torch.cos(math.pi * t * torch.arange(1, _WAVES + 1, device=t.device))
        return mean + self.point(self.layers(silu(c + self.place(x - t * mean) + self.time(waves))))


class FrameVelocity(nn.Module):
    """The same of frames: d is a U-Net that sees the past frames beside x.

    Args:
        shape: ``(C, H, W)`` of a frame. chunk: frames that x holds. context: frames of the past. action: entries.
        patch, widths, blocks, hidden: see `FrameNetwork`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        chunk: int,
        context: int,
        action: int,
        patch: int,
        widths: Sequence[int],
        blocks: int,
        hidden: int,
    ) -> None:
        super().__init__()
        channels, *sides = shape
        self.shape, self.seen = (chunk * channels, *sides), (context * channels, *sides)
        self.size, self.action = math.prod(self.shape), action
        self.told = Condition({"action": action, "time": _WAVES}, hidden, ())
        self.network = FrameNetwork(self.shape, patch, widths, blocks, hidden, self.seen[0], kernel=1)

    def condition(self, condition: Tensor, known: Tensor) -> Tensor:
        """As it is, the past of rows not ``known [N, 1]`` left blank."""
        past, action = condition.split([math.prod(self.seen), self.action], -1)
        return torch.cat([torch.where(known, past, 0.0), action], -1)

    def forward(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """Velocities ``[N, D]`` at ``x [N, D]``, at times t < 1 ``[N, 1]`` or ``[1, 1]``, given conditions."""
        return (self.data(x, t, c) - x) / (1.0 - t)

    def data(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """The data d ``[N, D]`` that are expected from there."""
        past, action = c.split([math.prod(self.seen), self.action], -1)
        waves = torch.cos(math.pi * t * torch.arange(1, _WAVES + 1, device=t.device)).expand(len(x), -1)
        told = silu(self.told(torch.cat([action, waves], -1), torch.ones_like(t, dtype=torch.bool)))
        return self.network(x.unflatten(1, self.shape), told, past.unflatten(1, self.seen)).flatten(1)
