"""The next latents by conditional flow matching: noise is carried to ``p(z_{t+1}, …, z_{t+K} | z_<=t, a_t)``.

A network learns the velocity of straight paths between noise and data, ``x_t = (1 - t) x_0 + t x_1`` with
``x_0 ~ N(0, 1)``, by ``|v(x_t, t | c) - (x_1 - x_0)|^2`` (Lipman et al., *Flow matching for generative modeling*, ICLR
2023; Liu et al., *Flow straight and fast*, ICLR 2023; as a world model of videos: NVIDIA, *Cosmos world foundation
model platform for physical AI*, 2025). The data are the changes of z over the next K rows, a *chunk*, in units of
their spread (`parts.transitions`). The condition c is the past and the action; a share ``dropout`` of the conditions
is left out, and samples may be guided away from what the flow says without them (Ho and Salimans, *Classifier-free
diffusion guidance*, 2022).

``z`` are the standardised vectors themselves; of frames the latents of an autoencoder that is trained in the first
share of training and frozen after it, or the pixels themselves (``latent: 0``); then what noise is carried to are the
frames that follow and not changes, and the network is a U-Net.

A sample follows the flow from noise, by an ODE or by an SDE of the same marginals (`blocks.flow_sampling`). A
prediction is made without chance: the ODE from the centre of the noise, ``x_0 = 0``, the same for every row and step.
In one dimension the flow keeps order, and the centre goes to the median of the data: at a fork to the likelier side and
not between them. Any other fixed draw would be off to the same side at every step. With ``predicts: sample`` it is
instead one sample from noise that is fixed once for all, different from step to step and the same for every row.

A chunk is drawn at once and its rows know of each other, which is why longer ones take no actions: what is done at its
end must not change its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.utils import parameters_to_vector

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.flow_condition import Pixels
from wm_pipelines.blocks.flow_sampling import Velocity, euler, euler_maruyama, guided, heun, path
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Imagined, Schedule, Views
from wm_pipelines.families.flow.draws import Draw, Draws, noise_like
from wm_pipelines.families.flow.networks import FrameVelocity, VelocityField
from wm_pipelines.families.flow.post_training import (
    Frozen,
    Paths,
    PostTraining,
    advantages,
    divergence,
    log_probability,
    means,
    rolled_out,
)
from wm_pipelines.families.flow.rewards import FACTS, PhysicsReward, RewardWeights
from wm_pipelines.families.flow.steering import best, rewarded
from wm_pipelines.families.parts.transitions import (
    Autoencoder,
    Standardised,
    TransitionConfig,
    TransitionFamily,
    TransitionMember,
    chosen,
    random_rows,
)
from wm_pipelines.spec import Spec

_SETTLED = 0.5  # of the autoencoder's phase, after which its statistics of batches stay
_AT_ONCE = 512  # observations encoded together
_SIDE = 16  # of pixels that probes read


class FlowConfig(TransitionConfig):
    """Defaults in ``conf/base/parameters_flow.yml``."""

    schedule: Schedule = Schedule(steps=300, batch_size=20, learning_rate=5e-3, warmup=20, gradient_clip=1.0)
    chunk: int = Field(1, ge=1, description="K, rows that are predicted at once; 1 under actions")
    hidden: int = Field(64, ge=1, description="width of the velocity's network")
    depth: int = Field(2, ge=1, description="hidden layers that x passes")
    nearest: float = Field(0.2, gt=0, le=1, description="1 - t below which an error of v weighs less, as (1 - t)^2")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of conditions that are left out in training")
    dropped: tuple[Literal["past", "action"], ...] = Field(
        ("past", "action"), min_length=1, description="parts of them"
    )
    guidance: float = Field(1.0, ge=0, description="w: 0 without the condition, 1 with it, more beyond it")
    # predictions and samples
    solver: Literal["euler", "heun"] = "heun"
    predicts: Literal["centre", "sample"] = Field("centre", description="from x_0 = 0, or a sample of fixed noise")
    ode_steps: int = Field(4, ge=1, description="steps of the ODE of a prediction")
    sampling: Literal["ode", "sde"] = Field("ode", description="what a sample follows")
    sample_steps: int = Field(16, ge=1, description="steps of a sample")
    churn: float = Field(1.0, ge=0, description="how much of the noise an SDE renews; 0: none, an ODE")
    # of frames
    latent: int = Field(16, ge=0, description="D, entries of z, of frames; 0: the pixels themselves")
    pool: int = Field(1, ge=1, description="pixels along a side of a frame that are averaged to one")
    patch: int = Field(4, ge=1, description="of the pixels themselves: pixels along a side of a patch")
    blocks: int = Field(1, ge=1, description="of the pixels themselves: residual blocks per level, in and out")
    alone: float = Field(0.0, ge=0, lt=1, description="share of pasts of which the last observation alone is known")
    encoder_share: float = Field(0.4, gt=0, lt=1, description="share of training of the autoencoder, before the flow's")
    encoder_rows: int = Field(8, ge=1, description="observations of each episode of a batch that it is trained on")
    # by a physics reward
    reward: RewardWeights | None = Field(None, description="laws that it is told, as a reward; null: it is told none")
    post_training: PostTraining | None = Field(None, description="by the reward; null: there is none")
    best_of: int = Field(1, ge=1, description="a prediction is the best of so many by the reward, step by step")
    reward_guidance: float = Field(0.0, ge=0, description="how far a prediction follows the reward's gradient")

    @model_validator(mode="after")
    def _possible(self) -> FlowConfig:
        if self.guidance != 1.0 and not self.dropout:
            raise ValueError("guidance needs dropout above 0: without it the flow knows no other condition")
        if self.reward is None and (self.post_training or self.best_of > 1 or self.reward_guidance):
            raise ValueError("post_training, best_of and reward_guidance need a reward")
        if self.reward and (self.chunk > 1 or self.guidance != 1.0):
            raise ValueError("a reward needs chunk: 1 and guidance: 1")
        return self


@register
class Flow(TransitionFamily):
    """Prediction and samples along a learned flow."""

    name: ClassVar[str] = "flow"
    Config: ClassVar[type[FamilyConfig]] = FlowConfig
    config: FlowConfig
    _observed: Tensor  # training observations, of which all z are
    _coded: dict[int, Tensor]
    reward_units: Tensor  # of the errors that a reward counts
    before: Tensor  # weights of every seed's velocity as they were before post-training

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """With a reward the laws that it is made of."""
        return FACTS if config.reward else frozenset()

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """A chunk is shorter than an episode, and takes no actions."""
        if why := super().unsuitable(spec, config):
            return why
        if config.reward:
            if missing := sorted(name for name in FACTS if name not in spec.facts):
                return f"its reward needs {missing[0]}"
            if "states" not in spec.views or "actions" in spec.views:
                return "its reward is of states that move by themselves"
        if config.chunk > 1 and "actions" in spec.views:
            return "chunk: 1 alone takes actions"
        return f"needs episodes of {config.chunk + 1} rows or more" if spec.rows <= config.chunk else None

    def __init__(self, config: FlowConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        self.physics = PhysicsReward(self.spec, config.reward) if config.reward else None
        if self.physics:
            self.register_buffer("reward_units", torch.ones(3, dtype=torch.float64))
        if config.post_training:
            self.register_buffer("before", self._weights())

    # ------------------------------------------------------------------------------------------------------- networks

    def make_transition(self, size: int, condition: int) -> nn.Module:
        """The velocity of chunks: a perceptron, of pixels a U-Net."""
        c, dropped = self.config, self.config.dropped if self.config.dropout else ()
        if self.pixels:
            height, width, channels = self.seen_space.shape
            frame = (channels, height, width)
            return FrameVelocity(frame, c.chunk, c.context, self.action_size, c.patch, c.widths, c.blocks, c.hidden)
        parts = {"past": condition - self.action_size, "action": self.action_size}
        return VelocityField(c.chunk * size, parts, dropped, c.hidden, c.depth)

    def _observer(self) -> Any:
        if self.space.kind == "vector":
            return Standardised(self.space.shape[0])
        if self.pixels:
            return Pixels(self.seen_space)
        return Autoencoder(self.seen_space, self.config.widths, self.config.latent)

    @property
    def pixels(self) -> bool:
        """Whether frames are their own z; then u are the frames that follow, and not changes."""
        return self.space.kind == "frames" and not self.config.latent

    @property
    def learned_features(self) -> bool:  # type: ignore[override]  # a class variable elsewhere
        """Vectors and pixels are their own z."""
        return self.space.kind == "frames" and self.config.latent > 0

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Numbers of whole episodes, by which z are found, actions, rewards; units are learned."""
        examples = dict(super().examples(episodes))
        self.register_buffer("_observed", examples.pop(self.view), persistent=False)
        self._coded = {}
        if self.physics:
            self.reward_units.copy_(self.physics.units(episodes[self.view]))
        return {"episode": torch.arange(len(self._observed)), **examples}

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of frames the autoencoder's in the first share of training; the flow's, and the error of rewards."""
        encoding = isinstance(member.observer, Autoencoder) and progress < self.config.encoder_share
        member.observer.train(encoding and progress < _SETTLED * self.config.encoder_share)
        if encoding:
            return self._encoder_loss(member.observer, batch["episode"], generator)
        if self.config.post_training and progress >= self.config.post_training.pretrained:
            return self._post_training_loss(member, batch, generator, self.config.post_training)
        return self._flow_loss(member, batch, generator)

    def _encoder_loss(
        self, observer: Autoencoder, episode: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the reconstruction of random rows."""
        rows = random_rows(len(episode), self._observed.shape[1], self.config.encoder_rows, generator)
        seen = self._observed[episode[:, None], rows.to(episode.device)]
        x = self.inputs({self.view: seen.flatten(0, 1)})
        error = observer.loss(x, observer.encode(x))
        return error, {"reconstruction": error}

    def transition_loss(
        self, transition: Any, condition: Tensor, u: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``w(t) |v(x_t, t | c) - (x_1 - x_0)|^2``, t uniform; ``x_1`` are the chunks ``u [B, R, K D]``.

        An error of the data that are expected is one of v by ``1 / (1 - t)``: without w the last moments are all. With
        ``w = min(1, ((1 - t) / nearest)^2)`` it is ``|d - x_1|^2 / max(1 - t, nearest)^2``.
        """
        draws, data = Draws(u, generator), u.flatten(0, 1)
        x, _ = path(draws.normal(), data, t := draws.uniform())
        known = draws.uniform() >= self.config.dropout
        found = transition.data(x, t, transition.condition(condition.flatten(0, 1), known))
        error = ((found - data) / (1.0 - t).clamp(min=self.config.nearest)).square().mean()
        return error, {"velocity": error}

    def _flow_loss(
        self, member: TransitionMember, batch: Views, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of random transitions, and the error of their rewards."""
        c, z, episode = self.config, self._codes(member), batch["episode"]
        last = random_rows(len(episode), z.shape[1] - c.chunk, c.rows, generator).to(z.device)  # [B, R]
        around = (last[..., None] + torch.arange(1 - c.context, 1 + c.chunk, device=z.device)).clamp(min=0)
        seen, following = z[episode[:, None, None], around].split([c.context, c.chunk], 2)  # [B, R, ·, D]
        history = self._disturbed(member, self._forgotten(seen, generator), generator)
        action = self._taken(batch, last).to(z)
        condition = member.condition(history.flatten(0, 1), action.flatten(0, 1)).unflatten(0, last.shape)
        u = self._units(member, history, following)
        loss, terms = self.transition_loss(member.transition, condition, u, generator)
        if not self.rewarded:
            return loss, terms
        found = member.rewarded(condition, following[:, :, 0])
        error = ((found - chosen(batch["rewards"], last).to(z)) / member.reward_scale).square().mean()
        return loss + error, {**terms, "reward": error}

    def _forgotten(self, seen: Tensor, generator: torch.Generator) -> Tensor:
        """Of some pasts ``[B, R, C, D]`` the last alone, as if it had always been there (`member_start`)."""
        if not self.config.alone:
            return seen
        drawn = workers.mine(torch.rand(workers.everyone(len(seen)), seen.shape[1], generator=generator)).to(seen)
        return torch.where(drawn[..., None, None] < self.config.alone, seen[:, :, -1:], seen)

    def _units(self, member: TransitionMember, history: Tensor, following: Tensor) -> Tensor:
        """The ``[B, R, K D]`` that stand for the z that follow ``[B, R, K, D]``: changes, or pixels themselves."""
        if self.pixels:
            return following.flatten(2)
        change = torch.cat([history[:, :, -1:], following], 2).diff(dim=2)
        return ((change - member.change_mean) / member.change_scale).flatten(2)

    def _post_training_loss(
        self, member: TransitionMember, batch: Views, generator: torch.Generator, c: PostTraining
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss on roll-outs from random rows of the batch, the divergence from before, the anchor."""
        assert self.physics is not None
        seen = self._starts(member, batch["episode"], generator, c)  # [B, C, D]
        belief = seen[:, None].expand(-1, c.group, -1, -1)
        count = len(batch["episode"])
        each = (len(seen) // count, c.group, c.horizon, c.sample_steps + 1, seen.shape[-1])
        noise = workers.mine(torch.randn(workers.everyone(count), *each, generator=generator)).to(belief)
        noise = noise.flatten(0, 2).permute(1, 2, 0, 3)
        paths = rolled_out(member, belief.flatten(0, 1), noise, c)
        states = self.outputs(member.observer.decode(paths.z))
        earned = self.physics(states, self.reward_units).unflatten(0, (-1, c.group))
        above = advantages(earned, c.discount).flatten(0, 1).T.to(paths.z)  # [H, N]
        mu = means(member.transition, paths, c)
        policy = -(above * log_probability(mu, paths.x, c)).mean()
        apart = divergence(mu, self._means_before(member, paths, c), c).mean()
        supervised, terms = self._flow_loss(member, batch, generator)
        loss = c.weight * (policy + c.kl * apart) + c.anchor * supervised
        return loss, {**terms, "reward": earned.mean(), "divergence": apart}

    @torch.no_grad()
    def _codes(self, member: TransitionMember) -> Tensor:
        """What all training observations are as z ``[E, T, D]``, found once, when frozen; units of their changes."""
        if id(member) not in self._coded:
            parts = self._observed.flatten(0, 1).split(_AT_ONCE)
            z = torch.cat([member.observer.encode(self.inputs({self.view: part})) for part in parts])
            z = z.unflatten(0, self._observed.shape[:2])
            member.learn_changes(z.diff(dim=1).flatten(0, 1), 1.0)
            self._coded[id(member)] = z
        return self._coded[id(member)]

    def _starts(self, member: TransitionMember, episode: Tensor, generator: torch.Generator, c: PostTraining) -> Tensor:
        """Where groups start: histories ``[B, C, D]`` up to random rows of episodes, moved to where a ball can be."""
        assert self.physics is not None
        z = self._codes(member)
        rows = random_rows(len(episode), z.shape[1], c.starts, generator).to(z.device)
        around = (rows[..., None] + torch.arange(1 - self.config.context, 1, device=z.device)).clamp(min=0)
        seen = z[episode[:, None, None], around]  # [E, starts, C, D]
        shape = (workers.everyone(len(episode)), c.starts, 1, z.shape[2])
        moved = seen + c.disturbance * workers.mine(torch.randn(shape, generator=generator)).to(z)
        can_be = self.physics.possible(self.outputs(member.observer.decode(moved[:, :, -1])))
        return torch.where(can_be[..., None, None], moved, seen).flatten(0, 1)

    def _weights(self) -> Tensor:
        """Of every seed's velocity, ``[S, P]``."""
        return torch.stack(
            [parameters_to_vector(m.get_submodule("transition").parameters()).detach() for m in self.members]
        )

    @torch.no_grad()
    def _means_before(self, member: TransitionMember, paths: Paths, c: PostTraining) -> Tensor:
        index = next(i for i, other in enumerate(self.members) if other is member)
        return means(Frozen(member.transition, self.before[index]), paths, c)

    def after_step(self, progress: float) -> None:
        """Keep the weights, until post-training begins."""
        if self.config.post_training and progress <= self.config.post_training.pretrained:
            self.before.copy_(self._weights())

    def finish(self) -> Views | None:
        """Forget the z of training."""
        self._coded = {}
        return super().finish()

    # ------------------------------------------------------------------------------------------------------------ use

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """What is predicted, z ``[E, T, D]``; of pixels coarse ones, which is what probes read."""
        return self._coarse(super().member_encode(member, views)[0]), None

    def member_predict(self, member: Any, past: Views, steps: int, actions: Tensor | None) -> dict[str, Tensor]:
        """A likely future."""
        found = super().member_predict(member, past, steps, actions)
        return {**found, "latents": self._coarse(found["latents"])}

    def _coarse(self, z: Tensor) -> Tensor:
        """Of pixels ``[E, T, D]`` averages, at most `_SIDE` a side: windows of them stay a few thousand numbers."""
        height, width, channels = self.seen_space.shape if self.pixels else (0, 0, 0)
        if max(height, width) <= _SIDE:
            return z
        maps = z.flatten(0, 1).unflatten(1, (channels, height, width))
        return adaptive_avg_pool2d(maps, _SIDE).flatten(1).unflatten(0, z.shape[:2])

    def likely(self, transition: Any, condition: Tensor) -> Tensor:
        """The end of the ODE from the centre of the noise."""
        start = condition.new_zeros(len(condition), transition.size)
        return self._solved(self.velocity(transition, condition), start, self.config.ode_steps)

    def drawn(self, transition: Any, condition: Tensor, generator: torch.Generator) -> Tensor:
        """A sample."""
        return self._sampled(transition, condition, noise_like(condition, transition.size, generator))

    def velocity(self, transition: VelocityField, condition: Tensor) -> Velocity:
        """The velocity given conditions ``[N, ·]``, guided."""
        weight, known = self.config.guidance, torch.ones(len(condition), 1, dtype=torch.bool, device=condition.device)
        with_it = transition.condition(condition, known)
        without = transition.condition(condition, ~known) if weight != 1.0 else with_it

        def v(x: Tensor, t: float) -> Tensor:
            at = torch.full((1, 1), t).to(x)
            found = transition(x, at, with_it)
            return found if weight == 1.0 else guided(found, transition(x, at, without), weight)

        return v

    def _solved(self, velocity: Velocity, start: Tensor, steps: int) -> Tensor:
        return (heun if self.config.solver == "heun" else euler)(velocity, start, steps)

    def _sampled(self, transition: VelocityField, condition: Tensor, draw: Draw) -> Tensor:
        c, velocity = self.config, self.velocity(transition, condition)
        if c.sampling == "sde":
            return euler_maruyama(velocity, draw(), c.sample_steps, c.churn, draw)
        return self._solved(velocity, draw(), c.sample_steps)

    def _steered(self, member: TransitionMember, belief: Tensor, condition: Tensor, draw: Draw | None) -> Tensor:
        """The likely change, steered by the reward if so configured; draw: of the other candidates."""
        c = self.config
        transition: Any = member.transition
        if self.physics is None or (draw is None and not c.reward_guidance):
            return self.likely(transition, condition)
        physics, now = self.physics, belief[:, -1]

        def reward(u: Tensor) -> Tensor:
            step = torch.stack([now, member.moved(now, u)], 1)
            return physics(self.outputs(member.observer.decode(step)), self.reward_units)[:, 0]

        velocity = self.velocity(transition, condition)
        if c.reward_guidance:
            velocity = rewarded(velocity, reward, c.reward_guidance)
        centre = self._solved(velocity, torch.zeros_like(now), c.ode_steps)
        if draw is None:
            return centre
        return best([centre, *(self._sampled(transition, condition, draw) for _ in range(c.best_of - 1))], reward)

    def _rolled(self, member: Any, belief: Tensor, actions: Tensor, generator: torch.Generator | None) -> Imagined:
        """Chunk by chunk; without a generator as `predicts` says."""
        c, size = self.config, member.transition.size
        draw = None if generator is None else noise_like(belief, size, generator)
        if generator is None and c.predicts == "sample":
            draw = noise_like(belief, size, torch.Generator().manual_seed(0), same=True)
        steering = noise_like(belief, size, torch.Generator().manual_seed(0), same=True) if c.best_of > 1 else None
        found: list[Tensor] = []
        rewards: list[Tensor] = []
        for action in actions.unbind(1)[:: c.chunk]:
            condition = member.condition(belief, action)
            if draw is None:
                u = self._steered(member, belief, condition, steering)
            else:
                u = self._sampled(member.transition, condition, draw)
            for change in u.unflatten(1, (c.chunk, -1)).unbind(1):
                z = change if self.pixels else member.moved(belief[:, -1], change)
                if self.rewarded:
                    rewards.append(member.rewarded(member.condition(belief, action), z))
                belief = torch.cat([belief[:, 1:], z[:, None]], 1)
                found.append(z)
        steps = actions.shape[1]  # of the last chunk perhaps only a part was asked for
        return Imagined(torch.stack(found[:steps], 1), torch.stack(rewards[:steps], 1) if rewards else None)
