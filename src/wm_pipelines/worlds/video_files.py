"""Lists of videos and clips out of them: whatever FFmpeg decodes (mp4, webm, gif …), through PyAV."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.base import Float

_HEADINGS = {"path", "file", "filename", "video"}
_MOST_CLASSES = 100_000  # numbers above are names


class UnusableVideoError(Exception):
    """A video that cannot be used; the message says why, without its name."""


@dataclass(frozen=True)
class Listed:
    """One line of a list: a video as it is called there, its path, and its label, None where the list gives none."""

    name: str
    path: Path
    label: str | None


@dataclass(frozen=True)
class Cut:
    """Which clips are cut out of a video.

    Attributes:
        frames: of a clip.
        stride: every how many-th frame is taken.
        fps: take so many frames per second of the video (before `stride`); None: all.
        clips: per video, at most, evenly spread; fewer where the video has fewer different ones.
        size: pixels along a side; the shorter side is scaled to it, the longer one cut on both ends.
        grey: one channel instead of RGB.
    """

    frames: int
    stride: int
    fps: float | None
    clips: int
    size: int
    grey: bool


@dataclass(frozen=True)
class Clips:
    """What was cut out of one video: ``frames [K, T, size, size, C]`` uint8, seconds between two, hash of the file."""

    frames: NDArray[np.uint8]
    step: float
    sha256: str


# ---------------------------------------------------------------- lists


def read_list(path: Path, folder: Path) -> list[Listed]:
    """The lines ``path,label`` or ``path label`` of a list; a line of headings is skipped, labels may be left out.

    Args:
        path: the list. Where any line has a comma, commas separate (and quotation marks protect).
        folder: where relative paths in it start.

    Raises:
        UserError: the list cannot be read, is empty, or has a faulty line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"no list of videos at '{path}'; give a CSV of path,label") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list of videos '{path}': {error}") from error
    commas = any("," in line for line in lines)
    found: list[Listed] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = next(csv.reader([line], skipinitialspace=True)) if commas else line.rsplit(None, 1)
        fields = [field.strip() for field in fields]
        if not found and fields[0].lower() in _HEADINGS:
            continue
        if len(fields) > 2 or not all(fields):
            raise UserError(f"'{path}', line {number}: expected path,label, got '{line.strip()[:60]}'")
        found.append(Listed(fields[0], folder / fields[0], fields[1] if len(fields) > 1 else None))
    if not found:
        raise UserError(f"the list of videos '{path}' is empty; give lines of path,label")
    if len({entry.label is None for entry in found}) > 1:
        raise UserError(f"'{path}': some videos have a label and some have none; label all or none")
    return found


def label_numbers(entries: list[Listed]) -> dict[str, int] | None:
    """The number of every label: the label itself where all are numbers, else its place in the alphabet.

    None where the entries have no labels.
    """
    labels = {entry.label for entry in entries if entry.label is not None}
    if not labels:
        return None
    if all(label.isascii() and label.isdigit() and int(label) < _MOST_CLASSES for label in labels):
        return {label: int(label) for label in labels}
    return {label: number for number, label in enumerate(sorted(labels))}


# ---------------------------------------------------------------- decoding


def read_clips(path: Path, cut: Cut) -> Clips:
    """Cut a video.

    Raises:
        UnusableVideoError: it is missing, damaged, too short, or holds no video.
    """
    import av

    if not path.is_file():
        raise UnusableVideoError("there is no such file")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stamps, unit = _stamps(path)
        chosen, step = _chosen(np.asarray(stamps * unit, np.float64), cut)
        pictures = _decoded(path, {int(stamps[i]) for i in chosen.ravel()}, cut)
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise UnusableVideoError(f"it is damaged ({getattr(error, 'strerror', None) or error})") from error
    if missing := [i for i in chosen.ravel() if int(stamps[i]) not in pictures]:
        raise UnusableVideoError(f"it is damaged (frame {missing[0]} cannot be decoded)")
    return Clips(np.stack([[pictures[int(stamps[i])] for i in clip] for clip in chosen]), step, digest)


def _stamps(path: Path) -> tuple[NDArray[np.int64], float]:
    """When the frames are shown, ascending, in units of so many seconds; nothing is decoded for it."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise UnusableVideoError("it holds no video")
        stream = container.streams.video[0]
        stamps = {p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard}
        return np.array(sorted(stamps), np.int64), float(stream.time_base or 1.0)


def _chosen(time: Float, cut: Cut) -> tuple[NDArray[np.intp], float]:
    """Indices of the frames of every clip ``[K, T]``, and the seconds between two frames of a clip."""
    if len(time) < 2 or time[-1] <= time[0]:
        raise UnusableVideoError(f"it is too short ({len(time)} frames)")
    lasts = time[-1] - time[0]
    grid, step = np.arange(len(time)), lasts / (len(time) - 1)
    if cut.fps is not None:
        wanted = time[0] + np.arange(int(lasts * cut.fps + 1e-6) + 1) / cut.fps
        grid, step = np.searchsorted(0.5 * (time[1:] + time[:-1]), wanted), 1.0 / cut.fps  # the nearest frame
    span = (cut.frames - 1) * cut.stride + 1
    room = len(grid) - span
    if room < 0:
        at = "" if cut.fps is None else f" at {cut.fps:g} frames per second"
        raise UnusableVideoError(f"it is too short ({len(grid)} frames{at}, a clip takes {span})")
    starts = np.unique(np.rint((np.arange(cut.clips) + 0.5) / cut.clips * room).astype(int))
    return grid[starts[:, None] + cut.stride * np.arange(cut.frames)], float(step) * cut.stride


def _decoded(path: Path, stamps: set[int], cut: Cut) -> dict[int, NDArray[np.uint8]]:
    """The frames shown at these times, scaled and cut, as far as they can be decoded."""
    import av

    pictures: dict[int, NDArray[np.uint8]] = {}
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.pts in stamps and not frame.is_corrupt:
                pictures[frame.pts] = _scaled(frame, cut)
            if len(pictures) == len(stamps):
                break
    return pictures


def _scaled(frame: Any, cut: Cut) -> NDArray[np.uint8]:
    shorter = min(frame.width, frame.height)
    width, height = (max(cut.size, round(side * cut.size / shorter)) for side in (frame.width, frame.height))
    way = "AREA" if shorter > cut.size else "BILINEAR"
    kind = "gray" if cut.grey else "rgb24"
    image = frame.to_ndarray(format=kind, width=width, height=height, interpolation=way)
    left, top = (width - cut.size) // 2, (height - cut.size) // 2
    return image.reshape(height, width, -1)[top : top + cut.size, left : left + cut.size]
