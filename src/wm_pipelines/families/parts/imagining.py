"""Families that roll out under actions: what follows from a belief that is updated step by step.

A subclass says how a belief starts, is updated and rolled out; predictions (`Family.predict`), planning (`Imagines`)
and features (`Encodes`) follow. In worlds without actions these have ``A = 0`` entries: the same code stands in the
table of states. Shapes: ``N`` rows, ``H`` steps, ``A`` entries of an action, ``D`` features; ``x`` are observations as
encoders take them (`blocks.encoders`): frames ``[N, C, H, W]`` in [0, 1], vectors ``[N, n]`` in units.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from wm_pipelines.blocks.encoders import DECODERS, ENCODERS
from wm_pipelines.blocks.videos import pooled_frames, pooled_space
from wm_pipelines.families.base import FamilyConfig, Imagined, Views
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.spec import Space, Spec


class ImaginingFamily(MemberFamily):
    """One network per seed that imagines futures under actions.

    Subclasses give `make_member`, `member_loss`, `member_start`, `member_update`, `member_imagine`, `member_features`
    and `member_decode`.

    Where its configuration has a ``pool``, networks see frames whose pixels are averaged pool by pool.

    Attributes:
        action_size: ``A``; 0 where the world takes none. rewarded: whether there are rewards to learn.
    """

    needs: ClassVar[tuple[str, ...]] = ("frames|states",)
    uses: ClassVar[tuple[str, ...]] = ("actions", "rewards")
    exponents: Tensor  # of the unit of vectors

    def __init__(self, config: FamilyConfig, spec: Spec, seeds: Sequence[int]) -> None:
        self.action_size = spec.views["actions"].shape[0] if "actions" in spec.views else 0
        self.rewarded = "rewards" in spec.views
        super().__init__(config, spec, seeds)
        if self.space.kind == "vector":
            self.register_buffer("exponents", torch.zeros(self.space.shape, dtype=torch.int64))

    # ------------------------------------------------------------ what a family gives

    @abstractmethod
    def member_start(self, member: Any, x: Tensor) -> Tensor:
        """Belief ``[N, …]`` after the first observation."""

    @abstractmethod
    def member_update(self, member: Any, belief: Tensor, action: Tensor, x: Tensor) -> Tensor:
        """Belief after an action ``[N, A]`` and the next observation."""

    @abstractmethod
    def member_imagine(self, member: Any, belief: Tensor, actions: Tensor) -> Imagined:
        """Features and rewards that follow from actions ``[N, H, A]``."""

    @abstractmethod
    def member_features(self, member: Any, x: Tensor) -> Tensor:
        """Features ``[N, D]`` of single observations."""

    @abstractmethod
    def member_decode(self, member: Any, features: Tensor) -> Tensor:
        """Features ``[N, H, D]`` of a roll-out -> observations ``[N, H, …]`` as encoders take them."""

    # ------------------------------------------------------------ observations and actions

    @property
    def pool(self) -> int:
        """Pixels along a side of a frame that networks see as one."""
        return getattr(self.config, "pool", 1) if self.space.kind == "frames" else 1

    @property
    def seen_space(self) -> Space:
        """The space of what networks take."""
        return pooled_space(self.space, self.pool)

    def inputs(self, views: Views) -> Tensor:
        """What networks take of the view ``[…]``: frames pooled, if they are not yet; vectors in coarse units."""
        x = ENCODERS[self.space.kind].inputs(self.in_units(views[self.view]))
        if self.space.kind == "vector":
            return x.to(next(self.members.parameters()).dtype)
        if self.pool == 1 or x.shape[-2] < self.space.shape[0]:
            return x
        return avg_pool2d(x.flatten(0, -4), self.pool).unflatten(0, x.shape[:-3])

    def in_units(self, view: Tensor) -> Tensor:
        """Vectors that float32 can hold, kilograms of planets as well; frames as they are."""
        return (view / self.unit.to(view.device)).to(view.dtype) if self.space.kind == "vector" else view

    def outputs(self, x: Tensor) -> Tensor:
        """`inputs` the other way round; what was averaged is interpolated, vectors are float64."""
        if self.pool > 1:
            x = interpolate(x.flatten(0, -4), scale_factor=self.pool, mode="bilinear").unflatten(0, x.shape[:-3])
        view = DECODERS[self.space.kind].view(x)
        return view * self.unit.to(view.device) if self.space.kind == "vector" else view.clamp(0, 1)

    def learn_exponents(self, view: Tensor) -> None:
        """Choose the coarse units of vectors, from training episodes ``[E, T, n]``."""
        if self.space.kind == "vector":
            self.exponents.copy_(coarse_exponents(view))

    @property
    def unit(self) -> Tensor:
        """``2^exponents``, exactly: ``[n]``."""
        return torch.tensor([math.ldexp(1.0, e) for e in self.exponents.tolist()], dtype=torch.float64)

    def no_actions(self, like: Tensor, *shape: int) -> Tensor:
        """Actions that do nothing, of the given leading shape."""
        return torch.zeros(*shape, self.action_size, dtype=next(self.members.parameters()).dtype, device=like.device)

    # ------------------------------------------------------------ what follows from it

    def examples(self, episodes: Views) -> Views:
        """Whole episodes, frames pooled."""
        if self.pool > 1:
            episodes = {**episodes, self.view: pooled_frames(episodes[self.view], self.pool)}
        return super().examples(episodes)

    @torch.no_grad()
    def start(self, observation: Views, seed: int) -> Tensor:
        """See `Imagines`."""
        return self.member_start(self._at(seed), self.inputs(observation))

    @torch.no_grad()
    def update(self, belief: Tensor, action: Tensor, observation: Views, seed: int) -> Tensor:
        """See `Imagines`."""
        return self.member_update(self._at(seed), belief, action.to(belief.dtype), self.inputs(observation))

    @torch.no_grad()
    def imagine(self, belief: Tensor, actions: Tensor, seed: int) -> Imagined:
        """See `Imagines`."""
        return self.member_imagine(self._at(seed), belief, actions.to(belief.dtype))

    @torch.no_grad()
    def features(self, observation: Views, seed: int) -> Tensor:
        """See `Imagines`."""
        return self.member_features(self._at(seed), self.inputs(observation))

    @torch.no_grad()
    def decode(self, features: Tensor, seed: int) -> Tensor:
        """See `Decodes`."""
        return self.outputs(self.member_decode(self._at(seed), features))

    def _at(self, seed: int) -> Any:
        return self.members[seed].eval()

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """Features of single observations ``[E, T, D]``: nothing looks ahead."""
        x = self.inputs(views)
        return self.member_features(member, x.flatten(0, 1)).unflatten(0, x.shape[:2]), None

    def believed(self, member: Any, past: Views) -> Tensor:
        """Belief after the views of the past ``[E, C, …]``; actions that are not among them are zero."""
        x = self.inputs(past)
        dtype = next(self.members.parameters()).dtype
        taken = past["actions"].to(dtype) if "actions" in past else self.no_actions(x, len(x), x.shape[1])
        belief = self.member_start(member, x[:, 0])
        for k in range(1, x.shape[1]):
            belief = self.member_update(member, belief, taken[:, k - 1], x[:, k])
        return belief

    def member_predict(self, member: Any, past: Views, steps: int, actions: Tensor | None) -> dict[str, Tensor]:
        """Observations (states with the start in front), rewards, and features of the observations predicted."""
        belief = self.believed(member, past)
        if actions is None:
            actions = self.no_actions(belief, len(belief), steps)
        imagined = self.member_imagine(member, belief, actions.to(next(self.members.parameters()).dtype))
        x = self.member_decode(member, imagined.features)
        future = self.outputs(x)
        if self.view == "states":
            future = torch.cat([past["states"][:, -1:], future.to(past["states"].dtype)], 1)
        clipped = x.clamp(0, 1) if self.space.kind == "frames" else x
        latents = self.member_features(member, clipped.flatten(0, 1)).unflatten(0, x.shape[:2])
        rewards = {} if imagined.rewards is None else {"rewards": imagined.rewards}
        return {self.view: future, "latents": latents, **rewards}


class ImaginedStep(nn.Module):
    """One step of what a family imagines, nothing observed; see `StepsAlone`.

    Args:
        family: whose step it is. seed: index of the model.
        step: ``(member, belief, action [N, A]) -> belief, features [N, D]``: where the action leads.
    """

    unit: Tensor

    def __init__(self, family: ImaginingFamily, seed: int, step: Callable[..., tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.member = copy.deepcopy(family.members[seed]).float().eval()
        self.frames = family.space.kind == "frames"
        self.register_buffer("unit", torch.ones(()) if self.frames else family.unit.float())
        self._step, self._decode = step, family.member_decode

    def forward(self, belief: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Belief ``[N, …]`` and action ``[N, A]`` -> the belief after it, and the observation ``[N, …]``."""
        after, features = self._step(self.member, belief, action)
        x = self._decode(self.member, features[:, None])[:, 0]
        return after, x.clamp(0, 1) if self.frames else x * self.unit


def coarse_exponents(view: Tensor) -> Tensor:
    """Powers of two, in steps of 64, near the largest size of every entry of vectors: ``[..., n] -> [n]``, integers.

    Networks take standardised vectors: the unit only has to keep float32 (2^-126 … 2^127) from running over or under.
    """
    _, exponent = torch.frexp(view.flatten(0, -2).abs().amax(0))
    return 64 * (exponent / 64).round().long()
