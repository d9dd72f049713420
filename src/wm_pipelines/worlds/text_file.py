"""Passages of a text as captions, alone or beside pictures that have nothing to do with them.

What does a model lose as a writer when it also paints (Zhou et al., *Transfusion*, 2024, section 4)? For that question
text and pictures need not belong together: ``pictures: true`` draws scenes of `captioned_scenes`. Split by place: the
text to judge on comes after that to learn from.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
from pydantic import Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.files import project_path
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import World, WorldParameters, check_shares, stream
from wm_pipelines.worlds.parts.captioned_rows import passages


class TextFileParameters(WorldParameters):
    """Which text, and how it is cut."""

    path: str = Field(description="a text in UTF-8")
    passage: int = Field(160, ge=1, description="bytes at most; a passage ends between words")
    pictures: bool = Field(False, description="a scene beside every passage, which does not belong to it")
    splits: dict[str, float] = Field(
        default_factory=lambda: {"train": 0.8, "validation": 0.1, "test": 0.1}, description="shares, in this order"
    )

    @model_validator(mode="after")
    def _splits_fit(self) -> TextFileParameters:
        check_shares(self.splits)
        return self


@register
class TextFile(World):
    """Captions ``[E]`` and, with pictures, frames ``[E, 1, 32, 32, 3]``."""

    name = "text_file"
    Parameters = TextFileParameters
    parameters: TextFileParameters

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """The passages in order; ``seed`` draws the pictures.

        Raises:
            UserError: the text cannot be read, or is too short for the splits.
        """
        p, path = self.parameters, project_path(self.parameters.path)
        try:
            data = path.read_bytes()
            found = passages(data.decode("utf-8-sig"), p.passage)
        except (OSError, UnicodeDecodeError) as error:
            reason = "it is not in UTF-8; save it so" if isinstance(error, UnicodeDecodeError) else error
            raise UserError(f"cannot read the text '{path}': {reason}") from error
        facts = {"seed": seed, "source_sha256": hashlib.sha256(data).hexdigest(), "generator": __version__}
        ends = [0, *np.rint(np.cumsum(list(p.splits.values())) * len(found)).astype(int).tolist()]
        splits = {}
        for split, (start, stop) in zip(p.splits, pairwise(ends), strict=True):
            if start == stop:
                raise UserError(f"split '{split}' of '{path}' is empty: it has {len(found)} passages; cut shorter ones")
            views = {"captions": np.array(found[start:stop])}
            if p.pictures:
                views["frames"] = _scenes(stop - start, seed, split)
            splits[split] = self.episodes(views, 1.0, facts | {"split": split})
        return splits


def _scenes(count: int, seed: int, split: str) -> np.ndarray:
    """Scenes of one to three objects, ``[count, 1, 32, 32, 3]``."""
    from wm_pipelines.worlds.captioned_scenes import draw_centres, draw_scenes, render
    from wm_pipelines.worlds.parts.scene_grammar import COLOURS, SHAPES

    rng = np.random.default_rng(stream(seed, split))
    pairs = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]
    scenes = draw_scenes(rng, count, (0.6, 0.3, 0.1), pairs)
    return render(scenes, draw_centres(rng, scenes))[:, None]
