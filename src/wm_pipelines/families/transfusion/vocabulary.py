"""Byte-pair encoding of captions, made from the training captions and kept with the weights.

Byte-level BPE (Sennrich, Haddow, Birch, *Neural machine translation of rare words with subword units*, ACL 2016;
Radford et al., 2019), by the package ``tokenizers``: every text has tokens, none is unknown. What a vocabulary is made
of, its merges, is a tensor of the model, so that weights and vocabulary cannot be parted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from wm_pipelines.episodes import texts_of
from wm_pipelines.errors import UserError

PAD, BOS, EOS, BOI, EOI = range(5)
"""Padding; begin and end of a text; begin and end of an image."""
SPECIAL = 5
BYTES = 256
_NAMES = ("<pad>", "<bos>", "<eos>", "<boi>", "<eoi>")


class Vocabulary(nn.Module):
    """Five special tokens, 256 bytes, then the merges in the order in which they were learned.

    Args:
        size: tokens at most. longest: tokens of a caption at most.

    Raises:
        UserError: there is no room for bytes.
    """

    merges: Tensor
    seal: Tensor

    def __init__(self, size: int, longest: int) -> None:
        super().__init__()
        if size < SPECIAL + BYTES:
            raise UserError(f"a vocabulary of {size} has no room for {SPECIAL} special tokens and {BYTES} bytes")
        self.size, self.longest = size, longest
        self.register_buffer("merges", torch.full((size - SPECIAL - BYTES, 2), -1, dtype=torch.int64))
        self.register_buffer("seal", torch.zeros(32, dtype=torch.uint8))

    def learn(self, captions: Tensor) -> None:
        """Make the merges from training captions ``[N, L]`` (UTF-8, padded with 0).

        Raises:
            UserError: a caption is empty.
        """
        from tokenizers import models, trainers

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        trainer = trainers.BpeTrainer(
            vocab_size=self.size,
            special_tokens=list(_NAMES),
            initial_alphabet=_alphabet(),
            show_progress=False,
        )
        tokenizer = _plain(models.BPE())
        tokenizer.train_from_iterator(texts_of(captions), trainer)
        number = {token: k for k, token in enumerate([*_NAMES, *_alphabet()])}
        self.merges.fill_(-1)
        for row, (first, second) in zip(self.merges, _merges_of(tokenizer), strict=False):
            number.setdefault(first + second, len(number))
            row.copy_(torch.tensor([number[first], number[second]]))
        self.seal.copy_(self._digest())
        self.__dict__.pop("_tokenizer", None)

    @cached_property
    def _tokenizer(self) -> Any:
        """The tokenizer of the package.

        Raises:
            UserError: the merges are not those that the weights were trained with.
        """
        from tokenizers import models

        self.check()
        tokens = [*_NAMES, *_alphabet()]
        pairs = []
        for first, second in self.merges.tolist():
            if first >= 0:
                pairs.append((tokens[first], tokens[second]))
                if (joined := tokens[first] + tokens[second]) not in tokens:
                    tokens.append(joined)
        return _plain(models.BPE(vocab={token: k for k, token in enumerate(tokens)}, merges=pairs))

    def check(self) -> None:
        """See that the merges are those that the weights were trained with.

        Raises:
            UserError: they are those of another checkpoint.
        """
        if not torch.equal(self.seal.cpu(), self._digest()):
            raise UserError(
                "the vocabulary is that of another checkpoint: its tokens mean other words to these weights"
            )

    def _digest(self) -> Tensor:
        digest = hashlib.sha256(self.merges.cpu().numpy().tobytes()).digest()
        return torch.frombuffer(bytearray(digest), dtype=torch.uint8)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of the tokens of texts.

        Raises:
            UserError: a text is empty, or longer than `longest`.
        """
        if any(not text.strip() for text in texts):
            raise UserError("an empty caption: there is nothing to learn or to draw from it")
        found = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        most = max(map(len, found), default=0)
        if most > self.longest:
            raise UserError(f"a caption has {most} tokens, the model takes {self.longest}; raise longest")
        return found

    @property
    def known(self) -> int:
        """How many tokens there are; numbers from here on mean nothing."""
        return int(self._tokenizer.get_vocab_size())

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special ones are left out.

        Raises:
            UserError: a token is none of the vocabulary.
        """
        if bad := [t for t in tokens if not 0 <= t < self.known]:
            raise UserError(f"token {bad[0]} is out of range: the vocabulary has {self.known}")
        return str(self._tokenizer.decode([t for t in tokens if t >= SPECIAL])).removeprefix(" ")


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _plain(model: Any) -> Any:
    """A byte-level tokenizer of that model."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _merges_of(tokenizer: Any) -> list[tuple[str, str]]:
    return [(first, second) for first, second in json.loads(tokenizer.to_str())["model"]["merges"]]
