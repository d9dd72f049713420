"""Images of objects cut out of frames, drawn into them, blurred, and laid over one another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample


def crop(frames: Tensor, centres: Tensor, side: int) -> Tensor:
    """Pieces ``[N, C, side, side]`` of ``frames [N, C, H, W]`` around ``centres [N, 2]``, zero beyond the edge."""
    height, width = frames.shape[-2:]
    steps = torch.arange(side, device=frames.device) - (side - 1) / 2
    rows = (2 * (centres[:, 0, None] + steps) + 1) / height - 1
    columns = (2 * (centres[:, 1, None] + steps) + 1) / width - 1
    return _sampled(frames, rows, columns)


def paste(images: Tensor, centres: Tensor, size: tuple[int, int]) -> Tensor:
    """The transpose of `crop`: ``[N, C, s, s]`` on empty frames ``[N, C, H, W]``, differentiable in the position."""
    side = images.shape[-1]
    rows, columns = (
        2 * (torch.arange(n, device=images.device) - centres[:, axis, None]) / side for axis, n in enumerate(size)
    )
    return _sampled(images, rows, columns)


def _sampled(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear values of ``[N, C, H, W]`` at rows ``[N, h]`` and columns ``[N, w]``, both -1 to 1 from edge to edge."""
    shape = (-1, rows.shape[1], columns.shape[1])
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], -1)
    return grid_sample(images, grid, align_corners=False)


def blurred(images: Tensor, width: float) -> Tensor:
    """``[N, C, s, s]`` under a Gaussian of that many pixels."""
    taps = torch.arange(-int(3 * width), int(3 * width) + 1, device=images.device, dtype=images.dtype)
    kernel = (-0.5 * (taps / width) ** 2).softmax(0)
    flat = images.flatten(0, 1)[:, None]
    flat = conv2d(flat, kernel[None, None, :, None], padding=(len(taps) // 2, 0))
    return conv2d(flat, kernel[None, None, None, :], padding=(0, len(taps) // 2)).reshape(images.shape)


def compose(layers: Tensor) -> Tensor:
    """Lay ``[..., L, C + 1, H, W]``, colours times cover and the cover, the first on top: ``[..., C, H, W]``."""
    image, clear = layers[..., 0, :-1, :, :], 1 - layers[..., 0, -1:, :, :]
    for layer in layers.unbind(-4)[1:]:
        image = image + clear * layer[..., :-1, :, :]
        clear = clear * (1 - layer[..., -1:, :, :])
    return image
