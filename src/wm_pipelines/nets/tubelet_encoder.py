"""Tokens of a video that never look ahead, and one latent per instant pooled from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from wm_pipelines.nets.vit import Grid, VisionTransformer


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


class TubeletEncoder(nn.Module):
    """A vision transformer of clips ``[B, T, H, W, C] -> [B, N, D]``, causal in time, with layer-normalised tokens.

    Tokens of fixed length cannot make an error of prediction small by shrinking. Pooled latents are averages over the
    places of an instant; every feature is standardised over the batch, because a picture that stands still but for a
    small body moves its average only a little.

    Args:
        size: height and width of a frame. patch: side of a patch in pixels. width: ``D``. shape: see
            `VisionTransformer`.
    """

    def __init__(self, size: tuple[int, int], patch: int, *, width: int, **shape: Any) -> None:
        super().__init__()
        self.transformer = VisionTransformer(size, patch, width=width, causal=True, **shape)
        widen_weights(self.transformer)
        self.norm = nn.BatchNorm1d(width, affine=False)

    @property
    def grid(self) -> Grid:
        """Tokens along time, height and width."""
        return self.transformer.grid

    @property
    def places(self) -> int:
        """Tokens of an instant."""
        return self.grid[1] * self.grid[2]

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """All tokens ``[B, N, D]``, or those of ``keep [B, K]``, which see nothing of the others."""
        tokens = self.transformer(x, keep)
        return layer_norm(tokens, tokens.shape[-1:])

    def pool(self, tokens: Tensor, like: Tensor | None = None) -> Tensor:
        """Tokens of whole instants ``[B, N, D]`` -> one latent per instant ``[B, N / places, D]``.

        Args:
            tokens: seen or predicted ones. like: tokens from whose pools units are taken in training, where the
                running ones lag behind; by default the tokens themselves, which then also move the running ones.
        """
        pooled = self._average(tokens)
        if not self.training:
            return self.norm(pooled.flatten(0, 1)).view_as(pooled)
        if like is None:
            return self.norm(pooled.flatten(0, 1)).view_as(pooled)
        variance, mean = torch.var_mean(self._average(like), dim=(0, 1), correction=0)
        return (pooled - mean) * torch.rsqrt(variance + self.norm.eps)

    def _average(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(1, (-1, self.places)).mean(2)
