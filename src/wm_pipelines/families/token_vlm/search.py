"""The likeliest of many texts, without scoring all of them: branch and bound over the tree of their beginnings.

The likelihood of a text falls with every token. A first pass follows the likeliest token from place to place and ends
in a text that bounds the best from below; a second one follows all beginnings that are still at least as likely. What
it finds is exact: no text is left out that could be the best.

Shapes: ``R`` questions, ``F`` beginnings that are followed, ``C`` texts, ``L`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wm_pipelines.blocks.reading import Kept

_AT_ONCE = 2048  # beginnings followed together
_SLACK = 1e-3  # nats: sums of the same terms differ by rounding

Say = Callable[[Tensor, int, list[Kept], Tensor], tuple[Tensor, list[Kept], Tensor]]
"""Of the last tokens ``[F]`` at a place, of what is kept and what of it is there: logarithms ``[F, V]`` of what
follows, and both with the tokens among them."""


class Level(NamedTuple):
    """The tokens at one place of the texts that begin alike so far once."""

    token: Tensor  # [n]
    parent: Tensor  # [n] at the level before
    text: Tensor  # [C] which of them every text has, -1 behind its end


class Follow(NamedTuple):
    """Beginnings: the question, where in the tree, its logarithm, what is kept."""

    row: Tensor
    node: Tensor
    total: Tensor
    kept: list[Kept]
    there: Tensor

    def go_on(self, which: Tensor, node: Tensor, total: Tensor) -> Follow:
        """What follows some of them."""
        kept = [(k[which], v[which]) for k, v in self.kept]
        return Follow(self.row[which], node, total, kept, self.there[which])


def levels(texts: Tensor, end: int) -> list[Level]:
    """The tree of texts ``[C, L]``, each with ``end`` behind its last token, as often as it takes."""
    before = texts.new_zeros(len(texts), dtype=torch.long)
    found = []
    for column in torch.nn.functional.pad(texts, (0, 1), value=end).T:
        goes_on = before >= 0
        if not bool(goes_on.any()):
            break
        pairs, which = torch.stack([before[goes_on], column[goes_on]], 1).unique(dim=0, return_inverse=True)
        text = torch.full_like(before, -1).masked_scatter(goes_on, which)
        found.append(Level(pairs[:, 1], pairs[:, 0], text))
        before = torch.where(goes_on & (column != end), text, -1)
    return found


@dataclass
class Search:
    """One search among texts; `best` is its result.

    Args:
        say: the model. tree: of the texts. end: the token behind a text. count: C.
    """

    say: Say
    tree: list[Level]
    end: int
    count: int

    def best(self, kept: list[Kept], there: Tensor) -> Tensor:
        """Whether texts are the likeliest after what is kept of R questions, ``[R, C]``; several that are equal."""
        rows = torch.arange(len(there), device=there.device)
        start = Follow(rows, torch.zeros_like(rows), kept[0][0].new_zeros(len(rows)), kept, there)
        found = kept[0][0].new_full((len(rows), self.count), -torch.inf)
        self._follow(0, start, None, found)
        self._follow(0, start, found.max(1).values - _SLACK, found)
        return found == found.max(1, keepdim=True).values

    def _follow(self, place: int, begun: Follow, bound: Tensor | None, found: Tensor) -> None:
        """Write the likelihoods of all texts that are as likely as ``bound [R]``, or of one each, into ``found``."""
        level, last = self.tree[place], self.tree[place - 1].token[begun.node] if place else begun.node
        logs, kept, there = self.say(last, place, begun.kept, begun.there)
        totals = (begun.total[:, None] + logs[:, level.token]).masked_fill(
            level.parent != begun.node[:, None], -torch.inf
        )
        if bound is None:
            which, node = torch.arange(len(totals), device=totals.device), totals.argmax(1)
        else:
            which, node = (totals >= bound[begun.row, None]).nonzero().unbind(1)
        total, over = totals[which, node], level.token[node] == self.end
        ended, texts = (level.text == node[over, None]).nonzero().unbind(1)
        found[begun.row[which[over]][ended], texts] = total[over][ended]
        said = begun._replace(kept=kept, there=there)
        for part in (~over).nonzero()[:, 0].split(_AT_ONCE):
            if len(part):
                self._follow(place + 1, said.go_on(which[part], node[part], total[part]), bound, found)
