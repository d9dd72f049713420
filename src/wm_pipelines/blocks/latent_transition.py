"""What moves a latent vector on in time; draws its weights from torch's global generator."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class LatentTransition(nn.Module):
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
