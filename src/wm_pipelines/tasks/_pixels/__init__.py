"""What judging images and judging videos share."""

from __future__ import annotations

from pydantic import Field

from wm_pipelines.tasks.base import TaskConfig


class PixelConfig(TaskConfig):
    """Parameters of both."""

    untrained: bool = Field(True, description="also judge every trained encoder as it was before training")
    knn: int = Field(5, ge=1, description="neighbours that vote")
    shown: int = Field(8, ge=1, description="examples kept for the report, or futures shown in motion")
