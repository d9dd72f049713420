"""Transfusion: one transformer that predicts the next token of text and takes the noise out of images.

Zhou et al., *Transfusion: predict the next token and diffuse images with one multi-modal model*, 2024 (2408.11039).
Text and images stand in one sequence; attention is causal, but within an image every patch sees every other one
(`layout.attention_mask`, section 3.1); the loss is ``L_LM + lambda L_DDPM`` with lambda = 5 (section 3.2).

Half of every batch are captions followed by their image (text -> image), half images followed by their caption (image
-> text). Captions are sampled greedily, with keys and values of what was read kept; images by DDIM, away from what the
model says without the caption (Ho and Salimans, *Classifier-free diffusion guidance*, 2022).

What deviates from the paper:

- images are pixels in patches, or (``latents``) latents of an autoencoder that the first part of the training fits;
- an image before its caption has no noise and no diffusion loss (``noise_before_text: 0``; the paper: noise up to half
  of the levels);
- the network says what the image is (``x0``; the paper: the noise), schedules are shifted towards the noise, and half
  of the batch, not a fifth, has the image in front;
- ``text_only``, the control, is the same transformer without any image;
- positions are learned tables of each modality, not rotary; width and depth fit one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wm_pipelines.blocks import workers
from wm_pipelines.blocks.ema import EMA
from wm_pipelines.episodes import texts_of
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Views
from wm_pipelines.families.parts.captioned import CaptionedFamily
from wm_pipelines.families.parts.language import TextScore
from wm_pipelines.families.transfusion.layout import Document, Image, Layout, attention_mask, lay_out
from wm_pipelines.families.transfusion.member import TransfusionConfig, TransfusionMember
from wm_pipelines.families.transfusion.network import Answer, Network, next_tokens
from wm_pipelines.families.transfusion.noise import LEVELS
from wm_pipelines.families.transfusion.sampling import Known, Painter, write
from wm_pipelines.families.transfusion.vocabulary import BOI, BOS, EOI, EOS
from wm_pipelines.spec import Spec

_AT_ONCE = 250  # documents read or sampled together
_NO_END = 1e12  # updates, of which a training is so small a part that the rate of the moving average stays


@register
class Transfusion(CaptionedFamily):
    """Captions of frames, and frames of captions."""

    name: ClassVar[str] = "transfusion"
    Config: ClassVar[type[FamilyConfig]] = TransfusionConfig
    needs: ClassVar[tuple[str, ...]] = ("frames|captions", "captions")
    config: TransfusionConfig

    @classmethod
    def unsuitable(cls, spec: Spec, config: Any) -> str | None:
        """Texts without frames are for `text_only`."""
        reason = super().unsuitable(spec, config)
        return reason or (None if config.text_only or "frames" in spec.views else "needs frames")

    @classmethod
    def observed(cls, spec: Spec, config: Any) -> tuple[str, ...]:
        """Captions alone, for `text_only`."""
        return ("captions",) if config.text_only else super().observed(spec, config)

    def make_member(self) -> nn.Module:
        """The networks of one seed."""
        return TransfusionMember(self.config, self.spec)

    # ------------------------------------------------------------------------------------------------------- training

    def examples(self, episodes: Views) -> Views:
        """Frames ``[E, 1, H, W, C]`` and tokens ``[E, L]``, -1 behind the end; vocabulary and units are learned.

        Raises:
            UserError: a caption is empty or too long.
        """
        examples = dict(super().examples(episodes))
        for member in self.members:
            assert isinstance(member, TransfusionMember)
            member.vocabulary.learn(examples["captions"])
            if not self.config.text_only:
                member.pixels.learn_units(examples["frames"])
            if self.config.average:
                member.average = EMA(member.network, self.config.average, int(_NO_END))
        first = self.members[0]
        assert isinstance(first, TransfusionMember)
        tokens = first.vocabulary.tokens(texts_of(examples["captions"]))
        examples["captions"] = torch.tensor([row + [-1] * (self.config.longest - len(row)) for row in tokens])
        return examples

    def member_loss(
        self,
        member: Any,
        batch: Views,
        generator: torch.Generator,
        progress: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``L_LM + lambda L_DDPM`` of documents, every other one with the text in front; first, that of latents."""
        c = self.config
        if c.text_only:
            layout = lay_out([alone(tokens) for tokens in _rows(batch["captions"])])
            layout = layout.to(member.pixels.centre.device)
            text = text_loss(member.network, layout, member.network(layout).features)
            return text, {"text": text.detach()}
        if member.autoencoder is not None and progress < c.latent_share:
            return self._reconstruction(member, batch["frames"][:, 0], generator)
        data = member.data(batch["frames"][:, 0])
        count = workers.everyone(len(data))
        begins_with_text = workers.mine(torch.arange(count) % 2 == 0)
        noise, u, left_out = (
            workers.mine(draw(count, *shape, generator=generator)).to(data)
            for draw, shape in ((torch.randn, data.shape[1:]), (torch.rand, ()), (torch.rand, ()))
        )
        told = (left_out >= c.dropout).cpu()
        patches = member.network.size.patches
        layout = lay_out(
            [
                text_first(tokens, patches, bool(known)) if first else image_first(tokens, patches)
                for tokens, first, known in zip(_rows(batch["captions"]), begins_with_text, told, strict=True)
            ]
        )
        # Spread evenly over the examples of either kind: Kingma et al., Variational diffusion models, NeurIPS 2021.
        u = ((workers.mine(torch.arange(count)).to(u) // 2 + u) / -(-count // 2)).clamp(max=1.0 - 1e-6)
        levels = (1 + u * LEVELS).long().clamp(max=LEVELS)
        early = (u * (LEVELS * c.noise_before_text + 1)).long()
        levels = torch.where(begins_with_text.to(data.device), levels, early)
        return self._losses(member, layout.to(data.device), data, noise, levels)

    def _reconstruction(
        self, member: TransfusionMember, frames: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the autoencoder; the two terms of the transformer are not there yet."""
        assert member.autoencoder is not None
        x = member.scaled(frames)
        noise = torch.randn(workers.everyone(len(x)), *member.autoencoder.shape, generator=generator)
        loss = member.autoencoder.loss(x, workers.mine(noise).to(x))
        absent = torch.full_like(loss.detach(), torch.nan)
        return loss, {"text": absent, "image": absent}

    def _losses(
        self, member: TransfusionMember, layout: Layout, data: Tensor, noise: Tensor, levels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of documents of one image each, and its two terms; means over the batch of all workers."""
        noisy = levels > 0
        x = torch.where(noisy[:, None, None, None], member.noise.add(data, noise, levels), data)
        answer = member.network(layout, x[:, None], levels[:, None])
        text = text_loss(member.network, layout, answer.features)
        error = data.new_zeros(())  # a worker may have no image with noise
        if bool(noisy.any()):
            said = self._of(member.network, layout, answer, noisy)
            t = levels[noisy]
            wrong = said - member.noise.target(data[noisy], noise[noisy], t)
            error = (self._of_levels(member, t) * wrong.square().mean((1, 2, 3))).sum()
        image = workers.ratio(error, noisy.sum().to(data))
        terms = {"text": text.detach(), "image": image.detach()}
        return text + self._weight(member, terms) * image, terms

    def _of(self, network: Network, layout: Layout, answer: Answer, chosen: Tensor) -> Tensor:
        """What is said of the images of some documents, one each: ``[n, C, H, W]``."""
        assert answer.level is not None
        kept = tuple(part[chosen] for part in answer.kept)
        return network.images(answer.features[chosen], layout.rows(chosen), answer.level[chosen], kept, 1)[:, 0]

    def _of_levels(self, member: TransfusionMember, t: Tensor) -> Tensor:
        """Weights of errors at levels ``t [n]``: where there is little noise outlines are drawn, and errors small.

        The ratio of signal and noise is cut off as in Hang et al., *Efficient diffusion training via min-SNR weighting
        strategy*, ICCV 2023, and 1 is added: colour and place are decided in the noise.
        """
        snr = (member.noise.signal[t] / member.noise.sigma[t]).square()
        return 1.0 + (self.config.detail * snr).clamp(max=self.config.detail_most)

    def _weight(self, member: TransfusionMember, terms: dict[str, Tensor]) -> Tensor | float:
        """Lambda: fixed, or such that its term is as large as that of the text, by moving averages of both."""
        if self.config.balance == "fixed":
            return self.config.weight
        if self.training:
            for level, name in ((member.text_level, "text"), (member.image_level, "image")):
                level.lerp_(workers.averaged(terms[name]).to(level), 0.02)
        return (member.text_level / member.image_level.clamp(min=1e-6)).clamp(0.2, 50.0)

    def after_step(self, progress: float) -> None:  # noqa: ARG002
        """Move the averages."""
        for member in self.members:
            if isinstance(member, TransfusionMember) and member.average is not None:
                member.average.update_parameters(member.network)

    def finish(self) -> None:
        """The moving averages are the weights from now on."""
        for member in self.members:
            assert isinstance(member, TransfusionMember)
            if member.average is not None:
                member.network.load_state_dict(member.average.module.state_dict())
                member.average = None

    def extra_summary(self) -> dict[str, Any]:
        """Which vocabulary the weights belong to: SHA-256 of its merges."""
        return {"vocabulary": bytes(self._member(0).vocabulary.seal.cpu().tolist()).hex()}

    # -------------------------------------------------------------------------------------------------- text -> image

    @torch.no_grad()
    def generate(self, captions: Tensor, seed: int, generator: torch.Generator) -> Tensor:
        """See `Generates`; every frame is one sample.

        Raises:
            UserError: a caption is empty or too long, or the vocabulary is that of another checkpoint.
        """
        return self._painted(seed, texts_of(captions), generator)

    @torch.no_grad()
    def inpaint(self, captions: Tensor, frames: Tensor, known: Tensor, seed: int, generator: torch.Generator) -> Tensor:
        """Frames of captions whose known pixels are those of other frames: what is hidden is painted.

        Args:
            captions: UTF-8 ``[N, L]``. frames: ``[N, H, W, C]`` uint8. known: ``[N, H, W]`` bool, pixels to keep.

        Returns:
            Frames ``[N, H, W, C]`` in [0, 1].

        Raises:
            UserError: a caption is empty or too long, sizes differ, or the model works on latents, not on pixels.
        """
        if self.config.latents:
            raise UserError("inpainting keeps pixels, and this model works on latents of an autoencoder: set latents 0")
        if known.shape != frames.shape[:3] or len(captions) != len(frames):
            raise UserError(
                f"{len(captions)} captions, frames {list(frames.shape)}, known {list(known.shape)}: one caption and "
                f"one plane of known pixels [H, W] for each frame are needed"
            )
        member = self._member(seed)
        device = member.pixels.centre.device
        given = Known(member.data(frames.to(device)), known[:, None].to(device, torch.bool))
        return self._painted(seed, texts_of(captions), generator, given)

    def _painted(
        self, seed: int, captions: Sequence[str], generator: torch.Generator, known: Known | None = None
    ) -> Tensor:
        """Frames ``[N, H, W, C]`` in [0, 1]."""
        member, c = self._member(seed), self.config
        tokens = member.vocabulary.tokens(captions)
        painter = Painter(member.network, member.noise, c.sample_steps, c.guidance, member.limits())
        parts = []
        for at in _slices(len(tokens)):
            texts = [[BOS, *row, BOI] for row in tokens[at]]
            x = torch.randn(len(texts), *member.network.size.shape, generator=generator).to(member.pixels.centre)
            part = None if known is None else Known(known.x0[at], known.where[at])
            parts.append(member.frames(painter.paint(texts, x, part)))
        return torch.cat(parts)

    # -------------------------------------------------------------------------------------------------- image -> text

    @torch.no_grad()
    def caption(self, frames: Tensor, seed: int) -> list[str]:
        """See `Captions`: the likeliest token at every place."""
        return self.continued([""] * len(frames), frames, seed)

    @torch.no_grad()
    def continued(self, beginnings: Sequence[str], frames: Tensor | None, seed: int) -> list[str]:
        """Captions that begin as told and go on with the likeliest token at every place.

        Args:
            beginnings: whole words, ``""`` for none. frames: that they describe, ``[N, H, W, C]`` uint8, or None.

        Returns:
            The captions with their beginnings.

        Raises:
            UserError: a beginning is too long, or there is not one for every frame.
        """
        if frames is not None and len(frames) != len(beginnings):
            raise UserError(f"{len(beginnings)} beginnings for {len(frames)} frames")
        member, c = self._member(seed), self.config
        data = None if frames is None else member.data(frames.to(member.pixels.centre.device))
        begun = [member.vocabulary.tokens([text])[0] if text.strip() else [] for text in beginnings]
        image, found = Image(member.network.size.patches), []
        for at in _slices(len(begun)):
            documents: list[Document] = [
                [[BOS, *row]] if data is None else [[BOI], image, [EOI, *row]] for row in begun[at]
            ]
            end = BOI if data is None else EOS
            part = None if data is None else data[at]
            more = write(member.network, documents, part, end, member.vocabulary.known, c.longest)
            found += [member.vocabulary.text([*row, *rest]) for row, rest in zip(begun[at], more, strict=True)]
        return found

    @torch.no_grad()
    def score(self, captions: Tensor, frames: Tensor | None, seed: int) -> TextScore:
        """See `ScoresText`; the end of the caption counts as a token.

        Raises:
            UserError: a caption is empty or too long.
        """
        member = self._member(seed)
        tokens = member.vocabulary.tokens(texts_of(captions))
        data = None if frames is None else member.data(frames.to(member.pixels.centre.device))
        nats = [self._nats(member, tokens[at], None if data is None else data[at]) for at in _slices(len(tokens))]
        return TextScore(torch.cat(nats), torch.tensor([len(row) + 1 for row in tokens]))

    def _nats(self, member: TransfusionMember, tokens: list[list[int]], data: Tensor | None) -> Tensor:
        """Minus the logarithm of the probability of captions, ``[N]``, of images or of none."""
        network, device = member.network, member.pixels.centre.device
        if data is None:
            layout = lay_out([alone(row) for row in tokens]).to(device)
            features = network(layout).features
        else:
            layout = lay_out([image_first(row, network.size.patches) for row in tokens]).to(device)
            none = torch.zeros(len(data), 1, dtype=torch.int64, device=device)
            features = network(layout, data[:, None], none).features
        wanted, counts = next_tokens(layout)
        nll = cross_entropy(network.logits(features[:, :-1]).transpose(1, 2), wanted, reduction="none")
        return (nll * counts).double().sum(1).cpu()

    # ------------------------------------------------------------------------------------------------------------ more

    def _member(self, seed: int) -> TransfusionMember:
        member = self.members[seed].eval()
        assert isinstance(member, TransfusionMember)
        return member

    def illustrate(self, views: Views) -> dict[str, Tensor]:
        """The attention mask of the first caption with its image behind, then of the image with its caption behind."""
        member = self._member(0)
        (tokens,), patches = member.vocabulary.tokens(texts_of(views["captions"][:1])), member.network.size.patches
        layout = lay_out([text_first(tokens, patches), image_first(tokens, patches)])
        mask = attention_mask(layout.kind, self.config.causal_images)
        return {"attention_mask": 1.0 - 0.8 * mask[:, None, :, :, None].expand(-1, -1, -1, -1, 3).float()}


def text_loss(network: Network, layout: Layout, features: Tensor) -> Tensor:
    """``L_LM``: nats of a text token, in the mean over those of all workers' documents ``[B, N, D]``."""
    wanted, counts = next_tokens(layout)
    nll = cross_entropy(network.logits(features[:, :-1][counts]), wanted[counts], reduction="sum")
    return workers.ratio(nll, counts.sum().to(nll))


def text_first(tokens: Sequence[int], patches: int, told: bool = True) -> Document:
    """A caption and then its image; untold, the image alone."""
    return [[BOS, *tokens, BOI] if told else [BOI], Image(patches)]


def alone(tokens: Sequence[int]) -> Document:
    """A caption whose image would follow."""
    return [[BOS, *tokens, BOI]]


def image_first(tokens: Sequence[int], patches: int) -> Document:
    """An image and then its caption."""
    return [[BOI], Image(patches), [EOI, *tokens, EOS]]


def _rows(tokens: Tensor) -> list[list[int]]:
    """Tokens ``[B, L]`` without what stands behind the end."""
    return [[t for t in row if t >= 0] for row in tokens.tolist()]


def _slices(count: int) -> list[slice]:
    """Documents that are read or sampled together."""
    return [slice(k, k + _AT_ONCE) for k in range(0, count, _AT_ONCE)]


__all__ = ["Transfusion", "TransfusionConfig", "TransfusionMember"]
