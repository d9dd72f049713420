"""What a family that learns from pictures may know of the world in front of it: the form of the pictures, no law."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any


@dataclass(frozen=True)
class FrameSystem:
    """Pictures or videos: ``frames [E, rows, height, width, channels]`` uint8.

    Attributes:
        name: the world's name.
        step: seconds between two frames; 1 for single pictures.
        rows: frames of a training episode; 1 for single pictures.
        height, width, channels: of a frame; 1 channel is grey, 3 are RGB.
    """

    name: str
    step: float
    rows: int
    height: int
    width: int
    channels: int

    @property
    def is_video(self) -> bool:
        """Whether there is a time axis."""
        return self.rows > 1

    def facts(self) -> list[Any]:
        """What decides the outcome of a training, as JSON types."""
        return list(astuple(self))
