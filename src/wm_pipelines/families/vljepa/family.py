"""VL-JEPA: from what is seen and what is asked, predict the *embedding* of the answer, never its tokens.

Chen et al., *VL-JEPA: joint embedding predictive architecture for vision-language*, 2025 (2512.10942). An encoder sees
the frames (here `ijepa`'s, trained first: `parts.asking`), a predictor is given that and the question, a text encoder
reads the answer and learns more slowly; the loss compares both embeddings. Nothing is decoded: questions are answered
by the nearest embedding of candidate answers, captions are found by the nearest embedding of candidate captions.

``loss: info_nce`` keeps embeddings apart (the paper's choice); equal answers of a batch are no negatives of each other.
``loss: l2`` is ``|prediction - embedding|^2``: nothing keeps all embeddings from becoming one, unless ``sigreg_text``
does (Balestriero & LeCun 2025).

What deviates from the paper: all parts are small and learned from scratch; the prediction is read off a token of its
own, not off the mean of all tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from wm_pipelines.blocks.info_nce import info_nce
from wm_pipelines.blocks.reading import Reader, TextTower, once_each
from wm_pipelines.blocks.sigreg import sigreg
from wm_pipelines.blocks.workers import gathered
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.parts.asking import AskedConfig, AskedFamily, Sight, padded, read_images


class VLJEPAConfig(AskedConfig):
    """Defaults in ``conf/base/parameters_vljepa.yml``."""

    loss: Literal["info_nce", "l2"] = "info_nce"
    temperature: float = Field(0.07, gt=0, description="of the softmax over cosines, for info_nce")
    sigreg_text: float = Field(0.0, ge=0, le=1, description="weight of SIGReg on the embeddings of answers")
    embedding: int = Field(64, ge=2, description="entries of an embedding")
    text_width: int = Field(64, ge=2, description="of the text encoder")
    text_depth: int = Field(1, ge=0, description="of the text encoder; 0: a bag of words")
    text_rate: float = Field(0.3, ge=0, le=1, description="of the learning rate, for the text encoder")


class Predictor(nn.Module):
    """Sees, is asked, and says where the answer is: features and tokens of questions -> embeddings."""

    def __init__(self, config: VLJEPAConfig, sight: Sight) -> None:
        super().__init__()
        c = config
        self.sight = sight
        self.words = nn.Parameter(torch.randn(c.vocabulary, c.width))
        self.places = nn.Parameter(0.3 * torch.randn(c.words, c.width))
        self.answer = nn.Parameter(torch.randn(c.width))
        self.reader = Reader(c.width, c.depth, c.heads)
        self.leave = nn.Linear(c.width, c.embedding)

    def forward(self, seen: Tensor, questions: Tensor) -> Tensor:
        """``[B, T, N, D]`` and ``[B, Q, L]`` -> ``[B, Q, P]``; what is seen is read once for all questions."""
        before, there = read_images(self.sight, self.reader, seen, questions)
        text = self.words[questions.flatten(0, 1)] + self.places[: questions.shape[-1]]
        x = torch.cat([text, self.answer.expand(len(text), 1, -1)], 1)
        there = torch.cat([there, there.new_ones(len(there), 1)], 1)
        read, _ = self.reader(x, there[:, None, :].expand(-1, x.shape[1], -1), before, last=1)
        return self.leave(read[:, 0]).unflatten(0, questions.shape[:2])


class Network(nn.Module):
    """The predictor and the text encoder of one seed."""

    def __init__(self, config: VLJEPAConfig, sight: Sight) -> None:
        super().__init__()
        c = config
        self.predictor = Predictor(c, sight)
        self.text = TextTower(c.vocabulary, c.words, c.text_width, c.text_depth, c.heads, c.embedding)


@register
class VLJEPA(AskedFamily):
    """Answers and captions by the nearest embedding."""

    name: ClassVar[str] = "vljepa"
    Config: ClassVar[type[FamilyConfig]] = VLJEPAConfig
    config: VLJEPAConfig

    def make_network(self, sight: Sight) -> nn.Module:
        """Predictor and text encoder."""
        return Network(self.config, sight)

    def rate_factors(self, progress: float) -> Mapping[str, float]:
        """The text encoder learns more slowly."""
        return {**super().rate_factors(progress), "text": self.config.text_rate}

    def answer_loss(
        self, member: Any, seen: Tensor, questions: Tensor, answers: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Between predicted embeddings and those of the answers."""
        c = self.config
        predicted = gathered(member.network.predictor(seen, questions)).flatten(0, 1)
        points = once_each(member.network.text, answers.flatten(0, 1))
        embedded = gathered(points.unflatten(0, answers.shape[:2])).flatten(0, 1)
        answers = gathered(padded(answers, c.words)).flatten(0, 1)
        terms = {}
        if c.loss == "info_nce":
            terms["info_nce"] = info_nce(predicted, embedded, c.temperature, alike(answers))
        else:
            terms["l2"] = mse_loss(predicted, embedded)
        loss = torch.stack(list(terms.values())).sum()
        if c.sigreg_text:
            generator = torch.Generator().manual_seed(int(answers.sum()))
            terms["sigreg_text"] = sigreg(points, generator, c.directions, c.knots)
            loss = (1 - c.sigreg_text) * loss + c.sigreg_text * terms["sigreg_text"]
        return loss, terms

    def scores(self, member: Any, seen: Tensor, questions: Tensor, candidates: Tensor) -> Tensor:
        """Cosines of predictions and candidates; without directions (`loss: l2`) nearness counts."""
        predicted, embedded = member.network.predictor(seen, questions), member.network.text(candidates)
        if self.config.loss == "l2":
            return -torch.cdist(predicted.flatten(0, 1), embedded).unflatten(0, predicted.shape[:2])
        return normalize(predicted, dim=-1) @ normalize(embedded, dim=-1).T

    def point_at(self, frames: Tensor, questions: Tensor, seed: int) -> Tensor:
        """See `PointsAtTexts`: predicted embeddings."""
        return self.pointed(lambda member, *seen: member.network.predictor(*seen), frames, questions, seed)

    @torch.no_grad()
    def embed_texts(self, texts: Tensor, seed: int) -> Tensor:
        """See `EmbedsTexts`."""
        member: Any = self.members[seed].eval()
        return member.network.text(member.words.tokens(texts))


def alike(answers: Tensor) -> Tensor:
    """Which of the answers ``[R, L]`` are the same, ``[R, R]``."""
    _, number = answers.unique(dim=0, return_inverse=True)
    return number[:, None] == number
