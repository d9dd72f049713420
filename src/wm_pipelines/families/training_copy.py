"""Training examples as answers: the floor under captions of frames and frames of captions.

Nothing of the question is looked at. ``random`` answers with a training example drawn at random: its captions are what
a text-only prior says, its frames are real, so that their distance from held-out frames is that of real from real.
``frequent`` answers always with the caption that training has most often, and a frame of it: the majority.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.episodes import texts_of
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Views
from wm_pipelines.families.parts.captioned import CaptionedFamily


class TrainingCopyConfig(FamilyConfig):
    """Defaults in ``conf/base/parameters_training_copy.yml``."""

    answer: Literal["random", "frequent"] = Field("random", description="which training example")
    kept: int = Field(500, ge=1, description="training examples that answers are drawn from; the first ones")
    bytes: int = Field(200, ge=1, description="of a caption at most")


class _Examples(nn.Module):
    """Kept captions ``[K, L]`` (UTF-8, padded with 0) and frames ``[K, H, W, C]`` uint8, and how many there are."""

    captions: Tensor
    frames: Tensor
    count: Tensor

    def __init__(self, kept: int, length: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("captions", torch.zeros(kept, length, dtype=torch.uint8))
        self.register_buffer("frames", torch.zeros(kept, *shape, dtype=torch.uint8))
        self.register_buffer("count", torch.ones((), dtype=torch.int64))


@register
class TrainingCopy(CaptionedFamily):
    """Nothing is learned."""

    name: ClassVar[str] = "training_copy"
    Config: ClassVar[type[FamilyConfig]] = TrainingCopyConfig
    config: TrainingCopyConfig

    def make_member(self) -> nn.Module:
        """Room for examples."""
        return _Examples(self.config.kept, self.config.bytes, self.spec.views["frames"].shape)

    def examples(self, episodes: Views) -> Views:
        """Keep examples; there is nothing to train.

        Raises:
            UserError: a caption is longer than ``bytes``.
        """
        captions, frames = episodes["captions"], episodes["frames"][:, 0]
        if captions.shape[1] > self.config.bytes:
            raise UserError(f"captions have up to {captions.shape[1]} bytes; raise bytes above {self.config.bytes}")
        chosen = torch.arange(min(len(captions), self.config.kept))
        if self.config.answer == "frequent":
            _, which, times = captions.unique(dim=0, return_inverse=True, return_counts=True)
            chosen = (which == times.argmax()).nonzero()[:1, 0]
        for member in self.members:
            assert isinstance(member, _Examples)
            member.captions.zero_()
            member.captions[: len(chosen), : captions.shape[1]] = captions[chosen]
            member.frames[: len(chosen)] = frames[chosen]
            member.count.fill_(len(chosen))
        return {}

    def caption(self, frames: Tensor, seed: int) -> list[str]:
        """See `Captions`."""
        rows, member = self._drawn(len(frames), seed, torch.Generator().manual_seed(self.seeds[seed]))
        return texts_of(member.captions[rows])

    def generate(self, captions: Tensor, seed: int, generator: torch.Generator) -> Tensor:
        """See `Generates`."""
        rows, member = self._drawn(len(captions), seed, generator)
        return member.frames[rows].float() / 255

    def _drawn(self, count: int, seed: int, generator: torch.Generator) -> tuple[Tensor, _Examples]:
        member = self.members[seed]
        assert isinstance(member, _Examples)
        return torch.randint(int(member.count), (count,), generator=generator), member
