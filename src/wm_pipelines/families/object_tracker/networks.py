"""What an object looks like and how it moves: networks of videos as layers over a still background.

Learned networks see an object held still, make its image, and move its position. Layers: Wang, Adelson, *Representing
moving images with layers* (1994); learned from video: Hsieh et al., *Learning to decompose and disentangle
representations for video prediction* (2018). Modules draw their weights from torch's global generator.

Shapes: ``B`` videos, ``T`` frames, ``K`` predicted frames, ``L`` objects; positions in pixels, (row, column).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_shuffle, pixel_unshuffle, silu

from wm_pipelines.blocks.convolutional import Residual
from wm_pipelines.errors import UserError
from wm_pipelines.families.object_tracker.drawing import blurred, compose, paste
from wm_pipelines.families.object_tracker.tracking import COARSE, FINE, stabilised, track

_WAVES = 5  # octaves of position, so that a wall can be sharp
_BLURS = (1.0, 2.5)  # pixels, of the images that an uncertain position is drawn with


class Appearance(nn.Module):
    """The image of an object from its stabilised views: ``[N, T, C, s, s] -> [N, C + 1, s, s]``, the last its cover.

    It starts as the median over time, in which what passes by is gone.
    """

    def __init__(self, frames: int, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d((frames + 1) * channels * 16, width, 3, padding=1), *(Residual(width) for _ in range(blocks))
        )
        self.image = nn.Conv2d(width, (channels + 1) * 16, 3, padding=1, bias=False)
        nn.init.normal_(self.image.weight, std=0.01)

    def forward(self, views: Tensor) -> Tensor:
        """Same as above."""
        middle = views.median(1).values
        x = pixel_unshuffle(torch.cat([views.flatten(1, 2), middle], 1), 4)
        x = silu(self.trunk(x.contiguous(memory_format=torch.channels_last)))
        start = torch.cat([middle, middle.abs().amax(1, keepdim=True)], 1)
        return start + pixel_shuffle(self.image(x), 4)


class Motion(nn.Module):
    """``z' = f(z)`` for positions: a residual network in position, velocity and memory, and what the other objects do.

    Lengths are in units of half a frame's width, velocities in pixels.
    """

    def __init__(self, frames: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.read = nn.Sequential(
            nn.Linear(2 * frames + 4 * _WAVES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.message = nn.Sequential(nn.Linear(width + 4, width // 2), nn.SiLU())
        self.act = nn.Sequential(
            nn.Linear(width + 2 + 4 * _WAVES + width // 2, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.push = nn.Linear(width, 2)
        self.mix = nn.Linear(width, 1 + len(_BLURS))
        for head in (self.push, self.mix):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, paths: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Continue ``paths [B, T, L, 2]``.

        Returns:
            Positions ``[B, K, L, 2]`` and the shares of the image and its blurred copies ``[B, K, L, 1 + blurs]``.
        """
        half = paths.new_tensor(self.size) / 2
        at = paths[:, -1]
        moved = (paths - at[:, None]).transpose(1, 2).flatten(2) / 8
        memory = self.read(torch.cat([moved, _waves(at / half - 1)], -1))
        velocity = (at - paths[:, -3]) / 2
        positions, mixes = [], []
        for _ in range(steps):
            now = torch.cat([memory, _waves(at / half - 1), velocity / 4], -1)
            memory = memory + self.act(torch.cat([now, self._others(memory, at, velocity, half)], -1))
            velocity = velocity + self.push(memory)
            at = at + velocity
            positions.append(at)
            mixes.append((self.mix(memory) + self.mix.weight.new_tensor([2.0] + [0.0] * len(_BLURS))).softmax(-1))
        return torch.stack(positions, 1), torch.stack(mixes, 1)

    def _others(self, memory: Tensor, at: Tensor, velocity: Tensor, half: Tensor) -> Tensor:
        """Sum of what every other object says, ``[B, L, width / 2]``."""
        apart = torch.cat([at / half, velocity / 4], -1)
        apart = apart[:, None] - apart[:, :, None]  # [B, to, from, 4]
        said = self.message(torch.cat([memory[:, None].expand(-1, at.shape[1], -1, -1), apart], -1))
        others = 1 - torch.eye(at.shape[1], device=at.device)
        return (others[..., None] * said).sum(2)


def _waves(x: Tensor) -> Tensor:
    """Sines and cosines of ``[..., 2]`` in [-1, 1] at octaves of half a turn, ``[..., 4 * waves]``."""
    turns = x[..., None] * (math.pi / 2 * 2.0 ** torch.arange(_WAVES, device=x.device))
    return torch.cat([turns.sin(), turns.cos()], -1).flatten(-2)


class LayeredPredictor(nn.Module):
    """Encoder, transition and decoder of one seed, over a background that the data give.

    Args:
        size: height and width of a frame. channels: 1 or 3. frames: that are tracked. objects: how many.
        extent: pixels across the largest object, a multiple of 4. width, blocks: of the appearance network.
        memory: width of the motion's.
    """

    background: Tensor

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        frames: int,
        objects: int,
        extent: int,
        width: int,
        blocks: int,
        memory: int,
    ) -> None:
        super().__init__()
        if frames < 3:
            raise UserError(f"context {frames}: objects are tracked over at least 3 frames")
        if extent % 4 or size[0] % COARSE[0] or size[1] % COARSE[0]:
            raise UserError(
                f"extent {extent} must be a multiple of 4, and frames of {size[0]} x {size[1]} of {COARSE[0]}"
            )
        self.size, self.objects, self.extent = size, objects, extent
        self.register_buffer("background", torch.zeros(channels, *size))
        self.appearance = Appearance(frames, channels, width, blocks)
        self.motion = Motion(frames, memory, size)

    def paths(self, frames: Tensor) -> Tensor:
        """Where the objects were: ``[B, T, C, H, W] -> [B, T, L, 2]``."""
        return track(frames - self.background, self.objects, self.extent)

    def pooled(self, frames: Tensor) -> Tensor:
        """What differs from the background, averaged over cells, ``[B, T, C * h * w]``.

        Not the positions themselves: to track objects anew up to every frame would cost more than all else.
        """
        cells = avg_pool2d((frames - self.background).flatten(0, 1), FINE[0])
        return cells.flatten(1).unflatten(0, frames.shape[:2])

    def predict(self, frames: Tensor, steps: int) -> Tensor:
        """Frames ``[B, T, C, H, W]`` in [0, 1] -> the next ones ``[B, steps, C, H, W]``."""
        batch = len(frames)
        paths = self.paths(frames)
        views = stabilised(frames - self.background, paths, self.extent).flatten(0, 1)
        images = self.appearance(views)
        positions, mixes = self.motion(paths, steps)
        copies = torch.stack([images, *(blurred(images, width) for width in _BLURS)], 1)
        drawn = torch.einsum("bklm,blmcij->bklcij", mixes, copies.unflatten(0, (batch, self.objects)))
        placed = paste(drawn.flatten(0, 2), positions.flatten(0, 2), self.size).unflatten(0, drawn.shape[:3])
        return self.background + compose(placed)
