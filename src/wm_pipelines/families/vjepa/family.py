"""Video JEPA: predict the *features* of what a video hides, never its pixels.

``predict: masked`` is the paper (Bardes et al. 2024, V-JEPA, section 3): a transformer sees the visible tubelets of a
clip, a narrow predictor with mask tokens fills in the features of the hidden ones. What is hidden are spatio-temporal
blocks, or all that comes after the first half of the clip; that mask is the one by which the future is predicted.
``predict: rollout`` asks for the future alone: every frame is one latent, and the dynamics is applied to its own
predictions, K steps far, against the encodings of the target (Assran et al. 2025, V-JEPA 2-AC, section 3.1, without
actions). What keeps latents apart is a slow target encoder (EMA), or SIGReg without any (Balestriero & LeCun 2025,
LeJEPA). Nothing ever looks ahead in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, smooth_l1_loss

from wm_pipelines.blocks.augment import random_windows
from wm_pipelines.blocks.ema import EMA
from wm_pipelines.blocks.encoders import FrameEncoder
from wm_pipelines.blocks.latent_transition import LatentTransition
from wm_pipelines.blocks.masks import Masks, shade
from wm_pipelines.blocks.sigreg import sigreg
from wm_pipelines.blocks.transformer import take
from wm_pipelines.blocks.vit import Predictor
from wm_pipelines.blocks.workers import everyone, mine
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule, TrainedConfig, Views
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.families.vjepa.masks import spatiotemporal_masks, temporal_half_mask
from wm_pipelines.families.vjepa.tubelet_encoder import TubeletEncoder, widen_weights
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

_ERRORS = {"l1": l1_loss, "l2": mse_loss, "smooth_l1": smooth_l1_loss}
_AT_ONCE = 1024  # frames averaged together


class VJEPAConfig(TrainedConfig):
    """Configuration of the video JEPA."""

    schedule: Schedule = Schedule(
        steps=600, batch_size=16, learning_rate=3e-3, weight_decay=1e-3, warmup=30, gradient_clip=1.0
    )
    predict: Literal["masked", "rollout"] = Field("masked", description="hidden tubelets, or latents of later frames")
    anti_collapse: Literal["ema", "sigreg"] = "sigreg"
    error: Literal["l1", "l2", "smooth_l1"] = "l2"
    clip: int = Field(16, ge=2, description="frames of one example")
    latent: int = Field(16, ge=1, description="features of a token or frame")
    # predict: masked
    tubelet: int = Field(2, ge=1, description="frames per token")
    patch: int = Field(16, ge=1, description="pixels")
    stem: tuple[Positive, Positive] = Field((16, 32), description="channels of the convolutions inside a patch")
    width: int = Field(64, ge=2)
    depth: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    positions: Literal["sincos", "rope"] = "sincos"
    predictor_width: int = Field(64, ge=2)
    predictor_depth: int = Field(3, ge=1)
    half_share: float = Field(0.5, ge=0, le=1, description="share of steps whose mask hides the clip's second half")
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of tokens hidden by blocks, in the other steps")
    mask_block: tuple[Positive, Positive] = Field(
        (2, 1), description="latent steps and patches along a side of a block"
    )
    # predict: rollout
    widths: tuple[Positive, ...] = Field((16, 32, 64), min_length=1, description="channels of the convolutional layers")
    memory: int = Field(4, ge=1, description="latents that the next one is predicted from")
    hidden: int = Field(256, ge=1, description="width of the dynamics' perceptron")
    layers: int = Field(2, ge=1, description="its hidden layers")
    rollout: int = Field(4, ge=1, description="K, steps of prediction in training")
    ramp: float = Field(0.5, ge=0, le=1, description="share of training during which K grows from 1")
    # against collapse
    tau: float = Field(0.996, ge=0, le=1, description="first rate of the target encoder; the last is 1")
    sigreg_weight: float = Field(0.05, ge=0, le=1)
    directions: int = Field(64, ge=1)
    knots: int = Field(9, ge=2)

    @model_validator(mode="after")
    def _possible(self) -> VJEPAConfig:
        if self.predict == "rollout" and self.clip < self.memory + self.rollout:
            raise ValueError(
                f"clip: {self.clip} frames are less than memory {self.memory} and rollout {self.rollout}; lengthen it"
            )
        if self.predict == "masked" and self.clip % (2 * self.tubelet):
            unit = 2 * self.tubelet
            raise ValueError(f"clip: {self.clip} frames are no two halves of tubelets; use a multiple of {unit}")
        return self


class _Masked(nn.Module):
    """Context encoder, predictor and target encoder of one seed, for ``predict: masked``."""

    def __init__(self, config: VJEPAConfig, shape: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        height, width, channels = shape
        shared = {"heads": config.heads, "positions": config.positions}
        sizes: dict[str, Any] = config.model_dump(include={"stem", "width", "depth", "latent", "tubelet"}) | shared
        self.encoder = TubeletEncoder((height, width), config.patch, channels=channels, **sizes)
        self.grid = self.encoder.grid(config.clip)
        sizes = {"width": config.predictor_width, "depth": config.predictor_depth} | shared
        self.predictor = Predictor(self.grid, config.latent, **sizes)
        widen_weights(self.predictor)
        self.target = EMA(self.encoder, config.tau, config.schedule.steps) if config.anti_collapse == "ema" else None

    def masks(self, count: int, future: bool, generator: torch.Generator) -> Masks:
        """Hide the second half; or blocks of patches for some steps, then others: as many patches at every step."""
        if future:
            return temporal_half_mask(count, self.grid)
        times, (span, block) = self.grid[0], self.config.mask_block
        turns, image = -(-times // span), (1, *self.grid[1:])
        drawn = spatiotemporal_masks(count * turns, image, 1, block, self.config.mask_ratio, generator=generator)
        return Masks(*(self._through_time(part.unflatten(0, (count, turns)), span) for part in drawn))

    def _through_time(self, patches: Tensor, span: int) -> Tensor:
        """Patches ``[B, turns, K]``, each for ``span`` latent steps, as tokens of the clip."""
        times = torch.arange(self.grid[0])
        return (patches[:, times // span] + self.encoder.patches * times[:, None]).flatten(1)

    def loss(self, x: Tensor, generator: torch.Generator, progress: float) -> tuple[dict[str, Tensor], Tensor]:  # noqa: ARG002
        """Error of the hidden tokens, ``|P(E(x_seen), where) - E'(x)_hidden|`` (V-JEPA, eq. 1)."""
        future = bool(torch.rand((), generator=generator) < self.config.half_share)
        masks = self.masks(everyone(len(x)), future, generator)
        context, hidden = (mine(m).to(x.device) for m in masks)
        found = self.encoder(x) if self.target is None else self.target(x)
        units = self.encoder.units(found)
        whole = self.encoder.standard(found, units)
        if future and self.target is None:
            seen = take(whole, context)  # latent steps are encoded apart: alone they have the very same tokens
        else:
            shown = x[:, : x.shape[1] // 2] if future else x
            seen = self.encoder.standard(self.encoder(shown, context), units, context)
        predicted = self.predictor(seen, context, hidden)
        latents = self.encoder.pool(whole)
        if self.config.tubelet > 1:
            # Frames that tell an energy: it never changes, is predicted without effort and would be all that is learnt
            latents = latents - latents.mean(1, keepdim=True)
        return {"prediction": _ERRORS[self.config.error](predicted, take(whole, hidden))}, latents

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Tubelet by tubelet; frames beyond the last whole one are left out."""
        tubelet = self.config.tubelet
        whole = frames[:, : frames.shape[1] // tubelet * tubelet]
        tokens = self._tokens(self.encoder if self.target is None else self.target, whole)
        return self.encoder.pool(tokens), tokens.unflatten(1, (-1, self.encoder.patches))

    def _tokens(self, encoder: nn.Module, clip: Tensor) -> Tensor:
        tokens = encoder(clip)
        return self.encoder.standard(tokens, self.encoder.units(tokens))

    def predict(self, context: Tensor, steps: int) -> Tensor:
        """Half a clip after half a clip; what follows that is predicted from predictions."""
        seen, hidden = (m.to(context.device) for m in temporal_half_mask(len(context), self.grid))
        tokens, times = self._tokens(self.encoder, context), steps // self.config.tubelet
        found: list[Tensor] = []
        while sum(z.shape[1] for z in found) < times:
            tokens = self.predictor(tokens, seen, hidden)
            found.append(self.encoder.pool(tokens))
        return torch.cat(found, 1)[:, :times] if found else tokens.new_empty(len(tokens), 0, tokens.shape[-1])


class _RollOut(nn.Module):
    """Frame encoder, dynamics and target encoder of one seed, for ``predict: rollout``."""

    def __init__(self, config: VJEPAConfig, shape: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.encoder = FrameEncoder(shape, config.widths, config.latent)
        self.predictor = LatentTransition(config.latent, config.memory, config.hidden, config.layers)
        self.target = EMA(self.encoder, config.tau, config.schedule.steps) if config.anti_collapse == "ema" else None

    def loss(self, x: Tensor, generator: torch.Generator, progress: float) -> tuple[dict[str, Tensor], Tensor]:  # noqa: ARG002
        """Error of ``z`` after 1 … K steps from every time of the clip; K grows during the first part of training."""
        memory, steps = self.config.memory, self.config.rollout
        if progress < self.config.ramp:
            steps = 1 + int(progress / self.config.ramp * (steps - 1))
        z = self._each(self.encoder, x)
        target = z if self.target is None else self._each(self.target, x)
        starts = range(x.shape[1] - memory - steps + 1)
        past = torch.stack([z[:, i : i + memory] for i in starts], 1)
        future = torch.stack([target[:, i + memory : i + memory + steps] for i in starts], 1)
        return {"prediction": _ERRORS[self.config.error](self.predictor.roll_out(past, steps), future)}, z

    @staticmethod
    def _each(encoder: nn.Module, x: Tensor) -> Tensor:
        return encoder(x.flatten(0, 1).permute(0, 3, 1, 2)).unflatten(0, x.shape[:2])

    def encode(self, frames: Tensor) -> tuple[Tensor, None]:
        """Frame by frame."""
        return self._each(self.encoder if self.target is None else self.target, frames), None

    def predict(self, context: Tensor, steps: int) -> Tensor:
        """Step after step."""
        return self.predictor.roll_out(self._each(self.encoder, context), steps)


@register
class VJEPA(MemberFamily):
    """Video JEPA."""

    name: ClassVar[str] = "vjepa"
    Config: ClassVar[type[FamilyConfig]] = VJEPAConfig
    config: VJEPAConfig
    mean_frame: Tensor  # [H, W, C], in [0, 1]
    contrast: Tensor  # [C], standard deviation about it

    def __init__(self, config: FamilyConfig, spec: Spec, seeds: Sequence[int]) -> None:
        super().__init__(config, spec, seeds)
        self.register_buffer("mean_frame", torch.zeros(self.space.shape))
        self.register_buffer("contrast", torch.ones(self.space.shape[-1]))

    def examples(self, episodes: Views) -> Views:
        """Whole episodes; their mean frame is subtracted from all frames, and each channel gets unit variance."""
        frames = episodes["frames"].flatten(0, 1)
        self.mean_frame.copy_(sum(part.double().sum(0) for part in frames.split(_AT_ONCE)) / len(frames) / 255)
        around = sum(
            (part / 255 - self.mean_frame).square().mean((1, 2)).double().sum(0) for part in frames.split(_AT_ONCE)
        )
        self.contrast.copy_((around / len(frames)).sqrt().clamp_min(1e-3))
        return super().examples(episodes)

    def pixels(self, frames: Tensor) -> Tensor:
        """What networks see of ``[..., H, W, C]`` uint8."""
        return (frames / 255 - self.mean_frame) / self.contrast

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Single images have no future."""
        return super().unsuitable(spec, config) or (None if spec.rows > 1 else "needs videos")

    @property
    def frames_per_latent(self) -> int:
        """The tubelet, or one frame."""
        return self.config.tubelet if self.config.predict == "masked" else 1

    @property
    def context(self) -> int:
        """The first half of a clip, or the dynamics' memory."""
        return self.config.clip // 2 if self.config.predict == "masked" else self.config.memory

    def make_member(self) -> nn.Module:
        """Encoder, predictor, and a target encoder that starts as a copy.

        Raises:
            UserError: the clip is longer than an episode, or frames are not cut by the patch.
        """
        if self.config.clip > self.spec.rows:
            raise UserError(
                f"vjepa.clip: {self.config.clip} frames do not fit into episodes of {self.spec.rows} of "
                f"'{self.spec.name}'; use a shorter clip"
            )
        return (_Masked if self.config.predict == "masked" else _RollOut)(self.config, self.space.shape)

    def member_loss(
        self, member: Any, batch: Views, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of prediction in feature space, and what keeps features apart."""
        config = self.config
        x = self.pixels(random_windows(batch["frames"], config.clip, generator))
        terms, latents = member.loss(x, generator, progress)
        error = torch.stack(list(terms.values())).sum()
        if config.anti_collapse == "ema":
            return error, terms
        terms["sigreg"] = sigreg(latents.flatten(0, 1), generator, config.directions, config.knots)
        return (1 - config.sigreg_weight) * error + config.sigreg_weight * terms["sigreg"], terms

    def _jepas(self) -> list[Any]:
        return list(self.members)

    def after_step(self, progress: float) -> None:
        """Move the target encoders."""
        del progress
        for member in self._jepas():
            if member.target is not None:
                member.target.update_parameters(member.encoder)

    def monitor(self) -> Views:
        """Spread and rank of the features, and how far the target encoder lags behind."""
        found = dict(super().monitor())
        if self.config.anti_collapse == "ema":
            found["target_drift"] = torch.tensor([member.target.drift(member.encoder) for member in self._jepas()])
        return found

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """One latent per frame or tubelet, of the target encoder where there is one; tokens of the transformer."""
        return member.encode(self.pixels(views["frames"]))

    def member_predict(
        self,
        member: Any,
        past: Views,
        steps: int,
        actions: Tensor | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Latents of what follows."""
        return {"latents": member.predict(self.pixels(past["frames"][:, -self.context :]), steps)}

    def illustrate(self, views: Views) -> Views:
        """A clip's start with the patches grey that one mask of blocks hides."""
        if self.config.predict == "rollout":
            return {}
        jepa, x = self._jepas()[0], views["frames"][:, : self.config.clip].float() / 255
        hidden = jepa.masks(len(x), False, torch.Generator().manual_seed(0)).targets
        return {"mask": shade(x, hidden, jepa.grid)}
