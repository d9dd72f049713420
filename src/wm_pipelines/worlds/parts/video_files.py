"""Lists of videos and clips out of them: whatever FFmpeg decodes (mp4, webm, gif …), through PyAV."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.base import Float

logger = logging.getLogger(__name__)

_HEADINGS = {"path", "file", "filename", "video"}
_MOST_CLASSES = 100_000  # numbers above are names
_LARGEST_PICTURE = 2**31 // 8  # pixels that FFmpeg can scale to, a margin of 128 on both sides counted


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

    @property
    def bytes_per_clip(self) -> int:
        """Size of one clip in memory."""
        return self.frames * self.size**2 * (1 if self.grey else 3)


@dataclass(frozen=True)
class Planned:
    """The clips to cut out of one video, nothing decoded yet.

    Attributes:
        path: of the video.
        stamps: when its frames are shown, ascending, in units of so many `unit` seconds.
        starts: first frames of the clips, counted on the grid that `Cut.fps` sets.
        step: seconds between two frames of a clip.
        sha256: of the file.
    """

    path: Path
    stamps: NDArray[np.int64]
    unit: float
    starts: NDArray[np.int64]
    step: float
    sha256: str


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
        path: the list, in UTF-8. Where any line has a comma, commas separate (and quotation marks protect); semicolons
            or tabs do where all lines have them.
        folder: where relative paths in it start.

    Raises:
        UserError: the list cannot be read, is empty, or has a faulty line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"no list of videos at '{path}'; give a CSV of path,label") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not in UTF-8; save it so" if isinstance(error, UnicodeDecodeError) else error
        raise UserError(f"cannot read the list of videos '{path}': {reason}") from error
    separator = _separator([line for line in lines if line.strip()])
    found: list[Listed] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            reader = csv.reader([line], skipinitialspace=True, delimiter=separator or ",")
            fields = [field.strip() for field in (next(reader) if separator else line.rsplit(None, 1))]
        except csv.Error as error:
            raise UserError(f"'{path}', line {number}: {error}; expected path,label") from None
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


def _separator(lines: list[str]) -> str | None:
    """What stands between path and label; None: blanks."""
    if all(";" in line for line in lines) and not all("," in line for line in lines):
        return ";"  # spreadsheets write so where the comma is a decimal sign
    if any("," in line for line in lines):
        return ","
    return "\t" if all("\t" in line for line in lines) else None


def label_numbers(entries: list[Listed]) -> dict[str, int] | None:
    """The number of every label: the label itself where all are different numbers, else its place in the alphabet.

    None where the entries have no labels. ``1`` and ``01`` are two names.
    """
    labels = {entry.label for entry in entries if entry.label is not None}
    if not labels:
        return None
    digits = len(str(_MOST_CLASSES))  # int() refuses text of thousands of digits
    if all(label.isascii() and label.isdigit() and len(label.lstrip("0")) < digits for label in labels):
        numbers = {label: int(label) for label in sorted(labels)}
        if len(set(numbers.values())) == len(labels):
            return numbers
        one, other = next((a, b) for a in numbers for b in numbers if a < b and numbers[a] == numbers[b])
        logger.warning("labels '%s' and '%s' are taken as two classes; write them alike if they are one", one, other)
    return {label: number for number, label in enumerate(sorted(labels))}


# ---------------------------------------------------------------- decoding


def exists(path: Path) -> bool:
    """Whether there is such a file; a path that the system refuses (too long, in a closed folder) is none."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises where the system refuses


def plan_clips(path: Path, cut: Cut) -> Planned:
    """Which clips a video has to give; nothing is decoded.

    Raises:
        UnusableVideoError: it is missing, unreadable, damaged, too short, or holds no video.
        UserError: it does not fit into memory.
    """
    with _sentences(path):
        if not exists(path):
            raise UnusableVideoError("there is no such file")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stamps, unit = _stamps(path, cut)
        starts, step = _starts(np.asarray(stamps * unit, np.float64), cut)
    return Planned(path, stamps, unit, starts, step, digest)


def cut_clips(planned: Planned, cut: Cut) -> Clips:
    """Decode the clips.

    Raises:
        UnusableVideoError: the video is damaged.
        UserError: the clips do not fit into memory.
    """
    with _sentences(planned.path):
        chosen = _chosen(np.asarray(planned.stamps * planned.unit, np.float64), planned.starts, cut)
        pictures = _decoded(planned.path, {int(planned.stamps[i]) for i in chosen.ravel()}, cut)
        if missing := [i for i in chosen.ravel() if int(planned.stamps[i]) not in pictures]:
            raise UnusableVideoError(f"it is damaged (frame {missing[0]} cannot be decoded)")
        frames = np.stack([[pictures[int(planned.stamps[i])] for i in clip] for clip in chosen])
    return Clips(frames, planned.step, planned.sha256)


def read_clips(path: Path, cut: Cut) -> Clips:
    """Plan the clips of one video and cut them; raises what these two raise."""
    planned = plan_clips(path, cut)
    check_memory(len(planned.starts), cut, f"'{path.name}'")
    return cut_clips(planned, cut)


def check_memory(clips: int, cut: Cut, about: str) -> None:
    """Refuse more clips than the machine's memory holds, twice for a moment: when they are joined.

    Raises:
        UserError: how many they are, and how many bytes.
    """
    needed, there = 2 * clips * cut.bytes_per_clip, memory()
    if there is not None and needed > there:
        raise UserError(
            f"{about}: {clips} clips of {cut.frames} frames of {cut.size} × {cut.size} pixels need {_bytes(needed)} of "
            f"memory, there are {_bytes(there)}; set a smaller `size`, `frames` or `clips_per_video`"
        )


def memory() -> int | None:
    """Bytes of memory that this process may have; None where the system does not tell."""
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None
    try:  # of a container
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} PiB"


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """What goes wrong with a video becomes a sentence about it; only what is wrong inside the file is damage."""
    import av

    try:
        yield
    except (UserError, UnusableVideoError):
        raise
    except MemoryError as error:  # FFmpeg's too: of the machine or the settings, not of the file
        raise UserError(
            f"not enough memory to decode '{path}'; set a smaller `size`, `frames` or `clips_per_video`"
        ) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        outside = isinstance(error, PermissionError) or not isinstance(error, av.error.FFmpegError | ValueError)
        reason = getattr(error, "strerror", None) or error
        raise UnusableVideoError(f"it {'cannot be read' if outside else 'is damaged'} ({reason})") from error


def _stamps(path: Path, cut: Cut) -> tuple[NDArray[np.int64], float]:
    """When the frames are shown, ascending, in units of so many seconds; nothing is decoded for it."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:  # a title in another encoding is no damage
        if not container.streams.video:
            raise UnusableVideoError("it holds no video")
        stream = container.streams.video[0]
        width, height = _scaled_size(stream.codec_context.width, stream.codec_context.height, cut)
        if (width + 128) * (height + 128) >= _LARGEST_PICTURE:
            raise UnusableVideoError(f"it is too large when scaled ({width} × {height} pixels); set a smaller `size`")
        stamps = {p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard}
        return np.array(sorted(stamps), np.int64), float(stream.time_base or 1.0)


def _starts(time: Float, cut: Cut) -> tuple[NDArray[np.int64], float]:
    """First frames of the clips, counted on the grid of `Cut.fps`, and the seconds between two frames of a clip."""
    if len(time) < 2 or time[-1] <= time[0]:
        raise UnusableVideoError(f"it is too short ({len(time)} frames)")
    lasts = time[-1] - time[0]
    count, step = len(time), lasts / (len(time) - 1)
    if cut.fps is not None:
        count, step = int(lasts * cut.fps + 1e-6) + 1, 1.0 / cut.fps
    span = (cut.frames - 1) * cut.stride + 1
    room = count - span
    if room < 0:
        at = "" if cut.fps is None else f" at {cut.fps:g} frames per second"
        raise UnusableVideoError(f"it is too short ({count} frames{at}, a clip takes {span})")
    clips = min(cut.clips, 2 * room + 2)  # more do not bring more different ones
    starts = np.unique(np.rint((np.arange(clips) + 0.5) / clips * room).astype(np.int64))
    return starts, float(step) * cut.stride


def _chosen(time: Float, starts: NDArray[np.int64], cut: Cut) -> NDArray[np.intp]:
    """Indices of the frames of every clip ``[K, T]``."""
    places = starts[:, None] + cut.stride * np.arange(cut.frames)
    if cut.fps is None:
        return places
    return np.searchsorted(0.5 * (time[1:] + time[:-1]), time[0] + places / cut.fps)  # the nearest frame


def _decoded(path: Path, stamps: set[int], cut: Cut) -> dict[int, NDArray[np.uint8]]:
    """The frames shown at these times, scaled and cut, as far as they can be decoded."""
    import av

    pictures: dict[int, NDArray[np.uint8]] = {}
    with av.open(str(path), metadata_errors="replace") as container:
        for frame in container.decode(video=0):
            if frame.pts in stamps and not frame.is_corrupt:
                pictures[frame.pts] = _scaled(frame, cut)
            if len(pictures) == len(stamps):
                break
    return pictures


def _scaled(frame: Any, cut: Cut) -> NDArray[np.uint8]:
    width, height = _scaled_size(frame.width, frame.height, cut)
    way = "AREA" if min(frame.width, frame.height) > cut.size else "BILINEAR"
    kind = "gray" if cut.grey else "rgb24"
    image = frame.to_ndarray(format=kind, width=width, height=height, interpolation=way)
    left, top = (width - cut.size) // 2, (height - cut.size) // 2
    return image.reshape(height, width, -1)[top : top + cut.size, left : left + cut.size]


def _scaled_size(width: int, height: int, cut: Cut) -> tuple[int, int]:
    """Width and height that make the shorter side `Cut.size` long."""
    shorter = max(1, min(width, height))  # a header may say 0; decoding then tells what is wrong
    return max(cut.size, round(width * cut.size / shorter)), max(cut.size, round(height * cut.size / shorter))
