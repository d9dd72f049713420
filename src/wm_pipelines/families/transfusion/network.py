"""The transformer of one seed: documents of text and images -> logits of the next token, images without noise.

Modules draw their weights from torch's global generator. Axes: ``B`` documents, ``N`` positions, ``K`` images of a
document, ``P`` patches of an image, ``D`` features, ``V`` tokens of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from wm_pipelines.blocks.transformer import Block
from wm_pipelines.errors import UserError
from wm_pipelines.families.transfusion.layout import PADDED, TEXT, Layout, attention_mask
from wm_pipelines.families.transfusion.noise import LEVELS
from wm_pipelines.families.transfusion.stems import Kept, stem

_WAVES = 32  # sines and as many cosines of a level of noise


@dataclass(frozen=True)
class Size:
    """How large a network is.

    Attributes:
        vocabulary: ``V``. text: text tokens of a document at most. images: images of a document at most.
        shape: ``(C, H, W)`` of images. patch: pixels along a side. width: ``D``. depth, heads: of the transformer.
        stem: of the patches. channels: of its convolutions.
    """

    vocabulary: int
    text: int
    images: int
    shape: tuple[int, int, int]
    patch: int
    width: int
    depth: int
    heads: int
    stem: str
    channels: int

    @property
    def patches(self) -> int:
        """``P``."""
        return (self.shape[1] // self.patch) * (self.shape[2] // self.patch)


@dataclass
class Memory:
    """Keys and values of what was read, by layer ``[B, heads, N, D / heads]``, and what kind it was ``[B, N]``."""

    layers: list[tuple[Tensor, Tensor]]
    kind: Tensor


class MixedBlock(Block):
    """A pre-norm block whose attention is masked, and goes on from keys and values of what was read before."""

    def mixed(
        self, x: Tensor, mask: Tensor, before: tuple[Tensor, Tensor] | None, packing: Packing
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Packed positions ``x [T, D]``, mask ``[B, n, N]`` over what was read before and x.

        Returns:
            ``[T, D]``, and all keys and values.
        """
        attention, source = self.attention, self.norm1(x)
        q = packing.spread(attention.query(source)).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        both = packing.spread(attention.key_value(source)).unflatten(-1, (2, attention.heads, -1))
        k, v = both.permute(2, 0, 3, 1, 4)
        if before is not None:
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        seen = scaled_dot_product_attention(q, k, v, mask[:, None])
        x = x + attention.out(packing.pack(seen.transpose(1, 2).flatten(2)))
        return x + self.mlp(self.norm2(x)), (k, v)


class Packing:
    """Positions that are no padding, one after the other: what is done to each alone is done to no padding.

    Args:
        kind: ``[B, n]``, see `Layout`.
    """

    def __init__(self, kind: Tensor) -> None:
        self.shape = kind.shape
        self.at = (kind != PADDED).flatten().nonzero()[:, 0]
        self.full = len(self.at) == kind.numel()

    def pack(self, x: Tensor) -> Tensor:
        """``[B, n, D] -> [T, D]``."""
        return x.flatten(0, 1) if self.full else x.flatten(0, 1).index_select(0, self.at)

    def spread(self, x: Tensor) -> Tensor:
        """Its inverse, with zeros at padding."""
        whole = x if self.full else x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.at, x)
        return whole.unflatten(0, self.shape)


class Network(nn.Module):
    """Text and images through one transformer.

    Positions belong to a modality: text has a table over its tokens, patches one over rows and one over columns, and
    images one over their order in the document.

    Args:
        size: see `Size`. causal_images: the ablation: patches see no later ones.

    Raises:
        UserError: causal images with a stem whose convolutions would leak, or sizes that do not fit.
    """

    def __init__(self, size: Size, causal_images: bool = False) -> None:
        super().__init__()
        if causal_images and size.stem != "linear":
            raise UserError("causal_images needs the linear stem: convolutions look at later patches")
        self.size, self.causal_images = size, causal_images
        width, rows = size.width, size.shape[1] // size.patch
        self.stem = stem(size.stem, size.shape, size.patch, width, size.channels)
        self.words = nn.Parameter(0.5 * torch.randn(size.vocabulary, width))
        self.text_place = nn.Parameter(0.3 * torch.randn(size.text, width))
        self.row = nn.Parameter(0.3 * torch.randn(rows, width))
        self.column = nn.Parameter(0.3 * torch.randn(size.patches // rows, width))
        self.order = nn.Parameter(0.3 * torch.randn(size.images, width))
        self.level = nn.Sequential(nn.Linear(2 * _WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(MixedBlock(width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, size.vocabulary)
        _initialise(self)

    # ------------------------------------------------------------------------------------------------------ in, through

    def embed_images(self, images: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Kept]:
        """Images ``[B, K, C, H, W]`` with noise of ``levels [B, K]``.

        Returns:
            patches ``[B, K, P, D]``, and what `images` wants: embedded levels ``[B K, D]`` and what the stem kept.

        Raises:
            UserError: images of another size.
        """
        if tuple(images.shape[2:]) != self.size.shape:
            raise UserError(f"images of {list(images.shape[2:])} were given, the model takes {list(self.size.shape)}")
        level = self.level(_waves(levels.flatten()).to(images.dtype))
        patches, kept = self.stem.embed(images.flatten(0, 1), level)
        rows, columns = len(self.row), len(self.column)
        at = (self.row[:, None] + self.column).reshape(rows * columns, -1)
        return patches.unflatten(0, images.shape[:2]) + at, level, kept

    def embed(self, layout: Layout, patches: Tensor | None) -> Tensor:
        """Everything in its place, ``[B, N, D]``.

        Raises:
            UserError: a token is out of range, or there is more text, or are more images, than the model takes.
        """
        tokens, text = layout.tokens, layout.kind == TEXT
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.size.vocabulary:
            bad = tokens[(tokens < 0) | (tokens >= self.size.vocabulary)][0]
            raise UserError(f"token {int(bad)} is out of range: the vocabulary has {self.size.vocabulary}")
        if bool((text & (layout.place >= self.size.text)).any()):
            raise UserError(f"a document has more than the {self.size.text} text tokens that the model takes")
        if layout.images > self.size.images:
            raise UserError(f"a document has {layout.images} images, the model takes {self.size.images}")
        x = self.words[tokens] + self.text_place[torch.where(text, layout.place, 0)]
        if patches is None:
            return x
        of_image = layout.kind > TEXT
        which = torch.where(of_image, (layout.kind - 1) * self.size.patches + layout.place, 0)
        ordered = (patches + self.order[: patches.shape[1], None]).flatten(1, 2)
        drawn = ordered.gather(1, which[..., None].expand(-1, -1, x.shape[-1]))
        return torch.where(of_image[..., None], drawn, x)

    def through(self, x: Tensor, kind: Tensor, before: Memory | None = None) -> tuple[Tensor, Memory]:
        """Embedded positions of some kinds, after what was read ``before`` -> features ``[B, n, D]``, all in memory."""
        whole = kind if before is None else torch.cat([before.kind, kind], 1)
        mask = attention_mask(whole, self.causal_images)[:, -kind.shape[1] :]
        layers, packing = [], Packing(kind)
        x = packing.pack(x)
        for depth, block in enumerate(self.blocks):
            assert isinstance(block, MixedBlock)
            x, known = block.mixed(x, mask, None if before is None else before.layers[depth], packing)
            layers.append(known)
        return packing.spread(self.norm(x)), Memory(layers, whole)

    # ------------------------------------------------------------------------------------------------------------- out

    def read(self, layout: Layout, before: Memory | None = None) -> tuple[Tensor, Memory]:
        """Features of text alone ``[B, n, D]``, after what was read before."""
        return self.through(self.embed(layout, None), layout.kind, before)

    def logits(self, features: Tensor) -> Tensor:
        """Of the token that comes next, ``[..., V]``."""
        return self.head(features)

    def images(self, features: Tensor, layout: Layout, level: Tensor, kept: Kept, count: int) -> Tensor:
        """What is said of the ``count`` images, ``[B, count, C, H, W]``; of those that a document lacks, anything."""
        patches = self.size.patches
        of_image = layout.kind > TEXT
        which = torch.where(of_image, (layout.kind - 1) * patches + layout.place, count * patches)
        at = torch.zeros(len(which), count * patches + 1, dtype=torch.int64, device=which.device)
        at.scatter_(1, which, torch.arange(which.shape[1], device=which.device).expand_as(which))
        found = features.gather(1, at[:, :-1, None].expand(-1, -1, features.shape[-1]))
        drawn = self.stem.images(found.reshape(-1, patches, found.shape[-1]), level, kept)
        return drawn.unflatten(0, (len(which), count))

    def forward(self, layout: Layout, images: Tensor | None = None, levels: Tensor | None = None) -> Answer:
        """Whole documents at once, images ``[B, K, C, H, W]`` with noise of ``levels [B, K]``."""
        if images is None or levels is None:
            features, memory = self.read(layout)
            return Answer(features, memory)
        patches, level, kept = self.embed_images(images, levels)
        features, memory = self.through(self.embed(layout, patches), layout.kind)
        return Answer(features, memory, level, kept)


@dataclass(frozen=True)
class Answer:
    """What a network makes of documents.

    Attributes:
        features: of every position ``[B, N, D]``, for `Network.logits` and `Network.images`. memory: to go on from.
        level, kept: what `Network.images` wants, of documents with images.
    """

    features: Tensor
    memory: Memory
    level: Tensor | None = None
    kept: Kept = ()


def next_tokens(layout: Layout) -> tuple[Tensor, Tensor]:
    """Where the next position is text and this one, too: what text is trained on.

    Returns:
        wanted: tokens ``[B, N - 1]``. counts: whether they count, ``[B, N - 1]``.
    """
    kind = layout.kind
    return layout.tokens[:, 1:], (kind[:, :-1] == TEXT) & (kind[:, 1:] == TEXT)


def _waves(levels: Tensor) -> Tensor:
    """Sines and cosines of levels ``[M]``, frequencies from one turn over all levels to one over four."""
    frequency = torch.exp(torch.linspace(0.0, math.log(LEVELS / 4.0), _WAVES, device=levels.device))
    angle = 2 * math.pi * levels[:, None] / LEVELS * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)


def _initialise(network: Network) -> None:
    """Weights of the transformer; what blocks add shrinks with depth (Radford et al., 2019)."""
    for part in [*network.blocks.modules(), network.head]:
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.5 / math.sqrt(network.size.width))
            nn.init.zeros_(part.bias)
    for block in network.blocks:
        assert isinstance(block, MixedBlock)
        for last in (block.attention.out, block.mlp[-1]):
            with torch.no_grad():
                last.get_parameter("weight").div_(math.sqrt(2.0 * network.size.depth))
