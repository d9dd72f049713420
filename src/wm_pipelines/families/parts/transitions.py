"""Families that learn the distribution of one transition, ``p(z' | z, a)``, whatever they write it as.

``z`` is what a family predicts: the standardised vectors themselves, or of frames the latents of a small autoencoder
(`Standardised`, `Autoencoder`; no gradient of the transition reaches it). The last ``context`` of them are the belief,
oldest first. Transitions are learned in *units of change*, ``u = (z' - z - m) / s``, with mean and spread ``m, s`` of
the changes in the training data: ``u = 0`` is the mean change, and what is left to explain has size 1.

Shapes: ``B`` episodes, ``T`` rows, ``R`` transitions, ``C`` context, ``D`` entries of z, ``A`` of an action.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.encoders import decoder, encoder
from wm_pipelines.blocks.vector_field import entry_spread
from wm_pipelines.blocks.videos import frame_error
from wm_pipelines.families.base import Imagined, TrainedConfig, Views
from wm_pipelines.families.parts.imagining import ImaginingFamily
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Space, Spec

_RATE = 0.1  # at which mean and spread of the changes of latents follow the autoencoder


class TransitionConfig(TrainedConfig):
    """What a transition is learned from."""

    rows: int = Field(16, ge=1, description="R, transitions drawn from each episode of a batch")
    context: int = Field(1, ge=1, description="C, last observations that a transition depends on")
    noise: float = Field(0.0, ge=0, description="on the z seen in training, in units of the changes' spread")
    # of frames
    widths: tuple[Positive, ...] = Field((16, 32, 64), min_length=1, description="channels of the autoencoder's levels")
    latent: int = Field(16, ge=1, description="D, entries of z, of frames")


class Standardised(nn.Module):
    """Vectors are their own z, in units of their spread: ``[N, n] -> [N, n]``."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def learn_units(self, view: Tensor) -> None:
        """Mean and spread of training episodes ``[E, T, n]``."""
        self.mean.copy_(view.flatten(0, 1).mean(0))
        self.scale.copy_(entry_spread(view))

    def encode(self, x: Tensor) -> Tensor:
        """What is predicted, z, of observations."""
        return (x - self.mean) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """Observations of z."""
        return self.mean + self.scale * z

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Nothing is lost: 0."""
        del x
        return z.new_zeros(())


class Autoencoder(nn.Module):
    """Frames ``[N, C, H, W]`` and their latents ``[N, D]``, each normalised over the batch.

    Args:
        space: of one observation. widths: channels of the levels. latent: ``D``.
    """

    centre: Tensor

    def __init__(self, space: Space, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        self.size = latent
        self.enc = encoder(space, widths, latent)
        self.dec = decoder(space, widths, latent)
        self.register_buffer("centre", torch.zeros(self.enc.inputs(torch.empty(space.shape)).shape))

    @torch.no_grad()
    def learn_units(self, view: Tensor) -> None:
        """What frames are told from: the background of training episodes ``[E, T, H, W, C]``."""
        self.centre.copy_(self.enc.units(view)[0])

    def encode(self, x: Tensor) -> Tensor:
        """What is predicted, z, of observations."""
        return self.enc(x.to(self.centre.dtype) - self.centre)

    def decode(self, z: Tensor) -> Tensor:
        """Observations of z."""
        return self.centre + self.dec(z)

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Squared error of the reconstruction, summed over a frame, in hundreds."""
        return frame_error(self.decode(z)[:, None], x[:, None])[0]


class TransitionMember(nn.Module):
    """The networks of one seed: observations to z and back, a transition, a head for rewards.

    Args:
        observer: `Standardised` or `Autoencoder`. transition: of the family. reward: of history, action and next z.
    """

    change_mean: Tensor
    change_scale: Tensor
    reward_mean: Tensor
    reward_scale: Tensor

    def __init__(self, observer: Standardised | Autoencoder, transition: nn.Module, reward: nn.Module | None) -> None:
        super().__init__()
        self.observer, self.transition, self.reward = observer, transition, reward
        self.register_buffer("change_mean", torch.zeros(observer.size))
        self.register_buffer("change_scale", torch.ones(observer.size))
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_scale", torch.ones(()))

    @torch.no_grad()
    def learn_changes(self, change: Tensor, rate: float) -> None:
        """Move mean and spread of changes ``[N, D]`` towards those seen, by a share ``rate`` of the way."""
        variance, mean = workers.var_mean(change, (0,))
        self.change_mean.lerp_(mean.to(self.change_mean), rate)
        self.change_scale.lerp_(torch.where(variance > 0, variance.sqrt(), 1.0).to(self.change_scale), rate)

    @torch.no_grad()
    def learn_rewards(self, rewards: Tensor) -> None:
        """Mean and spread of rewards ``[E, T]``."""
        self.reward_mean.copy_(rewards.mean())
        self.reward_scale.copy_(entry_spread(rewards[..., None])[0])

    def condition(self, history: Tensor, action: Tensor) -> Tensor:
        """What a transition depends on: the last z ``[N, C, D]``, older ones as differences, and the action."""
        return torch.cat([history[:, -1], history.diff(dim=1).flatten(1), action], -1)

    def moved(self, z: Tensor, u: Tensor) -> Tensor:
        """``z' = z + m + s u``."""
        return z + self.change_mean + self.change_scale * u

    def rewarded(self, condition: Tensor, z: Tensor) -> Tensor:
        """Rewards ``[N]`` of transitions that end in ``z [N, D]``."""
        assert self.reward is not None
        return self.reward_mean + self.reward_scale * self.reward(torch.cat([condition, z], -1))[..., 0]


def perceptron(inputs: int, hidden: int, depth: int, outputs: int) -> nn.Sequential:
    """``depth`` hidden layers of SiLU."""
    widths = [inputs, *[hidden] * depth]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class TransitionFamily(ImaginingFamily):
    """One network per seed that knows the distribution of the next z.

    Subclasses give `make_transition`, `transition_loss`, `likely` and `drawn`.
    """

    config: Any
    reward_hidden: ClassVar[int] = 64

    # ------------------------------------------------------------ what a family gives

    @abstractmethod
    def make_transition(self, size: int, condition: int) -> nn.Module:
        """The network of ``u [N, size]`` given a condition ``[N, condition]``."""

    @abstractmethod
    def transition_loss(
        self, transition: Any, condition: Tensor, u: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of transitions ``u [B, R, D]`` given conditions ``[B, R, ·]``; see `MemberFamily.member_loss`."""

    @abstractmethod
    def likely(self, transition: Any, condition: Tensor) -> Tensor:
        """One likely ``u [N, D]`` given conditions ``[N, ·]``, without chance."""

    @abstractmethod
    def drawn(self, transition: Any, condition: Tensor, generator: torch.Generator) -> Tensor:
        """A sample of ``u [N, D]`` for each of the conditions ``[N, ·]``."""

    # ------------------------------------------------------------ networks and units

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Single observations have no future."""
        return super().unsuitable(spec, config) or (None if spec.rows > 1 else "needs episodes of two rows or more")

    def make_member(self) -> nn.Module:
        """The networks of one seed."""
        c, observer = self.config, self._observer()
        condition = c.context * observer.size + self.action_size
        transition = self.make_transition(observer.size, condition)
        reward = perceptron(condition + observer.size, self.reward_hidden, 2, 1) if self.rewarded else None
        return TransitionMember(observer, transition, reward)

    def _observer(self) -> Standardised | Autoencoder:
        if self.space.kind == "vector":
            return Standardised(self.space.shape[0])
        return Autoencoder(self.space, self.config.widths, self.config.latent)

    @property
    def context(self) -> int:
        """Rows that a prediction starts from."""
        return self.config.context

    def examples(self, episodes: Views) -> Views:
        """Whole episodes; units are learned."""
        examples = super().examples(episodes)
        self.learn_exponents(examples[self.view])
        for member in self.members:
            assert isinstance(member, TransitionMember)
            if self.space.kind == "vector":
                x = self.inputs(examples).double()
                member.observer.learn_units(x)
                member.learn_changes(member.observer.encode(x).diff(dim=1).flatten(0, 1), 1.0)
            else:
                member.observer.learn_units(examples[self.view])
            if self.rewarded:
                member.learn_rewards(examples["rewards"])
        return examples

    # ------------------------------------------------------------ training

    def member_loss(
        self,
        member: Any,
        batch: Views,
        generator: torch.Generator,
        progress: float,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of random transitions of every episode; of frames also of their reconstruction; of rewards."""
        last = self._transitions(batch, generator)  # [B, R], rows that transitions start from
        x = self._seen(batch, last)  # [B, R, C + 1, …]
        z = member.observer.encode(x.flatten(0, 2))
        reconstruction = member.observer.loss(x.flatten(0, 2), z)
        z = z.detach().unflatten(0, x.shape[:3])
        if self.space.kind == "frames":
            member.learn_changes((z[:, :, -1] - z[:, :, -2]).flatten(0, 1), _RATE)
        history, following = self._disturbed(member, z[:, :, :-1], generator), z[:, :, -1]
        action = self._taken(batch, last).to(z)
        condition = member.condition(history.flatten(0, 1), action.flatten(0, 1)).unflatten(0, last.shape)
        u = (following - history[:, :, -1] - member.change_mean) / member.change_scale
        loss, terms = self.transition_loss(member.transition, condition, u, generator)
        if self.space.kind == "frames":
            loss, terms = loss + reconstruction, {**terms, "reconstruction": reconstruction}
        if self.rewarded:
            found = member.rewarded(condition, following)
            error = ((found - chosen(batch["rewards"], last).to(z)) / member.reward_scale).square().mean()
            loss, terms = loss + error, {**terms, "reward": error}
        return loss, terms

    def _transitions(self, batch: Views, generator: torch.Generator) -> Tensor:
        """Rows ``[B, R]`` that random transitions start from, all different where there are enough."""
        view = batch[self.view]
        return random_rows(len(view), view.shape[1] - 1, self.config.rows, generator).to(view.device)

    def _seen(self, batch: Views, last: Tensor) -> Tensor:
        """Observations ``[B, R, C + 1, …]`` of the context and behind; before the first row stands the first."""
        steps = torch.arange(1 - self.config.context, 2, device=last.device)
        rows = (last[..., None] + steps).clamp(min=0)
        return self.inputs({self.view: chosen(batch[self.view], rows)})

    def _taken(self, batch: Views, last: Tensor) -> Tensor:
        if self.action_size:
            return chosen(batch["actions"], last)
        return self.no_actions(last, *last.shape)

    def _disturbed(self, member: TransitionMember, history: Tensor, generator: torch.Generator) -> Tensor:
        """Noise on what is seen: a roll-out that strays is led back."""
        if not self.config.noise:
            return history
        shape = (workers.everyone(len(history)), *history.shape[1:])
        draw = workers.mine(torch.randn(shape, generator=generator)).to(history)
        return history + self.config.noise * member.change_scale * draw

    # ------------------------------------------------------------ use

    def member_start(self, member: Any, x: Tensor) -> Tensor:
        """The first z, as if it had always been there: ``[N, C, D]``."""
        return member.observer.encode(x)[:, None].repeat(1, self.config.context, 1)

    def member_update(self, member: Any, belief: Tensor, action: Tensor, x: Tensor) -> Tensor:
        """The last z; the action has been overtaken by what followed from it."""
        del action
        return torch.cat([belief[:, 1:], member.observer.encode(x)[:, None]], 1)

    def member_features(self, member: Any, x: Tensor) -> Tensor:
        """What is predicted, z."""
        return member.observer.encode(x)

    def member_decode(self, member: Any, features: Tensor) -> Tensor:
        """Observations of z."""
        return member.observer.decode(features.flatten(0, 1)).unflatten(0, features.shape[:2])

    def member_imagine(self, member: Any, belief: Tensor, actions: Tensor) -> Imagined:
        """A likely future."""
        return self._rolled(member, belief, actions, None)

    @torch.no_grad()
    def sample(self, belief: Tensor, actions: Tensor, count: int, seed: int, generator: torch.Generator) -> Tensor:
        """See `Samples`."""
        many = belief.repeat(count, 1, 1), actions.repeat(count, 1, 1)
        return self._rolled(self._at(seed), *many, generator).features.unflatten(0, (count, len(belief)))

    def _rolled(self, member: Any, belief: Tensor, actions: Tensor, generator: torch.Generator | None) -> Imagined:
        """Step by step, each a likely one or, with a generator, a sample."""
        found, rewards = [], []
        for action in actions.unbind(1):
            condition = member.condition(belief, action)
            if generator is None:
                u = self.likely(member.transition, condition)
            else:
                u = self.drawn(member.transition, condition, generator)
            z = member.moved(belief[:, -1], u)
            if self.rewarded:
                rewards.append(member.rewarded(condition, z))
            belief = torch.cat([belief[:, 1:], z[:, None]], 1)
            found.append(z)
        return Imagined(torch.stack(found, 1), torch.stack(rewards, 1) if rewards else None)


def random_rows(episodes: int, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """``[B, count]`` of the rows of every episode of a batch, all different where there are enough."""
    drawn = workers.mine(torch.rand(workers.everyone(episodes), rows, generator=generator))
    return drawn.topk(min(count, rows), largest=False).indices


def chosen(view: Tensor, rows: Tensor) -> Tensor:
    """Rows ``[B, …]`` of a view ``[B, T, ·]``: ``[B, …, ·]``."""
    first = torch.arange(len(view), device=view.device).view(-1, *[1] * (rows.ndim - 1))
    return view[first, rows]
