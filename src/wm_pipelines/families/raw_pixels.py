"""Pixels as they are: the floor under every representation and every prediction.

Features are the pixels themselves, the future is the last frame again. A learned encoder that cannot beat the first, or
a predictor that cannot beat the second, has learned nothing of use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from wm_pipelines.families import register
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.families.protocol import FamilyConfig
from wm_pipelines.pixels import FrameSystem


class RawPixelsConfig(FamilyConfig):
    """Configuration of the floor."""

    side: int | None = Field(None, ge=1, description="frames are averaged down to this many pixels a side; null: as is")


@register
class RawPixels(PixelFamily):
    """Nothing is learned."""

    name: ClassVar[str] = "raw_pixels"
    Config: ClassVar[type[FamilyConfig]] = RawPixelsConfig
    config: RawPixelsConfig

    @classmethod
    def unsuitable(cls, system: Any) -> str | None:
        """Needs pictures."""
        return None if isinstance(system, FrameSystem) else "it has no pictures"

    @property
    def context(self) -> int:
        """The last frame is all it takes."""
        return 1

    def make_member(self) -> nn.Module:
        """Nothing to build."""
        return nn.Identity()

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Nothing to train."""
        return {}

    def member_loss(
        self,
        member: nn.Module,  # noqa: ARG002
        frames: Tensor,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
        progress: float,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Never asked for: there are no examples."""
        raise TypeError("raw pixels have nothing to train")

    def member_encode(self, member: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ARG002
        """Pixels in [0, 1], flat: ``[E, T, side² C]``."""
        pictures = frames.flatten(0, 1).movedim(-1, 1).float() / 255
        side = self.config.side
        if side is not None and side < max(pictures.shape[-2:]):
            pictures = adaptive_avg_pool2d(pictures, side)
        return pictures.flatten(1).unflatten(0, frames.shape[:2]), None

    def member_predict(self, member: nn.Module, context: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The last frame again, and its pixels as latents."""
        last = context[:, -1:].expand(-1, steps, -1, -1, -1)
        return last.float() / 255, self.member_encode(member, last)[0]
