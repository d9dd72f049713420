"""Video JEPA: predict the *features* of what a video hides, never its pixels.

``predict: masked`` is the paper (Bardes et al. 2024, V-JEPA, section 3): a transformer sees the visible tubelets of a
clip, a narrow predictor with mask tokens fills in the features of the hidden ones. What is hidden are spatio-temporal
blocks, or all that comes after the first half of the clip; that mask is the one by which the future is predicted.
``predict: rollout`` asks for the future alone: every frame is one latent, and the dynamics is applied to its own
predictions, K steps far, against the encodings of what came (Assran et al. 2025, V-JEPA 2-AC, section 3.1, without
actions). What keeps latents apart is a slow target encoder (EMA), or SIGReg without any (Balestriero & LeCun 2025,
LeJEPA). Nothing ever looks ahead in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss, smooth_l1_loss

from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.families.protocol import FamilyConfig, Schedule
from wm_pipelines.nets.augment import random_windows
from wm_pipelines.nets.ema import EMA, ema_schedule
from wm_pipelines.nets.frame_encoder import FrameEncoder, LatentDynamics
from wm_pipelines.nets.masks import Masks, spatiotemporal_masks, temporal_half_mask
from wm_pipelines.nets.regularisers import sigreg
from wm_pipelines.nets.tubelet_encoder import TubeletEncoder, widen_weights
from wm_pipelines.nets.vit import Predictor, take
from wm_pipelines.pixels import FrameSystem

_ERRORS = {"l1": l1_loss, "l2": mse_loss, "smooth_l1": smooth_l1_loss}


class VJEPAConfig(FamilyConfig):
    """Configuration of the video JEPA."""

    schedule: Schedule = Schedule(
        steps=600, batch_size=16, learning_rate=3e-3, weight_decay=1e-3, warmup=30, gradient_clip=1.0
    )
    predict: Literal["masked", "rollout"] = Field("masked", description="hidden tubelets, or latents of later frames")
    anti_collapse: Literal["ema", "sigreg"] = "sigreg"
    error: Literal["l1", "l2", "smooth_l1"] = "l2"
    clip: int = Field(16, ge=2, description="frames of one example")
    # predict: masked
    tubelet: int = Field(2, ge=1, description="frames per token")
    patch: int = Field(16, ge=1, description="pixels")
    width: int = Field(64, ge=2)
    depth: int = Field(3, ge=1)
    heads: int = Field(4, ge=1)
    positions: Literal["sincos", "rope"] = "sincos"
    predictor_width: int = Field(64, ge=2)
    predictor_depth: int = Field(3, ge=1)
    half_share: float = Field(0.5, ge=0, le=1, description="share of steps whose mask hides the clip's second half")
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of tokens hidden by blocks, in the other steps")
    mask_block: tuple[int, int] = Field((3, 1), description="instants and places along a side of a block")
    pooled_weight: float = Field(1.0, ge=0, description="of the error of what is predicted, averaged over places")
    # predict: rollout
    widths: tuple[int, ...] = Field((16, 32, 64), min_length=1, description="channels of the convolutional layers")
    latent: int = Field(32, ge=1, description="features of a frame")
    memory: int = Field(4, ge=1, description="latents that the next one is predicted from")
    hidden: int = Field(256, ge=1, description="width of the dynamics' perceptron")
    layers: int = Field(2, ge=1, description="its hidden layers")
    rollout: int = Field(4, ge=1, description="K, steps of prediction in training")
    ramp: float = Field(0.5, ge=0, le=1, description="share of training during which K grows from 1")
    # against collapse
    tau: float = Field(0.996, ge=0, le=1, description="first rate of the target encoder; the last is 1")
    sigreg_weight: float = Field(0.02, ge=0, le=1)
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

    def __init__(self, config: VJEPAConfig, system: FrameSystem) -> None:
        super().__init__()
        self.config = config
        size, shape = (system.height, system.width), {"heads": config.heads, "positions": config.positions}
        video = {"channels": system.channels, "frames": config.clip, "tubelet": config.tubelet}
        self.encoder = TubeletEncoder(size, config.patch, width=config.width, depth=config.depth, **video, **shape)
        sizes = {"width": config.predictor_width, "depth": config.predictor_depth}
        self.predictor = Predictor(self.encoder.grid, config.width, **sizes, **shape)
        widen_weights(self.predictor)
        self.target = EMA(self.encoder) if config.anti_collapse == "ema" else None

    def masks(self, count: int, future: bool, generator: torch.Generator) -> Masks:
        """Hide the second half, or blocks."""
        if future:
            return temporal_half_mask(count, self.encoder.grid)
        span, block = self.config.mask_block
        return spatiotemporal_masks(count, self.encoder.grid, span, block, self.config.mask_ratio, generator=generator)

    def loss(self, x: Tensor, generator: torch.Generator, progress: float) -> tuple[dict[str, Tensor], Tensor]:  # noqa: ARG002
        """Errors of hidden tokens, ``|P(E(x_seen), where) - E'(x)_hidden|`` (V-JEPA, eq. 1), and of their average."""
        future = bool(torch.rand((), generator=generator) < self.config.half_share)
        context, hidden = (m.to(x.device) for m in self.masks(len(x), future, generator))
        whole = self.encoder(x) if self.target is None else self.target(x)
        # Nothing looks ahead: alone or with its future, the first half has the same tokens.
        shared = future and self.target is None
        seen = take(whole, context) if shared else self.encoder(x, context)
        predicted = self.predictor(seen, context, hidden)
        error, latents = _ERRORS[self.config.error], self.encoder.pool(whole)
        terms = {"tokens": error(predicted, take(whole, hidden)), "future": predicted.new_zeros(())}
        if future:
            pooled = self.encoder.pool(predicted, like=whole)
            terms["future"] = self.config.pooled_weight * error(pooled, latents[:, -pooled.shape[1] :])
        return terms, latents

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Clip by clip, the last one shorter; frames beyond the last whole tubelet are left out."""
        tubelet, encoder = self.config.tubelet, self.encoder if self.target is None else self.target
        clips = frames[:, : frames.shape[1] // tubelet * tubelet].split(self.config.clip, dim=1)
        tokens = torch.cat([encoder(clip.float() / 255) for clip in clips], 1)
        return self.encoder.pool(tokens), tokens.unflatten(1, (-1, self.encoder.places))

    def predict(self, context: Tensor, steps: int) -> Tensor:
        """Half a clip after half a clip; what follows that is predicted from predictions."""
        seen, hidden = (m.to(context.device) for m in temporal_half_mask(len(context), self.encoder.grid))
        tokens, instants = self.encoder(context.float() / 255), steps // self.config.tubelet
        found: list[Tensor] = []
        while sum(z.shape[1] for z in found) < instants:
            tokens = self.predictor(tokens, seen, hidden)
            found.append(self.encoder.pool(tokens))
        return torch.cat(found, 1)[:, :instants] if found else tokens.new_empty(len(tokens), 0, tokens.shape[-1])


class _RollOut(nn.Module):
    """Frame encoder, dynamics and target encoder of one seed, for ``predict: rollout``."""

    def __init__(self, config: VJEPAConfig, system: FrameSystem) -> None:
        super().__init__()
        self.config = config
        self.encoder = FrameEncoder((system.height, system.width), system.channels, config.widths, config.latent)
        self.predictor = LatentDynamics(config.latent, config.memory, config.hidden, config.layers)
        self.target = EMA(self.encoder) if config.anti_collapse == "ema" else None

    def loss(self, x: Tensor, generator: torch.Generator, progress: float) -> tuple[dict[str, Tensor], Tensor]:  # noqa: ARG002
        """Error of ``z`` after 1 … K steps from every place of the clip; K grows during the first part of training."""
        memory, steps = self.config.memory, self.config.rollout
        if progress < self.config.ramp:
            steps = 1 + int(progress / self.config.ramp * (steps - 1))
        z = self._each(self.encoder, x)
        came = z if self.target is None else self._each(self.target, x)
        starts = range(x.shape[1] - memory - steps + 1)
        past = torch.stack([z[:, i : i + memory] for i in starts], 1)
        future = torch.stack([came[:, i + memory : i + memory + steps] for i in starts], 1)
        return {"prediction": _ERRORS[self.config.error](self.predictor.roll_out(past, steps), future)}, z

    @staticmethod
    def _each(encoder: nn.Module, x: Tensor) -> Tensor:
        return encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def encode(self, frames: Tensor) -> tuple[Tensor, None]:
        """Frame by frame."""
        return self._each(self.encoder if self.target is None else self.target, frames.float() / 255), None

    def predict(self, context: Tensor, steps: int) -> Tensor:
        """Step after step."""
        return self.predictor.roll_out(self._each(self.encoder, context.float() / 255), steps)


@register
class VJEPA(PixelFamily):
    """Video JEPA."""

    name: ClassVar[str] = "vjepa"
    Config: ClassVar[type[FamilyConfig]] = VJEPAConfig
    config: VJEPAConfig

    @classmethod
    def unsuitable(cls, system: Any) -> str | None:
        """Single pictures have no future."""
        return None if system.is_video else "has no videos"

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
            UserError: the clip is longer than an episode, or pictures are not cut by the patch.
        """
        if self.config.clip > self.system.rows:
            raise UserError(
                f"vjepa.clip: {self.config.clip} frames do not fit into episodes of {self.system.rows} of "
                f"'{self.system.name}'; use a shorter clip"
            )
        return (_Masked if self.config.predict == "masked" else _RollOut)(self.config, self.system)

    def member_loss(
        self, member: nn.Module, frames: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of prediction in feature space, and what keeps features apart."""
        config = self.config
        x = random_windows(frames, config.clip, generator).float() / 255
        terms, latents = member.loss(x, generator, progress)
        error = torch.stack(list(terms.values())).sum()
        if config.anti_collapse == "ema":
            return error, terms
        terms["sigreg"] = sigreg(latents.flatten(0, 1), generator, config.directions, config.knots)
        return (1 - config.sigreg_weight) * error + config.sigreg_weight * terms["sigreg"], terms

    def after_step(self, progress: float) -> None:
        """Move the target encoders; the rate is exactly ``tau`` at the first step and 1 at the last."""
        done = round(progress * self.config.schedule.steps)
        rate = ema_schedule(self.config.tau, 1.0, (done - 1) / max(1, self.config.schedule.steps - 1))
        for member in self.members:
            if member.target is not None:
                member.target.update(member.encoder, rate)

    def monitor(self) -> Mapping[str, Tensor]:
        """Spread and rank of the features, and how far the target encoder lags behind."""
        found = dict(super().monitor())
        if self.config.anti_collapse == "ema":
            found["target_drift"] = torch.tensor([member.target.drift(member.encoder) for member in self.members])
        return found

    def member_encode(self, member: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """One latent per frame or tubelet, of the target encoder where there is one; tokens of the transformer."""
        return member.encode(frames)

    def member_predict(self, member: nn.Module, context: Tensor, steps: int) -> tuple[None, Tensor]:
        """Latents of what follows."""
        return None, member.predict(context[:, -self.context :], steps)

    def illustrate(self, frames: Tensor) -> Mapping[str, Tensor]:
        """A clip's start with the places grey that one mask of blocks hides."""
        if self.config.predict == "rollout":
            return {}
        x = frames[:, : self.config.clip].float() / 255
        hidden = self.members[0].masks(len(x), False, torch.Generator().manual_seed(0)).targets
        grid, patch = self.members[0].encoder.grid, self.config.patch
        shade = torch.zeros(len(x), grid[0] * grid[1] * grid[2]).scatter_(1, hidden, 1.0).view(len(x), *grid)
        for axis, times in ((1, self.config.tubelet), (2, patch), (3, patch)):
            shade = shade.repeat_interleave(times, axis)
        return {"mask": torch.where(shade[:, : x.shape[1], ..., None].to(x.device) > 0, 0.5, x)}
