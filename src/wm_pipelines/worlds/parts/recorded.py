"""Recordings of somebody acting, in a data set's own format: cut to windows of one length, split by recording."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.files import project_path
from wm_pipelines.worlds.base import Float, World, WorldParameters, check_shares, stream
from wm_pipelines.worlds.parts.recorded_actions import between_rows, scaled

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]


class RecordedParameters(WorldParameters):
    """What all formats have in common: where, which windows, and who sees which."""

    path: str = Field(description="the data set's folder; relative paths start at the project's root")
    steps: int = Field(ge=1, description="T of a window; windows of one recording share their end and start")
    stride: int = Field(1, ge=1, description="every how many-th row is shown; actions between stand one after another")
    frames: str | None = Field("auto", description="which pictures are shown; auto: the only ones there; null: none")
    size: int = Field(64, ge=8, description="pixels along a side: shorter side scaled, centre cut out")
    action_range: list[tuple[float, float]] | None = Field(
        None, min_length=1, description="what becomes -1 and 1: one pair for all entries or one each; null: see below"
    )
    splits: dict[str, float] = Field(
        default_factory=lambda: {"train": 0.7, "validation": 0.15, "test": 0.15}, description="shares of the recordings"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> RecordedParameters:
        check_shares(self.splits)
        for low, high in self.action_range or ():
            if not low < high:
                raise ValueError(f"action_range: expected [low, high], got [{low:g}, {high:g}]")
        return self


@dataclass(frozen=True)
class Recording:
    """One recording of ``T`` steps.

    Attributes:
        name: as it is called in the data set.
        actions: ``[T, A]``, in units of the data set.
        states: ``[T + 1, n]``, and rewards ``[T]``; None where there are none.
        frames: gives the pictures ``[W, rows, size, size, C]`` of row numbers ``[W, rows]``; None where there are none.
        caption: what was asked for, in words; None where that is not told.
    """

    name: str
    actions: Float
    states: Float | None = None
    rewards: Float | None = None
    frames: Callable[[Rows], NDArray[np.uint8]] | None = None
    caption: str | None = None


class RecordedWorld(World):
    """A world known by recordings alone. Subclasses read their format.

    The range of actions is the parameters' `action_range`, else the one that the data set declares, else the smallest
    and the largest of the recordings to train on. What is beyond it is cut, with a warning.
    """

    parameters: RecordedParameters

    def __init__(self, parameters: RecordedParameters) -> None:
        super().__init__(parameters)
        self.path = project_path(parameters.path)

    @abstractmethod
    def recordings(self) -> list[Recording]:
        """All of them, in the data set's order.

        Raises:
            UserError: the data set is missing, damaged, or of another format.
        """

    @abstractmethod
    def sources(self) -> list[Path]:
        """The files that were read, for their hash."""

    @abstractmethod
    def seconds(self) -> float:
        """Between two rows of a recording."""

    def declared_range(self) -> tuple[Float, Float] | None:
        """Smallest and largest actions ``[A]`` that the data set declares; None (here) where it does not."""
        return None

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """Windows by split; a recording is in one split only.

        Raises:
            UserError: see `recordings`; or a split is left without a window.
        """
        p, found = self.parameters, self.recordings()
        usable = [r for r in found if len(r.actions) >= p.steps * p.stride]
        if len(usable) < len(found):
            short = len(found) - len(usable)
            logger.warning("%s: %d of %d recordings are left out: shorter than a window", self.entry, short, len(found))
        by_split = self._shared_out(usable, seed)
        low, high = self._range(by_split["train"])
        facts = {
            "seed": seed,
            "source_sha256": _hash(self.sources()),
            "action_range": [low.tolist(), high.tolist()],
            "generator": __version__,
        }
        step = self.seconds() * p.stride
        splits = {}
        for split, parts in by_split.items():
            windows = [self._windows(r, low, high, step) for r in parts]
            names = [r.name for r, w in zip(parts, windows, strict=True) for _ in w["times"]]
            views = {name: np.concatenate([w[name] for w in windows]) for name in windows[0]}
            splits[split] = self.episodes(views, step, {**facts, "split": split, "episodes": names})
        return splits

    def _shared_out(self, recordings: Sequence[Recording], seed: int) -> dict[str, list[Recording]]:
        order = np.random.default_rng(stream(seed, "split")).permutation(len(recordings))
        shares = self.parameters.splits
        ends = [0, *np.rint(np.cumsum(list(shares.values())) * len(recordings)).astype(int).tolist()]
        found = {}
        for split, (start, stop) in zip(shares, pairwise(ends), strict=True):
            if start == stop:
                raise UserError(
                    f"{self.entry}: split '{split}' is empty: {len(recordings)} recordings of at least "
                    f"{self.parameters.steps * self.parameters.stride} steps; set a smaller `steps`, or mend `splits`"
                )
            found[split] = [recordings[i] for i in sorted(order[start:stop])]
        return found

    def _range(self, train: Sequence[Recording]) -> tuple[Float, Float]:
        size = train[0].actions.shape[1]
        given = self.parameters.action_range
        if given is not None:
            if len(given) not in (1, size):
                raise UserError(f"parameter '{self.entry}.action_range': {len(given)} pairs for {size} entries")
            low, high = (np.broadcast_to(np.array(side), size) for side in zip(*given, strict=True))
        elif (declared := self.declared_range()) is not None and np.isfinite(declared).all():
            low, high = declared
        else:
            taken = np.concatenate([r.actions for r in train])
            low, high = taken.min(axis=0), taken.max(axis=0)
            logger.info(
                "%s: -1 and 1 are the smallest and the largest actions to train on; see `action_range`", self.entry
            )
        return np.asarray(low, np.float64), np.asarray(high, np.float64)

    def _windows(self, recording: Recording, low: Float, high: Float, step: float) -> dict[str, NDArray[Any]]:
        """All windows of a recording, by view."""
        p = self.parameters
        span = p.steps * p.stride
        starts = np.arange(0, len(recording.actions) - span + 1, span)
        rows = starts[:, None] + p.stride * np.arange(p.steps + 1)
        actions = scaled(recording.actions, low, high)
        if (beyond := np.abs(actions) > 1.0 + 1e-6).any():
            logger.warning(
                "%s: %.1f %% of the actions of recording '%s' are beyond their range and cut; set `action_range`",
                self.entry,
                100.0 * beyond.mean(),
                recording.name,
            )
        views: dict[str, NDArray[Any]] = {
            "times": np.tile(step * np.arange(p.steps + 1.0), (len(starts), 1)),
            "actions": between_rows(np.clip(actions, -1.0, 1.0), starts, p.steps, p.stride),
        }
        if recording.states is not None:
            views["states"] = recording.states[rows]
        if recording.rewards is not None:  # of all that was done between two rows
            views["rewards"] = between_rows(recording.rewards[:, None], starts, p.steps, p.stride).sum(-1)
        if recording.frames is not None:
            views["frames"] = recording.frames(rows)
        if recording.caption is not None:
            views["captions"] = np.array([recording.caption] * len(starts))
        return views


def chosen_pictures(entry: str, wanted: str | None, there: Sequence[str]) -> str | None:
    """Which of the pictures of a data set are shown.

    Raises:
        UserError: there is none of that name, or ``auto`` finds several.
    """
    if wanted is None or (wanted == "auto" and not there):
        return None
    if wanted == "auto":
        if len(there) > 1:
            raise UserError(f"parameter '{entry}.frames': there are {', '.join(there)}; name one, or set null for none")
        return there[0]
    if wanted not in there:
        raise UserError(f"parameter '{entry}.frames': no pictures '{wanted}'; there are {', '.join(there) or 'none'}")
    return wanted


def square(pictures: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pictures ``[N, H, W, 1 | 3]`` as ``[N, size, size, 1 | 3]``: the shorter side scaled, the centre cut out."""
    from PIL import Image

    height, width = pictures.shape[1:3]
    shorter = min(height, width)
    left, top = 0.5 * (width - shorter), 0.5 * (height - shorter)
    box = (left, top, left + shorter, top + shorter)
    method = Image.Resampling.BOX if shorter > size else Image.Resampling.BILINEAR
    squeezed = pictures[..., 0] if pictures.shape[-1] == 1 else pictures
    images = [np.asarray(Image.fromarray(p).resize((size, size), method, box)) for p in squeezed]
    return np.stack(images).reshape(len(pictures), size, size, -1)


@contextmanager
def damage_told(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """What goes wrong while a file is read becomes one line about it."""
    known: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, TypeError, *errors)
    try:
        yield
    except UserError:
        raise
    except known as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"cannot read '{path}': {reason}; is the data set whole?") from error


def entry_of(record: Mapping[str, Any], name: str, path: Path) -> Any:
    """An entry of a JSON object in a file.

    Raises:
        UserError: there is none.
    """
    if name not in record:
        raise UserError(f"'{path}' has no entry '{name}'; is the data set whole?")
    return record[name]


def _hash(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with damage_told(path), path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
