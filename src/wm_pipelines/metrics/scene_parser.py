"""What stands in a picture of coloured shapes: read by rules, nothing is learned.

Connected components of what is not background; their colour by direction from the background's, their shape by central
moments that depend on neither place nor size, their size by the area that their shape has. It shares no code with the
renderer or with any model, so that it can judge both.

Scenes are ``[N, M, 4]`` of numbers ``(size, colour, shape, place)``, in the order of places, absent objects -1. Shapes
are 0 circle, 1 square, 2 triangle with its tip up; -1: none of them. Places are quarters of the picture, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float64]
Scenes = NDArray[np.int64]

_SIDEWAYS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))]).astype(bool)
"""Pixels touch within their picture, corners included."""

# Of a uniform density on a shape (x right, y down) about its centre: skewness of y, E[x^2 y^2] / (E[x^2] E[y^2]), log
# of E[x^2] / E[y^2], log of the area over the root of E[x^2] E[y^2]: what has a hole has a small one.
_MOMENTS = np.array(
    [
        [0.0, 2.0 / 3.0, 0.0, np.log(4.0 * np.pi)],  # circle
        [0.0, 1.0, 0.0, np.log(12.0)],  # square
        [-2.0 * np.sqrt(2.0) / 5.0, 0.8, np.log(0.75), np.log(6.0 * np.sqrt(3.0))],  # triangle, as high as it is wide
    ]
)
_AREA = np.array([np.pi, np.pi, 2.0])
"""In squares of the radius; the last one, a triangle's, also serves where the shape is unknown (-1)."""


@dataclass(frozen=True)
class Look:
    """What objects may look like.

    Attributes:
        background: RGB in [0, 1]. colours: of objects, in their order. radii: of the sizes in pixels, increasing.
        least: pixels of the smallest component that counts as an object.
        tolerance: distance of a component's moments from a shape's beyond which it is none of them.
    """

    background: Sequence[float]
    colours: Sequence[Sequence[float]]
    radii: Sequence[float]
    least: int = 10
    tolerance: float = 0.25


def parse(frames: NDArray[Any], look: Look) -> Scenes:
    """Scenes in pictures.

    Args:
        frames: ``[N, H, W, 3]``, uint8 or numbers in [0, 1]. look: of background and objects.

    Returns:
        ``[N, M, 4]``, M the largest number of objects found (at least 1), -1 behind those of a picture.
    """
    pixels = np.asarray(frames, np.float64) / (255.0 if frames.dtype == np.uint8 else 1.0)
    apart = pixels - np.asarray(look.background, np.float64)
    towards = np.asarray(look.colours, np.float64) - np.asarray(look.background, np.float64)
    labels, count = _components(apart, 0.5 * float(np.linalg.norm(towards, axis=1).min()), look.least)
    if not count:
        return np.full((len(frames), 1, 4), -1, np.int64)
    colour = _colours(apart, labels, count, towards)
    picture, centre, area, moments = _measured(apart, labels, count, towards[colour])
    shape = _shapes(moments, look.tolerance)
    place = 2 * (centre[:, 1] >= frames.shape[1] / 2) + (centre[:, 0] >= frames.shape[2] / 2)
    found = np.stack([_sizes(area, shape, look.radii), colour, shape, place], axis=1)
    return _arranged(picture, found, len(frames))


def _components(apart: Float, threshold: float, least: int) -> tuple[NDArray[np.int64], int]:
    """Labels ``[N, H, W]`` of components, 0 for the background, and how many there are."""
    labels, count = ndimage.label(np.linalg.norm(apart, axis=-1) > threshold, _SIDEWAYS)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= least
    kept[0] = False
    number = np.where(kept, np.cumsum(kept), 0)
    return number[labels], int(kept.sum())


def _colours(apart: Float, labels: NDArray[np.int64], count: int, towards: Float) -> NDArray[np.int64]:
    """The colour whose direction from the background is nearest to a component's; edges, half covered, weigh less."""
    weight = (apart**2).sum(-1)
    mean = np.stack([_sums(weight * apart[..., k], labels, count) for k in range(3)], axis=1)
    direction = towards / np.linalg.norm(towards, axis=1, keepdims=True)
    return np.asarray((mean @ direction.T).argmax(1))


def _measured(
    apart: Float, labels: NDArray[np.int64], count: int, towards: Float
) -> tuple[NDArray[np.int64], Float, Float, Float]:
    """Picture, centre ``(x, y)``, area and moments of every component, by how much of each pixel it covers."""
    with_edges = ndimage.grey_dilation(labels, footprint=_SIDEWAYS)
    picture, row, column = np.nonzero(with_edges)
    at = with_edges[picture, row, column]
    full = towards[at - 1]
    cover = np.clip((apart[picture, row, column] * full).sum(1) / (full**2).sum(1), 0.0, 1.0)
    area = _sums(cover, at, count)
    centre = np.stack([_sums(cover * (axis + 0.5), at, count) / area for axis in (column, row)], axis=1)
    x, y = column + 0.5 - centre[at - 1, 0], row + 0.5 - centre[at - 1, 1]
    xx, yy, yyy, xxyy = (_sums(cover * power, at, count) / area for power in (x**2, y**2, y**3, x**2 * y**2))
    of = np.zeros(count, np.int64)
    of[at - 1] = picture
    moments = [yyy / yy**1.5, xxyy / (xx * yy), np.log(xx / yy), np.log(area / np.sqrt(xx * yy))]
    return of, centre, area, np.stack(moments, axis=1)


def _shapes(moments: Float, tolerance: float) -> NDArray[np.int64]:
    distance = np.linalg.norm(moments[:, None] - _MOMENTS, axis=-1)
    return np.where(distance.min(1) <= tolerance, distance.argmin(1), -1)


def _sizes(area: Float, shape: NDArray[np.int64], radii: Sequence[float]) -> NDArray[np.int64]:
    """The size whose radius is nearest to that of a shape of such an area."""
    radius = np.sqrt(area / _AREA[shape])
    return np.asarray(abs(radius[:, None] - np.asarray(radii)).argmin(1))


def _arranged(picture: NDArray[np.int64], found: Scenes, pictures: int) -> Scenes:
    """Objects by picture and, in each, by place."""
    order = np.lexsort((found[:, 3], picture))
    picture, found = picture[order], found[order]
    number = np.bincount(picture, minlength=pictures)
    first = np.cumsum(number) - number
    scenes = np.full((pictures, int(number.max()), 4), -1, np.int64)
    scenes[picture, np.arange(len(picture)) - first[picture]] = found
    return scenes


def _sums(values: Float, labels: NDArray[np.int64], count: int) -> Float:
    return np.bincount(labels.ravel(), values.ravel(), minlength=count + 1)[1:].astype(np.float64)


# ------------------------------------------------------------------------------------------------------------- scores


def attributes_right(found: Scenes, wanted: Scenes) -> dict[str, NDArray[np.bool_]]:
    """Which pictures show what was wanted, attribute by attribute.

    An attribute is right where the picture has the wanted values of it, as often as wanted, whatever belongs to what;
    for one object that is plain equality.

    Args:
        found, wanted: scenes ``[N, M, 4]`` and ``[N, M', 4]``.

    Returns:
        ``[N]`` each: ``count``, ``size``, ``colour``, ``shape``, ``place``; ``combination``: every colour belongs to
        its shape; ``exact``: every object has its size,
        colour and shape, and there is no other; ``exact_places``: and they stand where they should.
    """
    right = {"count": (found[..., 0] >= 0).sum(1) == (wanted[..., 0] >= 0).sum(1)}
    parts = {
        "size": [0], "colour": [1], "shape": [2], "place": [3], "combination": [1, 2], "exact": [0, 1, 2],
        "exact_places": [0, 1, 2, 3],
    }  # fmt: skip
    for name, columns in parts.items():
        right[name] = _same(found, wanted, columns)
    return right


def _same(found: Scenes, wanted: Scenes, columns: Sequence[int]) -> NDArray[np.bool_]:
    """Whether two scenes have the same objects, as far as these columns tell, in any order."""
    most = max(found.shape[1], wanted.shape[1])
    codes = []
    for scenes in (found, wanted):
        # An object without a known shape is not an absent one: absent objects are told by their size.
        code = np.where(scenes[..., 0] >= 0, ((scenes[..., columns] + 2) * 10 ** np.arange(len(columns))).sum(-1), 0)
        codes.append(np.sort(np.pad(code, ((0, 0), (0, most - code.shape[1]))), axis=1))
    return np.asarray((codes[0] == codes[1]).all(1))
