"""The reference world model: encode, move in latent space, decode; ``z = Enc(x)``, ``z' = f(z)``, ``x' = Dec(z')``.

Trained by ``|Dec(f(...f(Enc(x_<=t))...)) - x_{t+k}|^2`` over roll-outs of growing length, every latent from the
latents before it. The *stochastic* variant decodes a variance too and maximises ``log N(x_{t+k}; mean_k, diag
variance_k)``, the density of every later observation given the past. ``x`` are frames or states: encoder and decoder
follow the kind of space. Two kinds of latent:

``vector``: one vector per observation (vector_predictor.py); encodings are decoded too, and predicted from all times.
  Only this kind takes actions and predicts rewards; an *ensemble* of f averages what each of them rolls out (Chua et
  al., *Deep reinforcement learning in a handful of trials*, NeurIPS 2018; here over shared latents, without bootstrap).
``local``: maps moved by kernels that a convolutional network chooses position by position (frame_predictor.py).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.blocks.videos import frame_error, random_start, roll_out_length, turned
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Imagined, Schedule, Views
from wm_pipelines.families.latent_dynamics.frame_predictor import FramePredictor
from wm_pipelines.families.latent_dynamics.vector_predictor import VectorPredictor
from wm_pipelines.families.parts.imagining import ImaginedStep, ImaginingFamily
from wm_pipelines.families.parts.predictors import Predictor, PredictorConfig
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

_AT_ONCE = 64  # episodes encoded or predicted together


class LatentDynamicsConfig(PredictorConfig):
    """Configuration of the reference world model."""

    schedule: Schedule = Schedule(
        steps=400, batch_size=16, learning_rate=2e-3, warmup=20, betas=(0.9, 0.99), gradient_clip=1.0
    )
    transition: Literal["vector", "local"] = "vector"
    stochastic: bool = Field(False, description="decode a variance and train by likelihood")
    sample: bool = Field(False, description="predict a sample instead of the mean; stochastic: true")
    widths: tuple[Positive, ...] = Field(
        (16, 32, 64), description="channels per level of the convolutions; hidden layers for states (none: z = x)"
    )
    # transition: vector
    pool: int = Field(1, ge=1, description="pixels along a side of a frame that are averaged to one")
    latent: int = Field(32, ge=1, description="features of an observation")
    hidden: int = Field(256, ge=1, description="width of f")
    latent_weight: float = Field(0.1, ge=0, description="of the error of predicted latents")
    ensemble: int = Field(1, ge=1, description="how many f there are")
    reward_weight: float = Field(1.0, ge=0, description="of the squared error of standardised rewards")
    # transition: local
    blocks: int = Field(1, ge=0, description="residual blocks per level")
    patch: int = Field(4, ge=1, description="pixels along a side of a patch")
    maps: int = Field(3, ge=1, description="maps in a latent")
    reach: int = Field(4, ge=0, description="pixels that content can move in one step")

    @model_validator(mode="after")
    def _possible(self) -> LatentDynamicsConfig:
        if self.sample and not self.stochastic:
            raise ValueError("sample needs stochastic: true; a mean has nothing to sample from")
        return self


@register
class LatentDynamics(Predictor, ImaginingFamily):
    """Encoder, transition and decoder trained to predict frames or states."""

    name: ClassVar[str] = "latent_dynamics"
    Config: ClassVar[type[FamilyConfig]] = LatentDynamicsConfig
    needs: ClassVar[tuple[str, ...]] = ("frames|states",)
    config: LatentDynamicsConfig

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """Symmetries, if any; kernels of a given reach contain that what is seen moves by a few pixels."""
        return super().knows(config) | ({"local_motion"} if config.transition == "local" else set())

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """States have no positions to move or turn; kernels of a reach and turned videos know no actions."""
        if config.transition == "local" or config.symmetries:
            if "states" in cls.shown(spec):
                return "transition: local and symmetries need frames"
            if "actions" in cls.shown(spec):
                return "transition: local and symmetries take no actions"
        return super().unsuitable(spec, config)

    def make_member(self) -> nn.Module:
        """The networks of one kind of latent."""
        c = self.config
        if c.transition == "vector":
            driven = (self.action_size, self.rewarded, c.ensemble)
            return VectorPredictor(self.seen_space, c.widths, c.latent, c.context, c.hidden, c.stochastic, *driven)
        height, width, channels = self.space.shape
        net = FramePredictor(
            (height, width), channels, c.patch, c.maps, c.context, c.widths, c.blocks, c.reach, c.stochastic
        )
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Whole episodes; of vectors also what observations are centred by and divided by."""
        examples = super().examples(episodes)
        self.learn_exponents(examples[self.view])
        for member in self.members:
            if isinstance(member, VectorPredictor):
                member.learn_units(self.in_units(examples[self.view]), examples.get("rewards"))
        return examples

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of a roll-out, or negative log-likelihood per number."""
        c, x = self.config, self.inputs(batch)
        steps = roll_out_length(progress, c.ramp, c.horizon)
        length = min(c.context + (2 * c.horizon if c.transition == "vector" else steps), x.shape[1])
        first = random_start(x.shape[1], length, generator)
        x = turned(x[:, first : first + length], c.symmetries, generator)
        if c.transition == "vector":
            taken = {name: batch[name][:, first : first + length - 1] for name in self.uses if name in batch}
            return self._vector_loss(member, x, steps, taken)
        return self._decoded_loss(member, member.roll_out(member.encode(x[:, : c.context]), steps), x[:, c.context :])

    def _decoded_loss(self, member: Any, latents: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of decoded latents, or their negative log-likelihood."""
        mean = member.decode(latents)
        loss, terms = self._squared(member, mean, truth)
        if not self.config.stochastic:
            return loss, terms
        loss = gaussian_nll(truth, mean, member.decode_log_variance(latents)).mean()
        return loss, {"nll": loss, **terms}

    def _squared(self, member: Any, predicted: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.space.kind == "frames":
            return frame_error(predicted, truth)
        error = ((predicted - truth) / member.scale).square().mean()
        return error, {"standardised": error}

    def _vector_loss(
        self, member: VectorPredictor, x: Tensor, steps: int, taken: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of a roll-out, of decoded encodings, of latents predicted from every time of the piece, of rewards."""
        memory = self.config.context
        z = member.encode(x)
        count = z.shape[1] - memory - steps + 1
        past = torch.stack([z[:, i : i + memory] for i in range(count)], 1)
        target = torch.stack([z[:, i + memory : i + memory + steps] for i in range(count)], 1)
        acted = self._pieces(taken["actions"], count, steps) if "actions" in taken else None
        futures = member.roll_outs(past, steps, acted)
        shown = x[:, memory : memory + steps]
        parts = [self._decoded_loss(member, future[:, 0], shown) for future in futures]
        loss, terms = _mean([loss for loss, _ in parts]), parts[0][1]
        decoded, _ = self._squared(member, member.decode(target[:, 0]), shown)
        latent = _mean([(future - target).square().mean() for future in futures])
        loss, terms = (
            loss + decoded + self.config.latent_weight * latent,
            {**terms, "decoded": decoded, "latent": latent},
        )
        if "rewards" not in taken:
            return loss, terms
        centre, spread = member.reward_units
        true = (self._pieces(taken["rewards"], count, steps) - centre) / spread
        given = acted if acted is not None else self.no_actions(z, *true.shape)
        reward = _mean([(member.standardised_rewards(past, f, given) - true).square().mean() for f in futures])
        return loss + self.config.reward_weight * reward, {**terms, "reward": reward}

    def _pieces(self, transitions: Tensor, count: int, steps: int) -> Tensor:
        """What was done or given along the roll-outs: ``[B, T - 1, …] -> [B, count, steps, …]``."""
        first = self.config.context - 1
        dtype = next(self.members.parameters()).dtype
        return torch.stack([transitions[:, first + i : first + i + steps] for i in range(count)], 1).to(dtype)

    # ------------------------------------------------------------------------------------------------------------ use

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """One vector per observation: what `pooled` of its networks says."""
        return torch.cat([member.pooled(part) for part in self.inputs(views).split(_AT_ONCE)]), None

    def member_predict(self, member: Any, past: Views, steps: int, actions: Tensor | None) -> dict[str, Tensor]:
        """Observations (states with the start in front), and the encoding of the predicted as if they were observed."""
        known = self.inputs({self.view: self.known(past)})
        if actions is None:
            actions = self.no_actions(known, len(known), steps)
        acted = actions.to(next(self.members.parameters()).dtype).split(_AT_ONCE)
        parts = [self._predicted(member, *part) for part in zip(known.split(_AT_ONCE), acted, strict=True)]
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        future = self.outputs(found.pop("observations"))
        if self.view == "states":
            future = torch.cat([past["states"][:, -1:], future], 1)
        return {self.view: future, **found}

    def member_start(self, member: Any, x: Tensor) -> Tensor:
        """Encodings of the last observations ``[N, memory, D]``; before the first one everything was at rest."""
        return member.encode(x[:, None]).expand(-1, self.config.context, -1)

    def member_update(self, member: Any, belief: Tensor, action: Tensor, x: Tensor) -> Tensor:  # noqa: ARG002
        """The newest observation in place of the oldest."""
        return torch.cat([belief[:, 1:], member.encode(x[:, None])], 1)

    def member_imagine(self, member: Any, belief: Tensor, actions: Tensor) -> Imagined:
        """Latents, and rewards, each f's along its own roll-out; the mean over the ensemble."""
        futures = member.roll_outs(belief, actions.shape[1], actions)
        rewards = [member.rewards(belief, future, actions) for future in futures] if self.rewarded else []
        return Imagined(_mean(futures), _mean(rewards) if rewards else None)

    def member_features(self, member: Any, x: Tensor) -> Tensor:
        """Latents."""
        return member.encode(x[:, None])[:, 0]

    def member_decode(self, member: Any, features: Tensor) -> Tensor:
        """Means of observations."""
        return member.decode(features)

    def step_network(self, seed: int) -> nn.Module:
        """See `StepsAlone`; of an ensemble every step is averaged, where `imagine` averages whole roll-outs."""

        def step(member: Any, belief: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
            z = self.member_imagine(member, belief, action[:, None]).features[:, 0]
            return torch.cat([belief[:, 1:], z[:, None]], 1), z

        return ImaginedStep(self, seed, step)

    @torch.no_grad()
    def round_trip(self, views: Views) -> Tensor:
        """Features of decoded encodings, as if they were observed: ``[E, T, …] -> [S, E, T, D]``."""
        x = self.inputs(views)
        parts = ([self._again(member, part) for part in x.split(_AT_ONCE)] for member in self._evaluated())
        return torch.stack([torch.cat(part) for part in parts])

    def _again(self, member: Any, x: Tensor) -> Tensor:
        decoded = member.decode(member.encode(x))
        return member.pooled(decoded.clamp(0, 1) if self.space.kind == "frames" else decoded)

    def _predicted(self, member: Any, past: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Observations, their encodings, rewards."""
        known, steps = member.encode(past), actions.shape[1]
        moved = (steps, actions) if self.action_size else (steps,)
        latents = member.roll_out(known, *moved)
        future = member.decode(latents)
        if self.config.sample:
            future = future + _noise(future) * (0.5 * member.decode_log_variance(latents)).exp()
        if self.space.kind == "frames":
            future = future.clamp(0, 1)
        encoded = member.pooled(torch.cat([past, future], 1))[:, past.shape[1] :]
        rewards = {"rewards": member.rewards(known, latents, actions)} if self.rewarded else {}
        return {"observations": future, "latents": encoded, **rewards}


def _mean(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]


def gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """``-log N(x; mean, exp(log_variance))`` of every number."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).square() * (-log_variance).exp())


def _noise(like: Tensor) -> Tensor:
    """Normal numbers ``[B, K, ...]``; those of the first steps do not depend on how many follow."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randn(step.shape, generator=generator) for step in like.unbind(1)], 1).to(like)
