"""Contrastive learning: what belongs together must be told apart from everything else.

InfoNCE (van den Oord et al. 2018, eq. 4). In a video two frames of one episode that are near in time belong together
and frames of other episodes do not; far frames of the same episode are neither. Of single images two random views
belong together (Chen et al. 2020, SimCLR, section 2). Frames are encoded one by one.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.augment import Augmentation, affine_view
from wm_pipelines.blocks.batch_norm import BatchNorm1d
from wm_pipelines.blocks.convolutional import ConvolutionalEncoder, projector
from wm_pipelines.blocks.info_nce import info_nce
from wm_pipelines.blocks.vit import VisionTransformer
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule, TrainedConfig, Views
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.mappings import Positive


class ContrastiveConfig(TrainedConfig):
    """Configuration of contrastive learning."""

    schedule: Schedule = Schedule(
        steps=800, batch_size=256, learning_rate=3e-3, weight_decay=1e-4, final_learning_rate=1e-5, warmup=50
    )
    encoder: Literal["cnn", "vit"] = "cnn"
    widths: tuple[Positive, ...] = Field(
        (32, 64, 128), min_length=1, description="channels of the convolutional layers"
    )
    patch: int = Field(7, ge=1, description="pixels, of the vit")
    width: int = Field(64, ge=2, description="of the vit")
    depth: int = Field(3, ge=1, description="of the vit")
    heads: int = Field(4, ge=1, description="of the vit")
    pool: Literal["mean", "positions"] | None = Field(
        None, description="features of a frame: mean over positions, or a linear map of all; null: mean of images only"
    )
    latent: int = Field(32, ge=1, description="features of a frame, for pool: positions")
    projector: tuple[Positive, ...] = Field(
        (128, 64), min_length=1, description="widths of its layers, the output last"
    )
    temperature: float = Field(0.2, gt=0)
    augment: Augmentation = Field(Augmentation(), description="of the two views of an image")
    near: int = Field(2, ge=1, description="frames of one episode at most so far apart belong together")
    anchors: int = Field(2, ge=1, description="frames drawn from an episode of a video")


class _Contrasted(nn.Module):
    """Encoder, pooling and projector of one seed."""

    def __init__(self, encoder: ConvolutionalEncoder | VisionTransformer, config: ContrastiveConfig, pool: str) -> None:
        super().__init__()
        self.encoder, self.gather = encoder, None
        width = encoder.width
        if pool == "positions":  # a mean does not say where things are
            width = config.latent
            self.gather = nn.Sequential(
                nn.Flatten(), nn.Linear(encoder.tokens * encoder.width, width), BatchNorm1d(width, affine=False)
            )
        self.projector = projector(width, config.projector)

    def pooled(self, tokens: Tensor) -> Tensor:
        """``[B, N, D]`` -> features of a frame, ``[B, D']``."""
        return tokens.mean(1) if self.gather is None else self.gather(tokens)

    def tokens(self, images: Tensor) -> Tensor:
        """``[B, H, W, C]`` in [0, 1] -> ``[B, N, D]``."""
        return self.encoder(images[:, None] if isinstance(self.encoder, VisionTransformer) else images)

    def forward(self, images: Tensor) -> Tensor:
        """What is compared, ``[B, P]``."""
        return self.projector(self.pooled(self.tokens(images)))


@register
class Contrastive(MemberFamily):
    """Contrastive learning in time, or of views."""

    name: ClassVar[str] = "contrastive"
    Config: ClassVar[type[FamilyConfig]] = ContrastiveConfig
    config: ContrastiveConfig

    def make_member(self) -> nn.Module:
        """Frame encoder and projector."""
        config, (height, width, channels) = self.config, self.space.shape
        encoder: ConvolutionalEncoder | VisionTransformer
        if config.encoder == "cnn":
            encoder = ConvolutionalEncoder((height, width), channels, config.widths)
        else:
            shape: dict[str, Any] = {"width": config.width, "depth": config.depth, "heads": config.heads}
            encoder = VisionTransformer((height, width), config.patch, channels=channels, **shape)
        return _Contrasted(encoder, config, config.pool or ("positions" if self.spec.rows > 1 else "mean"))

    def member_loss(
        self,
        member: Any,
        batch: Views,
        generator: torch.Generator,
        progress: float,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE between partners; frames of one episode are no negatives of each other."""
        frames = batch["frames"]
        first, second = (self._near_frames if self.spec.rows > 1 else self._two_views)(frames, generator)
        a, b = (
            workers.gathered(z.unflatten(0, (-1, len(frames))), 1).flatten(0, 1)
            for z in member(torch.cat([first, second])).chunk(2)
        )
        episode = torch.arange(len(a), device=a.device) % workers.everyone(len(frames))
        loss = info_nce(a, b, self.config.temperature, ignore=episode[:, None] == episode)
        return loss, {"info_nce": loss}

    def _two_views(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two distortions of each image, ``[B, H, W, C]``."""
        x = self.scaled(frames[:, 0])
        first, second = (affine_view(x, self.config.augment, generator) for _ in range(2))
        return first, second

    def _near_frames(self, frames: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Frames at random times and others at most ``near`` away, ``[anchors * B, H, W, C]``."""
        count, rows = frames.shape[:2]
        near = min(self.config.near, rows - 1)
        shape = (self.config.anchors, workers.everyone(count))
        apart = torch.randint(1, near + 1, shape, generator=generator)
        first = (torch.rand(shape, generator=generator) * (rows - apart)).long()
        episode = torch.arange(count, device=frames.device).repeat(self.config.anchors)
        times = [workers.mine(t, 1).flatten().to(frames.device) for t in (first, first + apart)]
        early, late = (self.scaled(frames[episode, t]) for t in times)
        return early, late

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """Frame by frame, before the projector: the features, and the tokens that they were made of."""
        frames = views["frames"]
        tokens = member.tokens(self.scaled(frames.flatten(0, 1)))
        return member.pooled(tokens).unflatten(0, frames.shape[:2]), tokens.unflatten(0, frames.shape[:2])
