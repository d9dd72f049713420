"""A latent frame predictor: encoder, transition and decoder of videos, all local on the image plane.

The latent of a frame is a stack of maps of the frame's own size. The transition moves each of them by kernels that it
chooses itself, position by position (dynamic filters: De Brabandere, Jia, Tuytelaars, Van Gool 2016; separable:
Niklaus, Mai, Liu 2017; for prediction: Finn, Goodfellow, Levine 2016), hides some of it and adds something new. A
network that need not learn what a shift is learns motion sooner. Modules draw their weights from torch's global
generator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, pixel_shuffle, pixel_unshuffle, softmax

from wm_pipelines.blocks.pyramid import Pyramid
from wm_pipelines.errors import UserError
from wm_pipelines.families.latent_dynamics.vector_predictor import LOG_VARIANCE


def move(maps: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Move maps by a kernel of their own at every pixel, one axis after the other.

    Args:
        maps: ``[B, M, H, W]``. vertical, horizontal: weights ``[B, M, 2r + 1, H, W]``; tap ``i`` of a pixel takes what
            lies ``i - r`` pixels below it (to the right of it). Beyond the edge a map goes on unchanged.

    Returns:
        ``[B, M, H, W]``.
    """
    height, width = maps.shape[2:]
    reach = vertical.shape[2] // 2
    padded = pad(maps, (0, 0, reach, reach), mode="replicate")
    rows = [weight * padded[:, :, i : i + height] for i, weight in enumerate(vertical.unbind(2))]
    padded = pad(torch.stack(rows).sum(0), (reach, reach, 0, 0), mode="replicate")
    columns = [weight * padded[..., i : i + width] for i, weight in enumerate(horizontal.unbind(2))]
    return torch.stack(columns).sum(0)


class FramePredictor(nn.Module):
    """Encoder ``Enc``, transition ``f`` and decoder ``Dec`` of one seed.

    Args:
        size: height and width of a frame. channels: 1 or 3. patch: pixels along a side of a patch.
        maps: that a latent holds. memory: latents that a transition sees. widths, blocks: see `Pyramid`.
        reach: pixels that content can move in one step; 0: the transition only adds. variance: decode it, too.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        patch: int,
        maps: int,
        memory: int,
        widths: tuple[int, ...],
        blocks: int,
        reach: int,
        variance: bool,
    ) -> None:
        super().__init__()
        unit = patch * 2 ** (len(widths) - 1)
        if size[0] % unit or size[1] % unit:
            raise UserError(
                f"frames of {size[0]} x {size[1]} pixels are not a multiple of {unit}; change patch {patch} or "
                f"the number of widths {len(widths)}, by which the sides are divided"
            )
        if maps < channels:
            raise UserError(f"maps {maps}: a latent needs at least one for each of the {channels} colours")
        self.patch, self.maps, self.memory, self.reach, self.channels = patch, maps, memory, reach, channels
        grid, latent = (size[0] // patch, size[1] // patch), maps * patch**2
        self.enc = nn.Conv2d(channels, maps, 5, padding=2)
        self.dec = nn.Conv2d(maps, channels, 5, padding=2)
        self.log_variance = nn.Conv2d(maps, channels, 5, padding=2) if variance else None
        self.trunk = Pyramid(memory * latent, widths, blocks, grid)
        self.change = nn.Conv2d(widths[0], 2 * latent, 1)
        self.kernels = nn.Conv2d(widths[0], maps * 2 * (2 * reach + 1), 1)
        self._start_as_copy()

    @torch.no_grad()
    def _start_as_copy(self) -> None:
        """Weights with which every prediction is nearly the last frame."""
        nn.init.normal_(self.enc.weight, std=0.02)
        nn.init.normal_(self.dec.weight, std=0.02)
        shared = [sum(m % self.channels == c for m in range(self.maps)) for c in range(self.channels)]
        for m in range(self.maps):
            self.enc.weight[m, m % self.channels, 2, 2] += 1.0
            self.dec.weight[m % self.channels, m, 2, 2] += 1.0 / shared[m % self.channels]
        kept, taps = torch.zeros(2 * self.maps * self.patch**2), torch.zeros(2 * self.maps, 2 * self.reach + 1)
        kept[: self.maps * self.patch**2], taps[:, self.reach] = 3.0, 5.0
        for head, bias in ((self.change, kept), (self.kernels, taps.flatten())):
            nn.init.normal_(head.weight, std=0.01)
            head.bias = nn.Parameter(bias)
        if self.log_variance is not None:
            nn.init.zeros_(self.log_variance.weight)
            self.log_variance.bias = nn.Parameter(torch.full((self.channels,), -4.0))

    def encode(self, frames: Tensor) -> Tensor:
        """Frames ``[B, T, C, H, W]`` in [0, 1] -> latents ``[B, T, M, H, W]``."""
        return self.enc(frames.flatten(0, 1).to(self.enc.weight.dtype)).unflatten(0, frames.shape[:2])

    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``[B, T, M, H, W]`` -> means of frames ``[B, T, C, H, W]``."""
        return self.dec(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    def pooled(self, frames: Tensor) -> Tensor:
        """Latents averaged within patches, ``[B, T, C, H, W] -> [B, T, M * h * w]``."""
        return avg_pool2d(self.encode(frames).flatten(0, 1), self.patch).flatten(1).unflatten(0, frames.shape[:2])

    def decode_log_variance(self, latents: Tensor) -> Tensor:
        """Latents ``[B, T, M, H, W]`` -> log variances of frames ``[B, T, C, H, W]``."""
        if self.log_variance is None:
            raise TypeError("this predictor decodes no variance")
        found = self.log_variance(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        return found.clamp(*LOG_VARIANCE)

    def advance(self, past: list[Tensor]) -> Tensor:
        """``z' = f(z)``: the latent after ``memory`` latents ``[B, M, H, W]``."""
        last = past[-1]
        seen = pixel_unshuffle(torch.cat(past[-self.memory :], 1), self.patch)
        x = self.trunk(seen.contiguous(memory_format=torch.channels_last))
        gate, new = (pixel_shuffle(c, self.patch) for c in self.change(x).chunk(2, 1))
        if self.reach:
            logits = self.kernels(x).unflatten(1, (2, self.maps, 2 * self.reach + 1))
            weights = interpolate(softmax(logits, 3).flatten(1, 3), scale_factor=self.patch, mode="nearest")
            last = move(last, *weights.unflatten(1, logits.shape[1:4]).unbind(1))
        return torch.sigmoid(gate) * last + new

    def roll_out(self, past: Tensor, steps: int) -> Tensor:
        """Latents ``[B, T, M, H, W]`` -> the next ones ``[B, steps, M, H, W]``, every one from the ones before it."""
        window = list(past.unbind(1))
        for _ in range(steps):
            window.append(self.advance(window))
        return torch.stack(window[past.shape[1] :], 1)
