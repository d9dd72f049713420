"""Masked autoencoder: from few visible patches, paint the hidden ones. A JEPA's rival: masks alike, but pixels.

He et al. 2022 (MAE), section 3: encoder on visible patches only, light decoder with mask tokens, mean squared error of
normalised pixels on masked patches alone. Video: tubelets and masks that are the same at all times (Tong et al. 2022,
VideoMAE, section 3.3); hiding all that comes after some moment makes it a predictor of frames, trained for that in a
share of the steps.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.blocks.augment import random_windows
from wm_pipelines.blocks.convolutional import unit_gain
from wm_pipelines.blocks.masks import Masks, random_masks, shade
from wm_pipelines.blocks.transformer import take
from wm_pipelines.blocks.vit import Predictor, VisionTransformer, patchify
from wm_pipelines.blocks.workers import everyone, mine
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule, TrainedConfig, Views
from wm_pipelines.families.mae.clips import encode_in_chunks, unpatchify
from wm_pipelines.families.parts.members import MemberFamily

_FLAT = 1e-6  # variance below which a patch has no contrast (He et al. 2022, reference code)


class MAEConfig(TrainedConfig):
    """Configuration of the masked autoencoder; tubelet, clip, context and future_share are for videos."""

    schedule: Schedule = Schedule(
        steps=1000, batch_size=128, learning_rate=1.5e-3, weight_decay=0.05, betas=(0.9, 0.95), warmup=50
    )
    patch: int = Field(4, ge=1, description="pixels")
    width: int = Field(64, ge=2)
    depth: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    positions: Literal["sincos", "rope"] = "sincos"
    decoder_width: int = Field(48, ge=2)
    decoder_depth: int = Field(1, ge=1)
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of hidden patches")
    normalise: bool = Field(True, description="compare pixels in units of their patch's mean and spread")
    tubelet: int = Field(2, ge=1, description="frames per token")
    clip: int = Field(8, ge=2, description="frames seen together")
    context: int = Field(4, ge=1, description="frames of the past that a prediction starts from")
    future_share: float = Field(0.5, ge=0, le=1, description="share of steps that hide the future instead of tubes")

    @model_validator(mode="after")
    def _possible(self) -> MAEConfig:
        if self.clip % self.tubelet or self.context % self.tubelet or self.context >= self.clip:
            raise ValueError(
                f"clip {self.clip} and context {self.context} must be multiples of tubelet {self.tubelet}, "
                "and the context shorter than the clip"
            )
        return self


class _Autoencoder(nn.Module):
    """Encoder and decoder of one seed."""

    def __init__(self, encoder: VisionTransformer, decoder: Predictor) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        unit_gain(self)

    def paint(self, x: Tensor, masks: Masks) -> Tensor:
        """What the decoder puts at hidden tokens, ``[B, M, P]``, when the encoder sees the others."""
        return self.decoder(self.encoder(x, masks.context), masks.context, masks.targets)


@register
class MAE(MemberFamily):
    """Masked autoencoder of images, or of clips of a video."""

    name: ClassVar[str] = "mae"
    Config: ClassVar[type[FamilyConfig]] = MAEConfig
    config: MAEConfig

    @property
    def frames_per_latent(self) -> int:
        """Frames of a tubelet; 1 for images."""
        return self.config.tubelet if self._video else 1

    @property
    def context(self) -> int:
        """Frames that a prediction starts from; 0 for images."""
        return self.config.context if self._video else 0

    @property
    def _video(self) -> bool:
        return self.spec.rows > 1

    @property
    def _clip(self) -> int:
        return self.config.clip if self._video else 1

    @property
    def _moments(self) -> int:
        """Mean and spread of a patch are predicted beside its pattern where predicted frames are wanted."""
        return 2 if self.config.normalise and self._video else 0

    def make_member(self) -> nn.Module:
        """Encoder on visible patches, light decoder."""
        config, (height, width, channels) = self.config, self.space.shape
        if self.spec.rows < self._clip:
            raise UserError(
                f"mae: a clip of {self._clip} frames is longer than an episode of {self.spec.rows}; lower clip"
            )
        shape: dict[str, Any] = {"positions": config.positions, "heads": config.heads}
        encoder = VisionTransformer(
            (height, width),
            config.patch,
            channels=channels,
            frames=self._clip,
            tubelet=self.frames_per_latent,
            width=config.width,
            depth=config.depth,
            **shape,
        )
        pixels = self.frames_per_latent * config.patch**2 * channels
        sizes: dict[str, Any] = {"width": config.decoder_width, "depth": config.decoder_depth}
        return _Autoencoder(
            encoder, Predictor(encoder.grid, config.width, width_out=pixels + self._moments, **sizes, **shape)
        )

    def member_loss(
        self,
        member: Any,
        batch: Views,
        generator: torch.Generator,
        progress: float,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the hidden patches."""
        x = self.scaled(random_windows(batch["frames"], self._clip, generator))
        masks = self._masks(member.encoder.grid, everyone(len(x)), generator)
        masks = Masks(*(mine(m).to(x.device) for m in masks))
        wanted = take(self._targets(x), masks.targets)
        error = (member.paint(x, masks) - wanted).square().mean()
        return error, {"reconstruction": error}

    def _masks(self, grid: tuple[int, int, int], batch: int, generator: torch.Generator) -> Masks:
        """Random patches of an image; in a video random tubes, or all that comes after the context."""
        per_time = grid[1] * grid[2]
        if self._video and float(torch.rand((), generator=generator)) < self.config.future_share:
            return self._future(grid, batch)
        patches = random_masks(batch, per_time, self.config.mask_ratio, generator=generator)
        time = per_time * torch.arange(grid[0])[:, None]
        return Masks(*((part[:, None] + time).flatten(1) for part in patches))

    def _future(self, grid: tuple[int, int, int], batch: int) -> Masks:
        every = torch.arange(grid[0] * grid[1] * grid[2]).expand(batch, -1)
        cut = self.config.context // self.config.tubelet * grid[1] * grid[2]
        return Masks(every[:, :cut], every[:, cut:])

    def _targets(self, x: Tensor) -> Tensor:
        """Pixels of each patch in its own units, ``[B, N, P]``; behind them those units, where they are predicted."""
        pixels = patchify(x, self.config.patch, self.frames_per_latent)
        if not self.config.normalise:
            return pixels
        mean, spread = pixels.mean(-1, keepdim=True), (pixels.var(-1, keepdim=True) + _FLAT).sqrt()
        normalised = (pixels - mean) / spread
        return torch.cat([normalised, mean, spread], dim=-1) if self._moments else normalised

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """All patches, tubelet by tubelet: the mean of the tokens of a latent step, and the tokens.

        Attention over a clip would let features of a step see what comes after it. Frames beyond the last whole tubelet
        are left out.
        """
        # Validation split, R² of positions and velocities at equal windows of four frames: tubelets apart 0.93, 0.81
        # (pendulum_video) and 0.26, 0.14 (bouncing_balls); with the tubelet before in one clip 0.90, 0.22; 0.25, 0.06.
        grid, tubelet, frames = member.encoder.grid, self.frames_per_latent, views["frames"]
        whole = frames[:, : frames.shape[1] // tubelet * tubelet]
        tokens = encode_in_chunks(member.encoder, whole, tubelet)
        tokens = tokens.unflatten(1, (-1, grid[1] * grid[2]))
        return tokens.mean(2), tokens

    def member_predict(
        self,
        member: Any,
        past: Views,
        steps: int,
        actions: Tensor | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Paint what follows the context, then what follows that; latents are the encoding of what was painted."""
        if not self._video:
            return {}
        config, grid, context = self.config, member.encoder.grid, past["frames"]
        if context.shape[1] < config.context:
            raise UserError(f"mae predicts from {config.context} frames, got {context.shape[1]}")
        masks = Masks(*(m.to(context.device) for m in self._future(grid, len(context))))
        known = self.scaled(context[:, -config.context :])
        ahead = config.clip - config.context
        unknown = torch.zeros_like(known[:, :1]).repeat(1, ahead, 1, 1, 1)  # not looked at
        for _ in range(-(-steps // ahead)):
            clip = torch.cat([known[:, -config.context :], unknown], dim=1)
            known = torch.cat([known, self._frames(member.paint(clip, masks), grid)], dim=1)
        seen = known[:, : config.context + steps]
        latents = self.member_encode(member, {"frames": 255 * seen})[0][:, config.context // config.tubelet :]
        return {"frames": seen[:, config.context :], "latents": latents}

    def _frames(self, painted: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Frames in [0, 1] of the decoder's output at whole latent steps."""
        if self._moments:
            pixels, mean, spread = painted.split([painted.shape[-1] - 2, 1, 1], dim=-1)
            painted = mean + spread * pixels
        time = painted.shape[1] // (grid[1] * grid[2])
        return unpatchify(painted, (time, *grid[1:]), self.config.patch, self.config.tubelet).clamp(0, 1)

    @torch.no_grad()
    def illustrate(self, views: Views) -> Views:
        """The start of each episode with hidden patches grey, and, where pixels are painted as they are, repainted."""
        member: Any = self.members[0]
        x = self.scaled(views["frames"][:, : self._clip])
        masks = self._masks(member.encoder.grid, len(x), torch.Generator().manual_seed(1))
        drawn = {"mask": shade(x, masks.targets, member.encoder.grid)}
        if not self.config.normalise:
            patches = patchify(x, self.config.patch, self.frames_per_latent)
            hidden = masks.targets[..., None].expand(-1, -1, patches.shape[-1])
            painted = patches.scatter(1, hidden, member.paint(x, masks))
            drawn["reconstruction"] = unpatchify(
                painted, member.encoder.grid, self.config.patch, self.frames_per_latent
            )
        return drawn
