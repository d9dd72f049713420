"""The user's own captions: a table of texts and of pictures or videos becomes a world by parameters alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.files import project_path
from wm_pipelines.laws import Laws
from wm_pipelines.mappings import Settings
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import World, WorldParameters, check_shares
from wm_pipelines.worlds.parts.captioned_rows import KINDS, given_splits, linked, shared_out, text_views
from wm_pipelines.worlds.parts.pictures import picture
from wm_pipelines.worlds.parts.text_tables import read_texts
from wm_pipelines.worlds.parts.video_files import Cut, UnusableVideoError, check_memory, cut_clips, plan_clips
from wm_pipelines.worlds.parts.video_lists import exists, is_film

logger = logging.getLogger(__name__)


class CaptionColumns(Settings):
    """Which columns of the table mean what; null: there is none."""

    caption: str = Field("caption", description="what is shown, in words")
    picture: str = Field("picture", description="path of a picture or video")
    group: str | None = Field(None, description="source, series, place …: no group is in two splits")
    split: str | None = Field(None, description="train, test …, for tables that are split already")
    question: str | None = Field(None, description="about the picture")
    answer: str | None = Field(None, description="to that question")

    @model_validator(mode="after")
    def _fit_together(self) -> CaptionColumns:
        if (self.question is None) != (self.answer is None):
            raise ValueError("question and answer: give both columns or none")
        if self.group is not None and self.split is not None:
            raise ValueError("group and split: a table that names its splits is not split by groups; remove one")
        return self


class CaptionedFilesParameters(WorldParameters):
    """Which table, how large the pictures are, and who sees which."""

    path: str = Field(description="the table: CSV or Parquet")
    folder: str | None = Field(None, description="where relative paths in the table start; null: the table's folder")
    columns: CaptionColumns = CaptionColumns()
    size: int = Field(
        32, ge=8, le=16_000, multiple_of=8, description="pixels along a side: shorter side scaled, centre cut out"
    )
    grey: bool = False
    frames: int = Field(1, ge=1, description="of a clip; 1: single pictures, of a video the one in the middle")
    stride: int = Field(1, ge=1, description="of videos: every how many-th frame is taken")
    fps: float | None = Field(None, ge=1e-6, le=1e6, description="of videos: frames per second; null: all")
    splits: dict[str, float] = Field(
        default_factory=lambda: {"train": 0.7, "validation": 0.15, "test": 0.15},
        description="shares of the rows; of no use where the table names its splits",
    )

    @model_validator(mode="after")
    def _splits_fit(self) -> CaptionedFilesParameters:
        check_shares(self.splits)
        return self

    def cut(self) -> Cut:
        """The clip wanted of a video."""
        return Cut(self.frames, self.stride, self.fps, 1, self.size, self.grey)


@register
class CaptionedFiles(World):
    """Frames ``[E, T, size, size, 3 | 1]``, captions ``[E]``, questions and answers ``[E, Q]``; a row is an episode.

    The first question is for the caption. Rows that show the same picture, byte for byte, are in one split.
    """

    name = "captioned_files"
    Parameters = CaptionedFilesParameters
    parameters: CaptionedFilesParameters

    def laws(self) -> Laws:
        """What is asked; nobody knows what the captions should say."""
        return Laws(question_kinds=KINDS)

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """The rows of the table by split, ``seed`` draws which.

        Raises:
            UserError: the table or a picture is missing or cannot be read, a text is empty; it names the row.
        """
        p, table = self.parameters, project_path(self.parameters.path)
        named = {role: name for role, name in p.columns.model_dump().items() if name is not None}
        rows = read_texts(table, list(named.values()))
        texts = {role: rows[name] for role, name in named.items()}
        for role in ("caption", "picture", "question", "answer"):
            if "" in texts.get(role, ()):
                raise UserError(f"'{table.name}', data row {texts[role].index('') + 1}: the {role} is empty")
        paths = [(project_path(p.folder) if p.folder else table.parent) / name for name in texts["picture"]]
        check_memory(len(paths), p.cut(), f"'{table.name}'")
        frames, steps, hashes = self._seen(table, paths)
        if p.columns.split is None:
            groups = linked(texts.get("group", [""] * len(paths)), hashes)
            by_split = shared_out(groups, p.splits, seed, f"'{table.name}'")
        else:
            by_split = given_splits(texts["split"], f"'{table.name}'")
            _tell_shared(table, by_split, hashes)
        facts = {"seed": seed, "source_sha256": _source(table, hashes), "generator": __version__}
        step = float(np.median(steps)) if steps else 1.0
        views = {"frames": frames, **text_views(texts["caption"], texts.get("question"), texts.get("answer"))}
        return {
            split: self.episodes(
                {name: view[chosen] for name, view in views.items()},
                step,
                {**facts, "split": split, "episodes": [texts["picture"][row] for row in chosen]},
            )
            for split, chosen in by_split.items()
        }

    def _seen(self, table: Path, paths: Sequence[Path]) -> tuple[NDArray[np.uint8], list[float], list[str]]:
        """What every row shows ``[N, T, size, size, C]``, seconds between frames of videos, hashes of the files."""
        p, found, steps, hashes = self.parameters, [], [], []
        for number, path in enumerate(paths, 1):
            try:
                if is_film(path.name):
                    plan = plan_clips(path, p.cut())
                    found.append(cut_clips(plan, p.cut()).frames[0])
                    steps.append(plan.step)
                    hashes.append(plan.sha256)
                else:
                    if p.frames > 1:
                        raise UnusableVideoError(f"it is no video, and clips of {p.frames} frames are asked for")
                    found.append(picture(path, p.size, p.grey)[None])
                    hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
            except UnusableVideoError as reason:
                why = "there is no such file" if not exists(path) else str(reason)
                raise UserError(f"'{table.name}', data row {number}, '{path}': {why}") from reason
        return np.stack(found), steps, hashes


def _tell_shared(table: Path, by_split: dict[str, NDArray[np.int64]], hashes: Sequence[str]) -> None:
    """Warn of pictures that are trained on and judged on."""
    seen = {hashes[row] for row in by_split["train"]}
    again = sum(hashes[row] in seen for split, rows in by_split.items() if split != "train" for row in rows)
    if again:
        logger.warning("'%s': %d rows to judge on show pictures that training shows, too", table.name, again)


def _source(table: Path, hashes: Sequence[str]) -> str:
    """Hash of the table and of all that it names."""
    return hashlib.sha256(table.read_bytes() + "\n".join(hashes).encode()).hexdigest()
