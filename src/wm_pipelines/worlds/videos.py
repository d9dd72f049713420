"""The user's own videos: a folder or a list of path,label (as of Kinetics-400) becomes a world by parameters alone."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.files import project_path
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import World, WorldParameters, check_shares, check_splits, stream
from wm_pipelines.worlds.parts.recorded_actions import ActionColumn, between_rows, read_actions
from wm_pipelines.worlds.parts.video_files import (
    Clips,
    Cut,
    Planned,
    UnusableVideoError,
    check_memory,
    cut_clips,
    plan_clips,
)
from wm_pipelines.worlds.parts.video_lists import Listed, exists, find_videos, label_numbers

logger = logging.getLogger(__name__)

_SAME_RATE = 1.01  # largest ratio of two rates that count as one


class VideosParameters(WorldParameters):
    """Which videos, which clips of them, and who sees which."""

    path: str | dict[str, str] = Field(
        description="a folder, a pattern (films/*.mp4) or a CSV of path,label; or one per split: {train: …, test: …}"
    )
    folder: str | None = Field(None, description="where relative paths in the CSV start; null: the CSV's own folder")
    # FFmpeg scales to no larger picture.
    size: int = Field(64, ge=8, le=16_000, description="pixels along a side: shorter side scaled, centre cut out")
    frames: int = Field(16, ge=2, description="of a clip")
    stride: int = Field(1, ge=1, description="every how many-th frame is taken")
    fps: float | None = Field(
        None, ge=1e-6, le=1e6, description="frames per second taken; null: all, evenly spaced where they are not"
    )
    clips_per_video: int = Field(1, ge=1, le=1_000_000, description="at most, evenly spread over the video")
    grey: bool = False
    actions: list[ActionColumn] = Field(
        default_factory=list,
        description="columns of a CSV beside each video, of the same name (film.mp4, film.csv), with a row per frame",
    )
    splits: dict[str, float] = Field(
        default_factory=lambda: {"train": 0.7, "validation": 0.15, "test": 0.15},
        description="shares of the videos; of no use with one CSV per split",
    )

    @model_validator(mode="after")
    def _splits_fit(self) -> VideosParameters:
        if isinstance(self.path, str):
            check_shares(self.splits)
        else:
            check_splits(self.path, "path: {train: …, test: test.csv}")
        if self.actions and self.fps is not None:
            raise ValueError("fps: actions are given per frame of the video; use `stride`, or remove `fps`")
        return self

    def cut(self) -> Cut:
        """The clips wanted."""
        return Cut(self.frames, self.stride, self.fps, self.clips_per_video, self.size, self.grey)


@dataclass(frozen=True)
class _Video:
    listed: Listed
    clips: Clips
    actions: NDArray[np.float64] | None = None


@register
class Videos(World):
    """Clips ``[E, T, size, size, 3 | 1]`` with labels or actions, no state; no video is in two splits.

    With a stride, the actions of the frames between two that are shown stand one after the other: ``[E, T - 1, stride *
    A]``.
    """

    name = "videos"
    Parameters = VideosParameters

    def __init__(self, parameters: VideosParameters) -> None:
        super().__init__(parameters)
        self.settings = parameters

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """The clips by split; unusable videos are left out, each with a warning that says why.

        Raises:
            UserError: a list cannot be read, or a split is left without a video.
        """
        s = self.settings
        lists = {"": s.path} if isinstance(s.path, str) else s.path
        places = {split: project_path(path) for split, path in lists.items()}
        listed = {split: find_videos(p, project_path(s.folder) if s.folder else None) for split, p in places.items()}
        numbers = label_numbers([entry for entries in listed.values() for entry in entries])
        self._tell_unlabelled(listed, places)
        for split, entries in listed.items():
            if not any(exists(entry.path) for entry in entries):
                raise UserError(
                    f"none of the {len(entries)} videos in '{places[split]}' exists; the first is looked for at "
                    f"'{entries[0].path}': mend the paths, or set `folder`"
                )
        videos, skipped = self._usable(listed)
        if skipped:
            logger.warning("videos used: %d; %s", sum(map(len, videos.values())), _summary(skipped))
        by_split = _shared_out(videos[""], s.splits, seed) if isinstance(s.path, str) else videos
        for split, part in by_split.items():
            if not part:
                raise UserError(
                    f"split '{split}' of the videos in '{places.get(split, places.get(''))}' is empty: "
                    f"{sum(map(len, videos.values()))} usable, {_summary(skipped)}; mend the list or the splits"
                )
        facts = {
            "seed": seed,
            "label_names": numbers and _by_number(numbers),
            "skipped": skipped,
            "skipped_videos": len(skipped),
            "source_sha256": _source(places, listed, videos),
            "uneven_videos": sum(video.clips.uneven for part in by_split.values() for video in part),
            "turned_videos": sum(video.clips.turned for part in by_split.values() for video in part),
            "generator": __version__,
        }
        step = float(np.median([video.clips.step for part in by_split.values() for video in part]))
        self._tell([video for part in by_split.values() for video in part], step)
        return {
            split: self.episodes(_views(part, numbers), step, {**facts, "split": split, "episodes": _names(part)})
            for split, part in by_split.items()
        }

    def _tell_unlabelled(self, listed: dict[str, list[Listed]], places: dict[str, Path]) -> None:
        """Say where labels are missing in one split only: nothing is classified there."""
        without = {split for split, entries in listed.items() if all(entry.label is None for entry in entries)}
        if without and len(without) < len(listed):
            names = [
                ", ".join(places[s].name for s in listed if (s in without) is missing) for missing in (True, False)
            ]
            logger.warning(
                "%s: no labels in %s, unlike %s; they are taken as missing there, and classes are judged only where "
                "both train and test have labels",
                self.entry,
                *names,
            )

    def _tell(self, videos: list[_Video], step: float) -> None:
        """One line of what was found out about the videos rather than given."""
        clips = [video.clips for video in videos]
        rates = sorted({float(f"{c.rate:.4g}") for c in clips})
        sizes = sorted({c.shown for c in clips})
        rate = f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
        size = " to ".join(f"{w} × {h}" for w, h in dict.fromkeys((sizes[0], sizes[-1])))
        said = [f"{rate} frames per second by their time stamps, {step:.4g} s between frames of a clip"]
        if uneven := sum(c.uneven for c in clips):
            said.append(f"{uneven} with frames not evenly apart, taken from an even grid of times")
        said.append(f"{size} pixels as shown")
        if turned := sum(c.turned for c in clips):
            said.append(f"{turned} turned as the file says")
        logger.info("%s: %d videos: %s", self.entry, len(videos), "; ".join(said))
        if self.settings.fps is None and rates[-1] > _SAME_RATE * rates[0]:
            logger.warning(
                "%s: %s frames per second: clips of different videos span different times; set `fps` to take all at "
                "one rate",
                self.entry,
                rate,
            )

    def _usable(self, listed: dict[str, list[Listed]]) -> tuple[dict[str, list[_Video]], list[dict[str, str]]]:
        """The clips of all videos by split, and the videos that have none, with the reason."""
        cut = self.settings.cut()
        reasons: dict[int, tuple[Listed, str]] = {}  # by place in the lists, which is the order of the report

        def leave_out(place: int, entry: Listed, reason: UnusableVideoError) -> None:
            logger.warning("video '%s' is left out: %s", entry.path, reason)
            reasons[place] = entry, str(reason)

        planned: list[tuple[int, str, Listed, Planned]] = []
        seen: dict[str, str] = {}
        for place, (split, entry) in enumerate((split, e) for split, entries in listed.items() for e in entries):
            try:
                plan = plan_clips(entry.path, cut)
                if plan.sha256 in seen:
                    raise UnusableVideoError(f"it is the same video as '{seen[plan.sha256]}'")
                seen[plan.sha256] = entry.name
                planned.append((place, split, entry, plan))
            except UnusableVideoError as reason:
                leave_out(place, entry, reason)
        # Before anything is decoded: an hour of decoding that ends without memory helps nobody.
        check_memory(sum(len(plan.starts) for *_, plan in planned), cut, f"{len(planned)} videos")
        videos: dict[str, list[_Video]] = {split: [] for split in listed}
        for place, split, entry, plan in planned:
            try:
                actions = self._actions(entry.path, plan)
                videos[split].append(_Video(entry, cut_clips(plan, cut), actions))
            except UnusableVideoError as reason:
                leave_out(place, entry, reason)
        return videos, [{"path": entry.name, "reason": reason} for _, (entry, reason) in sorted(reasons.items())]

    def _actions(self, video: Path, plan: Planned) -> NDArray[np.float64] | None:
        """What was done between the frames of every clip ``[K, T - 1, stride * A]``; None where none are declared."""
        s, path = self.settings, video.with_suffix(".csv")
        if not s.actions:
            return None
        if not exists(path):
            raise UnusableVideoError(f"it has no actions beside it (there is no '{path.name}')")
        if plan.uneven:
            raise UnusableVideoError("its frames are not evenly apart, so that actions cannot be told to them")
        actions, frames = read_actions(path, s.actions), len(plan.stamps)
        if len(actions) not in (frames, frames - 1):  # nothing is shown of what the last one does
            raise UnusableVideoError(f"its actions do not fit ({len(actions)} rows in '{path.name}', {frames} frames)")
        return between_rows(actions, plan.starts, s.frames - 1, s.stride)


def _source(places: dict[str, Path], listed: dict[str, list[Listed]], videos: dict[str, list[_Video]]) -> str:
    """Hash of the lists; of a folder or a pattern, of the names and contents of its videos; and of the actions."""
    digest = hashlib.sha256()
    for split, place in places.items():
        if exists(place) and place != listed[split][0].path:
            digest.update(place.read_bytes())
        else:
            digest.update("\n".join(f"{v.listed.name} {v.clips.sha256}" for v in videos[split]).encode())
        for video in videos[split]:
            digest.update(b"" if video.actions is None else video.actions.tobytes())
    return digest.hexdigest()


def _summary(skipped: list[dict[str, str]]) -> str:
    """``2 left out (1 too short, 1 damaged)``, by the beginnings of the reasons."""
    if not skipped:
        return "none left out"
    kinds = Counter(s["reason"].removeprefix("it is ").split(" (")[0].split(" as '")[0] for s in skipped)
    return f"{len(skipped)} left out ({', '.join(f'{count} {kind}' for kind, count in kinds.items())})"


def _shared_out(videos: list[_Video], shares: dict[str, float], seed: int) -> dict[str, list[_Video]]:
    """Random splits of these shares, every class divided alike as far as its number of videos allows."""
    rng = np.random.default_rng(stream(seed, "split"))
    classes: dict[str | None, list[int]] = {}
    for index, video in enumerate(videos):
        classes.setdefault(video.listed.label, []).append(index)
    # A video's place in the row is its rank within its class, so that a piece of the row has every class's share.
    place = np.empty(len(videos))
    for members in classes.values():
        place[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    row = np.argsort(place, kind="stable")
    ends = np.rint(np.cumsum(list(shares.values())) * len(videos)).astype(int)
    starts = [0, *ends[:-1]]
    return {
        split: [videos[i] for i in sorted(row[start:end])]
        for split, start, end in zip(shares, starts, ends, strict=True)
    }


def _by_number(numbers: dict[str, int]) -> list[str]:
    """The names of the classes 0, 1, …; a class that no video is of is called by its number."""
    names = {number: label for label, number in numbers.items()}
    return [names.get(number, str(number)) for number in range(max(names) + 1)]


def _views(videos: list[_Video], numbers: dict[str, int] | None) -> dict[str, NDArray[Any] | None]:
    """All clips of the videos, one after the other."""
    counts = [len(video.clips.frames) for video in videos]
    frames = np.concatenate([video.clips.frames for video in videos])
    steps = np.repeat([video.clips.step for video in videos], counts)
    labels = None
    if numbers is not None and all(video.listed.label is not None for video in videos):
        labels = np.repeat(np.array([numbers[str(video.listed.label)] for video in videos], np.int64), counts)
    acted = [video.actions for video in videos if video.actions is not None]
    return {
        "times": steps[:, None] * np.arange(float(frames.shape[1])),
        "frames": frames,
        "labels": labels,
        "actions": np.concatenate(acted) if acted else None,
    }


def _names(videos: list[_Video]) -> list[str]:
    """The video of every clip."""
    return [video.listed.name for video in videos for _ in video.clips.frames]
