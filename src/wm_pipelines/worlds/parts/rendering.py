"""Antialiased drawing of many frames at once.

A shape is a signed distance: a pixel is covered by ``clip(1/2 - distance / pixel, 0, 1)`` of it. That is exact for
straight edges along the pixels and good elsewhere, needs no supersampling, and moves smoothly with the shape, so that a
frame tells sub-pixel positions. Coordinates are the world's: x to the right, y up, metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.worlds.base import Float

Colour = tuple[float, float, float]

PAPER: Colour = (0.965, 0.962, 0.945)
INK: Colour = (0.23, 0.25, 0.29)
PALETTE: tuple[tuple[str, Colour], ...] = (
    ("red", (0.84, 0.26, 0.24)),
    ("blue", (0.18, 0.42, 0.74)),
    ("amber", (0.93, 0.64, 0.15)),
    ("green", (0.22, 0.58, 0.38)),
    ("violet", (0.51, 0.35, 0.68)),
    ("teal", (0.12, 0.60, 0.64)),
    ("pink", (0.88, 0.48, 0.64)),
    ("brown", (0.55, 0.38, 0.25)),
)
_FRAMES_AT_ONCE = 256


def colour(index: int) -> Colour:
    """The colour of the body of that number; the palette repeats."""
    return PALETTE[index % len(PALETTE)][1]


def colour_name(index: int) -> str:
    """What that colour is called."""
    return PALETTE[index % len(PALETTE)][0]


class Canvas:
    """``F`` square frames with one camera.

    Args:
        frames: how many.
        size: pixels along a side.
        half_width: half of what the camera sees, in metres.
        centre: the point in the middle of the image.
    """

    def __init__(self, frames: int, size: int, half_width: float, centre: tuple[float, float] = (0.0, 0.0)) -> None:
        self.size, self.pixel = size, 2.0 * half_width / size
        self._left, self._top = centre[0] - half_width, centre[1] + half_width
        # A margin around the image takes what is drawn over its edge: discs up to half the image wide.
        self._margin = size // 2 + 8
        side = size + 2 * self._margin
        self._image = np.empty((frames, side, side, 3), dtype=np.float32)
        self._image[:] = np.array(PAPER, dtype=np.float32)

    def disc(self, centre: Float, radius: float, fill: Colour) -> None:
        """A ball, dark at its rim and bright towards the upper left; ``centre [F, 2]``."""
        radius = max(radius, 1.5 * self.pixel)
        rim = max(0.12 * radius, 0.4 * self.pixel)
        self._spot(centre, radius, _mixed(fill, INK, 0.45))
        self._spot(centre, radius - rim, fill)
        if radius > 3.0 * self.pixel:
            self._spot(centre + np.array([-0.3, 0.3]) * radius, 0.3 * radius, _mixed(fill, (1.0, 1.0, 1.0), 0.55))

    def rod(self, a: Float, b: Float, width: float, fill: Colour = INK) -> None:
        """A straight rod with round ends from ``a [F, 2]`` to ``b [F, 2]``."""
        self._stroke(a, b, width, 0.0, fill, lambda along, across, length: _to_segment(along, across, length))

    def polygon(self, corners: Float, fill: Colour) -> None:
        """A filled polygon that may be concave but does not cross itself; ``corners [F, V, 2]`` in order."""
        centre = 0.5 * (corners.min(1) + corners.max(1))
        about = (corners - centre[:, None]).astype(np.float32)
        where, right, down = self._patch(centre, float(np.hypot(about[..., 0], about[..., 1]).max()))
        self._paint(where, _to_polygon(right * self.pixel, -down * self.pixel, about), fill)

    def coil(self, a: Float, b: Float, width: float, amplitude: float, turns: int, fill: Colour = INK) -> None:
        """A spring from ``a [F, 2]`` to ``b [F, 2]``, seen from the side as a sine that stretches with its length."""

        def distance(along: Float, across: Float, length: Float) -> Float:
            wave = 2.0 * math.pi * turns / np.maximum(length, 1e-6)
            phase = wave * np.clip(along, 0.0, length)
            curve, slope = amplitude * np.sin(phase), amplitude * wave * np.cos(phase)
            # First-order distance to a graph: vertical distance over the length of its normal.
            near = np.abs(across - curve) / np.sqrt(1.0 + slope * slope)
            outside = np.maximum(np.maximum(-along, along - length), 0.0)
            return np.hypot(near, outside)

        self._stroke(a, b, width, amplitude, fill, distance)

    def pixels(self) -> NDArray[np.uint8]:
        """The frames, ``[F, size, size, 3]``."""
        inner = self._image[:, self._margin : -self._margin, self._margin : -self._margin]
        return np.rint(np.clip(inner, 0.0, 1.0) * 255.0).astype(np.uint8)

    def _stroke(
        self, a: Float, b: Float, width: float, swell: float, fill: Colour, distance: Callable[..., Float]
    ) -> None:
        """Paint what lies within half of ``width`` of a curve given in the frame of the line from ``a`` to ``b``.

        ``swell`` is how far the curve departs from that line; pixels that no frame's curve can touch are left alone.
        """
        width = max(width, 1.2 * self.pixel)
        ends, reach = np.concatenate([a, b]), swell + 0.5 * width + 2.0 * self.pixel
        columns = self._span(ends[:, 0] - reach - self._left, ends[:, 0] + reach - self._left)
        rows = self._span(self._top - ends[:, 1] - reach, self._top - ends[:, 1] + reach)
        x = self._left + (columns + 0.5) * self.pixel
        y = self._top - (rows + 0.5) * self.pixel
        towards = (b - a).astype(np.float32)
        length = np.hypot(towards[:, 0], towards[:, 1])[:, None, None]
        ex, ey = (towards[:, i, None, None] / np.maximum(length, 1e-12) for i in (0, 1))
        dx, dy = ((at - a[:, i, None]).astype(np.float32) for i, at in enumerate((x, y)))
        dx, dy = dx[:, None, :], dy[:, :, None]
        near = distance(dx * ex + dy * ey, dy * ex - dx * ey, length)
        first = (rows[0] + self._margin, columns[0] + self._margin) if rows.size and columns.size else (0, 0)
        where = (slice(None), slice(first[0], first[0] + rows.size), slice(first[1], first[1] + columns.size))
        self._paint(where, near - 0.5 * width, fill)

    def _span(self, low: Float, high: Float) -> NDArray[np.intp]:
        """The rows (or columns) of the image between two distances from its edge."""
        edges = np.clip([low.min() / self.pixel - 1.0, high.max() / self.pixel + 1.0], 0, self.size)
        return np.arange(int(edges[0]), int(edges[1]))

    def _spot(self, centre: Float, radius: float, fill: Colour) -> None:
        """Paint a disc."""
        where, dx, dy = self._patch(centre, radius)
        near = (np.sqrt(dx * dx + dy * dy) - radius / self.pixel) * self.pixel
        self._paint(where, near, fill)

    def _patch(self, centre: Float, radius: float) -> tuple[tuple, Float, Float]:
        """The pixels around ``centre [F, 2]``, whose place differs from frame to frame, and where they are from it.

        Returns:
            An index into the image, and from the centre, in pixels, right ``[F, 1, P]`` and down ``[F, P, 1]``.
        """
        patch = 2 * math.ceil(radius / self.pixel) + 3
        if patch > self._margin:
            raise ValueError(f"a shape of radius {radius:g} m is wider than half of the image")
        column = (centre[:, 0] - self._left) / self.pixel - 0.5 + self._margin  # in pixels of the margined image
        row = (self._top - centre[:, 1]) / self.pixel - 0.5 + self._margin
        last = self.size + 2 * self._margin - patch
        corner = [
            np.clip(np.nan_to_num(np.rint(at)) - patch // 2, 0, last).astype(np.intp)[:, None] + np.arange(patch)
            for at in (row, column)
        ]
        dy, dx = corner[0] - row[:, None], corner[1] - column[:, None]
        frame = np.arange(centre.shape[0])[:, None, None]
        where = (frame, corner[0][:, :, None], corner[1][:, None, :])
        return where, dx.astype(np.float32)[:, None, :], dy.astype(np.float32)[:, :, None]

    def _paint(self, where: tuple, distance: Float, fill: Colour) -> None:
        cover = np.clip(0.5 - distance / self.pixel, 0.0, 1.0).astype(np.float32)[..., None]
        under = self._image[where]
        self._image[where] = under + cover * (np.array(fill, dtype=np.float32) - under)


def _to_segment(along: Float, across: Float, length: Float) -> Float:
    return np.hypot(across, along - np.clip(along, 0.0, length))


def _to_polygon(x: Float, y: Float, corners: Float) -> Float:
    """Signed distance, negative inside, of points to polygons ``[F, V, 2]``: nearest edge, and parity of crossings."""
    nearest, inside = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, np.float32), np.False_
    for a, b in zip(corners.swapaxes(0, 1), np.roll(corners, -1, 1).swapaxes(0, 1), strict=True):
        (ax, ay), (ex, ey) = (v.T[:, :, None, None] for v in (a, b - a))
        dx, dy = x - ax, y - ay
        along = np.clip((dx * ex + dy * ey) / np.maximum(ex * ex + ey * ey, 1e-12), 0.0, 1.0)
        nearest = np.minimum(nearest, (dx - along * ex) ** 2 + (dy - along * ey) ** 2)
        spans = (dy >= 0.0) != (dy >= ey)
        inside = inside ^ (spans & ((dy * ex - dx * ey) * ey > 0.0))
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def _mixed(a: Colour, b: Colour, share: float) -> Colour:
    """``a`` with so much of ``b`` in it."""
    return tuple((1.0 - share) * x + share * y for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def render_batched(
    z: Float,
    size: int,
    draw: Callable[[Canvas, Float], None],
    half_width: float,
    centre: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.uint8]:
    """Draw states with any leading axes, some hundred frames at a time.

    Args:
        z: states ``[..., D]``.
        size: pixels along a side.
        draw: paints the states ``[F, D]`` on a canvas of ``F`` frames.
        half_width: see `Canvas`.
        centre: see `Canvas`.

    Returns:
        RGB ``[..., size, size, 3]``.
    """
    flat = np.asarray(z, dtype=np.float64).reshape(-1, z.shape[-1])
    frames = np.empty((flat.shape[0], size, size, 3), dtype=np.uint8)
    for part in _parts(flat.shape[0]):
        canvas = Canvas(flat[part].shape[0], size, half_width, centre)
        draw(canvas, flat[part])
        frames[part] = canvas.pixels()
    return frames.reshape(*z.shape[:-1], size, size, 3)


def _parts(n: int) -> Iterator[slice]:
    return (slice(first, first + _FRAMES_AT_ONCE) for first in range(0, n, _FRAMES_AT_ONCE))
