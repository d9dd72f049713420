"""What one seed of `transfusion` has, and the settings that it is built by."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.blocks.ema import EMA
from wm_pipelines.blocks.encoders import ENCODERS
from wm_pipelines.blocks.flow_condition import Pixels
from wm_pipelines.families.base import Schedule, TrainedConfig
from wm_pipelines.families.transfusion.autoencoder import Autoencoder
from wm_pipelines.families.transfusion.network import Network, Size
from wm_pipelines.families.transfusion.noise import Noise
from wm_pipelines.families.transfusion.vocabulary import Vocabulary
from wm_pipelines.spec import Space, Spec


class TransfusionConfig(TrainedConfig):
    """Defaults in ``conf/base/parameters_transfusion.yml``."""

    schedule: Schedule = Schedule(
        steps=1500, batch_size=32, learning_rate=1.5e-3, final_learning_rate=0.0, warmup=50, betas=(0.9, 0.99),
        gradient_clip=1.0,
    )  # fmt: skip
    # the transformer
    width: int = Field(128, ge=2, description="D, features of a token or patch")
    depth: int = Field(5, ge=1, description="blocks")
    heads: int = Field(4, ge=1)
    causal_images: bool = Field(False, description="ablation: patches see no later ones of their image")
    # text
    vocabulary: int = Field(400, ge=262, description="tokens at most: 5 special ones, 256 bytes, merges")
    longest: int = Field(48, ge=1, description="tokens of a caption at most")
    text_only: bool = Field(False, description="the control: captions alone are learned, without any image")
    # images
    images: int = Field(1, ge=1, description="images of a document at most")
    patch: int = Field(8, ge=1, description="pixels along the side of a patch")
    stem: Literal["linear", "unet"] = Field("unet", description="from pixels to patches and back")
    channels: int = Field(32, ge=1, description="of the U-Net's convolutions")
    latents: int = Field(0, ge=0, description="channels of an autoencoder's latents, in place of pixels; 0: pixels")
    latent_share: float = Field(0.25, gt=0, lt=1, description="of the steps, which fit the autoencoder first")
    # diffusion
    prediction: Literal["x0", "eps", "v", "flow"] = "x0"
    noise_schedule: Literal["cosine", "linear"] = "cosine"
    shift: float = Field(9.0, gt=0, description="factor on noise over signal: more of the levels in the noise")
    noise_before_text: float = Field(0.0, ge=0, le=1, description="share of the levels for images before their text")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of captions left out before images, for guidance")
    # the loss
    balance: Literal["fixed", "dynamic"] = Field("fixed", description="dynamic: lambda keeps both terms alike")
    weight: float = Field(5.0, gt=0, description="lambda, of the diffusion loss")
    detail: float = Field(0.0, ge=0, description="kappa: an error at little noise weighs 1 + min(kappa SNR, most)")
    detail_most: float = Field(7.0, ge=0, description="of what little noise adds to the weight")
    average: float = Field(0.99, ge=0, lt=1, description="rate of the moving average of the weights; 0: none")
    # sampling
    guidance: float = Field(2.5, ge=0, description="w: 0 without the caption, 1 with it, more beyond it")
    sample_steps: int = Field(12, ge=1, description="DDIM or Euler steps of a sample")

    @model_validator(mode="after")
    def _possible(self) -> TransfusionConfig:
        if self.guidance != 1.0 and not self.dropout:
            raise ValueError("guidance needs dropout above 0: without it the model knows no image without a caption")
        if self.text_only and self.latents:
            raise ValueError("text_only has no images, hence no latents")
        if self.causal_images and self.stem != "linear":
            raise ValueError("causal_images needs the linear stem: convolutions look at later patches")
        return self


class TransfusionMember(nn.Module):
    """What one seed has: a vocabulary, units of pixels, levels of noise, the network and its moving average."""

    average: EMA | None
    text_level: Tensor
    image_level: Tensor

    def __init__(self, config: TransfusionConfig, spec: Spec) -> None:
        super().__init__()
        c = config
        self.vocabulary = Vocabulary(c.vocabulary, c.longest)
        # Nothing of a model of text alone depends on the frames: its image is one patch that it never sees.
        self.pixels = Pixels(Space("frames", (c.patch, c.patch, 1), "uint8") if c.text_only else spec.views["frames"])
        self.noise = Noise(c.noise_schedule, c.shift, c.prediction)
        channels, height, width = self.pixels.centre.shape
        shape = (channels, height, width)
        self.autoencoder = Autoencoder(shape, c.latents, c.channels) if c.latents else None
        if self.autoencoder is not None:
            shape = self.autoencoder.shape
        text = c.longest + 3 + c.images  # begin and end of a text, begin and end of images
        self.network = Network(
            Size(
                c.vocabulary, text, c.images, shape, c.patch, c.width, c.depth, c.heads, c.stem, c.channels
            ),
            c.causal_images,
        )  # fmt: skip
        self.average = None
        self.register_buffer("text_level", torch.ones(()))
        self.register_buffer("image_level", torch.ones(()))

    def data(self, frames: Tensor) -> Tensor:
        """Frames ``[N, H, W, C]`` uint8 as data of the diffusion ``[N, C, H, W]``, pixels or latents."""
        x = self.scaled(frames)
        if self.autoencoder is None:
            return x
        with torch.no_grad():
            return self.autoencoder.encode(x)

    def scaled(self, frames: Tensor) -> Tensor:
        """Frames ``[N, H, W, C]`` uint8 in units of their spread, ``[N, C, H, W]``."""
        x = ENCODERS["frames"].inputs(frames)
        return self.pixels.encode(x).unflatten(1, x.shape[1:])

    def frames(self, data: Tensor) -> Tensor:
        """Data of the diffusion as frames ``[N, H, W, C]`` in [0, 1]."""
        x = data if self.autoencoder is None else self.autoencoder.decode(data)
        return self.pixels.decode(x.flatten(1)).movedim(1, -1).clamp(0.0, 1.0)

    def limits(self) -> tuple[Tensor, Tensor] | None:
        """Black and white in the units of the data; latents have no limits."""
        if self.autoencoder is not None:
            return None
        black, white = ((v - self.pixels.centre) / self.pixels.scale for v in (0.0, 1.0))
        return black, white
