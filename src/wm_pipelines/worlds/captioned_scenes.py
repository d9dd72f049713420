"""Still scenes and sentences about them: one to three coloured shapes, each in a quarter of its own.

Some combinations of colour and shape are kept out of training, validation and test. The split ``held_out`` shows them
alone: both the colour and the shape are known from other objects, the combination is not (compositional generalisation
as in CLEVR-CoGenT: Johnson et al., *CLEVR: a diagnostic dataset for compositional language and elementary visual
reasoning*, CVPR 2017).

The split ``moving`` has clips instead of single scenes: objects drift about within their quarters, which no caption
tells, and now and then the scene changes (`parts.moving_scenes`). Nothing is trained on them.

An object of radius r spans a box of side 2 r: the circle touches its sides, the triangle stands in it with its tip up,
and the square, a little smaller, has the circle's area. The box lies within its quarter, a pixel from the edges: places
are told without doubt and objects never touch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float, World, WorldParameters, stream
from wm_pipelines.worlds.parts.moving_scenes import changing, drifting
from wm_pipelines.worlds.parts.rendering import PALETTE, PAPER, Colour
from wm_pipelines.worlds.parts.scene_grammar import COLOURS, PLACES, SHAPES, SIZES, captions, scene
from wm_pipelines.worlds.parts.scene_questions import KINDS, questions

SIDE = 32  # pixels of a frame
RADII = (4.0, 6.0)  # pixels, of the sizes
BACKGROUND: Colour = PAPER
FILLS: tuple[Colour, ...] = tuple(dict(PALETTE)[name] for name in COLOURS)
"""RGB in [0, 1] of the colours, in their order."""
SQUARE = math.sqrt(math.pi) / 2.0
"""Half of a square's side in radii: its area is a circle's."""

_MARGIN = 1.0  # pixels between an object and the edge of its quarter
_AT_ONCE = 512  # scenes drawn together

Scenes = NDArray[np.int64]
Pair = tuple[int, int]


class CaptionedScenesParameters(WorldParameters):
    """How many scenes, of how many objects, and which share of the combinations is kept out."""

    train: int = Field(6000, ge=1, description="scenes")
    validation: int = Field(500, ge=1)
    test: int = Field(500, ge=1)
    held_out: int = Field(500, ge=1, description="scenes of combinations that are kept out alone")
    objects: tuple[float, float, float] = Field((0.6, 0.3, 0.1), description="shares of scenes of 1, 2, 3 objects")
    held_out_share: float = Field(
        0.2, ge=0, lt=0.7, description="of the 15 combinations of colour and shape, kept out of training; 0: none"
    )

    moving: int = Field(160, ge=0, description="clips of scenes that change; 0: none")
    moving_frames: int = Field(64, ge=2, description="of such a clip")
    change: float = Field(0.04, gt=0, le=1, description="probability that the scene changes from one frame to the next")

    questions: int = Field(6, ge=1, description="about every scene, beside that for its description")

    @model_validator(mode="after")
    def _shares(self) -> CaptionedScenesParameters:
        if min(self.objects) < 0 or not math.isclose(sum(self.objects), 1.0, abs_tol=1e-9):
            raise ValueError(f"objects: shares of 1, 2 and 3 objects that add up to 1, got {list(self.objects)}")
        return self


@register
class CaptionedScenes(World):
    """Frames ``[E, 1, 32, 32, 3]``, captions ``[E]`` (`parts.scene_grammar`), no states.

    Questions and answers ``[E, Q]`` are those of `parts.scene_questions`; the first asks for the caption. What is
    really there is the view ``scenes [E, M, 4]`` (`draw_scenes`), what is asked ``asked [E, Q]`` (numbers of kinds);
    both are for judges: tasks do not show them to families.
    """

    name = "captioned_scenes"
    Parameters = CaptionedScenesParameters
    parameters: CaptionedScenesParameters

    def laws(self) -> Laws:
        """How pictures and captions are read."""
        look = {"background": BACKGROUND, "colours": FILLS, "radii": RADII}
        return Laws(look=look, read_caption=scene, write_captions=captions, question_kinds=KINDS)

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """Train, validation, test and, where combinations are kept out, ``held_out``; ``seed`` draws all of them."""
        p = self.parameters
        kept_out = held_out_pairs(p.held_out_share, seed)
        pairs = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]
        seen = [pair for pair in pairs if pair not in kept_out]
        wanted = {"train": (p.train, seen), "validation": (p.validation, seen), "test": (p.test, seen)}
        if kept_out:
            wanted["held_out"] = (p.held_out, kept_out)
        facts = {
            "seed": seed,
            "held_out": [f"{COLOURS[c]} {SHAPES[s]}" for c, s in kept_out],
            "generator": __version__,
        }
        splits = {
            # Nobody who learns is asked after combinations that are kept out: the answer would always be no.
            split: self._split(split, count, allowed, pairs if split == "held_out" else seen, seed, facts)
            for split, (count, allowed) in wanted.items()
        }
        return splits | ({"moving": self._moving(seen, seed, facts)} if p.moving else {})

    def _moving(self, allowed: list[Pair], seed: int, facts: dict[str, object]) -> Episodes:
        """Frames ``[E, T, 32, 32, 3]`` and the caption of every one, ``[E, T]``."""
        p, rng = self.parameters, np.random.default_rng(stream(seed, "moving"))
        first = draw_scenes(rng, p.moving, p.objects, allowed)
        scenes = changing(rng, first, p.moving_frames, p.change, allowed, p.objects)
        flat, offsets = scenes.reshape(-1, *scenes.shape[2:]), drifting(rng, scenes.shape[:3])
        frames = render(flat, centres(flat, offsets.reshape(*flat.shape[:2], 2)))
        frames, said = (view.reshape(*scenes.shape[:2], *view.shape[1:]) for view in (frames, captions(flat)))
        return self.episodes({"frames": frames, "captions": said}, 1.0, facts | {"split": "moving"})

    def _split(
        self, split: str, count: int, allowed: list[Pair], after: list[Pair], seed: int, facts: dict[str, object]
    ) -> Episodes:
        rng = np.random.default_rng(stream(seed, split))
        scenes = draw_scenes(rng, count, self.parameters.objects, allowed)
        frames = render(scenes, draw_centres(rng, scenes))
        more = np.random.default_rng(stream(seed, f"questions {split}"))
        asked = questions(more, scenes, self.parameters.questions, after)
        views = {"frames": frames[:, None], "captions": captions(scenes), "scenes": scenes}
        views |= dict(zip(("questions", "answers", "asked"), asked, strict=True))
        return self.episodes(views, 1.0, facts | {"split": split})


def held_out_pairs(share: float, seed: int) -> list[tuple[int, int]]:
    """Combinations ``(colour, shape)`` to keep out, sorted; every colour and every shape remains in others.

    Args:
        share: of all combinations, rounded to a whole number of them, below 0.7. seed: draws them.
    """
    rng = np.random.default_rng(stream(seed, "held out pairs"))
    colours, shapes = rng.permutation(len(COLOURS)).tolist(), rng.permutation(len(SHAPES)).tolist()
    # 5 and 3 have no common divisor: the diagonal visits every combination once, and colours and shapes evenly.
    count = round(share * len(COLOURS) * len(SHAPES))
    return sorted((colours[k % len(COLOURS)], shapes[k % len(SHAPES)]) for k in range(count))


def draw_scenes(
    rng: np.random.Generator, count: int, objects: tuple[float, ...], pairs: list[tuple[int, int]]
) -> Scenes:
    """Scenes ``[count, M, 4]`` in the order of their places, absent objects -1 at the end.

    Args:
        rng: the only source of chance. objects: shares of scenes of 1, 2, … M objects.
        pairs: combinations ``(colour, shape)`` that may occur.
    """
    most = len(objects)
    number = 1 + rng.choice(most, size=count, p=objects)
    places = rng.permuted(np.tile(np.arange(len(PLACES)), (count, 1)), axis=1)[:, :most]
    size = rng.integers(len(SIZES), size=(count, most))
    pair = np.array(pairs)[rng.integers(len(pairs), size=(count, most))]
    scenes = np.concatenate([size[..., None], pair, places[..., None]], axis=-1)
    absent = np.arange(most) >= number[:, None]
    order = np.where(absent, len(PLACES), places).argsort(axis=1, kind="stable")
    scenes[absent] = -1
    return np.asarray(np.take_along_axis(scenes, order[..., None], axis=1), np.int64)


def draw_centres(rng: np.random.Generator, scenes: Scenes) -> Float:
    """Centres ``[N, M, 2]`` of the objects in pixels, right and down; uniform where they fit into their quarters."""
    return centres(scenes, rng.uniform(-1.0, 1.0, (*scenes.shape[:2], 2)))


def centres(scenes: Scenes, offsets: Float) -> Float:
    """The same of offsets ``[N, M, 2]`` from the middle of the quarters, -1 … 1 of the room that an object has."""
    radius = np.array(RADII)[scenes[..., 0]]
    room = SIDE / 4.0 - _MARGIN - radius
    offset = offsets * room[..., None]
    down, right = np.divmod(np.maximum(scenes[..., 3], 0), 2)
    return np.asarray(SIDE / 4.0 * (1 + 2 * np.stack([right, down], axis=-1)) + offset)


def render(scenes: Scenes, centres: Float) -> NDArray[np.uint8]:
    """Draw scenes ``[N, M, 4]`` whose objects are at ``centres [N, M, 2]``: RGB ``[N, 32, 32, 3]``, antialiased."""
    frames = np.empty((len(scenes), SIDE, SIDE, 3), np.uint8)
    for part in _parts(len(scenes)):
        image = np.broadcast_to(np.array(BACKGROUND, np.float64), frames[part].shape)
        for k in range(scenes.shape[1]):
            size, colour, shape, _ = scenes[part, k].T
            cover = _cover(np.array(RADII)[size], shape, centres[part, k]) * (size >= 0)[:, None, None]
            image = image + cover[..., None] * (np.array(FILLS)[colour][:, None, None] - image)
        frames[part] = np.rint(255.0 * image)
    return frames


def _cover(radius: Float, shape: NDArray[np.int64], centre: Float) -> Float:
    """How much of every pixel objects cover, ``[N, 32, 32]``, by the signed distance from their outlines."""
    at = np.arange(SIDE) + 0.5
    r = radius[:, None, None]
    x, y = at[None, None, :] - centre[:, :1, None], at[None, :, None] - centre[:, 1:, None]
    circle = np.hypot(x, y) - r
    square = np.maximum(abs(x), abs(y)) - SQUARE * r
    # Edges of the triangle rise by 2 r over r; |x| takes both at once. Its base is at y = r, its tip at y = -r.
    triangle = np.maximum((2.0 * abs(x) - y - r) / math.sqrt(5.0), y - r)
    kind = shape[:, None, None]
    distance = np.where(kind == 0, circle, np.where(kind == 1, square, triangle))
    return np.clip(0.5 - distance, 0.0, 1.0)


def _parts(count: int) -> Iterator[slice]:
    return (slice(first, first + _AT_ONCE) for first in range(0, count, _AT_ONCE))
