"""Settings of the video JEPA, in all its ways."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch.nn.functional import l1_loss, mse_loss, smooth_l1_loss

from wm_pipelines.families.base import Schedule, TrainedConfig
from wm_pipelines.mappings import Positive

ERRORS = {"l1": l1_loss, "l2": mse_loss, "smooth_l1": smooth_l1_loss}


class VJEPAConfig(TrainedConfig):
    """Configuration of the video JEPA."""

    schedule: Schedule = Schedule(
        steps=600, batch_size=16, learning_rate=3e-3, weight_decay=1e-3, warmup=30, gradient_clip=1.0
    )
    predict: Literal["masked", "rollout", "actions"] = Field(
        "masked", description="hidden tubelets, latents of later frames, or those that follow actions"
    )
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
    # predict: rollout; and actions, whose encoder is trained so
    widths: tuple[Positive, ...] = Field((16, 32, 64), min_length=1, description="channels of the convolutional layers")
    memory: int = Field(4, ge=1, description="latents that the next one is predicted from")
    hidden: int = Field(256, ge=1, description="width of the dynamics' perceptron")
    layers: int = Field(2, ge=1, description="its hidden layers")
    rollout: int = Field(4, ge=1, description="K, steps of prediction in training")
    ramp: float = Field(0.5, ge=0, le=1, description="share of training during which K grows from 1")
    # predict: actions
    pool: int = Field(1, ge=1, description="pixels along a side of a frame that are averaged to one")
    encoder_share: float = Field(
        0.4, gt=0, lt=1, description="share of training in which the encoder is trained on frames alone, then frozen"
    )
    horizon: int = Field(2, ge=1, description="steps of a roll-out under actions in training")
    pieces: int = Field(4, ge=1, description="such roll-outs from every episode of a batch")
    reward_weight: float = Field(1.0, ge=0, description="of the squared error of standardised rewards")
    # against collapse
    tau: float = Field(0.996, ge=0, le=1, description="first rate of the target encoder; the last is 1")
    sigreg_weight: float = Field(0.05, ge=0, le=1)
    directions: int = Field(64, ge=1)
    knots: int = Field(9, ge=2)

    @model_validator(mode="after")
    def _possible(self) -> VJEPAConfig:
        if self.predict != "masked" and self.clip < self.memory + self.rollout:
            raise ValueError(
                f"clip: {self.clip} frames are less than memory {self.memory} and rollout {self.rollout}; lengthen it"
            )
        if self.predict == "masked" and self.clip % (2 * self.tubelet):
            unit = 2 * self.tubelet
            raise ValueError(f"clip: {self.clip} frames are no two halves of tubelets; use a multiple of {unit}")
        if self.predict != "actions" and self.pool > 1:
            raise ValueError(f"predict: {self.predict} sees frames as they are; leave out pool")
        if self.predict == "actions" and self.anti_collapse == "ema":
            raise ValueError("predict: actions freezes one encoder and has no other; use anti_collapse: sigreg")
        return self
