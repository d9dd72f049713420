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

from collections.abc import Mapping, Sequence
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
from wm_pipelines.nets.masks import Masks, shade, spatiotemporal_masks, temporal_half_mask
from wm_pipelines.nets.regularisers import sigreg
from wm_pipelines.nets.transformer import take
from wm_pipelines.nets.tubelet_encoder import TubeletEncoder, widen_weights
from wm_pipelines.nets.vit import Predictor
from wm_pipelines.pixels import FrameSystem

_ERRORS = {"l1": l1_loss, "l2": mse_loss, "smooth_l1": smooth_l1_loss}
_AT_ONCE = 1024  # frames averaged together


class VJEPAConfig(FamilyConfig):
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
    stem: tuple[int, int] = Field((16, 32), description="channels of the convolutions inside a patch")
    width: int = Field(64, ge=2)
    depth: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    positions: Literal["sincos", "rope"] = "sincos"
    predictor_width: int = Field(64, ge=2)
    predictor_depth: int = Field(3, ge=1)
    half_share: float = Field(0.5, ge=0, le=1, description="share of steps whose mask hides the clip's second half")
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of tokens hidden by blocks, in the other steps")
    mask_block: tuple[int, int] = Field((2, 1), description="instants and places along a side of a block")
    # predict: rollout
    widths: tuple[int, ...] = Field((16, 32, 64), min_length=1, description="channels of the convolutional layers")
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

    def __init__(self, config: VJEPAConfig, system: FrameSystem) -> None:
        super().__init__()
        self.config = config
        size, shared = (system.height, system.width), {"heads": config.heads, "positions": config.positions}
        sizes: dict[str, Any] = config.model_dump(include={"stem", "width", "depth", "latent", "tubelet"}) | shared
        self.encoder = TubeletEncoder(size, config.patch, channels=system.channels, **sizes)
        self.grid = self.encoder.grid(config.clip)
        sizes = {"width": config.predictor_width, "depth": config.predictor_depth} | shared
        self.predictor = Predictor(self.grid, config.latent, **sizes)
        widen_weights(self.predictor)
        self.target = EMA(self.encoder) if config.anti_collapse == "ema" else None

    def masks(self, count: int, future: bool, generator: torch.Generator) -> Masks:
        """Hide the second half; or blocks of places for some instants, then others: as many places at every instant."""
        if future:
            return temporal_half_mask(count, self.grid)
        instants, (span, block) = self.grid[0], self.config.mask_block
        turns, places = -(-instants // span), (1, *self.grid[1:])
        drawn = spatiotemporal_masks(count * turns, places, 1, block, self.config.mask_ratio, generator=generator)
        return Masks(*(self._through_time(part.unflatten(0, (count, turns)), span) for part in drawn))

    def _through_time(self, places: Tensor, span: int) -> Tensor:
        """Places ``[B, turns, K]``, each for ``span`` instants, as tokens of the clip."""
        instants = torch.arange(self.grid[0])
        return (places[:, instants // span] + self.encoder.places * instants[:, None]).flatten(1)

    def loss(self, x: Tensor, generator: torch.Generator, progress: float) -> tuple[dict[str, Tensor], Tensor]:  # noqa: ARG002
        """Error of the hidden tokens, ``|P(E(x_seen), where) - E'(x)_hidden|`` (V-JEPA, eq. 1)."""
        future = bool(torch.rand((), generator=generator) < self.config.half_share)
        context, hidden = (m.to(x.device) for m in self.masks(len(x), future, generator))
        found = self.encoder(x) if self.target is None else self.target(x)
        units = self.encoder.units(found)
        whole = self.encoder.standard(found, units)
        if future and self.target is None:
            seen = take(whole, context)  # instants are encoded apart: alone they have the very same tokens
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
        return self.encoder.pool(tokens), tokens.unflatten(1, (-1, self.encoder.places))

    def _tokens(self, encoder: nn.Module, clip: Tensor) -> Tensor:
        tokens = encoder(clip)
        return self.encoder.standard(tokens, self.encoder.units(tokens))

    def predict(self, context: Tensor, steps: int) -> Tensor:
        """Half a clip after half a clip; what follows that is predicted from predictions."""
        seen, hidden = (m.to(context.device) for m in temporal_half_mask(len(context), self.grid))
        tokens, instants = self._tokens(self.encoder, context), steps // self.config.tubelet
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
        return self._each(self.encoder if self.target is None else self.target, frames), None

    def predict(self, context: Tensor, steps: int) -> Tensor:
        """Step after step."""
        return self.predictor.roll_out(self._each(self.encoder, context), steps)


@register
class VJEPA(PixelFamily):
    """Video JEPA."""

    name: ClassVar[str] = "vjepa"
    Config: ClassVar[type[FamilyConfig]] = VJEPAConfig
    config: VJEPAConfig
    mean_frame: Tensor  # [H, W, C], in [0, 1]
    contrast: Tensor  # [C], standard deviation about it

    def __init__(self, config: FamilyConfig, system: FrameSystem, seeds: Sequence[int]) -> None:
        super().__init__(config, system, seeds)
        self.register_buffer("mean_frame", torch.zeros(system.height, system.width, system.channels))
        self.register_buffer("contrast", torch.ones(system.channels))

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
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
        self, member: Any, frames: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of prediction in feature space, and what keeps features apart."""
        config = self.config
        x = self.pixels(random_windows(frames, config.clip, generator))
        terms, latents = member.loss(x, generator, progress)
        error = torch.stack(list(terms.values())).sum()
        if config.anti_collapse == "ema":
            return error, terms
        terms["sigreg"] = sigreg(latents.flatten(0, 1), generator, config.directions, config.knots)
        return (1 - config.sigreg_weight) * error + config.sigreg_weight * terms["sigreg"], terms

    def _jepas(self) -> list[Any]:
        return list(self.members)

    def after_step(self, progress: float) -> None:
        """Move the target encoders; the rate is exactly ``tau`` at the first step and 1 at the last."""
        done = round(progress * self.config.schedule.steps)
        rate = ema_schedule(self.config.tau, 1.0, (done - 1) / max(1, self.config.schedule.steps - 1))
        for member in self._jepas():
            if member.target is not None:
                member.target.update(member.encoder, rate)

    def monitor(self) -> Mapping[str, Tensor]:
        """Spread and rank of the features, and how far the target encoder lags behind."""
        found = dict(super().monitor())
        if self.config.anti_collapse == "ema":
            found["target_drift"] = torch.tensor([member.target.drift(member.encoder) for member in self._jepas()])
        return found

    def member_encode(self, member: Any, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """One latent per frame or tubelet, of the target encoder where there is one; tokens of the transformer."""
        return member.encode(self.pixels(frames))

    def member_predict(self, member: Any, context: Tensor, steps: int) -> tuple[None, Tensor]:
        """Latents of what follows."""
        return None, member.predict(self.pixels(context[:, -self.context :]), steps)

    def illustrate(self, frames: Tensor) -> Mapping[str, Tensor]:
        """A clip's start with the places grey that one mask of blocks hides."""
        if self.config.predict == "rollout":
            return {}
        jepa, x = self._jepas()[0], frames[:, : self.config.clip].float() / 255
        hidden = jepa.masks(len(x), False, torch.Generator().manual_seed(0)).targets
        return {"mask": shade(x, hidden, jepa.grid)}
