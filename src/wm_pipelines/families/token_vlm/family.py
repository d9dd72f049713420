"""A vision-language model that decodes: the answer's tokens one after the other, from what is seen and asked.

The usual design (Liu et al., *Visual instruction tuning*, NeurIPS 2023; Beyer et al., *PaliGemma*, 2024): tokens of the
image come first, those of the question look at them and at each other, those of the answer at all before them;
cross-entropy of the answer's tokens and its end. The reference for `vljepa`, on the same encoder, data and steps
(`parts.asking`).

Candidates are scored by their likelihood; image and question are read once, and their keys and values kept.
``blind`` sees no image: the text-only prior. It has no encoder to train, and learns questions in all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wm_pipelines.blocks.reading import Kept, Reader, by_length, trimmed
from wm_pipelines.blocks.words import PADDING, UNKNOWN
from wm_pipelines.blocks.workers import ratio
from wm_pipelines.families import register
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.parts.asking import AskedConfig, AskedFamily, Sight, read_images, tokens_of
from wm_pipelines.families.token_vlm.search import Search, levels

_AT_ONCE = 256  # frames described together
_ROWS = 4096  # questions times candidates' tokens scored together
END = PADDING
"""The token after the last word: in a target, the first padding stands for the end."""


class TokenVLMConfig(AskedConfig):
    """Defaults in ``conf/base/parameters_token_vlm.yml``."""

    blind: bool = Field(False, description="sees no image: what the questions alone tell")


class Decoder(nn.Module):
    """Image and question in front, the answer behind."""

    def __init__(self, config: TokenVLMConfig, sight: Sight) -> None:
        super().__init__()
        c = config
        self.sight = None if c.blind else sight
        self.words = nn.Parameter(torch.randn(c.vocabulary, c.width))
        self.places = nn.Parameter(0.3 * torch.randn(c.words, c.width))
        self.said = nn.Parameter(0.3 * torch.randn(c.words + 1, c.width))  # places of the answer's tokens
        self.begin = nn.Parameter(torch.randn(c.width))
        self.reader = Reader(c.width, c.depth, c.heads)
        self.head = nn.Linear(c.width, c.vocabulary)

    def front(self, questions: Tensor) -> Tensor:
        """What the questions' tokens ``[B, Q, L]`` are read as, ``[B Q, L, D]``."""
        return self.words[questions.flatten(0, 1)] + self.places[: questions.shape[-1]]

    def back(self, answers: Tensor) -> Tensor:
        """What the answer's tokens ``[R, L]`` are read as, one place later: ``[R, L, D]``."""
        begun = torch.cat([self.begin.expand(len(answers), 1, -1), self.words[answers[:, :-1]]], 1)
        return begun + self.said[: answers.shape[1]]

    def forward(self, seen: Tensor, questions: Tensor, answers: Tensor) -> Tensor:
        """Nats of every token of the answers ``[B, Q, L]`` and of their end, ``[B Q, L + 1]``; 0 behind it."""
        before, there = read_images(self.sight, self.reader, seen, questions)
        front, flat = self.front(questions), answers.flatten(0, 1)
        nats = front.new_zeros(len(flat), flat.shape[1] + 1)
        for rows in by_length(flat):
            own = None if before is None else [(k[rows], v[rows]) for k, v in before]
            found = self._nats(front[rows], there[rows], own, trimmed(flat[rows]))
            nats[rows, : found.shape[1]] = found
        return nats

    def _nats(self, front: Tensor, there: Tensor, before: list[Kept] | None, answers: Tensor) -> Tensor:
        """Of answers ``[R, L]`` to questions ``front [R, n, D]``, ``[R, L + 1]``."""
        back = self.back(ended(answers))
        n, m = front.shape[1], back.shape[1]
        mask = torch.cat([there[:, None, :].expand(-1, n + m, -1), there.new_zeros(len(there), n + m, m)], 2)
        mask[:, n:, -m:] = there.new_ones(m, m).tril()
        read, _ = self.reader(torch.cat([front, back], 1), mask, before, last=m)
        return nats_of(self.head(read), answers)

    def read(self, seen: Tensor, questions: Tensor) -> tuple[list[Kept], Tensor]:
        """Keys and values of image and question, and which of them are there."""
        before, there = read_images(self.sight, self.reader, seen, questions)
        mask = there[:, None, :].expand(-1, questions.shape[-1], -1)
        return self.reader(self.front(questions), mask, before, last=0)[1], there

    def go_on(self, back: Tensor, kept: list[Kept], there: Tensor) -> tuple[Tensor, list[Kept], Tensor]:
        """Logits of what follows each of ``back [R, m, D]``, after what was read, all that is kept then, and there."""
        m = back.shape[1]
        causal = there.new_ones(m, m).tril().expand(len(back), -1, -1)
        mask = torch.cat([there[:, None, :].expand(-1, m, -1), causal], 2)
        read, kept = self.reader(back, mask, kept)
        return self.head(read), kept, torch.cat([there, there.new_ones(len(back), m)], 1)


@register
class TokenVLM(AskedFamily):
    """Answers by the likelihood of candidates; captions word by word."""

    name: ClassVar[str] = "token_vlm"
    Config: ClassVar[type[FamilyConfig]] = TokenVLMConfig
    config: TokenVLMConfig

    def make_network(self, sight: Sight) -> nn.Module:
        """The decoder."""
        return Decoder(self.config, sight)

    def answer_loss(
        self, member: Any, seen: Tensor, questions: Tensor, answers: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of a token, in the mean over those of all answers."""
        nats = member.network(seen, questions, answers)
        count = (answers != PADDING).sum() + answers.shape[:2].numel()
        loss = ratio(nats.sum(), count.to(nats))
        return loss, {"cross_entropy": loss}

    def sees(self) -> bool:
        """Not if it is blind."""
        return not self.config.blind

    def scores(self, member: Any, seen: Tensor, questions: Tensor, candidates: Tensor) -> Tensor:
        """Logarithms of the candidates' likelihoods, by groups of candidates with as many words."""
        return self._once(questions, lambda asked: self._scores(member.network, seen, asked, candidates))

    def are_best(self, member: Any, seen: Tensor, questions: Tensor, candidates: Tensor) -> Tensor:
        """Candidates of the largest likelihood: most are ruled out by how they begin (`search`)."""
        network = member.network

        def say(last: Tensor, place: int, kept: list[Kept], there: Tensor) -> tuple[Tensor, list[Kept], Tensor]:
            back = network.words[last] if place else network.begin.expand(len(there), -1)
            logits, kept, there = network.go_on((back + network.said[place])[:, None], kept, there)
            return logits[:, 0].log_softmax(-1), kept, there

        search = Search(say, levels(candidates, END), END, len(candidates))
        return self._once(
            questions, lambda asked: search.best(*network.read(seen, asked)).unflatten(0, asked.shape[:2])
        )

    def _once(self, questions: Tensor, found: Callable[[Tensor], Tensor]) -> Tensor:
        """What is found of questions ``[B, Q, L]``; who sees nothing is asked every one of them once."""
        if self.sees():
            return found(questions)
        asked, which = questions.flatten(0, 1).unique(dim=0, return_inverse=True)
        return found(asked[None])[0, which].unflatten(0, questions.shape[:2])

    def _scores(self, network: Any, seen: Tensor, questions: Tensor, candidates: Tensor) -> Tensor:
        """``[B, Q, C]``."""
        kept, there = network.read(seen, questions)
        found = there.new_empty(len(there), len(candidates), dtype=kept[0][0].dtype)
        lengths = (candidates != PADDING).sum(1)
        for length in lengths.unique().tolist():
            group = (lengths == length).nonzero()[:, 0]
            texts = candidates[group, :length]
            for rows in torch.arange(len(there)).split(max(1, _ROWS // len(texts))):
                own, mask = [(k[rows], v[rows]) for k, v in kept], there[rows]
                found[rows[:, None], group] = self._likelihood(network, own, mask, texts)
        return found.unflatten(0, questions.shape[:2])

    def _likelihood(self, network: Any, kept: list[Kept], there: Tensor, texts: Tensor) -> Tensor:
        """Of texts ``[C, L]`` without padding, after what was kept of R questions: ``[R, C]``."""
        rows, count = len(there), len(texts)
        many = [(k.repeat_interleave(count, 0), v.repeat_interleave(count, 0)) for k, v in kept]
        said = texts.repeat(rows, 1)
        logits, _, _ = network.go_on(network.back(ended(said)), many, there.repeat_interleave(count, 0))
        return -nats_of(logits, said).sum(1).unflatten(0, (rows, count))

    @torch.no_grad()
    def describe(self, frames: Tensor, questions: Tensor, seed: int) -> list[str]:
        """See `Describes`: the likeliest word at every place, keys and values of what was read and said kept."""
        member: Any = self.members[seed].eval()
        found = []
        for shown, asked in zip(
            frames.split(_AT_ONCE), tokens_of(member.words, questions).split(_AT_ONCE), strict=True
        ):
            found += member.words.texts(self._said(member.network, self.seen(member, shown), asked[:, None]))
        return found

    def _said(self, network: Any, seen: Tensor, questions: Tensor) -> Tensor:
        """Tokens ``[B Q, L]`` of answers to questions ``[B, Q, L]``, 0 behind their ends."""
        kept, there = network.read(seen, questions)
        said, over = [], torch.zeros(len(there), dtype=torch.bool, device=there.device)
        back = (network.begin + network.said[0]).expand(len(there), 1, -1)
        for place in range(1, self.config.words + 1):
            logits, kept, there = network.go_on(back, kept, there)
            logits[..., UNKNOWN] = -torch.inf
            word = torch.where(over, END, logits[:, 0].argmax(1))
            over = over | (word == END)
            said.append(word)
            if bool(over.all()):
                break
            back = (network.words[word] + network.said[place])[:, None]
        return torch.stack(said, 1)


def ended(answers: Tensor) -> Tensor:
    """Answers ``[R, L]`` with one place more, for their end."""
    return nn.functional.pad(answers, (0, 1), value=END)


def nats_of(logits: Tensor, answers: Tensor) -> Tensor:
    """Minus the logarithm of the probability of every word of answers ``[R, L]`` and of their end; 0 behind it."""
    said = ended(answers)
    behind = (said == PADDING).cumsum(1) > 1
    return cross_entropy(logits.transpose(1, 2), said.masked_fill(behind, -100), reduction="none")
