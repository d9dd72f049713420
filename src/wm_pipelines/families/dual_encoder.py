"""Two towers: images and texts as points of one space; what belongs together lies together.

Radford et al., *Learning transferable visual models from natural language supervision*, ICML 2021 (CLIP), on the
encoder, data and steps of `vljepa` (`parts.asking`). The image is not told what it will be asked: question and answer
are one text, and the answer is the candidate whose text lies nearest to the image. The descriptions are among these
texts; what a batch knows to be true of an image is no negative of it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from wm_pipelines.blocks.info_nce import info_nce
from wm_pipelines.blocks.reading import Reader, TextTower, once_each, trimmed
from wm_pipelines.blocks.words import PADDING
from wm_pipelines.blocks.workers import everyone, gathered
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.parts.asking import AskedConfig, AskedFamily, Sight, padded

_PAIRS_AT_ONCE = 4096  # texts of questions and candidates read together


class DualEncoderConfig(AskedConfig):
    """Defaults in ``conf/base/parameters_dual_encoder.yml``."""

    temperature: float = Field(0.07, gt=0, description="of the softmax over cosines")
    embedding: int = Field(64, ge=2, description="entries of a point")
    text_width: int = Field(64, ge=2, description="of the text tower")
    text_depth: int = Field(1, ge=0, description="of the text tower; 0: a bag of words")


class Towers(nn.Module):
    """Image and text tower of one seed."""

    def __init__(self, config: DualEncoderConfig, sight: Sight) -> None:
        super().__init__()
        c = config
        self.sight = sight
        self.whole = nn.Parameter(torch.randn(c.width))
        self.reader = Reader(c.width, c.depth, c.heads)
        self.leave = nn.Linear(c.width, c.embedding)
        self.text = TextTower(c.vocabulary, 2 * c.words, c.text_width, c.text_depth, c.heads, c.embedding)

    def image(self, seen: Tensor) -> Tensor:
        """Features ``[B, T, N, D]`` -> points ``[B, P]``, read off a token of its own."""
        x = self.sight(seen)
        x = torch.cat([x, self.whole.expand(len(x), 1, -1)], 1)
        read, _ = self.reader(x, x.new_ones(len(x), x.shape[1], x.shape[1], dtype=torch.bool), last=1)
        return self.leave(read[:, 0])


@register
class DualEncoder(AskedFamily):
    """Answers and captions by the text nearest to the image."""

    name: ClassVar[str] = "dual_encoder"
    Config: ClassVar[type[FamilyConfig]] = DualEncoderConfig
    config: DualEncoderConfig

    def make_network(self, sight: Sight) -> nn.Module:
        """Both towers."""
        return Towers(self.config, sight)

    def answer_loss(
        self, member: Any, seen: Tensor, questions: Tensor, answers: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE, one text of every image at a time; what else is known to be true of it is no negative."""
        c, asked = self.config, questions.shape[1]
        texts = padded(joined(questions, answers), 2 * c.words)
        points = gathered(member.network.image(seen)).repeat_interleave(asked, 0)
        embedded = once_each(member.network.text, texts.flatten(0, 1)).unflatten(0, texts.shape[:2])
        image = torch.arange(everyone(len(seen)), device=seen.device).repeat_interleave(asked)
        true = known(gathered(texts).flatten(0, 1), image)
        loss = info_nce(points, gathered(embedded).flatten(0, 1), c.temperature, true)
        return loss, {"info_nce": loss}

    def scores(self, member: Any, seen: Tensor, questions: Tensor, candidates: Tensor) -> Tensor:
        """Cosines of images and of questions joined by candidates."""
        images = normalize(member.network.image(seen), dim=-1)
        different, which = questions.flatten(0, 1).unique(dim=0, return_inverse=True)
        points = normalize(torch.stack([self._points(member, one, candidates) for one in different]), dim=-1)
        near = points[which].unflatten(0, questions.shape[:2])
        return torch.einsum("bp,bqcp->bqc", images, near)

    def _points(self, member: Any, question: Tensor, candidates: Tensor) -> Tensor:
        """Of one question ``[L]`` joined by every candidate: ``[C, P]``."""
        texts = joined(question.expand(len(candidates), -1), candidates)
        return torch.cat([member.network.text(trimmed(part)) for part in texts.split(_PAIRS_AT_ONCE)])


def joined(questions: Tensor, answers: Tensor) -> Tensor:
    """Questions ``[..., L]`` with their answers ``[..., L']`` right behind, padding at the end: ``[..., L + L']``."""
    both = torch.cat([questions, answers], -1)
    order = (both == PADDING).to(torch.int8).argsort(dim=-1, stable=True)
    return both.gather(-1, order)


def known(texts: Tensor, images: Tensor) -> Tensor:
    """Whether any row says of the image of row i what row j says, ``[R, R]``: texts ``[R, L]``, images ``[R]``."""
    _, text = texts.unique(dim=0, return_inverse=True)
    _, image = images.unique(return_inverse=True)
    true = torch.zeros(int(image.max()) + 1, int(text.max()) + 1, dtype=torch.bool, device=texts.device)
    true[image, text] = True
    return true[image][:, text]
