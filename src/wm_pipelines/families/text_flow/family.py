"""A frame from a sentence: conditional flow matching with classifier-free guidance.

Noise is carried to ``p(frame | caption)`` along ``x_t = (1 - t) x_0 + t x_1``; the velocity is regressed on
``x_1 - x_0`` as in `flow` (Lipman et al., *Flow matching for generative modeling*, ICLR 2023). The data ``x_1`` are the
pixels, less their background and in units of their spread. The condition is the embedding of the caption, which is left
out for a share ``dropout`` of the examples, so that samples can be guided away from what the flow says without it (Ho
and Salimans, *Classifier-free diffusion guidance*, 2022).

What stands where is decided early on the path, where almost all is noise. Times are therefore drawn and, in sampling,
stepped through as ``t = u / (u + s (1 - u))`` with u uniform, of which ``shift = s > 1`` puts more into the noise
(Esser et al., *Scaling rectified flow transformers for high-resolution image synthesis*, ICML 2024, section 5.3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.encoders import ENCODERS
from wm_pipelines.blocks.flow_condition import Pixels
from wm_pipelines.blocks.flow_sampling import guided, heun_through, path
from wm_pipelines.blocks.words import PADDING, UNKNOWN, Words
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Schedule, TrainedConfig, Views
from wm_pipelines.families.parts.captioned import CaptionedFamily
from wm_pipelines.families.text_flow.networks import FrameVelocity, Reader
from wm_pipelines.mappings import Positive
from wm_pipelines.spec import Spec

_AT_ONCE = 250  # frames generated together


class TextFlowConfig(TrainedConfig):
    """Defaults in ``conf/base/parameters_text_flow.yml``."""

    schedule: Schedule = Schedule(steps=2400, batch_size=32, learning_rate=3e-3, warmup=50, gradient_clip=1.0)
    # the caption
    vocabulary: int = Field(64, ge=3, description="different words at most, with one for padding and one for unknown")
    words: int = Field(48, ge=1, description="of a caption at most, punctuation marks included")
    text_width: int = Field(64, ge=1, description="entries of an embedded caption")
    text_depth: int = Field(2, ge=0, description="blocks of the transformer that reads")
    heads: int = Field(4, ge=1)
    # the velocity
    patch: int = Field(2, ge=1, description="pixels along a side that the finest level sees as one position")
    widths: tuple[Positive, ...] = Field((32, 64, 128), min_length=1, description="channels of the levels")
    blocks: int = Field(1, ge=1, description="residual blocks per level, inwards and outwards")
    hidden: int = Field(128, ge=1, description="entries of the condition")
    # the flow
    nearest: float = Field(0.5, gt=0, le=1, description="1 - t below which an error of v weighs less, as (1 - t)^2")
    shift: float = Field(3.0, gt=0, description="s: how much more of the times lies in the noise")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of captions that are left out in training")
    word_dropout: float = Field(0.0, ge=0, lt=1, description="share of words that training does not tell")
    guidance: float = Field(2.0, ge=0, description="w: 0 without the caption, 1 with it, more beyond it")
    sample_steps: int = Field(8, ge=1, description="Heun steps of a sample")

    @model_validator(mode="after")
    def _possible(self) -> TextFlowConfig:
        if self.guidance != 1.0 and not self.dropout:
            raise ValueError("guidance needs dropout above 0: without it the flow knows no other condition")
        return self


class TextFlowMember(nn.Module):
    """The networks of one seed: words, a reader of them, units of pixels, a velocity."""

    def __init__(self, config: TextFlowConfig, spec: Spec) -> None:
        super().__init__()
        c = config
        self.words = Words(c.vocabulary, c.words)
        self.reader = Reader(c.vocabulary, c.words, c.text_width, c.text_depth, c.heads)
        self.pixels = Pixels(spec.views["frames"])
        self.velocity = FrameVelocity(self.pixels.centre.shape, c.patch, c.widths, c.blocks, c.text_width, c.hidden)


@register
class TextFlow(CaptionedFamily):
    """Single frames from captions."""

    name: ClassVar[str] = "text_flow"
    Config: ClassVar[type[FamilyConfig]] = TextFlowConfig
    config: TextFlowConfig

    def make_member(self) -> nn.Module:
        """The networks of one seed."""
        return TextFlowMember(self.config, self.spec)

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Frames ``[E, 1, H, W, C]`` and tokens ``[E, L]``; vocabulary and units of pixels are learned."""
        examples = dict(super().examples(episodes))
        for member in self.members:
            assert isinstance(member, TextFlowMember)
            member.words.learn(examples["captions"])
            member.pixels.learn_units(examples["frames"])
        first = self.members[0]
        assert isinstance(first, TextFlowMember)
        examples["captions"] = first.words.tokens(examples["captions"])
        return examples

    def member_loss(
        self,
        member: Any,
        batch: Views,
        generator: torch.Generator,
        progress: float,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``w(t) |v(x_t, t | caption) - (x_1 - x_0)|^2`` with ``w = min(1, ((1 - t) / nearest)^2)``, see `flow`."""
        data = self._data(member, batch["frames"][:, 0])
        count, like = workers.everyone(len(data)), data
        tokens = batch["captions"]
        noise, u, left_out, hidden = (
            workers.mine(draw(count, *shape, generator=generator)).to(like)
            for draw, shape in (
                (torch.randn, data.shape[1:]),
                (torch.rand, (1,)),
                (torch.rand, (1,)),
                (torch.rand, tokens.shape[1:]),
            )
        )
        t = shifted(u, self.config.shift)
        x, velocity = path(noise, data, t[:, :, None, None])
        tokens = torch.where((hidden < self.config.word_dropout) & (tokens != PADDING), UNKNOWN, tokens)
        caption = member.reader(tokens)
        found = member.velocity(x, t, caption, left_out >= self.config.dropout)
        weight = ((1.0 - t) / self.config.nearest).clamp(max=1.0)[:, :, None, None]
        error = ((found - velocity) * weight).square().mean()
        return error, {"velocity": error}

    def _data(self, member: TextFlowMember, frames: Tensor) -> Tensor:
        """Frames ``[N, H, W, C]`` uint8 as data of the flow, ``[N, C, H, W]``."""
        x = ENCODERS["frames"].inputs(frames)
        return member.pixels.encode(x).unflatten(1, x.shape[1:])

    # ------------------------------------------------------------------------------------------------------------ use

    @torch.no_grad()
    def generate(self, captions: Tensor, seed: int, generator: torch.Generator) -> Tensor:
        """See `Generates`; every frame is one sample.

        Raises:
            UserError: a caption is too long.
        """
        member = self.members[seed].eval()
        assert isinstance(member, TextFlowMember)
        tokens = member.words.tokens(captions).to(member.pixels.centre.device)
        parts = [self._sampled(member, part, generator) for part in tokens.split(_AT_ONCE)]
        return torch.cat(parts).movedim(1, -1).clamp(0.0, 1.0)

    def _sampled(self, member: TextFlowMember, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """Frames ``[N, C, H, W]`` at the end of the flow from noise."""
        c, caption = self.config, member.reader(tokens)
        known = torch.ones(len(tokens), 1, dtype=torch.bool, device=caption.device)

        def velocity(x: Tensor, t: float) -> Tensor:
            at = torch.full((len(x), 1), t).to(x)
            found = member.velocity(x, at, caption, known)
            return found if c.guidance == 1.0 else guided(found, member.velocity(x, at, caption, ~known), c.guidance)

        noise = torch.randn(len(tokens), *member.pixels.centre.shape, generator=generator).to(caption)
        times: Sequence[float] = shifted(torch.linspace(0.0, 1.0, c.sample_steps + 1).double(), c.shift).tolist()
        return member.pixels.decode(heun_through(velocity, noise, times).flatten(1))


def shifted(u: Tensor, shift: float) -> Tensor:
    """Times ``u / (u + s (1 - u))``: of u uniform in [0, 1], with s > 1 more of them near the noise at 0."""
    return u / (u + shift * (1.0 - u))
