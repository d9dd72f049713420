"""Tokens of a video, tubelet by tubelet, and one latent per step pooled from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.batch_norm import BatchNorm1d, BatchNorm2d
from wm_pipelines.blocks.convolutional import channels_last
from wm_pipelines.blocks.transformer import Grid
from wm_pipelines.blocks.vit import VisionTransformer


@torch.no_grad()
def widen_weights(network: nn.Module) -> None:
    """Draw the weights of all linear layers with variance ``1 / inputs`` (LeCun et al. 1998, section 4.6).

    The transformers' usual standard deviation of 0.02 is that of a layer with 2,500 inputs. In a network of width 64 it
    leaves a branch a few percent of its input: mask tokens then hear next to nothing of the context, and a predictor
    needs thousands of steps before it does more than guess the mean.
    """
    for part in network.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)


class PatchStem(nn.Module):
    """Rows of ``patchify`` -> tokens ``[..., K, D]`` by convolutions inside each patch, in place of one linear map.

    A few convolutions before attention make transformers learn in far fewer steps (Xiao et al. 2021, *Early
    convolutions help transformers see better*). None reaches over the edge of a patch: what is hidden stays so.

    Args:
        patch: pixels along a side, a multiple of 4. inputs: channels times frames. widths: after the two layers that
            halve the sides. width: ``D``.
    """

    def __init__(self, patch: int, tubelet: int, channels: int, widths: tuple[int, int], width: int) -> None:
        super().__init__()
        self.shape = (tubelet, patch, patch, channels)
        layers: list[nn.Module] = []
        for before, after, kernel in zip((tubelet * channels, widths[0]), widths, (5, 3), strict=True):
            layers += [nn.Conv2d(before, after, kernel, 2, kernel // 2, bias=False), BatchNorm2d(after), nn.SiLU()]
        self.layers = channels_last(nn.Sequential(*layers))
        side = -(-patch // 4)
        self.out = nn.Linear(widths[1] * side**2, width)

    def forward(self, rows: Tensor) -> Tensor:
        """Each row by itself."""
        patches = rows.flatten(0, -2).unflatten(1, self.shape).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return self.out(self.layers(patches).flatten(1)).unflatten(0, rows.shape[:-1])


class Units(NamedTuple):
    """Mean of every feature at every patch ``[patches, D]``, and variance of every feature about it ``[D]``."""

    mean: Tensor
    variance: Tensor


class TubeletEncoder(nn.Module):
    """A vision transformer of tubelets: every tubelet of a clip is a short clip of its own.

    Attention over time is the predictor's. An encoder that knows how far from the start of a clip a tubelet is can
    fill its features with that, which is predicted without looking and spreads as widely as one likes: on a pendulum
    ridge regression then predicts the latents to 0.1 % while they say less of its angle than untrained ones.

    Most of a token says where it stands, and is the same in every image. What changes with the image is what is to
    be predicted: of every patch the mean over images is subtracted. Features get unit variance over all patches; where
    nothing happens, they keep a small one.

    Args:
        size: height and width of a frame. patch: side of a patch in pixels. stem: see `PatchStem`. width: of
            the transformer. latent: ``D``.
        tubelet: frames per token. shape: see `VisionTransformer`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        patch: int,
        *,
        stem: tuple[int, int],
        width: int,
        latent: int,
        tubelet: int,
        **shape: Any,
    ) -> None:
        super().__init__()
        self.transformer = VisionTransformer(size, patch, width=width, frames=tubelet, tubelet=tubelet, **shape)
        self.transformer.embed = PatchStem(patch, tubelet, self.transformer.channels, stem, width)
        self.out = nn.Linear(width, latent, bias=False)
        widen_weights(self)
        self.tubelet, self.patches = tubelet, self.transformer.tokens
        self.norm = BatchNorm1d(self.patches * latent, affine=False)

    def grid(self, frames: int) -> Grid:
        """Tokens of a clip along time, height and width."""
        return (frames // self.tubelet, *self.transformer.grid[1:])

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Clips ``[B, T, H, W, C]`` -> all tokens ``[B, N, D]`` as they are, or those of ``keep [B, K]`` alone.

        Tokens to keep are ascending, as many at every time.
        """
        tubelets = x.unflatten(1, (-1, self.tubelet)).flatten(0, 1)
        if keep is not None:
            keep = keep.reshape(len(tubelets), -1) % self.patches
        return self.out(self.transformer(tubelets, keep)).unflatten(0, (len(x), -1)).flatten(1, 2)

    def units(self, tokens: Tensor) -> Units:
        """Units of the batch in training, where they also move the running ones; else the running ones."""
        norm = self.norm
        if self.training:
            rows = tokens.unflatten(1, (-1, self.patches)).flatten(0, 1)
            norm(rows.flatten(1))
            variance, mean = workers.var_mean(rows, (0,))
            return Units(mean, variance.mean(0))
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return Units(norm.running_mean.view(self.patches, -1), norm.running_var.view(self.patches, -1).mean(0))

    def standard(self, tokens: Tensor, units: Units, indices: Tensor | None = None) -> Tensor:
        """Tokens ``[B, K, D]`` at ``indices [B, K]`` (default: all) in units of their patches."""
        if indices is None:
            indices = torch.arange(tokens.shape[1], device=tokens.device)
        return (tokens - units.mean[indices % self.patches]) * torch.rsqrt(units.variance + self.norm.eps)

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens of whole latent steps ``[B, N, D]``, averaged over patches: ``[B, T', D]``."""
        return tokens.unflatten(1, (-1, self.patches)).mean(2)
