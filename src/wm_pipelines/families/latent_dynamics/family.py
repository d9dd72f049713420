"""The reference world model: encode, move in latent space, decode; ``z = Enc(x)``, ``z' = f(z)``, ``x' = Dec(z')``.

Trained by ``|Dec(f(...f(Enc(x_<=t))...)) - x_{t+k}|^2`` over roll-outs of growing length, every latent from the
latents before it. The *stochastic* variant decodes a variance too and maximises ``log N(x_{t+k}; mean_k, diag
variance_k)``, the density of every later observation given the past. ``x`` are frames or states: encoder and decoder
follow the kind of space. Two kinds of latent:

``vector``: one vector per observation (vector_predictor.py); encodings are decoded too, and predicted from all times.
``local``: maps moved by kernels that a convolutional network chooses position by position (frame_predictor.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.blocks.encoders import DECODERS, ENCODERS
from wm_pipelines.blocks.videos import frame_error, random_piece, roll_out_length
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule, Views
from wm_pipelines.families.latent_dynamics.frame_predictor import FramePredictor
from wm_pipelines.families.latent_dynamics.vector_predictor import VectorPredictor
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
        (16, 32, 64), min_length=1, description="channels per level of the convolutions; hidden layers for states"
    )
    # transition: vector
    latent: int = Field(32, ge=1, description="features of an observation")
    hidden: int = Field(256, ge=1, description="width of f")
    latent_weight: float = Field(0.1, ge=0, description="of the error of predicted latents")
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
class LatentDynamics(Predictor):
    """Encoder, transition and decoder trained to predict frames or states."""

    name: ClassVar[str] = "latent_dynamics"
    Config: ClassVar[type[FamilyConfig]] = LatentDynamicsConfig
    needs: ClassVar[tuple[str, ...]] = ("frames|states",)
    config: LatentDynamicsConfig
    exponents: Tensor  # of the unit of vectors

    @classmethod
    def knows(cls, config: Any) -> frozenset[str]:
        """Symmetries, if any; kernels of a given reach contain that what is seen moves by a few pixels."""
        return super().knows(config) | ({"local_motion"} if config.transition == "local" else set())

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """States have no positions to move or turn."""
        if cls.shown(spec) == ("states",) and (config.transition == "local" or config.symmetries):
            return "transition: local and symmetries need frames"
        return super().unsuitable(spec, config)

    def make_member(self) -> nn.Module:
        """The networks of one kind of latent."""
        c = self.config
        if c.transition == "vector":
            return VectorPredictor(self.space, c.widths, c.latent, c.context, c.hidden, c.stochastic)
        height, width, channels = self.space.shape
        net = FramePredictor(
            (height, width), channels, c.patch, c.maps, c.context, c.widths, c.blocks, c.reach, c.stochastic
        )
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs

    def __init__(self, config: LatentDynamicsConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        if self.space.kind == "vector":
            self.register_buffer("exponents", torch.zeros(self.space.shape, dtype=torch.int64))

    def _inputs(self, views: Views) -> Tensor:
        """What networks take, ``[E, T, …]``."""
        return ENCODERS[self.space.kind].inputs(self._in_units(views[self.view]))

    def _in_units(self, view: Tensor) -> Tensor:
        """Vectors that float32 can hold, kilograms of planets as well; frames as they are."""
        return (view / self._unit.to(view.device)).to(view.dtype) if self.space.kind == "vector" else view

    @property
    def _unit(self) -> Tensor:
        """``2^exponents``, exactly: ``[n]``."""
        return torch.tensor([math.ldexp(1.0, e) for e in self.exponents.tolist()], dtype=torch.float64)

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Whole episodes; of vectors also what observations are centred by and divided by."""
        examples = super().examples(episodes)
        if self.space.kind == "vector":
            self.exponents.copy_(coarse_exponents(examples[self.view]))
        for member in self.members:
            if isinstance(member, VectorPredictor):
                member.learn_units(self._in_units(examples[self.view]))
        return examples

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of a roll-out, or negative log-likelihood per number."""
        c, x = self.config, self._inputs(batch)
        steps = roll_out_length(progress, c.ramp, c.horizon)
        length = min(c.context + (2 * c.horizon if c.transition == "vector" else steps), x.shape[1])
        x = random_piece(x, length, c.symmetries, generator)
        if c.transition == "vector":
            return self._vector_loss(member, x, steps)
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

    def _vector_loss(self, member: VectorPredictor, x: Tensor, steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of a roll-out, of decoded encodings, and of latents predicted from every time of the piece."""
        memory = self.config.context
        z = member.encode(x)
        starts = range(z.shape[1] - memory - steps + 1)
        past = torch.stack([z[:, i : i + memory] for i in starts], 1)
        target = torch.stack([z[:, i + memory : i + memory + steps] for i in starts], 1)
        predicted = member.roll_out(past, steps)
        shown = x[:, memory : memory + steps]
        loss, terms = self._decoded_loss(member, predicted[:, 0], shown)
        decoded, _ = self._squared(member, member.decode(target[:, 0]), shown)
        latent = (predicted - target).square().mean()
        return loss + decoded + self.config.latent_weight * latent, {**terms, "decoded": decoded, "latent": latent}

    # ------------------------------------------------------------------------------------------------------------ use

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """One vector per observation: what `pooled` of its networks says."""
        return torch.cat([member.pooled(part) for part in self._inputs(views).split(_AT_ONCE)]), None

    def member_predict(
        self,
        member: Any,
        past: Views,
        steps: int,
        actions: Tensor | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Observations (states with the start in front), and the encoding of the predicted as if they were observed."""
        known = self._inputs({self.view: self.known(past)})
        found = [self._predicted(member, part, steps) for part in known.split(_AT_ONCE)]
        future = DECODERS[self.space.kind].view(torch.cat([x for x, _ in found]))
        if self.space.kind == "vector":
            future = future * self._unit.to(future.device)
        if self.view == "states":
            future = torch.cat([past["states"][:, -1:], future], 1)
        return {self.view: future, "latents": torch.cat([z for _, z in found])}

    @torch.no_grad()
    def round_trip(self, views: Views) -> Tensor:
        """Features of decoded encodings, as if they were observed: ``[E, T, …] -> [S, E, T, D]``."""
        x = self._inputs(views)
        parts = ([self._again(member, part) for part in x.split(_AT_ONCE)] for member in self._evaluated())
        return torch.stack([torch.cat(part) for part in parts])

    def _again(self, member: Any, x: Tensor) -> Tensor:
        decoded = member.decode(member.encode(x))
        return member.pooled(decoded.clamp(0, 1) if self.space.kind == "frames" else decoded)

    def _predicted(self, member: Any, past: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        latents = member.roll_out(member.encode(past), steps)
        future = member.decode(latents)
        if self.config.sample:
            future = future + _noise(future) * (0.5 * member.decode_log_variance(latents)).exp()
        if self.space.kind == "frames":
            future = future.clamp(0, 1)
        return future, member.pooled(torch.cat([past, future], 1))[:, past.shape[1] :]


def coarse_exponents(view: Tensor) -> Tensor:
    """Powers of two, in steps of 64, near the largest size of every entry of vectors: ``[..., n] -> [n]``, integers.

    Networks take standardised vectors: the unit only has to keep float32 (2^-126 … 2^127) from running over or under.
    """
    _, exponent = torch.frexp(view.flatten(0, -2).abs().amax(0))
    return 64 * (exponent / 64).round().long()


def gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """``-log N(x; mean, exp(log_variance))`` of every number."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).square() * (-log_variance).exp())


def _noise(like: Tensor) -> Tensor:
    """Normal numbers ``[B, K, ...]``; those of the first steps do not depend on how many follow."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randn(step.shape, generator=generator) for step in like.unbind(1)], 1).to(like)
