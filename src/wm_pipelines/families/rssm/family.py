"""The recurrent state-space model (Hafner et al., *Learning latent dynamics for planning from pixels*, ICML 2019).

Deterministic ``h_t = f(h_{t-1}, s_{t-1}, a_{t-1})``, stochastic ``s_t ~ p(s_t | h_t)``, filtered by ``q(s_t | h_t,
x_t)``; trained by the bound ``E_q[log p(x_t | h_t, s_t) + log p(r_t | h_t, s_t)] - KL(q | p)`` on windows of episodes.
With ``behaviour: true`` a policy and its value are learned in imagination (*Dream to control*, ICLR 2020).

Deviations: ``p(x | h, s)`` decodes features that are to equal those of the encoder: goals and predictions are compared
in features without decoding. Observations and rewards have a standard deviation that is given, in units of their
spread. KL is balanced and has free nats (DreamerV2, arXiv:2010.02193). One optimiser and one rate for all networks.
Reward ``r_t`` of ``(x_{t-1}, a_{t-1})`` is read from the belief that follows. Predictions take modes. With
``world_share`` below 1 the policy has the last phase of training for itself; the model stands still.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.encoders import ENCODERS
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Imagined, Schedule, TrainedConfig, Views
from wm_pipelines.families.parts.imagining import ImaginedStep, ImaginingFamily
from wm_pipelines.families.rssm.behaviour import Behaviour, behaviour_losses, dream, go_on
from wm_pipelines.families.rssm.latents import Categorical, Gaussian, Latent
from wm_pipelines.families.rssm.networks import WorldModel
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

_AT_ONCE = 64  # episodes predicted together


class RssmConfig(TrainedConfig):
    """Defaults in ``conf/base/parameters_rssm.yml``."""

    schedule: Schedule = Schedule(
        steps=1000, batch_size=16, learning_rate=1e-3, warmup=20, betas=(0.9, 0.99), gradient_clip=1.0
    )
    window: int = Field(20, ge=2, description="rows of a training sequence")
    crops: int = Field(1, ge=1, description="sequences cut from each episode of a batch")
    pool: int = Field(1, ge=1, description="pixels along a side of a frame that are averaged to one")
    widths: tuple[Positive, ...] = Field(
        (16, 32, 32), min_length=1, description="channels per level of the convolutions; hidden layers for states"
    )
    features: int = Field(32, ge=1, description="of an encoded observation")
    deterministic: int = Field(128, ge=1, description="size of h")
    stochastic: int = Field(16, ge=1, description="size of s, or how many classes it names")
    classes: int = Field(0, ge=0, description="0: s is Gaussian; else each of its entries is one of so many classes")
    hidden: int = Field(128, ge=1, description="width of the perceptrons")
    least_deviation: float = Field(0.1, gt=0, description="smallest standard deviation of a Gaussian s")
    observation_deviation: float = Field(0.3, gt=0, description="of p(x | h, s), in units of x")
    reward_deviation: float = Field(0.3, gt=0, description="of p(r | h, s), in units of the rewards' spread")
    free_nats: float = Field(1.0, ge=0, description="KL below which it is not reduced")
    balance: float = Field(0.8, ge=0, le=1, description="share of KL that moves the prior; the rest moves q")
    feature_weight: float = Field(1.0, ge=0, description="of the error of predicted features")
    behaviour: bool = Field(False, description="learn a policy, where there are actions and rewards")
    behaviour_from: float = Field(0.2, ge=0, lt=1, description="share of training after which it is learned")
    world_share: float = Field(
        1.0, gt=0, le=1, description="share of training in which the world model learns; after it the policy alone"
    )
    horizon: int = Field(15, ge=1, description="steps of an imagined roll-out")
    starts: int = Field(
        8, ge=1, description="rows of a sequence that imagination starts from: its last, of a still world model any"
    )
    goes_on: int = Field(
        0, ge=0, description="imagined steps, at most, from such a row on before those that are learned from; alone"
    )
    discount: float = Field(0.99, ge=0, lt=1, description="gamma")
    trace: float = Field(0.95, ge=0, le=1, description="lambda of the returns")
    entropy: float = Field(1e-3, ge=0, description="weight of the policy's entropy")
    doubters: int = Field(5, ge=2, description="networks whose disagreement on the next features lowers rewards")
    pessimism: float = Field(5.0, ge=0, description="rewards' spreads for each unit of disagreement")
    accepted_doubt: float = Field(
        0.0, ge=0, le=1, description="share of training rows whose disagreement lowers nothing; alone"
    )
    target_rate: float = Field(0.02, gt=0, le=1, description="by which the slow value moves in each step")

    @model_validator(mode="after")
    def _possible(self) -> RssmConfig:
        if self.classes == 1:
            raise ValueError("classes: 0 for Gaussian states, else 2 or more")
        return self


class RssmMember(nn.Module):
    """The networks of one seed: the world's, and those of the behaviour or None."""

    def __init__(self, world: WorldModel, behaviour: Behaviour | None) -> None:
        super().__init__()
        self.world, self.behaviour = world, behaviour


class Known(NamedTuple):
    """Beliefs of all training rows ``[E, T, B]``, and the doubt from which on rewards are lowered."""

    beliefs: Tensor
    accepted: float


@register
class Rssm(ImaginingFamily):
    """Recurrent state-space model, with or without a policy of its own."""

    name: ClassVar[str] = "rssm"
    Config: ClassVar[type[FamilyConfig]] = RssmConfig
    config: RssmConfig
    _observed: Tensor  # training observations and actions, of which all beliefs are
    _taken: Tensor
    _of_training: dict[int, Known]

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """One row has no dynamics."""
        return super().unsuitable(spec, config) or (None if spec.rows > 1 else "needs episodes of two rows or more")

    @property
    def behaves(self) -> bool:
        """Whether a policy is learned."""
        return self.config.behaviour and self.rewarded and self.action_size > 0

    @property
    def alone(self) -> bool:
        """Whether the policy has a phase of training of its own."""
        return self.behaves and self.config.world_share < 1

    @property
    def context(self) -> int:
        """One row is enough to start from; more are filtered."""
        return 1

    def make_member(self) -> nn.Module:
        """World model and behaviour of one seed."""
        c = self.config
        latent: Latent = (
            Categorical(c.stochastic, c.classes) if c.classes else Gaussian(c.stochastic, c.least_deviation)
        )
        world = WorldModel(
            self.seen_space, self.action_size, latent, c.deterministic, c.hidden, c.widths, c.features, self.rewarded
        )
        belief = c.deterministic + latent.features
        if not self.behaves:
            return RssmMember(world, None)
        return RssmMember(world, Behaviour(belief, c.hidden, self.action_size, c.features, c.doubters))

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Whole episodes; the units of observations and rewards are learned."""
        examples = super().examples(episodes)
        self.learn_exponents(examples[self.view])
        view = self.inputs(examples) if self.space.kind == "vector" else examples[self.view]
        centre, scale = ENCODERS[self.space.kind].units(view)
        for member in self.members:
            assert isinstance(member, RssmMember)
            member.world.learn_units(centre, scale, examples.get("rewards"))
        if not self.alone:
            return examples
        self.register_buffer("_observed", examples[self.view], persistent=False)
        self.register_buffer("_taken", examples["actions"], persistent=False)
        self._of_training = {}
        return {**examples, "episode": torch.arange(len(view))}

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The negative bound per number of an observation; later also the losses of policy and value."""
        if self.alone and progress >= self.config.world_share:
            return self._alone_loss(member, batch["episode"], generator)
        sequences = self._sequences(batch, generator)
        loss, terms, belief, features = self._bound(member.world, sequences, generator)
        if not self.behaves:
            return loss, terms
        guesses = member.behaviour.guesses(belief[:, :-1].detach(), sequences["actions"])
        loss = loss + 0.5 * (guesses - features[:, 1:].detach()).square().mean((1, 2, 3)).sum()
        if progress >= self.config.behaviour_from:
            actor, value, more = self._imagined_losses(member, belief[:, -self.config.starts :].detach(), generator)
            return loss + actor + value, terms | more
        nothing = torch.zeros_like(loss)
        return loss, terms | dict.fromkeys(("imagined_return", "value", "entropy", "doubt"), nothing)

    def _sequences(self, batch: Views, generator: torch.Generator) -> dict[str, Tensor]:
        """Windows of each episode from random starts of their own: ``[B, T, …] -> [crops B, L, …]``."""
        view, crops = batch[self.view], self.config.crops
        length = min(self.config.window, view.shape[1])
        shape = (workers.everyone(len(view)), crops)
        first = workers.mine(torch.randint(view.shape[1] - length + 1, shape, generator=generator))
        rows = (first[..., None] + torch.arange(length)).to(view.device)
        which = torch.arange(len(view), device=view.device)[:, None, None]
        views = {name: v for name, v in batch.items() if name != "episode"}
        cut = {name: v[which, rows[..., : length - (name != self.view)]].flatten(0, 1) for name, v in views.items()}
        return {self.view: self.inputs(cut), **{n: v for n, v in cut.items() if n != self.view}}

    def _bound(
        self, world: WorldModel, sequences: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        """The negative bound, its terms in nats per row, beliefs ``[N, L, B]`` and features ``[N, L, D]``."""
        c, seen = self.config, sequences[self.view]
        count, length = seen.shape[:2]
        x = world.standardised(seen.flatten(0, 1))
        features = world.encode(x).unflatten(0, (count, length))
        actions = sequences["actions"] if self.action_size else self.no_actions(x, count, length - 1)
        noise = self._drawn(partial(world.latent.noise, generator=generator), count, length).to(x)
        filtered = world.filter(features, actions, noise)
        predicted = world.predict_features(filtered.belief)
        observation = (
            log_loss(world.decode(predicted.flatten(0, 1)) - x, c.observation_deviation).flatten(1).sum(1).mean()
        )
        aligned = 0.5 * (predicted - features.detach()).square().sum(-1).mean()
        kl, divergence = balanced_kl(world.latent, filtered.posterior, filtered.prior, c.balance, c.free_nats)
        loss = observation + c.feature_weight * aligned + kl
        terms = {"kl": divergence, "reconstruction": observation, "features": aligned}
        if self.rewarded:
            target = (sequences["rewards"] - world.reward_mean) / world.reward_scale
            terms["reward"] = log_loss(world.reward(filtered.belief[:, 1:]) - target, c.reward_deviation).mean()
            loss = loss + terms["reward"]
        return loss / x[0].numel(), terms, filtered.belief, features

    def _imagined_losses(
        self, member: RssmMember, belief: Tensor, generator: torch.Generator, accepted: float = 0.0
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Of roll-outs from beliefs ``[N, starts, B]``."""
        c, behaviour = self.config, member.behaviour
        assert behaviour is not None
        noise = self._chance(member.world, belief, c.horizon, generator)
        dreamt = dream(member.world, behaviour, belief.flatten(0, 1), *noise)
        return behaviour_losses(behaviour, dreamt, c.discount, c.trace, c.entropy, c.pessimism, accepted)

    def _chance(
        self, world: WorldModel, belief: Tensor, steps: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Noise of actions and of ``s`` for roll-outs from beliefs ``[N, starts, B]``: ``[N starts, steps, …]``."""
        count, starts = belief.shape[:2]

        def acting(*shape: int) -> Tensor:
            return torch.randn(*shape, self.action_size, generator=generator)

        mine, theirs = (
            self._drawn(draw, count, starts * steps).unflatten(1, (starts, steps)).flatten(0, 1).to(belief)
            for draw in (acting, partial(world.latent.noise, generator=generator))
        )
        return mine, theirs

    def _alone_loss(
        self, member: RssmMember, episode: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of policy and value, from any rows of the episodes ``[B]`` and from where the policy comes to from there."""
        c, known = self.config, self._known(member)
        count, each = c.crops * len(episode), c.starts

        def rows(below: int) -> Tensor:
            drawn = self._drawn(lambda *shape: torch.randint(below, shape, generator=generator), count, each)
            return drawn.to(episode.device)

        start = known.beliefs[episode.repeat_interleave(c.crops)[:, None], rows(known.beliefs.shape[1])]
        if c.goes_on:
            chance = self._chance(member.world, start, c.goes_on, generator)
            assert member.behaviour is not None
            path = go_on(member.world, member.behaviour, start.flatten(0, 1), *chance).unflatten(0, (count, each))
            start = path.gather(2, rows(c.goes_on + 1)[..., None, None].expand(-1, -1, 1, path.shape[-1]))[:, :, 0]
        actor, value, terms = self._imagined_losses(member, start, generator, known.accepted)
        return actor + value, terms

    @torch.no_grad()
    def _known(self, member: RssmMember) -> Known:
        """Beliefs of all training rows, as one acts on them, and doubt there: found once, of a still world model."""
        if id(member) not in self._of_training:
            member.world.eval()  # statistics of batches stand still, too
            seen, *later = (self.inputs({self.view: row}) for row in self._observed.unbind(1))
            found = [self.member_start(member, seen)]
            for action, x in zip(self._taken.unbind(1), later, strict=True):
                found.append(self.member_update(member, found[-1], action, x))
            assert member.behaviour is not None
            doubts = [member.behaviour.doubt(b, a.to(b)) for b, a in zip(found, self._taken.unbind(1), strict=False)]
            share = self.config.accepted_doubt
            accepted = float(np.quantile(torch.stack(doubts).cpu().numpy(), share)) if share else 0.0
            self._of_training[id(member)] = Known(torch.stack(found, 1), accepted)
        return self._of_training[id(member)]

    def _drawn(self, draw: Callable[..., Tensor], count: int, each: int) -> Tensor:
        """Noise for ``count`` sequences, ``[count, each, …]``: this worker's part of the global batch's."""
        crops = self.config.crops
        return workers.mine(draw(workers.everyone(count // crops), crops, each)).flatten(0, 1)

    def after_step(self, progress: float) -> None:
        """The slow values follow."""
        del progress
        for member in self.members:
            assert isinstance(member, RssmMember)
            if member.behaviour is not None:
                member.behaviour.follow(self.config.target_rate)

    # ------------------------------------------------------------------------------------------------------------ use

    def member_start(self, member: Any, x: Tensor) -> Tensor:
        """See `ImaginingFamily`."""
        h = member.world.first(len(x))
        return member.world.believe(h, member.world.infer(h, self.member_features(member, x)))

    def member_update(self, member: Any, belief: Tensor, action: Tensor, x: Tensor) -> Tensor:
        """See `ImaginingFamily`."""
        h = member.world.step(belief, action.to(belief.dtype))
        return member.world.believe(h, member.world.infer(h, self.member_features(member, x)))

    def member_imagine(self, member: Any, belief: Tensor, actions: Tensor) -> Imagined:
        """Predicted features and rewards, at the modes of the prior."""
        world = member.world
        beliefs = world.imagine(belief, actions.to(belief.dtype))
        rewards = world.reward_mean + world.reward_scale * world.reward(beliefs) if self.rewarded else None
        return Imagined(world.predict_features(beliefs), rewards)

    def member_features(self, member: Any, x: Tensor) -> Tensor:
        """What the encoder says."""
        return member.world.encode(member.world.standardised(x))

    def member_decode(self, member: Any, features: Tensor) -> Tensor:
        """See `ImaginingFamily`."""
        parts = [
            member.world.observed(member.world.decode(part.flatten(0, 1))).unflatten(0, part.shape[:2])
            for part in features.split(_AT_ONCE)
        ]
        return torch.cat(parts)

    def step_network(self, seed: int) -> nn.Module:
        """See `StepsAlone`: to the mode of the prior."""

        def step(member: Any, belief: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            after = member.world.imagine(belief, action[:, None])[:, 0]
            return after, member.world.predict_features(after)

        return ImaginedStep(self, seed, step)

    @torch.no_grad()
    def act(self, belief: Tensor, seed: int) -> Tensor:
        """The policy's mode.

        Raises:
            UserError: no policy was learned.
        """
        behaviour = self._at(seed).behaviour
        if behaviour is None:
            raise UserError("rssm has no policy of its own; set behaviour: true, in a world with actions and rewards")
        return behaviour.actor.mode(belief)


def log_loss(error: Tensor, deviation: float) -> Tensor:
    """``-log N(error; 0, deviation^2)`` without its constant."""
    return 0.5 * (error / deviation).square()


def balanced_kl(latent: Latent, q: Tensor, p: Tensor, balance: float, free: float) -> tuple[Tensor, Tensor]:
    """``balance KL(sg(q) | p) + (1 - balance) KL(q | sg(p))``, each at least the free nats, and the divergence itself.

    Args:
        q, p: numbers of posteriors and priors ``[N, T, inputs]``. balance: alpha. free: nats per row.
    """
    to_prior = workers.averaged(latent.kl(q.detach(), p).mean())
    to_posterior = workers.averaged(latent.kl(q, p.detach()).mean())
    loss = balance * to_prior.clamp(min=free) + (1.0 - balance) * to_posterior.clamp(min=free)
    return loss, to_prior
