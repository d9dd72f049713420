"""Latents of images: a small convolutional autoencoder that is trained first and then left alone.

The paper's images are latents of a VAE with a KL term (section 4.1). Here every position's latent is normalised over
its channels, which keeps it of unit size, and the decoder learns to read it under noise, which keeps neighbours alike:
both do what the KL term is for, without its weight.

Modules draw their weights from torch's global generator.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import group_norm, layer_norm, mse_loss, pixel_shuffle, pixel_unshuffle, silu

from wm_pipelines.errors import UserError

SHRINKS = 4
"""Pixels along a side that a latent stands for."""
_GROUPS = 8


class Autoencoder(nn.Module):
    """Images ``[M, C, H, W]`` <-> latents ``[M, K, H / 4, W / 4]``.

    Args:
        shape: ``(C, H, W)`` of images. latents: ``K``. channels: of the convolutions. noise: standard deviation, on
            latents in training.

    Raises:
        UserError: sides are no multiples of 4, or channels no multiples of 8.
    """

    def __init__(self, shape: tuple[int, int, int], latents: int, channels: int, noise: float = 0.1) -> None:
        super().__init__()
        if shape[1] % SHRINKS or shape[2] % SHRINKS:
            raise UserError(f"images of {shape[1]} x {shape[2]} pixels are not divisible by {SHRINKS}, as latents are")
        if channels % _GROUPS:
            raise UserError(f"channels {channels}: multiples of {_GROUPS} only")
        self.shape, self.noise = (latents, shape[1] // SHRINKS, shape[2] // SHRINKS), noise
        pixels, wide = 4 * shape[0], 2 * channels
        first, down = nn.Conv2d(pixels, channels, 3, padding=1), nn.Conv2d(channels, wide, 2, stride=2)
        self.inward = nn.ModuleList([first, down, _square(wide), _square(wide)])
        self.to_latents = nn.Conv2d(wide, latents, 1)
        last, up = nn.Conv2d(latents, wide, 3, padding=1), nn.ConvTranspose2d(wide, channels, 2, stride=2)
        self.outward = nn.ModuleList([last, _square(wide), up, _square(channels)])
        self.to_pixels = nn.Conv2d(channels, pixels, 3, padding=1)

    def encode(self, x: Tensor) -> Tensor:
        """Latents of images; mean 0 and variance 1 over the channels of each position."""
        h = pixel_unshuffle(x, 2)
        for layer in self.inward:
            h = _active(layer(h))
        h = self.to_latents(h).movedim(1, -1)
        return layer_norm(h, h.shape[-1:]).movedim(-1, 1)

    def decode(self, z: Tensor) -> Tensor:
        """Images of latents."""
        for layer in self.outward:
            z = _active(layer(z))
        return pixel_shuffle(self.to_pixels(z), 2)

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of images read back from latents with standard normal ``noise [M, K, h, w]``."""
        return mse_loss(self.decode(self.encode(x) + self.noise * noise), x)


def _square(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1)


def _active(h: Tensor) -> Tensor:
    return silu(group_norm(h, _GROUPS))


__all__ = ["SHRINKS", "Autoencoder"]
