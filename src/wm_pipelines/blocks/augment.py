"""Random views of images and random windows of videos, as functions of an explicit generator on the CPU.

Images and frames are a worker's part of the global batch, for which the random numbers are drawn.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from wm_pipelines.blocks.workers import everyone, mine
from wm_pipelines.errors import UserError
from wm_pipelines.mappings import Settings

_CELLS = 4  # independent displacements along each side of an elastic distortion


class Augmentation(Settings):
    """How far a view may depart from its image; every number is the half-width of a uniform distribution."""

    rotation: float = Field(0.3, ge=0, description="radians")
    scale: float = Field(0.2, ge=0, lt=1, description="share by which lengths grow or shrink")
    shift: float = Field(2.0, ge=0, description="pixels along either axis")
    shear: float = Field(0.0, ge=0, description="slope of what was upright")
    stretch: float = Field(0.0, ge=0, lt=1, description="share by which width grows and height shrinks, or vice versa")
    elastic: float = Field(0.0, ge=0, description="pixels of smooth displacement, independent every quarter image")


def affine_view(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotate, scale, stretch, shear, shift and bend each image by random numbers of its own; outside it is black.

    Args:
        images: ``[B, H, W, C]`` floats. how: sizes of the changes. generator: on the CPU.

    Returns:
        ``[B, H, W, C]``, sampled bilinearly.
    """
    count, height, width, channels = images.shape
    drawn = mine(2 * torch.rand(6, everyone(count), generator=generator) - 1, 1)
    angle, size, slope = how.rotation * drawn[0], 1 + how.scale * drawn[1], how.shear * drawn[4]
    wide, tall = size * (1 + how.stretch * drawn[5]), size / (1 + how.stretch * drawn[5])
    cosine, sine = angle.cos(), angle.sin()
    aspect = width / height  # rotation happens in pixels, the grid's coordinates span [-1, 1] on either axis
    rows = [cosine / wide, (slope * cosine - sine) / tall / aspect, 2 * how.shift * drawn[2] / width]
    rows += [sine / wide * aspect, (slope * sine + cosine) / tall, 2 * how.shift * drawn[3] / height]
    theta = torch.stack(rows, dim=1).view(count, 2, 3).to(images)
    grid = affine_grid(theta, [count, channels, height, width], align_corners=False)
    if how.elastic:
        bend = mine(2 * torch.rand(everyone(count), 2, _CELLS, _CELLS, generator=generator) - 1)
        smooth = interpolate(bend.to(images), (height, width), mode="bicubic", align_corners=True)
        grid = grid + 2 * how.elastic * smooth.permute(0, 2, 3, 1) / grid.new_tensor([width, height])
    return grid_sample(images.permute(0, 3, 1, 2), grid, align_corners=False).permute(0, 2, 3, 1)


def random_windows(frames: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """``length`` consecutive frames of each episode, from a random start: ``[B, T, …] -> [B, length, …]``.

    Raises:
        UserError: episodes are shorter.
    """
    count, rows = frames.shape[:2]
    if length > rows:
        raise UserError(f"a clip of {length} frames does not fit into episodes of {rows}; use shorter clips")
    first = mine(torch.randint(rows - length + 1, (everyone(count), 1), generator=generator))
    picked = (first + torch.arange(length)).to(frames.device)
    return frames[torch.arange(count, device=frames.device)[:, None], picked]
