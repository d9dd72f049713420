"""Joint-embedding prediction on images: from what is visible, predict the *features* of what is hidden.

``predict: blocks`` is the paper: a context encoder sees the visible patches, a narrow predictor with mask tokens fills
in the features of hidden blocks, and the targets are the layer-normalised features of an encoder that follows slowly
(Assran et al. 2023, I-JEPA, section 3). ``predict: view`` asks less and learns faster where compute is short: the
features of masked, distorted views predict those of the whole image, and what keeps all of them from being equal is
a regulariser, not a slow target (Balestriero & LeCun 2025, LeJEPA; Bardes et al. 2022, VICReg).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import layer_norm, mse_loss, smooth_l1_loss

from wm_pipelines.blocks.augment import Augmentation, random_windows
from wm_pipelines.blocks.convolutional import projector, unit_gain
from wm_pipelines.blocks.ema import EMA
from wm_pipelines.blocks.masks import random_masks, shade
from wm_pipelines.blocks.sigreg import sigreg
from wm_pipelines.blocks.stem import StemmedTransformer
from wm_pipelines.blocks.transformer import take
from wm_pipelines.blocks.view_prediction import seen_in_views
from wm_pipelines.blocks.vit import Predictor, VisionTransformer
from wm_pipelines.blocks.workers import everyone, mine
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule, TrainedConfig, Views
from wm_pipelines.families.ijepa.masks import multi_block_masks
from wm_pipelines.families.ijepa.vicreg import vicreg_terms
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.mappings import Positive

_ERRORS = {"smooth_l1": smooth_l1_loss, "l2": mse_loss}


class IJEPAConfig(TrainedConfig):
    """Configuration of the image JEPA."""

    schedule: Schedule = Schedule(
        steps=1000, batch_size=128, learning_rate=2e-3, weight_decay=0.05, betas=(0.9, 0.95), warmup=50
    )
    predict: Literal["blocks", "view"] = Field("blocks", description="features of hidden blocks, or of the whole view")
    anti_collapse: Literal["ema", "sigreg", "vicreg"] = "ema"
    error: Literal["smooth_l1", "l2"] = "smooth_l1"
    stem: tuple[Positive, ...] | None = Field(
        None, min_length=1, description="channels of convolutions that halve, below one of `width`; null: patches"
    )
    patch: int = Field(7, ge=1, description="pixels, without a stem")
    width: int = Field(64, ge=2)
    depth: int = Field(3, ge=0, description="transformer blocks")
    heads: int = Field(4, ge=1)
    positions: Literal["sincos", "rope"] = "sincos"
    augment: Augmentation = Field(Augmentation(), description="of every view, for predict: view")
    # predict: blocks
    blocks: int = Field(4, ge=1, description="target blocks per image")
    block_scale: tuple[float, float] = Field((0.15, 0.2), description="area of a target block over the image's")
    predictor_width: int = Field(48, ge=2)
    predictor_depth: int | None = Field(None, ge=1, description="null: half of the encoder's")
    tau: float = Field(0.996, ge=0, le=1, description="first rate of the target encoder; the last is 1")
    evaluate: Literal["context", "target"] = Field("target", description="whose features are judged, for ema")
    # predict: view
    views: int = Field(2, ge=1, description="masked views per image")
    mask_ratio: float = Field(0.5, gt=0, lt=1)
    projector: tuple[Positive, ...] = Field(
        (256, 64), min_length=1, description="widths of its layers, the output last"
    )
    # regularisers
    sigreg_weight: float = Field(0.05, ge=0, le=1)
    directions: int = Field(64, ge=1)
    knots: int = Field(9, ge=2)
    vicreg_weights: tuple[float, float, float] = Field((25.0, 25.0, 1.0), description="error, variance, covariance")

    @model_validator(mode="after")
    def _possible(self) -> IJEPAConfig:
        if self.predict == "view" and self.anti_collapse == "ema":
            raise ValueError("predict: view needs anti_collapse: sigreg or vicreg; ema goes with predict: blocks")
        return self


class _JEPA(nn.Module):
    """The networks of one seed; the target encoder and the heads exist where the configuration uses them."""

    def __init__(self, encoder: VisionTransformer | StemmedTransformer, config: IJEPAConfig) -> None:
        super().__init__()
        self.encoder = encoder
        unit_gain(encoder)
        self.target = EMA(encoder, config.tau, config.schedule.steps) if config.anti_collapse == "ema" else None
        if config.predict == "blocks":
            depth = config.predictor_depth or max(1, config.depth // 2)
            sizes: dict[str, Any] = {"width": config.predictor_width, "depth": depth, "heads": config.heads}
            self.predictor = Predictor(encoder.grid, config.width, positions=config.positions, **sizes)
        else:
            self.projector = projector(config.width, config.projector)


@register
class IJEPA(MemberFamily):
    """Image JEPA; sees single frames, whether of images or of videos."""

    name: ClassVar[str] = "ijepa"
    Config: ClassVar[type[FamilyConfig]] = IJEPAConfig
    config: IJEPAConfig

    def make_member(self) -> nn.Module:
        """Encoder, predictor or projector, and a target encoder that starts as a copy."""
        config, (height, width, channels) = self.config, self.space.shape
        shape: dict[str, Any] = config.model_dump(include={"depth", "heads", "positions"})
        if config.stem is not None:
            return _JEPA(StemmedTransformer((height, width), channels, (*config.stem, config.width), **shape), config)
        shape |= {"width": config.width, "channels": channels}
        return _JEPA(VisionTransformer((height, width), config.patch, **shape), config)

    def member_loss(
        self,
        member: Any,
        batch: Views,
        generator: torch.Generator,
        progress: float,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of prediction in feature space, and what keeps features apart."""
        x = self.scaled(random_windows(batch["frames"], 1, generator))
        error, features = (self._blocks if self.config.predict == "blocks" else self._views)(member, x, generator)
        terms = {"prediction": error}
        if self.config.anti_collapse == "ema":
            return error, terms
        if self.config.anti_collapse == "sigreg":
            share, sketch = self.config.sigreg_weight, (self.config.directions, self.config.knots)
            terms["sigreg"] = torch.stack([sigreg(z, generator, *sketch) for z in features]).mean()
            return (1 - share) * error + share * terms["sigreg"], terms
        variance, covariance = (torch.stack(t).mean() for t in zip(*map(vicreg_terms, features), strict=True))
        terms |= {"variance": variance, "covariance": covariance}
        return torch.stack(list(terms.values())) @ error.new_tensor(self.config.vicreg_weights), terms

    def _blocks(self, member: Any, x: Tensor, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Predict the features of hidden blocks, each block on its own, from the visible patches (I-JEPA, eq. 1)."""
        count, grid = everyone(len(x)), member.encoder.grid[1:]
        masks = multi_block_masks(count, grid, self.config.blocks, self.config.block_scale, generator=generator)
        context, hidden = (mine(m).to(x.device) for m in masks)
        predicted = member.predictor(member.encoder(x, context), context, hidden)
        whole = member.encoder(x) if member.target is None else member.target(x)
        wanted = take(whole if member.target is None else layer_norm(whole, whole.shape[-1:]), hidden)
        return _ERRORS[self.config.error](predicted, wanted), list(whole.unbind(1))

    def _views(self, member: Any, x: Tensor, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Masked views against the full view of the same image, each distorted in its own way."""
        c = self.config
        full, masked = seen_in_views(
            member.encoder, member.projector, x[:, 0], c.augment, c.mask_ratio, c.views, generator
        )
        return _ERRORS[c.error](masked, full.expand_as(masked)), [full, *masked]

    def after_step(self, progress: float) -> None:
        """Move the target encoders."""
        del progress
        for member in self._members():
            if member.target is not None:
                member.target.update_parameters(member.encoder)

    def monitor(self) -> Views:
        """Spread and rank of the features, and how far the target encoder lags behind."""
        found = dict(super().monitor())
        if self.config.anti_collapse == "ema":
            drifts = [member.target.drift(member.encoder) for member in self._members() if member.target is not None]
            found["target_drift"] = torch.tensor(drifts)
        return found

    def _members(self) -> list[_JEPA]:
        return [member for member in self.members if isinstance(member, _JEPA)]

    def member_encode(self, member: Any, views: Views) -> tuple[Tensor, Tensor | None]:
        """Frame by frame: the mean of the tokens, and the tokens."""
        frames = views["frames"]
        target = member.target is not None and self.config.evaluate == "target"
        encoder = member.target if target else member.encoder
        tokens = encoder(self.scaled(frames.flatten(0, 1)[:, None])).unflatten(0, frames.shape[:2])
        return tokens.mean(2), tokens

    def illustrate(self, views: Views) -> Views:
        """The first frame of each episode, grey where one draw of the masks hides it."""
        encoder, x = self._members()[0].encoder, self.scaled(views["frames"][:, :1])
        generator = torch.Generator().manual_seed(0)
        if self.config.predict == "blocks":
            grid = encoder.grid[1:]
            hidden = multi_block_masks(
                len(x), grid, self.config.blocks, self.config.block_scale, generator=generator
            ).targets
        else:
            hidden = random_masks(len(x), encoder.tokens, self.config.mask_ratio, generator=generator).targets
        return {"mask": shade(x, hidden, encoder.grid)}
