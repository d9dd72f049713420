"""The reference world model: encode, move in latent space, decode; ``z = Enc(x)``, ``z' = f(z)``, ``x' = Dec(z')``.

Trained by ``|Dec(f(...f(Enc(x_<=t))...)) - x_{t+k}|^2`` over roll-outs of growing length, every latent from the
latents before it. The *stochastic* variant decodes a variance too and maximises ``log N(x_{t+k}; mean_k, diag
variance_k)``, the density of every later frame given the past. Three kinds of latent:

``vector``: one vector per frame (nets/vector_predictor.py); encodings are decoded too, and predicted from all places.
``local``: pictures moved by kernels that a convolutional network chooses place by place (nets/frame_predictor.py).
``layers``: the places of a few compact things over a still background, and what they look like (nets/layers.py). Since
places can be read before anything is learned, f is first trained on places alone, then all of it on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.families.protocol import FamilyConfig, Schedule
from wm_pipelines.nets.frame_predictor import FramePredictor
from wm_pipelines.nets.layers import LayeredPredictor
from wm_pipelines.nets.vector_predictor import VectorPredictor
from wm_pipelines.pixels import FrameSystem

Latent = VectorPredictor | FramePredictor | LayeredPredictor

_AT_ONCE = 64  # videos encoded or predicted together
Symmetry = Literal["rows", "columns", "transpose", "time"]


class LatentDynamicsConfig(FamilyConfig):
    """Configuration of the frame predictor."""

    schedule: Schedule = Schedule(
        steps=400, batch_size=16, learning_rate=2e-3, warmup=20, betas=(0.9, 0.99), gradient_clip=1.0
    )
    transition: Literal["vector", "local", "layers"] = "vector"
    context: int = Field(4, ge=1, description="frames that a prediction starts from")
    horizon: int = Field(8, ge=1, description="K, steps of the longest roll-out in training")
    ramp: float = Field(0.5, ge=0, le=1, description="share of training during which K grows from 1")
    symmetries: tuple[Symmetry, ...] = Field(
        (),
        description="of the world, by which whole videos are turned at random",
    )
    stochastic: bool = Field(False, description="decode a variance and train by likelihood; not with layers")
    sample: bool = Field(False, description="predict a sample instead of the mean; stochastic: true")
    widths: tuple[int, ...] = Field((16, 32, 64), min_length=1, description="channels per level of the convolutions")
    blocks: int = Field(1, ge=0, description="residual blocks per level, of local and layers")
    # transition: vector
    latent: int = Field(32, ge=1, description="features of a frame")
    hidden: int = Field(256, ge=1, description="width of f")
    latent_weight: float = Field(0.1, ge=0, description="of the error of predicted latents")
    # transition: local
    patch: int = Field(4, ge=1, description="pixels along a side of a latent's place")
    maps: int = Field(3, ge=1, description="pictures in a latent")
    reach: int = Field(4, ge=0, description="pixels that content can move in one step")
    # transition: layers
    layers: int = Field(2, ge=1, le=6, description="things; all orders of them are compared")
    extent: int = Field(32, ge=4, description="pixels across the largest")
    width: int = Field(32, ge=1, description="channels of the network that cleans their pictures")
    memory: int = Field(128, ge=4, description="width of f")
    followed: int = Field(1000, ge=1, description="training episodes whose things are followed before training")
    on_places: float = Field(0.9, ge=0, le=1, description="share of training on places alone, the rest is on pixels")
    place_batch: int = Field(128, ge=1, description="examples of a step on places")


@register
class LatentDynamics(PixelFamily):
    """Encoder, transition and decoder trained to predict frames."""

    name: ClassVar[str] = "latent_dynamics"
    Config: ClassVar[type[FamilyConfig]] = LatentDynamicsConfig
    config: LatentDynamicsConfig
    _followed: Tensor

    @classmethod
    def unsuitable(cls, system: FrameSystem) -> str | None:
        """Single pictures have no future."""
        return None if system.is_video else "needs videos"

    def __init__(self, config: LatentDynamicsConfig, system: FrameSystem, seeds: Sequence[int]) -> None:
        if config.stochastic and config.transition == "layers":
            raise UserError("latent_dynamics: stochastic needs transition: vector or local; layers predict means")
        if config.sample and not config.stochastic:
            raise UserError("latent_dynamics: sample needs stochastic: true; a mean has nothing to sample from")
        if "transpose" in config.symmetries and system.height != system.width:
            raise UserError("latent_dynamics: symmetry transpose needs square frames")
        super().__init__(config, system, seeds)

    @property
    def context(self) -> int:
        """Frames that a prediction starts from."""
        return self.config.context

    def make_member(self) -> nn.Module:
        """The networks of one kind of latent."""
        c, s = self.config, self.system
        size = (s.height, s.width)
        if c.transition == "layers":
            return LayeredPredictor(size, s.channels, c.context, c.layers, c.extent, c.width, c.blocks, c.memory)
        if c.transition == "vector":
            return VectorPredictor(size, s.channels, c.widths, c.latent, c.context, c.hidden, variance=c.stochastic)
        net = FramePredictor(
            size, s.channels, c.patch, c.maps, c.context, c.widths, c.blocks, c.reach, variance=c.stochastic
        )
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Whole episodes; before, the background (the median frame) and, for layers, the places in some of them."""
        frames, needed = episodes["frames"], self.config.context + self.config.horizon
        if frames.shape[1] < needed:
            raise UserError(
                f"latent_dynamics: episodes of {frames.shape[1]} frames are shorter than context {self.config.context} "
                f"+ horizon {self.config.horizon} = {needed}; lengthen the episodes or lower one of the two"
            )
        if self.config.transition != "local":
            self._look_around(frames)
        return super().examples(episodes)

    @torch.no_grad()
    def _look_around(self, frames: Tensor) -> None:
        some = frames[:, :: max(1, frames.shape[1] // 4)].flatten(0, 1)[:1000]
        background = to_pixels(some[None])[0].median(0).values
        for member in self.members:
            member.get_buffer("background").copy_(background)
        if self.config.transition == "layers":
            eye, parts = _layered(self.members[0]), frames[: self.config.followed].split(_AT_ONCE)
            places = torch.cat([eye.paths(to_pixels(part)) for part in parts])
            self.register_buffer("_followed", places, persistent=False)

    def monitor(self) -> Mapping[str, Tensor]:
        """Spread and rank of learned latents; places are not learned and cannot collapse."""
        return super().monitor() if self.config.transition != "layers" else {}

    def member_loss(
        self, member: nn.Module, frames: Tensor, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error per frame (or negative log-likelihood per number) of a roll-out, or of places alone."""
        c = self.config
        if c.transition == "layers" and progress < c.on_places:
            loss = self._place_loss(_layered(member), self._steps(progress / c.on_places), generator)
            return loss, {"pixels": torch.full_like(loss, math.nan), "places": loss}
        steps = self._steps(progress if c.transition != "layers" or not c.on_places else 1.0)
        length = c.context + (2 * c.horizon if c.transition == "vector" else steps)
        video = self._window(to_pixels(frames), min(length, frames.shape[1]), generator)
        if isinstance(member, VectorPredictor):
            return self._vector_loss(member, video, steps)
        past, future = video[:, : c.context], video[:, c.context :]
        if isinstance(member, LayeredPredictor):
            loss, terms = _squared(member.predict(past, steps), future)
            return loss, {**terms, "places": torch.full_like(loss, math.nan)}
        assert isinstance(member, FramePredictor)
        return self._pixel_loss(member, member.roll_out(member.encode(past), steps), future)

    def _pixel_loss(
        self, member: VectorPredictor | FramePredictor, latents: Tensor, future: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of decoded latents, or their negative log-likelihood."""
        mean = member.decode(latents)
        if not self.config.stochastic:
            return _squared(mean, future)
        loss = gaussian_nll(future, mean, member.decode_log_variance(latents)).mean()
        return loss, {"nll": loss, "pixels": (mean - future).square().mean()}

    def _vector_loss(self, member: VectorPredictor, video: Tensor, steps: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Error of a roll-out, of decoded encodings, and of latents predicted from every place of the video."""
        memory = self.config.context
        z = member.encode(video)
        starts = range(z.shape[1] - memory - steps + 1)
        past = torch.stack([z[:, i : i + memory] for i in starts], 1)
        came = torch.stack([z[:, i + memory : i + memory + steps] for i in starts], 1)
        predicted = member.roll_out(past, steps)
        shown = video[:, memory : memory + steps]
        loss, terms = self._pixel_loss(member, predicted[:, 0], shown)
        decoded, _ = _squared(member.decode(came[:, 0]), shown)
        latent = (predicted - came).square().mean()
        return loss + decoded + self.config.latent_weight * latent, {**terms, "decoded": decoded, "latent": latent}

    def _steps(self, progress: float) -> int:
        """K grows linearly to the horizon during the ramp."""
        share = 1.0 if self.config.ramp == 0 else min(1.0, progress / self.config.ramp)
        return max(1, math.ceil(share * self.config.horizon))

    def _window(self, video: Tensor, length: int, generator: torch.Generator) -> Tensor:
        """A random piece of ``[B, T, C, H, W]``, turned by a random symmetry; the same for the whole batch."""
        first = int(torch.randint(video.shape[1] - length + 1, (), generator=generator))
        video = video[:, first : first + length]
        turned = torch.rand(4, generator=generator) < 0.5
        axes = {"rows": -2, "columns": -1, "time": 1}
        for name, turn in zip(("rows", "columns", "transpose", "time"), turned.tolist(), strict=True):
            if turn and name in self.config.symmetries:
                video = video.transpose(-1, -2) if name == "transpose" else video.flip(axes[name])
        return video

    def _place_loss(self, member: LayeredPredictor, steps: int, generator: torch.Generator) -> Tensor:
        """Error of f on followed places, in pixels: quadratic below one pixel, linear above, as following may fail."""
        chosen = torch.randint(len(self._followed), (self.config.place_batch,), generator=generator)
        paths = self._turned_places(self._followed[chosen.to(self._followed.device)], generator)
        length = self.config.context + steps
        first = int(torch.randint(paths.shape[1] - length + 1, (), generator=generator))
        paths = paths[:, first : first + length]
        predicted, _ = member.motion(paths[:, : self.config.context], steps)
        return smooth_l1_loss(predicted, paths[:, self.config.context :])

    def _turned_places(self, paths: Tensor, generator: torch.Generator) -> Tensor:
        """`_window`'s symmetries for places ``[B, T, L, 2]``, each example its own."""
        turned = (torch.rand(4, len(paths), 1, 1, generator=generator) < 0.5).to(paths.device)
        rows, columns = paths.unbind(-1)
        named = self.config.symmetries
        if "rows" in named:
            rows = torch.where(turned[0], self.system.height - 1 - rows, rows)
        if "columns" in named:
            columns = torch.where(turned[1], self.system.width - 1 - columns, columns)
        if "transpose" in named:
            rows, columns = torch.where(turned[2], columns, rows), torch.where(turned[2], rows, columns)
        paths = torch.stack([rows, columns], -1)
        return torch.where(turned[3, ..., None], paths.flip(1), paths) if "time" in named else paths

    # ------------------------------------------------------------------------------------------------------------ use

    def member_encode(self, member: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """One vector per frame, from it and the frames before it: what `pooled` of its networks says."""
        return torch.cat([_of(member).pooled(to_pixels(part)) for part in frames.split(_AT_ONCE)]), None

    def member_predict(self, member: nn.Module, context: Tensor, steps: int) -> tuple[Tensor | None, Tensor | None]:
        """Frames, and the encoding of the predicted frames as if they had been seen."""
        if context.shape[1] < self.context:
            raise UserError(f"latent_dynamics: {context.shape[1]} frames of context; it was trained on {self.context}")
        found = [self._predicted(_of(member), to_pixels(part), steps) for part in context.split(_AT_ONCE)]
        return torch.cat([f for f, _ in found]).movedim(2, -1), torch.cat([z for _, z in found])

    def _predicted(self, member: Latent, past: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        past = past[:, -self.context :]
        if isinstance(member, LayeredPredictor):
            future = member.predict(past, steps)
        else:
            latents = member.roll_out(member.encode(past), steps)
            future = member.decode(latents)
            if self.config.sample:
                future = future + _noise(future) * (0.5 * member.decode_log_variance(latents)).exp()
        future = future.clamp(0, 1)
        return future, member.pooled(torch.cat([past, future], 1))[:, past.shape[1] :]


def to_pixels(frames: Tensor) -> Tensor:
    """``[B, T, H, W, C]`` uint8 -> ``[B, T, C, H, W]`` float in [0, 1]."""
    return frames.movedim(-1, 2).float().div(255)


def gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """``-log N(x; mean, exp(log_variance))`` of every number."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).square() * (-log_variance).exp())


def _of(member: nn.Module) -> Latent:
    assert isinstance(member, Latent)
    return member


def _layered(member: nn.Module) -> LayeredPredictor:
    assert isinstance(member, LayeredPredictor)
    return member


def _noise(like: Tensor) -> Tensor:
    """Normal numbers ``[B, K, ...]``; those of the first steps do not depend on how many follow."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randn(step.shape, generator=generator) for step in like.unbind(1)], 1).to(like)


def _squared(predicted: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared error summed over a frame, in hundreds so that the gradient is of order one, and per pixel."""
    error = (predicted - truth).square()
    return error.sum((2, 3, 4)).mean() / 100, {"pixels": error.mean()}
