"""Pixels as they are: the floor under every representation and every prediction.

Features are the pixels themselves, the future is a copy of the last frame. A learned encoder that cannot beat the
first, or a predictor that cannot beat the second, has learned nothing of use.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Views
from wm_pipelines.families.parts.members import MemberFamily


class RawPixelsConfig(FamilyConfig):
    """Configuration of the floor."""

    side: int | None = Field(None, ge=1, description="frames are averaged down to this many pixels a side; null: as is")


@register
class RawPixels(MemberFamily):
    """Nothing is learned."""

    name: ClassVar[str] = "raw_pixels"
    Config: ClassVar[type[FamilyConfig]] = RawPixelsConfig
    learned_features: ClassVar[bool] = False
    config: RawPixelsConfig

    @property
    def context(self) -> int:
        """The last frame is all it takes."""
        return 1

    def make_member(self) -> nn.Module:
        """Nothing to build."""
        return nn.Identity()

    def examples(self, episodes: Views) -> Views:  # noqa: ARG002
        """Nothing to train."""
        return {}

    def member_encode(self, member: nn.Module, views: Views) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Pixels in [0, 1], flat: ``[E, T, side² C]``."""
        frames = views["frames"]
        images = frames.flatten(0, 1).movedim(-1, 1).float() / 255
        side = self.config.side
        if side is not None and side < max(images.shape[-2:]):
            images = adaptive_avg_pool2d(images, side)
        return images.flatten(1).unflatten(0, frames.shape[:2]), None

    def member_predict(
        self,
        member: nn.Module,
        past: Views,
        steps: int,
        actions: Tensor | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Copies of the last frame, and their pixels as latents."""
        last = past["frames"][:, -1:].expand(-1, steps, -1, -1, -1)
        return {"frames": last.float() / 255, "latents": self.member_encode(member, {"frames": last})[0]}
