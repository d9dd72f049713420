"""The most frequent answer: the floor under answers about frames, which it never looks at.

``majority`` answers with what training answers most often to questions that begin with the same ``words`` words: these
tell the kind of a question. ``text_only`` looks at the whole question first, and at ever shorter beginnings where
training never asks it: all that can be known of an answer without seeing anything, counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from wm_pipelines.episodes import texts_of, utf8
from wm_pipelines.errors import UserError
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig, Views
from wm_pipelines.families.parts.members import MemberFamily


class FrequentAnswerConfig(FamilyConfig):
    """Defaults in ``conf/base/parameters_frequent_answer.yml``."""

    words: int = Field(2, ge=0, description="of the beginning of a question at least; 0: of any question")
    whole: bool = Field(False, description="look for the whole question first, then for shorter beginnings")
    kept: int = Field(100_000, ge=1, description="beginnings of questions at most")
    bytes: int = Field(160, ge=1, description="of a beginning, and of an answer")


class _Table(nn.Module):
    """Beginnings ``[K, L]`` and their most frequent answers ``[K, L]``, UTF-8, padded with 0."""

    beginnings: Tensor
    answers: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("beginnings", "answers"):
            self.register_buffer(name, torch.zeros(0, 0, dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """As long as what was stored."""
        for name in ("beginnings", "answers"):
            stored = state_dict[prefix + name]
            setattr(self, name, stored.new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


@register
class FrequentAnswer(MemberFamily):
    """Nothing is learned by gradient, nothing is seen."""

    name: ClassVar[str] = "frequent_answer"
    Config: ClassVar[type[FamilyConfig]] = FrequentAnswerConfig
    needs: ClassVar[tuple[str, ...]] = ("questions", "answers")
    uses: ClassVar[tuple[str, ...]] = ("frames",)
    learned_features: ClassVar[bool] = False
    config: FrequentAnswerConfig

    def make_member(self) -> nn.Module:
        """A table, empty at first."""
        return _Table()

    def fit(self, episodes: Views) -> Views:
        """Count.

        Raises:
            UserError: there are more beginnings than ``kept``, or longer texts than ``bytes``.
        """
        found: dict[str, Counter[str]] = defaultdict(Counter)
        questions, answers = (texts_of(episodes[name].flatten(0, 1)) for name in ("questions", "answers"))
        for question, answer in zip(questions, answers, strict=True):
            for beginning in self._beginnings(question):
                found[beginning][answer] += 1
        # Of equally frequent answers the first by name.
        most = {b: min(c.items(), key=lambda item: (-item[1], item[0]))[0] for b, c in sorted(found.items())}
        if len(most) > self.config.kept:
            raise UserError(f"training has {len(most)} beginnings of questions; raise kept above {self.config.kept}")
        for member in self.members:
            assert isinstance(member, _Table)
            member.beginnings, member.answers = self._codes(list(most)), self._codes(list(most.values()))
        right = sum(max(c.values()) for b, c in found.items() if not b)
        return {"wrong": torch.full((len(self.seeds),), 1.0 - right / max(1, len(questions)))}

    def _beginnings(self, question: str) -> Iterator[str]:
        """From the longest that is looked at to none; the whole question ends with its mark."""
        words, c = question.split(), self.config
        if c.whole:
            yield from (" ".join(words[:k]) for k in range(len(words), c.words, -1))
        yield from {" ".join(words[: c.words]): None, "": None}

    def _codes(self, texts: list[str]) -> Tensor:
        codes = torch.from_numpy(utf8(texts))
        if codes.shape[1] > self.config.bytes:
            raise UserError(f"a question or answer has {codes.shape[1]} bytes; raise bytes above {self.config.bytes}")
        return codes

    def choose(self, frames: Tensor, questions: Tensor, candidates: Tensor, seed: int) -> Tensor:
        """See `Answers`: 1 for the most frequent answer, 0 for all others."""
        del frames
        table = self.members[seed]
        assert isinstance(table, _Table)
        known = dict(zip(texts_of(table.beginnings), texts_of(table.answers), strict=True))
        offered = {text: k for k, text in enumerate(texts_of(candidates))}
        scores = torch.zeros(*questions.shape[:2], len(candidates))
        for row, question in zip(scores.flatten(0, 1), texts_of(questions.flatten(0, 1)), strict=True):
            answer = next(known[b] for b in self._beginnings(question) if b in known)
            if answer in offered:
                row[offered[answer]] = 1.0
        return scores

    def member_encode(self, member: nn.Module, views: Views) -> tuple[Tensor, Tensor | None]:
        """The bytes of questions: ``[E, Q, L]``."""
        del member
        return views["questions"].float(), None
