"""One latent vector per frame, and what moves it on: the two networks of a world model in latent space.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from wm_pipelines.errors import UserError
from wm_pipelines.blocks.convolutional import channels_last


class FrameEncoder(nn.Module):
    """Convolutions that halve the sides, then one linear map of all places: ``[B, H, W, C] -> [B, D]``.

    The last map is not averaged but kept place by place: a latent has to say where things are. Each latent is
    normalised over the batch, so that errors of prediction have a scale.

    Args:
        size: height and width of a frame. channels: ``C``. widths: channels after each layer. latent: ``D``.

    Raises:
        UserError: the layers do not divide the picture.
    """

    def __init__(self, size: tuple[int, int], channels: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        unit = 2 ** len(widths)
        if size[0] % unit or size[1] % unit:
            raise UserError(
                f"{len(widths)} layers halve frames of {size[0]} x {size[1]} pixels to no whole number of places; "
                f"use fewer widths, or sides that are multiples of {unit}"
            )
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(zip((channels, *widths), widths, strict=False)):
            kernel = 5 if k == 0 else 3
            layers += [nn.Conv2d(before, after, kernel, 2, kernel // 2, bias=False), nn.BatchNorm2d(after), nn.SiLU()]
        self.layers = channels_last(nn.Sequential(*layers))
        places = (size[0] // unit) * (size[1] // unit)
        self.out = nn.Linear(widths[-1] * places, latent, bias=False)
        self.norm = nn.BatchNorm1d(latent, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Encode frames in [0, 1]."""
        return self.norm(self.out(self.layers(x.permute(0, 3, 1, 2)).flatten(1)))


class LatentDynamics(nn.Module):
    """The next latent from the last ``memory`` ones, ``z' = z + f(z, dz, ddz, …)``; at first nothing changes.

    The past enters as its finite differences: velocities are what motion is made of, and are small beside positions.

    Args:
        latent: ``D``. memory: latents seen. hidden: width of the perceptron. depth: its hidden layers.
    """

    def __init__(self, latent: int, memory: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.memory = memory
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [nn.Linear(memory * latent if k == 0 else hidden, hidden), nn.LayerNorm(hidden), nn.SiLU()]
        self.change = nn.Sequential(*layers, nn.Linear(hidden, latent))
        nn.init.zeros_(self.change[-1].get_parameter("weight"))
        nn.init.zeros_(self.change[-1].get_parameter("bias"))

    def roll_out(self, past: Tensor, steps: int) -> Tensor:
        """Latents ``[..., T, D]``, ``T >= memory`` -> the next ones ``[..., steps, D]``, each from those before it."""
        window = list(past[..., -self.memory :, :].unbind(-2))
        for _ in range(steps):
            window.append(window[-1] + self.change(_differences(window[-self.memory :])))
        return torch.stack(window[self.memory :], dim=-2)


def _differences(window: list[Tensor]) -> Tensor:
    """Last value, last first difference, last second difference …: ``[..., M D]``."""
    found = [window[-1]]
    while len(window) > 1:
        window = [b - a for a, b in pairwise(window)]
        found.append(window[-1])
    return torch.cat(found, dim=-1)
