"""The networks of one seed. Modules draw their weights from torch's global generator.

Shapes: frames ``[N, C, H, W]`` in [0, 1]; latents ``z [N, M, h, w]``, with ``h = H / patch``; ``D`` numbers in a code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from wm_pipelines.blocks.batch_norm import BatchNorm1d
from wm_pipelines.blocks.convolutional import Residual
from wm_pipelines.blocks.pyramid import Pyramid
from wm_pipelines.blocks.videos import background
from wm_pipelines.errors import UserError
from wm_pipelines.families.latent_action.action_map import ActionMap
from wm_pipelines.families.latent_action.codebook import Codebook


class Autoencoder(nn.Module):
    """``z = Enc(x)``, ``x = Dec(z)``: maps of patches, of what differs from a still background.

    Args:
        shape: ``(H, W, C)``. patch: pixels along a side of a patch. maps: ``M``. width: of the hidden layers.

    Raises:
        UserError: the patches do not divide the frame.
    """

    still: Tensor

    def __init__(self, shape: Sequence[int], patch: int, maps: int, width: int) -> None:
        super().__init__()
        height, high, channels = shape
        if height % patch or high % patch:
            raise UserError(f"patch {patch} does not divide frames of {height} x {high} pixels; use a divisor of both")
        self.patch, inside = patch, channels * patch**2
        self.enc = nn.Sequential(nn.Conv2d(inside, width, 3, padding=1), Residual(width), nn.Conv2d(width, maps, 1))
        self.dec = nn.Sequential(nn.Conv2d(maps, width, 3, padding=1), Residual(width), nn.Conv2d(width, inside, 1))
        self.register_buffer("still", torch.zeros(channels, height, high))

    @torch.no_grad()
    def learn_background(self, frames: Tensor) -> None:
        """The median of training frames ``[E, T, H, W, C]`` uint8."""
        self.still.copy_(background(frames))

    def encode(self, x: Tensor) -> Tensor:
        """Frames -> latents."""
        x = pixel_unshuffle(x.to(self.still) - self.still, self.patch)
        return self.enc(x.contiguous(memory_format=torch.channels_last))

    def decode(self, z: Tensor) -> Tensor:
        """Latents -> frames."""
        return self.still + pixel_shuffle(self.dec(z), self.patch)


class Inference(nn.Module):
    """The inverse model ``e(z_t, z_{t+1})``: what happened in between, in units of its spread, ``[N, D]``.

    What is found at every position is summed over them: an action is what is done, not where.

    Args:
        maps: ``M``. width: of the hidden layers. code: ``D``.
    """

    def __init__(self, maps: int, width: int, code: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * maps, width, 3, padding=1), Residual(width), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.out = nn.Linear(width, code, bias=False)
        self.norm = BatchNorm1d(code, eps=1e-10, affine=False)  # nothing is gained by being small

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Of latents and those that followed."""
        x = torch.cat([before, after], 1).contiguous(memory_format=torch.channels_last)
        return self.norm(self.out(self.layers(x).sum((2, 3))))


class Dynamics(nn.Module):
    """``z_{t+1} = f(z_<=t, code)``, as a change of ``z_t``; without a code what is to be expected.

    Args:
        maps: ``M``. grid: ``(h, w)``. memory: latents that f sees. widths, blocks: see `Pyramid`. code: ``D``.
    """

    def __init__(
        self, maps: int, grid: tuple[int, int], memory: int, widths: tuple[int, ...], blocks: int, code: int
    ) -> None:
        super().__init__()
        unit = 2 ** (len(widths) - 1)
        if grid[0] % unit or grid[1] % unit:
            raise UserError(f"{len(widths)} widths do not divide latents of {grid[0]} x {grid[1]}; use fewer")
        self.memory, self.code = memory, code
        self.trunk = Pyramid(memory * maps + code + 1, widths, blocks, grid)
        self.change = nn.Conv2d(widths[0], maps, 1)

    def forward(self, past: Tensor, code: Tensor, given: Tensor) -> Tensor:
        """The next latents.

        Args:
            past: ``[N, memory, M, h, w]``. code: ``[N, D]``. given: whether there is a code, 1 or 0, ``[N]``.
        """
        told = torch.cat([code * given[:, None], 1 - given[:, None]], 1)
        maps = told[:, :, None, None].expand(-1, -1, *past.shape[-2:])
        x = torch.cat([past.flatten(1, 2), maps], 1).contiguous(memory_format=torch.channels_last)
        return past[:, -1] + self.change(self.trunk(x))


class WorldModel(nn.Module):
    """All of one seed."""

    def __init__(
        self, frames: Autoencoder, inference: Inference, codebook: Codebook, dynamics: Dynamics, actions: ActionMap
    ) -> None:
        super().__init__()
        self.frames, self.inference, self.codebook = frames, inference, codebook
        self.dynamics, self.actions = dynamics, actions

    def roll_out(self, past: Tensor, codes: Tensor) -> Tensor:
        """Latents under codes, each from those before it.

        Args:
            past: ``[N, memory, M, h, w]``. codes: numbers ``[N, K]``; -1: none.

        Returns:
            ``[N, K, M, h, w]``.
        """
        window = list(past.unbind(1))
        vectors, given = self.codebook.vectors[codes.clamp(min=0)], (codes >= 0).to(past)
        for k in range(codes.shape[1]):
            seen = torch.stack(window[-self.dynamics.memory :], 1)
            window.append(self.dynamics(seen, vectors[:, k], given[:, k]))
        return torch.stack(window[past.shape[1] :], 1)
