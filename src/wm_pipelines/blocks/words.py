"""Sentences as numbers of words. The vocabulary is made from the training captions and kept with the weights."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor, nn

from wm_pipelines.episodes import texts_of
from wm_pipelines.errors import UserError

PADDING, UNKNOWN = 0, 1
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")
_MARK = re.compile(r"[^\w\s]")
_BYTES = 24  # of the longest word


class Words(nn.Module):
    """A tokenizer of words and punctuation marks.

    Captions are UTF-8 bytes padded with 0, ``[N, L]`` uint8 (`episodes.TextCodec`); tokens are ``[N, length]`` int64:
    0 behind the end, 1 for a word that training captions do not have, then the words in alphabetical order.

    Args:
        size: tokens at most, those two included. length: words of a caption at most.
    """

    table: Tensor

    def __init__(self, size: int, length: int) -> None:
        super().__init__()
        self.size, self.length = size, length
        self.register_buffer("table", torch.zeros(size, _BYTES, dtype=torch.uint8))

    def learn(self, captions: Tensor) -> None:
        """Make the vocabulary from training captions.

        Raises:
            UserError: there are more words, or longer ones, than it has room for.
        """
        words = sorted({word for text in texts_of(captions) for word in _WORD_OR_MARK.findall(text)})
        if len(words) > self.size - 2:
            raise UserError(f"captions have {len(words)} different words; raise vocabulary above {self.size}")
        self.table.zero_()
        for row, word in zip(self.table[2:], words, strict=False):
            if len(code := word.encode()) > _BYTES:
                raise UserError(f"the word '{word[:20]}…' of a caption is longer than {_BYTES} bytes")
            row[: len(code)] = torch.tensor(list(code), dtype=torch.uint8)

    def tokens(self, captions: Tensor) -> Tensor:
        """Numbers of the words of captions.

        Raises:
            UserError: a caption has more words than `length`.
        """
        number = {word: k for k, word in enumerate(texts_of(self.table)) if word}
        found = np.zeros((len(captions), self.length), np.int64)
        for row, text in zip(found, texts_of(captions), strict=True):
            words = _WORD_OR_MARK.findall(text)
            if len(words) > self.length:
                raise UserError(f"a caption has {len(words)} words, the model takes {self.length}; raise words")
            row[: len(words)] = [number.get(word, UNKNOWN) for word in words]
        return torch.from_numpy(found)

    def texts(self, tokens: Tensor) -> list[str]:
        """Texts of tokens ``[N, L]`` up to the first 0: spaces between words, marks right behind the word before."""
        words = texts_of(self.table)
        found = []
        for row in tokens.tolist():
            said = [words[t] for t in (row[: row.index(PADDING)] if PADDING in row else row)]
            found.append("".join(word if _MARK.fullmatch(word) else f" {word}" for word in said).strip())
        return found
