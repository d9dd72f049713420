"""Families of single frames and their captions: what they share."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from wm_pipelines.families.base import Views
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.spec import Spec


class CaptionedFamily(MemberFamily):
    """It says what a frame shows, or draws a frame of a caption; features of its own it has none."""

    needs: ClassVar[tuple[str, ...]] = ("frames", "captions")
    learned_features: ClassVar[bool] = False

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """It is about single frames, not about videos."""
        return super().unsuitable(spec, config) or (None if spec.rows == 1 else "needs single frames, not videos")

    def monitor(self) -> Views:
        """There are no features that could collapse."""
        return {}

    def member_encode(self, member: nn.Module, views: Views) -> tuple[Tensor, Tensor | None]:
        """Pixels as they are: ``[E, T, H W C]``."""
        del member
        return views["frames"].float().flatten(2) / 255, None
