"""Videos as a still background and a few compact objects that move over it, each an image and a position.

The positions are found frame by frame before anything is learned (tracking.py), so that ``z' = f(z)`` is first trained
on positions alone, then all of it on pixels: ``|draw(f(...f(z_<=t)...)) - x_{t+k}|^2`` over roll-outs of growing length
(networks.py). That there are such objects, and how many, is a prior that no general model of frames has.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from wm_pipelines.blocks.videos import (
    background,
    frame_error,
    random_piece,
    roll_out_length,
    to_pixels,
)
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule, Views
from wm_pipelines.families.object_tracker.networks import LayeredPredictor
from wm_pipelines.families.parts.predictors import Predictor, PredictorConfig

_AT_ONCE = 64  # videos tracked together


class ObjectTrackerConfig(PredictorConfig):
    """Configuration of the object tracker."""

    schedule: Schedule = Schedule(
        steps=800, batch_size=16, learning_rate=3e-3, warmup=100, betas=(0.9, 0.99), gradient_clip=1.0
    )
    objects: int = Field(2, ge=1, le=6, description="how many; all orders of them are compared")
    extent: int = Field(32, ge=4, description="pixels across the largest object")
    width: int = Field(32, ge=1, description="channels of the appearance network")
    blocks: int = Field(1, ge=0, description="its residual blocks")
    memory: int = Field(128, ge=4, description="width of f")
    tracked: int = Field(1000, ge=1, description="training episodes whose objects are tracked before training")
    on_positions: float = Field(0.9, ge=0, le=1, description="share of training on positions alone, then on pixels")
    position_batch: int = Field(128, ge=1, description="examples of a step on positions")


@register
class ObjectTracker(Predictor):
    """Compact objects tracked over a still background, moved by a learned f."""

    name: ClassVar[str] = "object_tracker"
    Config: ClassVar[type[FamilyConfig]] = ObjectTrackerConfig
    learned_features: ClassVar[bool] = False  # cells of pixels, and no probe of them says what was learned
    config: ObjectTrackerConfig
    _tracked: Tensor

    @classmethod
    def knows(cls, config: PredictorConfig) -> frozenset[str]:
        """The tracker's prior, the objects' number and extent, and the symmetries by which its videos are turned."""
        return super().knows(config) | {"compact_objects", "still_background"}

    def make_member(self) -> nn.Module:
        """Appearance and motion."""
        c, (height, width, channels) = self.config, self.space.shape
        return LayeredPredictor((height, width), channels, c.context, c.objects, c.extent, c.width, c.blocks, c.memory)

    @torch.no_grad()
    def examples(self, episodes: Views) -> Views:
        """Whole episodes; also the background, and the objects' positions in some of them."""
        examples, frames = super().examples(episodes), episodes["frames"]
        still = background(frames)
        for member in self.members:
            member.get_buffer("background").copy_(still)
        eye: Any = self.members[0]
        paths = [eye.paths(to_pixels(part)) for part in frames[: self.config.tracked].split(_AT_ONCE)]
        self.register_buffer("_tracked", torch.cat(paths), persistent=False)
        return examples

    def monitor(self) -> Views:
        """Nothing: positions are not learned and cannot collapse."""
        return {}

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of positions, in pixels, or, late in training, squared error per frame of a roll-out."""
        c = self.config
        if progress < c.on_positions:
            loss = self._position_loss(member, roll_out_length(progress / c.on_positions, c.ramp, c.horizon), generator)
            return loss, {"pixels": torch.full_like(loss, math.nan), "positions": loss}
        steps = roll_out_length(1.0 if c.on_positions else progress, c.ramp, c.horizon)
        video = to_pixels(batch["frames"])
        video = random_piece(video, min(c.context + steps, video.shape[1]), c.symmetries, generator)
        loss, terms = frame_error(member.predict(video[:, : c.context], steps), video[:, c.context :])
        return loss, {**terms, "positions": torch.full_like(loss, math.nan)}

    def _position_loss(self, member: Any, steps: int, generator: torch.Generator) -> Tensor:
        """Error of f on tracked positions: quadratic below one pixel, linear above, as tracking may fail."""
        chosen = torch.randint(len(self._tracked), (self.config.position_batch,), generator=generator)
        paths = self._turned(self._tracked[chosen.to(self._tracked.device)], generator)
        length = self.config.context + steps
        first = int(torch.randint(paths.shape[1] - length + 1, (), generator=generator))
        paths = paths[:, first : first + length]
        predicted, _ = member.motion(paths[:, : self.config.context], steps)
        return smooth_l1_loss(predicted, paths[:, self.config.context :])

    def _turned(self, paths: Tensor, generator: torch.Generator) -> Tensor:
        """The symmetries for positions ``[B, T, L, 2]``, each example its own."""
        turned = (torch.rand(4, len(paths), 1, 1, generator=generator) < 0.5).to(paths.device)
        rows, columns = paths.unbind(-1)
        named, (height, width, _) = self.config.symmetries, self.space.shape
        if "rows" in named:
            rows = torch.where(turned[0], height - 1 - rows, rows)
        if "columns" in named:
            columns = torch.where(turned[1], width - 1 - columns, columns)
        if "transpose" in named:
            rows, columns = torch.where(turned[2], columns, rows), torch.where(turned[2], rows, columns)
        paths = torch.stack([rows, columns], -1)
        return torch.where(turned[3, ..., None], paths.flip(1), paths) if "time" in named else paths

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """What differs from the background, averaged over cells, frame by frame."""
        return torch.cat([member.pooled(to_pixels(part)) for part in views["frames"].split(_AT_ONCE)]), None

    def member_predict(
        self,
        member: Any,
        past: Views,
        steps: int,
        actions: Tensor | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Frames, and the encoding of the predicted frames as if they had been observed."""
        known = [to_pixels(part) for part in self.known(past).split(_AT_ONCE)]
        future = [member.predict(part, steps).clamp(0, 1) for part in known]
        pooled = [member.pooled(torch.cat([a, b], 1))[:, self.context :] for a, b in zip(known, future, strict=True)]
        return {"frames": torch.cat(future).movedim(2, -1), "latents": torch.cat(pooled)}
