"""Clips out of videos, shown as they are meant: whatever FFmpeg decodes (mp4, webm, gif …), through PyAV.

A file may say that its pictures are to be turned or mirrored (phones write a display matrix), or that their pixels are
no squares; both is done here. Frames that are not evenly apart are taken from an even grid of times.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.video_lists import exists

_LARGEST_PICTURE = 2**31 // 8  # pixels that FFmpeg can scale to, a margin of 128 on both sides counted


class UnusableVideoError(Exception):
    """A video that cannot be used; the message says why, without its name."""


@dataclass(frozen=True)
class Cut:
    """Which clips are cut out of a video.

    Attributes:
        frames: of a clip.
        stride: every how many-th frame is taken.
        fps: take so many frames per second of the video (before `stride`); None: all, or, where they are not evenly
            apart, as many as there are on average.
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
        fps: of the grid; None: every frame.
        uneven: whether the grid had to be laid because frames are not evenly apart.
        aspect: width over height of a pixel.
    """

    path: Path
    stamps: NDArray[np.int64]
    unit: float
    starts: NDArray[np.int64]
    step: float
    sha256: str
    fps: float | None = None
    uneven: bool = False
    aspect: float = 1.0


@dataclass(frozen=True)
class Clips:
    """What was cut out of one video.

    Attributes:
        frames: ``[K, T, size, size, C]`` uint8. step: seconds between two. sha256: of the file.
        rate: frames per second of the file. uneven: see `Planned`. turned: whether the file says to turn or mirror.
        shown: width and height of a frame as it is meant to be seen, in pixels.
    """

    frames: NDArray[np.uint8]
    step: float
    sha256: str
    rate: float = 0.0
    uneven: bool = False
    turned: bool = False
    shown: tuple[int, int] = (0, 0)


# ---------------------------------------------------------------- decoding


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
        stamps, unit, aspect = _stamps(path, cut)
        time = np.asarray(stamps * unit, np.float64)
        uneven = cut.fps is None and _uneven(time)
        fps = (len(time) - 1) / (time[-1] - time[0]) if uneven else cut.fps
        starts, step = _starts(time, replace(cut, fps=fps))
    return Planned(path, stamps, unit, starts, step, digest, fps, uneven, aspect)


def cut_clips(planned: Planned, cut: Cut) -> Clips:
    """Decode the clips.

    Raises:
        UnusableVideoError: the video is damaged.
        UserError: the clips do not fit into memory.
    """
    with _sentences(planned.path):
        time = np.asarray(planned.stamps * planned.unit, np.float64)
        chosen = _chosen(time, planned.starts, replace(cut, fps=planned.fps))
        pictures, seen = _decoded(planned.path, {int(planned.stamps[i]) for i in chosen.ravel()}, cut, planned.aspect)
        if missing := [i for i in chosen.ravel() if int(planned.stamps[i]) not in pictures]:
            raise UnusableVideoError(f"it is damaged (frame {missing[0]} cannot be decoded)")
        frames = np.stack([[pictures[int(planned.stamps[i])] for i in clip] for clip in chosen])
    rate = (len(time) - 1) / float(time[-1] - time[0])
    return Clips(frames, planned.step, planned.sha256, rate, planned.uneven, seen.turned, seen.shown)


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


def _stamps(path: Path, cut: Cut) -> tuple[NDArray[np.int64], float, float]:
    """When the frames are shown, ascending, in units of so many seconds, and a pixel's aspect; nothing is decoded."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:  # a title in another encoding is no damage
        if not container.streams.video:
            raise UnusableVideoError("it holds no video")
        stream = container.streams.video[0]
        aspect = float(stream.sample_aspect_ratio or 1.0)
        width, height = _scaled_size(stream.codec_context.width, stream.codec_context.height, cut, aspect)
        if (width + 128) * (height + 128) >= _LARGEST_PICTURE:
            raise UnusableVideoError(f"it is too large when scaled ({width} × {height} pixels); set a smaller `size`")
        stamps = {p.pts for p in container.demux(stream) if p.pts is not None and not p.is_discard}
        return np.array(sorted(stamps), np.int64), float(stream.time_base or 1.0), aspect


def _uneven(time: Float) -> bool:
    """Whether an even grid of as many times would take other frames: rounded time stamps alone do not."""
    if len(time) < 3 or time[-1] <= time[0]:
        return False
    even = np.linspace(time[0], time[-1], len(time))
    return bool(np.abs(time - even).max() > 0.5 * (even[1] - even[0]))


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


@dataclass(frozen=True)
class _Seen:
    """What decoding showed of a film: whether it is to be turned, and its size in pixels as it is meant."""

    turned: bool = False
    shown: tuple[int, int] = (0, 0)


def _decoded(path: Path, stamps: set[int], cut: Cut, aspect: float) -> tuple[dict[int, NDArray[np.uint8]], _Seen]:
    """The frames shown at these times, turned, scaled and cut, as far as they can be decoded."""
    import av

    pictures: dict[int, NDArray[np.uint8]] = {}
    seen = _Seen()
    with av.open(str(path), metadata_errors="replace") as container:
        for frame in container.decode(video=0):
            if frame.pts in stamps and not frame.is_corrupt:
                way = _orientation(frame)
                pictures[frame.pts] = _scaled(frame, cut, aspect, way)
                wide = (round(frame.width * aspect), frame.height)
                seen = _Seen(way != _UPRIGHT, wide[::-1] if way.transposed else wide)
            if len(pictures) == len(stamps):
                break
    return pictures, seen


class _Orientation(NamedTuple):
    """Exchange rows and columns first, then mirror left and right, then top and bottom: all eight orientations."""

    transposed: bool
    left_right: bool
    top_bottom: bool


_UPRIGHT = _Orientation(False, False, False)


def _orientation(frame: Any) -> _Orientation:
    """How a frame is to be turned to be seen as it is meant, to whole quarter turns.

    The display matrix ``(a, b, u, c, d, v, x, y, w)`` maps a pixel ``(p, q)``, right and down, to ``(a p + c q, b p +
    d q)`` (ISO/IEC 14496-12, section 6.2.2; FFmpeg, libavutil/display.h).
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return _UPRIGHT
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)[:9].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Orientation(False, a < 0, d < 0)
    return _Orientation(True, c < 0, b < 0)


def _scaled(frame: Any, cut: Cut, aspect: float, way: _Orientation) -> NDArray[np.uint8]:
    width, height = _scaled_size(frame.width, frame.height, cut, aspect)
    method = "AREA" if min(frame.width, frame.height) > cut.size else "BILINEAR"
    kind = "gray" if cut.grey else "rgb24"
    image = frame.to_ndarray(format=kind, width=width, height=height, interpolation=method).reshape(height, width, -1)
    if way.transposed:
        image = image.swapaxes(0, 1)
    image = image[:: -1 if way.top_bottom else 1, :: -1 if way.left_right else 1]
    height, width = image.shape[:2]
    left, top = (width - cut.size) // 2, (height - cut.size) // 2
    return np.ascontiguousarray(image[top : top + cut.size, left : left + cut.size])


def _scaled_size(width: int, height: int, cut: Cut, aspect: float) -> tuple[int, int]:
    """Width and height, in square pixels, that make the shorter side `Cut.size` long."""
    wide = width * aspect
    shorter = max(1, min(wide, height))  # a header may say 0; decoding then tells what is wrong
    return max(cut.size, round(wide * cut.size / shorter)), max(cut.size, round(height * cut.size / shorter))
