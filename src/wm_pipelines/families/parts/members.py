"""Families of single networks, one member per seed, all built and trained alike.

Shapes: ``S`` seeds, ``E`` episodes, ``T`` rows, ``T'`` latent steps (``T / frames_per_latent``), ``N`` patches of a
frame, ``D`` features. Frames come as ``[…, H, W, C]`` uint8 and are networks' inputs as float in [0, 1].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Encoding, Family, FamilyConfig, Prediction, Views
from wm_pipelines.metrics import representation
from wm_pipelines.spec import Space, Spec

_MONITORED = 256  # rows whose features are watched during training
_AT_ONCE = 4096  # rows encoded together


class MemberFamily(Family):
    """A family with one network per seed.

    Subclasses set `name` and `Config`, and give `make_member` and `member_encode`; those that are trained also give
    `member_loss`, those that predict `member_predict`.

    Attributes:
        view: what it observes, the first of `shown`. space: of one observation.
        learned_features: see `Encodes`.
    """

    needs: ClassVar[tuple[str, ...]] = ("frames",)
    any_step: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype] = torch.float32
    learned_features: ClassVar[bool] = True
    config: Any
    members: nn.ModuleList
    _watched: Tensor

    def __init__(self, config: FamilyConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        self.view = self.shown(spec)[0]
        self.space: Space = spec.views[self.view]
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

    def member_loss(
        self, member: nn.Module, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one seed.

        Args:
            member: its networks. batch: whole episodes, view by view ``[B, T, …]``, to crop in time, augment and mask.
            generator: on the CPU, the only source of randomness: the same for the same seed and step, on every worker;
                what is drawn for each example is drawn for the global batch (`blocks.workers`).
            progress: share of training done, 0 … 1.

        Returns:
            A scalar, and named scalar terms.

        Raises:
            TypeError: nothing is trained by gradient; then `examples` gives none, or `fit` fits.
        """
        del member, batch, generator, progress
        raise TypeError(f"family {self.name} has nothing to train by gradient")

    @abstractmethod
    def member_encode(self, member: nn.Module, views: Views) -> tuple[Tensor, Tensor | None]:
        """Views ``[E, T, …]`` -> pooled ``[E, T', D]`` and tokens ``[E, T', N, D]`` or None; nothing looks ahead."""

    def member_predict(self, member: nn.Module, past: Views, steps: int, actions: Tensor | None) -> dict[str, Tensor]:
        """The future of ``past [E, C, …]``.

        Returns:
            Views ``[E, steps, …]`` (frames in [0, 1]), and ``latents [E, steps', D]`` (to be compared with the pooled
            encoding of the target, ``steps' = steps / frames_per_latent``); whichever it can give.
        """
        del member, past, steps, actions
        return {}

    def illustrate(self, views: Views) -> Mapping[str, Tensor]:
        """Images for the report of what the first member makes of views ``[E, T, …]``.

        Returns:
            Name (``mask``, ``reconstruction`` …) to images ``[E, T, H, W, C]`` in [0, 1].
        """
        del views
        return {}

    @property
    def frames_per_latent(self) -> int:
        """See `Encodes`."""
        return 1

    @property
    def context(self) -> int:
        """See `Encodes`."""
        return 0

    # ------------------------------------------------------------ what follows from it

    def parameters_by_seed(self) -> list[list[nn.Parameter]]:
        """Every member's own."""
        return [list(member.parameters()) for member in self.members]

    def examples(self, episodes: Views) -> Views:
        """Whole episodes of the views it works on; the first few are watched for collapse."""
        seen = {name: episodes[name] for name in self.shown(self.spec)}
        count = max(1, _MONITORED // seen[self.view].shape[1])
        self.register_buffer("_watched", self._whole(seen[self.view][:count]), persistent=False)
        return seen

    def loss(self, batch: Views, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Every member's loss, ``[S]``, on views ``[S, B, T, …]``, with random numbers of its own."""
        schedule = self.config.schedule
        step = round(progress * schedule.steps * schedule.accumulate)
        losses, terms = [], []
        for i, (seed, member) in enumerate(zip(self.seeds, self.members, strict=True)):
            generator = torch.Generator().manual_seed(2_654_435_761 * (seed + 1) + step)
            mine = {name: view[i] for name, view in batch.items()}
            loss, named = self.member_loss(member, mine, generator, progress)
            losses.append(loss)
            terms.append(named)
        return torch.stack(losses), {name: torch.stack([t[name].detach() for t in terms]) for name in terms[0]}

    @torch.no_grad()
    def monitor(self) -> Views:
        """Spread and rank of the features of a few training rows: what a falling loss does not show."""
        watched = {self.view: self._watched}
        pooled = [self.member_encode(member, watched)[0].flatten(0, 1) for member in self._evaluated()]
        features = [z.cpu().double().numpy() for z in pooled]
        found = {
            "feature_std": [representation.feature_std(z).mean() for z in features],
            "effective_rank": [representation.effective_rank(z) for z in features],
            "rankme": [representation.rankme(z) for z in features],
        }
        return {n: torch.tensor(v, dtype=torch.float64, device=self._watched.device) for n, v in found.items()}

    @torch.no_grad()
    def encode(self, views: Views) -> Encoding:
        """Frozen features of views ``[E, T, …]``; last rows that fill no latent step are left out."""
        seen = {self.view: self._whole(views[self.view])}
        pooled, tokens = [], []
        for member in self._evaluated():
            parts = [self.member_encode(member, part) for part in self._parts(seen)]
            pooled.append(torch.cat([p for p, _ in parts]))
            tokens.append(None if parts[0][1] is None else torch.cat([t for _, t in parts if t is not None]))
        with_tokens = [t for t in tokens if t is not None]
        return Encoding(torch.stack(pooled), torch.stack(with_tokens) if with_tokens else None)

    @torch.no_grad()
    def predict(
        self,
        past: Views,
        steps: int,
        actions: Tensor | None = None,
        step: float | None = None,
    ) -> Prediction:
        """What follows ``past [E, C, …]``; see `Prediction`.

        Raises:
            UserError: it is asked for other steps than the world's, on which it was trained.
        """
        if step is not None and not math.isclose(step, self.spec.step):
            raise UserError(f"{self.name} predicts steps of {self.spec.step} s, not of {step} s")
        seen = {name: past[name] for name in self.shown(self.spec) if name in past}
        found: list[dict[str, Tensor]] = []
        for member in self._evaluated():
            parts, first = [], 0
            for part in self._parts(seen):
                count = len(part[self.view])
                own = None if actions is None else actions[first : first + count]
                parts.append(self.member_predict(member, part, steps, own))
                first += count
            found.append({name: torch.cat([p[name] for p in parts]) for name in parts[0]})
        return {name: torch.stack([f[name] for f in found]) for name in found[0]}

    def scaled(self, frames: Tensor) -> Tensor:
        """Frames 0 … 255 as networks take them: in [0, 1], of the type of their weights."""
        return frames.to(next(self.members.parameters()).dtype) / 255

    def _whole(self, view: Tensor) -> Tensor:
        return view[:, : view.shape[1] - view.shape[1] % self.frames_per_latent]

    def _parts(self, views: Views) -> list[dict[str, Tensor]]:
        """The views cut into groups of episodes small enough to be encoded together."""
        size = max(1, _AT_ONCE // views[self.view].shape[1])
        cut = {name: view.split(size) for name, view in views.items()}
        return [dict(zip(cut, part, strict=True)) for part in zip(*cut.values(), strict=True)]

    def _evaluated(self) -> Iterator[nn.Module]:
        """Members in evaluation mode, one after the other."""
        for member in self.members:
            training = member.training
            member.eval()
            yield member
            member.train(training)
