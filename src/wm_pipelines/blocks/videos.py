"""What predictors of videos share: pixels, the background, random pieces, roll-outs that grow, the error of frames."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from wm_pipelines.errors import UserError
from wm_pipelines.spec import Space

Symmetry = Literal["rows", "columns", "transpose", "time"]
"""Ways to turn a video round without leaving its world."""


def to_pixels(frames: Tensor) -> Tensor:
    """``[…, H, W, C]`` uint8 -> ``[…, C, H, W]`` float in [0, 1]."""
    return frames.movedim(-1, -3).float().div(255)


def background(frames: Tensor) -> Tensor:
    """The median of some frames of videos ``[E, T, H, W, C]`` uint8: ``[C, H, W]``."""
    some = frames[:, :: max(1, frames.shape[1] // 4)].flatten(0, 1)[:1000]
    return to_pixels(some).median(0).values


def roll_out_length(progress: float, ramp: float, horizon: int) -> int:
    """Steps of a roll-out in training: from 1 linearly to the horizon during a share ``ramp`` of it."""
    share = 1.0 if ramp == 0 else min(1.0, progress / ramp)
    return max(1, math.ceil(share * horizon))


def random_piece(video: Tensor, length: int, symmetries: Collection[str], generator: torch.Generator) -> Tensor:
    """``length`` steps of ``[B, T, …]`` from a random start, turned by random symmetries: the same for the batch."""
    first = random_start(video.shape[1], length, generator)
    return turned(video[:, first : first + length], symmetries, generator)


def random_start(rows: int, length: int, generator: torch.Generator) -> int:
    """Where a piece of an episode begins."""
    return int(torch.randint(rows - length + 1, (), generator=generator))


def turned(video: Tensor, symmetries: Collection[str], generator: torch.Generator) -> Tensor:
    """A video ``[B, T, …]`` turned by random ones of these symmetries, the same for the batch."""
    turns = torch.rand(4, generator=generator) < 0.5
    axes = {"rows": -2, "columns": -1, "time": 1}
    for name, turn in zip(("rows", "columns", "transpose", "time"), turns.tolist(), strict=True):
        if turn and name in symmetries:
            video = video.transpose(-1, -2) if name == "transpose" else video.flip(axes[name])
    return video


def frame_error(predicted: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error of ``[B, K, C, H, W]`` summed over a frame, in hundreds (gradients of order one), and per pixel."""
    error = (predicted - truth).square()
    return error.sum((2, 3, 4)).mean() / 100, {"pixels": error.mean()}


def pooled_frames(frames: Tensor, pool: int) -> Tensor:
    """Frames ``[E, T, H, W, C]`` uint8 with pixels averaged ``pool`` by ``pool``, rounded."""
    if pool == 1:
        return frames
    rows = frames.unflatten(2, (-1, pool)).sum(3, dtype=torch.int32)
    return ((rows.unflatten(3, (-1, pool)).sum(4) + pool**2 // 2) // pool**2).to(torch.uint8)


def pooled_space(space: Space, pool: int) -> Space:
    """The space of frames whose pixels are averaged ``pool`` by ``pool``."""
    if space.kind != "frames" or pool == 1:
        return space
    height, width, channels = space.shape
    if height % pool or width % pool:
        raise UserError(f"pool {pool} does not divide frames of {height} x {width} pixels; use a divisor of both")
    return replace(space, shape=(height // pool, width // pool, channels))
