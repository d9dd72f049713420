"""Samples: text token by token, images step by step from noise.

Axes as in `network`. Texts that are read before an image differ in length: their padding stands between them and the
image, and is seen by nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from wm_pipelines.blocks.flow_sampling import guided
from wm_pipelines.families.transfusion.layout import TEXT, Document, Image, Layout, lay_out
from wm_pipelines.families.transfusion.network import Memory, Network
from wm_pipelines.families.transfusion.noise import LEVELS, Noise
from wm_pipelines.families.transfusion.vocabulary import BOI, SPECIAL


@dataclass(frozen=True)
class Known:
    """Pixels that a painting has to have.

    Attributes:
        x0: data ``[N, C, H, W]``. where: ``[N, 1, H, W]``, true where they are known.
    """

    x0: Tensor
    where: Tensor


@dataclass(frozen=True)
class Painter:
    """How images are taken out of noise.

    Attributes:
        network, noise: trained. steps: from pure noise to none. guidance: ``w``, of what a text adds (Ho and Salimans,
            2022). clip: least and largest value of the data, None where there are none.
    """

    network: Network
    noise: Noise
    steps: int
    guidance: float
    clip: tuple[Tensor, Tensor] | None = None

    def paint(self, texts: Sequence[Sequence[int]], x: Tensor, known: Known | None = None) -> Tensor:
        """Images after texts, which are read once; every step looks at what was kept of them.

        Known pixels follow the path that their own noise prescribes, and so end where they are known (Song et al.,
        *Score-based generative modeling through stochastic differential equations*, ICLR 2021, section 5).

        Args:
            texts: tokens, each ending with the begin of an image. x: noise ``[N, C, H, W]``.

        Returns:
            Data ``[N, C, H, W]``.
        """
        first, count = x, len(x)
        told = self.heard(texts)
        untold = self.heard([[BOI]] * count) if self.guidance != 1.0 else None
        layout = lay_out([[Image(self.network.size.patches)]] * count).to(x.device)
        levels = torch.linspace(LEVELS, 0, self.steps + 1).round().long().tolist()
        for level, lower in pairwise(levels):
            at, to = (torch.full((count,), v, device=x.device) for v in (level, lower))
            said = self.said(layout, x, at, told)
            if untold is not None:
                said = guided(said, self.said(layout, x, at, untold), self.guidance)
            x = self.noise.back(said, x, at, to, self.clip)
            if known is not None:
                x = torch.where(known.where, self.noise.add(known.x0, first, to), x)
        return x

    def heard(self, texts: Sequence[Sequence[int]]) -> Memory:
        """Keys and values of texts that images follow."""
        layout = lay_out([[list(row)] for row in texts]).to(self.noise.signal.device)
        return self.network.read(layout)[1]

    def said(self, layout: Layout, x: Tensor, levels: Tensor, before: Memory) -> Tensor:
        """What the network says of noisy images ``[N, C, H, W]`` after what was read."""
        patches, level, kept = self.network.embed_images(x[:, None], levels[:, None])
        features, _ = self.network.through(self.network.embed(layout, patches), layout.kind, before)
        return self.network.images(features, layout, level, kept, 1)[:, 0]


def write(
    network: Network, documents: Sequence[Document], data: Tensor | None, end: int, known: int, longest: int
) -> list[list[int]]:
    """The likeliest token at every place, from the end of documents on; keys and values of what was read are kept.

    Args:
        documents: ending with text. data: their images without noise ``[N, C, H, W]``, one each, or None.
        end: the token that ends the text. known: tokens there are. longest: how many are written at most.

    Returns:
        Tokens of each, without the end.
    """
    device, count = network.words.device, len(documents)
    layout = lay_out(documents).to(device)
    none = None if data is None else torch.zeros(count, 1, dtype=torch.int64, device=device)
    answer = network(layout, None if data is None else data[:, None], none)
    at = torch.tensor(
        [sum(_length(piece) for piece in document) - 1 for document in documents], device=layout.kind.device
    )
    logits, memory = network.logits(answer.features[torch.arange(count), at]), answer.memory
    place = (layout.kind == TEXT).sum(1, keepdim=True)
    tokens, over = [], torch.zeros(count, dtype=torch.bool, device=device)
    for _ in range(longest + 1):
        over = over | (place[:, 0] >= network.size.text)
        token = torch.where(over, end, _sayable(logits, known, end).argmax(1))
        over = over | (token == end)
        if bool(over.all()):
            break
        tokens.append(token)
        within = place.clamp(max=network.size.text - 1)
        one = Layout(torch.full_like(place, TEXT), token[:, None], within)
        features, memory = network.read(one, memory)
        logits, place = network.logits(features[:, -1]), place + 1
    rows = torch.stack(tokens, 1).tolist() if tokens else [[] for _ in range(count)]
    return [row[: row.index(end)] if end in row else row for row in rows]


def _length(piece: Sequence[int] | Image) -> int:
    return piece.patches if isinstance(piece, Image) else len(piece)


def _sayable(logits: Tensor, known: int, end: int) -> Tensor:
    """Logits ``[N, V]`` of what may stand in a text: one of the ``known`` tokens of text, or its end."""
    logits = logits.clone()
    logits[:, [k for k in range(SPECIAL) if k != end]] = -torch.inf
    logits[:, known:] = -torch.inf
    return logits
