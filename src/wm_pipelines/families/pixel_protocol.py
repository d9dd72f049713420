"""What every family that learns from pictures is, beside `Family`: one network per seed, an encoding, a prediction.

Shapes: ``S`` seeds, ``E`` episodes, ``T`` frames, ``T'`` latent instants (``T / frames_per_latent``), ``N`` places of a
picture, ``D`` features. Pictures come as ``[…, H, W, C]`` uint8 and are networks' inputs as float in [0, 1].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from wm_pipelines.families.protocol import Family, FamilyConfig, Prediction
from wm_pipelines.nets.collapse import effective_rank, feature_std, rankme
from wm_pipelines.pixels import FrameSystem

_MONITORED = 256  # pictures whose features are watched during training
_AT_ONCE = 4096  # frames encoded together


@dataclass(frozen=True)
class Encoding:
    """Frozen features of pictures.

    Attributes:
        pooled: ``[S, E, T', D]``, one vector per latent instant. tokens: ``[S, E, T', N, D]``, one per place, or None.
    """

    pooled: Tensor
    tokens: Tensor | None = None


class PixelFamily(Family):
    """A family of single networks, one member per seed, all built and trained alike.

    Subclasses set `name` and `Config`, and give `make_member`, `member_loss` and `member_encode`; those that predict
    also give `member_predict`.
    """

    dtype: ClassVar[torch.dtype] = torch.float32
    system: FrameSystem
    members: nn.ModuleList
    _watched: Tensor

    def __init__(self, config: FamilyConfig, system: FrameSystem, seeds: Sequence[int]) -> None:
        super().__init__(config, system, seeds)
        built = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                built.append(self.make_member())
        self.members = nn.ModuleList(built)

    # ------------------------------------------------------------ what a family gives

    @abstractmethod
    def make_member(self) -> nn.Module:
        """The networks of one seed; torch's global generator is seeded around the call."""

    @abstractmethod
    def member_loss(
        self, member: nn.Module, frames: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one seed.

        Args:
            member: its networks. frames: whole episodes ``[B, T, H, W, C]`` uint8, to crop in time, augment and mask.
            generator: on the CPU, the only source of randomness: the same for the same seed and step.
            progress: share of training done, 0 … 1.

        Returns:
            A scalar, and named scalar terms.
        """

    @abstractmethod
    def member_encode(self, member: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """``[E, T, H, W, C]`` uint8 -> pooled ``[E, T', D]`` and tokens ``[E, T', N, D]`` or None."""

    def member_predict(self, member: nn.Module, context: Tensor, steps: int) -> tuple[Tensor | None, Tensor | None]:
        """The future of ``context [E, C, H, W, C']`` uint8.

        Returns:
            Frames ``[E, steps, H, W, C']`` in [0, 1] or None, and latents ``[E, steps', D]`` (to be compared with the
            pooled encoding of what came, ``steps' = steps / frames_per_latent``) or None.
        """
        del member, context, steps
        return None, None

    def illustrate(self, frames: Tensor) -> Mapping[str, Tensor]:
        """Pictures for the report of what the first member makes of ``frames [E, T, H, W, C]`` uint8.

        Returns:
            Name (``mask``, ``reconstruction`` …) to pictures ``[E, T, H, W, C]`` in [0, 1].
        """
        del frames
        return {}

    @property
    def frames_per_latent(self) -> int:
        """Frames that one latent instant spans: the tubelet's length."""
        return 1

    @property
    def context(self) -> int:
        """Frames of the past that a prediction starts from; 0: the family predicts nothing."""
        return 0

    # ------------------------------------------------------------ what follows from it

    def parameters_by_seed(self) -> list[list[nn.Parameter]]:
        """Every member's own."""
        return [list(member.parameters()) for member in self.members]

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Whole episodes' frames ``[E, T, H, W, C]`` uint8; the first few are watched for collapse."""
        count = max(1, _MONITORED // episodes["frames"].shape[1])
        self.register_buffer("_watched", self._whole(episodes["frames"][:count]), persistent=False)
        return {"frames": episodes["frames"]}

    def loss(self, batch: Mapping[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Every member's loss, ``[S]``, on frames ``[S, B, T, H, W, C]``, with random numbers of its own."""
        schedule = self.config.schedule
        step = round(progress * schedule.steps * schedule.accumulate)
        losses, terms = [], []
        for seed, member, frames in zip(self.seeds, self.members, batch["frames"], strict=True):
            generator = torch.Generator().manual_seed(2_654_435_761 * (seed + 1) + step)
            loss, named = self.member_loss(member, frames, generator, progress)
            losses.append(loss)
            terms.append(named)
        return torch.stack(losses), {name: torch.stack([t[name].detach() for t in terms]) for name in terms[0]}

    @torch.no_grad()
    def monitor(self) -> Mapping[str, Tensor]:
        """Spread and rank of the features of a few training pictures: what a falling loss does not show."""
        found = [self._features(member) for member in self._evaluated()]
        monitors = {"feature_std": feature_std, "effective_rank": effective_rank, "rankme": rankme}
        return {name: torch.stack([function(z) for z in found]) for name, function in monitors.items()}

    def _features(self, member: nn.Module) -> Tensor:
        return self.member_encode(member, self._watched)[0].flatten(0, 1).double()

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Encoding:
        """Frozen features of ``frames [E, T, H, W, C]`` uint8; last frames that fill no latent instant are left out."""
        pooled, tokens = [], []
        for member in self._evaluated():
            parts = [self.member_encode(member, part) for part in self._parts(self._whole(frames))]
            pooled.append(torch.cat([p for p, _ in parts]))
            tokens.append(None if parts[0][1] is None else torch.cat([t for _, t in parts if t is not None]))
        with_tokens = [t for t in tokens if t is not None]
        return Encoding(torch.stack(pooled), torch.stack(with_tokens) if with_tokens else None)

    @torch.no_grad()
    def predict(
        self,
        context: Tensor,
        steps: int,
        step: float | None = None,  # noqa: ARG002
        actions: Tensor | None = None,  # noqa: ARG002
    ) -> Prediction:
        """What follows ``context [E, C, H, W, C']`` uint8.

        Returns:
            `Prediction` with ``frames [S, E, steps, H, W, C']`` and ``latents [S, E, steps', D]``, those that the
            family can give. Unlike states they begin with the first predicted instant.
        """
        frames, latents = [], []
        for member in self._evaluated():
            parts = [self.member_predict(member, part, steps) for part in self._parts(context)]
            frames.append([f for f, _ in parts if f is not None])
            latents.append([z for _, z in parts if z is not None])
        return Prediction(
            frames=torch.stack([torch.cat(f) for f in frames]) if frames[0] else None,
            latents=torch.stack([torch.cat(z) for z in latents]) if latents[0] else None,
        )

    def _whole(self, frames: Tensor) -> Tensor:
        return frames[:, : frames.shape[1] - frames.shape[1] % self.frames_per_latent]

    def _parts(self, frames: Tensor) -> Sequence[Tensor]:
        return frames.split(max(1, _AT_ONCE // frames.shape[1]))

    def _evaluated(self) -> Iterator[nn.Module]:
        """Members in evaluation mode, one after the other."""
        for member in self.members:
            training = member.training
            member.eval()
            yield member
            member.train(training)
