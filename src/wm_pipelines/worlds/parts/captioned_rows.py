"""Captions of somebody's own, with pictures or without: who sees which, and the views that the task of language takes.

Nobody knows what such captions should say: there are no scenes behind them, and no grammar that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.base import stream

KINDS = ("description", "own")
"""Kinds of questions: for the caption, and those of the user's table."""

_ASK = "what is shown?"


def linked(*names: Sequence[str]) -> NDArray[np.int64]:
    """Numbers ``[N]`` of rows, equal where rows share a name in any list, be it by way of others; ``""`` is no name.

    Args:
        names: lists of N names each.
    """
    number = list(range(len(names[0])))

    def root(row: int) -> int:
        while number[row] != row:
            number[row] = row = number[number[row]]
        return row

    for column in names:
        first: dict[str, int] = {}
        for row, name in enumerate(column):
            if name:
                number[root(row)] = root(first.setdefault(name, row))
    return np.unique([root(row) for row in range(len(number))], return_inverse=True)[1].astype(np.int64)


def shared_out(
    groups: NDArray[np.int64], shares: Mapping[str, float], seed: int, about: str
) -> dict[str, NDArray[np.int64]]:
    """Rows of every split, ascending; no group ``[N]`` is in two.

    Groups are put in random order, and a split takes whole ones up to its share of the rows.

    Raises:
        UserError: a split is left empty.
    """
    order = np.random.default_rng(stream(seed, "split")).permutation(int(groups.max()) + 1)
    sizes = np.bincount(groups)[order]
    middle = (np.cumsum(sizes) - sizes / 2) / len(groups)  # of a group, on the way through all rows
    ends = [0.0, *np.cumsum(list(shares.values())).tolist()]
    found = {}
    for split, (start, stop) in zip(shares, pairwise(ends), strict=True):
        inside = (middle >= start) & (middle < stop + 1e-9)
        found[split] = np.flatnonzero(np.isin(groups, order[inside]))
        if not len(found[split]):
            raise UserError(
                f"{about}: split '{split}' is empty: {len(groups)} rows in {len(sizes)} groups; mend `splits`"
            )
    return found


def given_splits(names: Sequence[str], about: str) -> dict[str, NDArray[np.int64]]:
    """Rows of every split that a table names.

    Raises:
        UserError: a row has none, or there is no ``train`` or ``test``.
    """
    if "" in names:
        raise UserError(f"{about}, data row {names.index('') + 1}: it names no split")
    found = {split: np.flatnonzero(np.array(names) == split) for split in dict.fromkeys(names)}
    for wanted in ("train", "test"):
        if wanted not in found:
            raise UserError(f"{about}: no row is in split '{wanted}'; there are {', '.join(found)}")
    return found


def text_views(
    captions: Sequence[str], questions: Sequence[str] | None = None, answers: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """The views ``captions [N]``, ``questions``, ``answers`` and ``asked [N, Q]``.

    The first question is for the caption, the second one that of the table, if it has any.
    """
    said, count = np.array(captions, np.str_), len(captions)
    asked, replies = [np.array([_ASK] * count)], [said]
    if questions is not None and answers is not None:
        asked.append(np.array(questions, np.str_))
        replies.append(np.array(answers, np.str_))
    return {
        "captions": said,
        "questions": np.stack(asked, 1),
        "answers": np.stack(replies, 1),
        "asked": np.tile(np.arange(len(asked)), (count, 1)),
    }


def passages(text: str, size: int) -> list[str]:
    """A text cut between words into passages of at most ``size`` bytes, blanks and line ends alike one blank.

    Raises:
        UserError: a word is longer.
    """
    found: list[str] = []
    for word in text.split():
        if len(word.encode()) > size:
            raise UserError(f"the word '{word[:20]}…' is longer than a passage of {size} bytes")
        if found and len(f"{found[-1]} {word}".encode()) <= size:
            found[-1] = f"{found[-1]} {word}"
        else:
            found.append(word)
    return found
