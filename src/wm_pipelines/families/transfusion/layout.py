"""Documents of text and images in any order: what stands where, and who sees whom.

A document is a list of pieces: numbers of text tokens, or `Image`. Axes: ``B`` documents, ``N`` positions, padded at
the end to one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wm_pipelines.errors import UserError

TEXT, PADDED = 0, -1
"""Kinds of positions; k >= 1 is the k-th image of the document."""


@dataclass(frozen=True)
class Image:
    """An image of so many patches."""

    patches: int


Document = Sequence["Sequence[int] | Image"]


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Attributes:
        kind: ``[B, N]`` int64, see above. tokens: of text, 0 elsewhere.
        place: index of a text token among the text of its document, of a patch within its image.
    """

    kind: Tensor
    tokens: Tensor
    place: Tensor

    def rows(self, chosen: Tensor) -> Layout:
        """That of some documents."""
        return Layout(self.kind[chosen], self.tokens[chosen], self.place[chosen])

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        return Layout(self.kind.to(device), self.tokens.to(device), self.place.to(device))

    @property
    def images(self) -> int:
        """Images of a document at most."""
        return max(0, int(self.kind.max())) if self.kind.numel() else 0


def lay_out(documents: Sequence[Document], length: int | None = None) -> Layout:
    """Put documents in a row each.

    Args:
        documents: lists of pieces. length: ``N``; None: that of the longest.

    Raises:
        UserError: a piece is neither text nor an image (an unknown modality), a document is empty or too long.
    """
    rows = [_row(document) for document in documents]
    longest = max((row.shape[1] for row in rows), default=0)
    if length is not None and longest > length:
        raise UserError(f"a document has {longest} tokens and patches, there is room for {length}")
    whole = np.zeros((len(rows), 3, length or longest), np.int64)
    whole[:, 0] = PADDED
    for row, into in zip(rows, whole, strict=True):
        into[:, : row.shape[1]] = row
    kind, tokens, place = torch.from_numpy(whole).unbind(1)
    return Layout(kind, tokens, place)


def _row(document: Document) -> np.ndarray:
    kinds: list[int] = []
    tokens: list[int] = []
    places: list[int] = []
    text, images = 0, 0
    for piece in document:
        if isinstance(piece, Image):
            images += 1
            count, kind, numbers, first = piece.patches, images, [0] * piece.patches, 0
        elif isinstance(piece, Sequence) and not isinstance(piece, str):
            count, kind, numbers, first = len(piece), TEXT, list(piece), text
            text += count
        else:
            raise UserError(f"unknown modality {type(piece).__name__}: pieces are token numbers or an Image")
        kinds += [kind] * count
        tokens += numbers
        places += range(first, first + count)
    if not kinds:
        raise UserError("a document without text and images")
    return np.array([kinds, tokens, places], np.int64)


def attention_mask(kind: Tensor, causal_images: bool = False) -> Tensor:
    """Who looks at whom, ``[B, N, N]`` (query, key), True where it may; figure 4 of the paper.

    Causal for all; within an image every patch sees every other one. So an image sees the text before it, text before
    an image never sees it, text after it does. Nobody looks at padding but itself.

    Args:
        kind: ``[B, N]``, see `Layout`. causal_images: the ablation, patches see earlier ones of their image alone.
    """
    size = kind.shape[-1]
    allowed = torch.ones(size, size, dtype=torch.bool, device=kind.device).tril()
    query, key = kind[:, :, None], kind[:, None, :]
    if not causal_images:
        allowed = allowed | ((query == key) & (query > TEXT))
    itself = torch.eye(size, dtype=torch.bool, device=kind.device)
    return (allowed & (key != PADDED)) | itself
