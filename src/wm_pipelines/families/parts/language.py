"""What families of language can be asked: protocols, as those of `families.base` are.

Whoever fulfils one stands in the table of the task ``language`` with the rows that it allows. Shapes: ``N`` episodes,
``Q`` questions of an episode, ``C`` candidates, ``L`` bytes of a text, ``P`` entries of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Generates(Protocol):
    """A family that makes frames of sentences."""

    def generate(self, captions: Tensor, seed: int, generator: torch.Generator) -> Tensor:
        """Frames ``[N, H, W, C]`` in [0, 1] of captions ``[N, L]`` (UTF-8, uint8), by the model of one seed."""


@runtime_checkable
class Captions(Protocol):
    """A family that says what frames show."""

    def caption(self, frames: Tensor, seed: int) -> list[str]:
        """Captions of frames ``[N, H, W, C]`` uint8, by the model of one seed."""


@dataclass(frozen=True)
class TextScore:
    """How likely texts are to a model.

    Attributes:
        nats: minus the natural logarithm of the probability of each text, its end included, ``[N]`` float64.
        tokens: of each text, its end included, ``[N]``.
    """

    nats: Tensor
    tokens: Tensor


@runtime_checkable
class ScoresText(Protocol):
    """A family that says how likely a text is."""

    def score(self, captions: Tensor, frames: Tensor | None, seed: int) -> TextScore:
        """Of captions ``[N, L]`` (UTF-8, uint8) of frames ``[N, H, W, C]`` uint8; None: of captions alone."""


@runtime_checkable
class Answers(Protocol):
    """A family that chooses answers to questions about frames."""

    def choose(self, frames: Tensor, questions: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """How well every candidate answers every question, ``[N, Q, C]``; the largest is the answer.

        Args:
            frames: ``[N, T, H, W, C]`` uint8. questions: ``[N, Q, L]``. candidates: ``[C, L']``; texts are UTF-8,
            uint8. seed: which of the models.
        """


@runtime_checkable
class ChoosesBest(Answers, Protocol):
    """A family that finds the best answer without scoring every candidate."""

    def choose_best(self, frames: Tensor, questions: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """Whether a candidate has the largest of the values that `choose` gives, ``[N, Q, C]``, bool."""


@runtime_checkable
class Describes(Protocol):
    """A family that answers in words of its own."""

    def describe(self, frames: Tensor, questions: Tensor, seed: int) -> list[str]:
        """What it says to questions ``[N, L]`` (UTF-8, uint8), one about each of the frames ``[N, T, H, W, C]``."""


@runtime_checkable
class EmbedsTexts(Protocol):
    """A family in which texts are points: collapsed, if they are all the same point."""

    def embed_texts(self, texts: Tensor, seed: int) -> Tensor:
        """Points ``[N, P]`` of texts ``[N, L]`` (UTF-8, uint8)."""


@runtime_checkable
class PointsAtTexts(EmbedsTexts, Protocol):
    """A family that says where a text about frames lies, without any text: collapsed, if that is always one place."""

    def point_at(self, frames: Tensor, questions: Tensor, seed: int) -> Tensor:
        """Points ``[N, Q, P]`` of the answers to questions ``[N, Q, L]`` about frames ``[N, T, H, W, C]`` uint8."""
