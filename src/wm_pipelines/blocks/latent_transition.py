"""What moves a latent vector on in time; draws its weights from torch's global generator."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class LatentTransition(nn.Module):
    """The next latent from the last ``memory`` ones, ``z' = z + f(z, dz, ddz, …, a)``; at first nothing changes.

    The past enters as its finite differences: velocities are what motion is made of, and are small beside positions.

    Args:
        latent: ``D``. memory: latents seen. hidden: width of the perceptron. depth: its hidden layers.
        action: ``A``, entries of an action; 0 where there are none.
    """

    def __init__(self, latent: int, memory: int, hidden: int, depth: int, action: int = 0) -> None:
        super().__init__()
        self.memory = memory
        layers: list[nn.Module] = []
        for k in range(depth):
            width = memory * latent + action if k == 0 else hidden
            layers += [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.SiLU()]
        self.change = nn.Sequential(*layers, nn.Linear(hidden, latent))
        nn.init.zeros_(self.change[-1].get_parameter("weight"))
        nn.init.zeros_(self.change[-1].get_parameter("bias"))

    def roll_out(self, past: Tensor, steps: int, actions: Tensor | None = None) -> Tensor:
        """Latents ``[..., T, D]``, ``T >= memory`` -> the next ones ``[..., steps, D]``, each from those before it.

        Actions are ``[..., steps, A]``.
        """
        window = list(past[..., -self.memory :, :].unbind(-2))
        for k in range(steps):
            seen = differences(window[-self.memory :])
            if actions is not None:
                seen.append(actions[..., k, :])
            window.append(window[-1] + self.change(torch.cat(seen, dim=-1)))
        return torch.stack(window[self.memory :], dim=-2)


def differences(window: list[Tensor]) -> list[Tensor]:
    """Last value, last first difference, last second difference …, of values ``[..., D]`` in the order of time."""
    found = [window[-1]]
    while len(window) > 1:
        window = [b - a for a, b in pairwise(window)]
        found.append(window[-1])
    return found


def perceptron(inputs: int, hidden: int) -> nn.Sequential:
    """Two hidden layers to one number, zero at first."""
    layers = nn.Sequential(
        nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
        nn.Linear(hidden, 1),
    )  # fmt: skip
    nn.init.zeros_(layers[-1].get_parameter("weight"))
    nn.init.zeros_(layers[-1].get_parameter("bias"))
    return layers
