"""Roll-outs side by side as one animated image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wm_pipelines.reporting.style import INK, Palette, model_label, model_order

Frames = NDArray[np.uint8]

_GAP, _HEADER, _STRIPE = 6, 38, 3
_PACK = np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)


@dataclass(frozen=True)
class Animation:
    """An encoded animation and its first frame, for those who asked their system for less motion.

    `stride`: how many frames of the sequence one frame stands for.
    """

    data: bytes
    still: bytes
    width: int
    height: int
    stride: int = 1
    mime: str = "image/webp"

    @property
    def uri(self) -> str:
        """The animation as a data URI."""
        return _data_uri(self.data, self.mime)

    @property
    def still_uri(self) -> str:
        """The first frame as a data URI."""
        return _data_uri(self.still, self.mime)


def _data_uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def strip(frames: Mapping[str, Frames], columns: int = 5, panel: int = 128) -> Frames:
    """Lay roll-outs side by side, truth first, each under its name and in its family's colour.

    Args:
        frames: ``"truth"`` or ``"family/variant"`` -> ``[F, H, W, 3]`` uint8, all alike in shape.
        columns: panels in a row.
        panel: width of a panel in pixels; small frames are enlarged by a whole factor.

    Returns:
        ``[F, height, width, 3]`` uint8.

    Raises:
        ValueError: there are no frames, or their shapes differ.
    """
    if not frames:
        raise ValueError("no frames to animate")
    shapes = {f.shape for f in frames.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise ValueError(f"frames must be alike in shape [F, H, W, 3], got {sorted(shapes)}")
    models = model_order(m for m in frames if m != "truth")
    palette = Palette(models)
    names = (["truth"] if "truth" in frames else []) + models
    count, height, width, _ = next(iter(shapes))
    zoom = max(1, panel // width)
    height, width = height * zoom, width * zoom
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    cell_height, cell_width = height + _HEADER + _GAP, width + _GAP
    canvas = np.full((count, rows * cell_height + _GAP, columns * cell_width + _GAP, 3), 255, dtype=np.uint8)
    for i, name in enumerate(names):
        top, left = _GAP + (i // columns) * cell_height, _GAP + (i % columns) * cell_width
        colour = INK if name == "truth" else palette.colour(name)
        canvas[:, top : top + _HEADER, left : left + width] = _header(name, colour, width)
        enlarged = frames[name].repeat(zoom, axis=1).repeat(zoom, axis=2)
        canvas[:, top + _HEADER : top + _HEADER + height, left : left + width] = enlarged
    return canvas


def _header(name: str, colour: str, width: int) -> Frames:
    """A model's family and variant, on lines of their own, above a stripe of its colour, ``[_HEADER, width, 3]``."""
    image = Image.new("RGB", (width, _HEADER), "white")
    draw = ImageDraw.Draw(image)
    lines = ["truth"] if name == "truth" else model_label(name).split(" · ")
    if _widest(lines, 11) > width:
        first, underscore, rest = lines[0].partition("_")
        lines = [first + underscore, rest, *lines[1:]] if rest else lines
    size = 12 if len(lines) < 3 else 10
    while size > 7 and _widest(lines, size) > width:
        size -= 1
    for place, text in enumerate(reversed(lines), 1):  # close to the stripe
        top = _HEADER - _STRIPE - 1 - place * (size + 1)
        draw.text((0, top), text, fill=INK, font=ImageFont.load_default(size))
    draw.rectangle((0, _HEADER - _STRIPE, width - 1, _HEADER - 1), fill=colour)
    return np.asarray(image)


def _widest(lines: list[str], size: int) -> float:
    return max(ImageFont.load_default(size).getlength(text) for text in lines)


def animate(
    frames: Mapping[str, Frames], frames_per_second: float = 12.0, budget: int = 400_000, most: int = 72
) -> Animation:
    """Encode roll-outs side by side as an animated WebP of at most ``budget`` bytes.

    Drawn frames have few colours: a common palette and lossless coding make them smaller than lossy coding does, and
    keep edges sharp. If that does not fit, the palette shrinks first, then every second frame is dropped (and each
    of the others shown twice as long).

    Args:
        frames: as in `strip`.
        frames_per_second: speed of the whole sequence, kept when frames are dropped.
        budget: largest size in bytes.
        most: largest number of frames; longer sequences are thinned.

    Raises:
        ValueError: the frames do not fit together, or not even a single frame fits the budget.
    """
    count = len(next(iter(frames.values()), ()))
    stride = max(1, -(-count // most))
    canvas = strip({name: f[::stride] for name, f in frames.items()})
    while True:
        duration = round(stride * 1000.0 / frames_per_second)
        for colours in (64, 24):
            images = _with_palette(canvas, colours)
            data = _encode(images, duration)
            if len(data) <= budget:
                still = _encode(images[:1], duration)
                return Animation(data, still, canvas.shape[2], canvas.shape[1], stride)
        if len(canvas) == 1:
            raise ValueError(f"one frame of {canvas.shape[2]}x{canvas.shape[1]} pixels exceeds {budget} bytes")
        canvas, stride = canvas[::2], 2 * stride


def _with_palette(canvas: Frames, colours: int) -> list[Image.Image]:
    """Images in one palette of so many colours, chosen from a few of them; without dithering, which flickers."""
    sample = np.concatenate(canvas[:: max(1, len(canvas) // 4)])
    distinct, counts = np.unique(sample.reshape(-1, 3) @ _PACK, return_counts=True)
    by_frequency = distinct[np.argsort(counts, kind="stable")]
    shades = np.stack([by_frequency >> 16, by_frequency >> 8 & 255, by_frequency & 255], axis=-1).astype(np.uint8)
    # The most frequent colours stay as they are, else those of two models could become one; the rest are averaged.
    others = np.array(Image.fromarray(sample).quantize(colours // 2).getpalette(), dtype=np.uint8).reshape(-1, 3)
    palette = np.unique(np.concatenate([shades[-(colours // 2) :], others[: colours // 2]]), axis=0)
    # Each of 32³ cells of the colour cube stands for its most frequent colour: of several assignments the last stays.
    cube = 8 * np.indices((32, 32, 32), dtype=np.uint8).reshape(3, -1).T + 4
    cube[_cell(shades)] = shades
    # |cube - palette|² without |cube|², which is the same for all entries; whole numbers, exact in single precision.
    entries = palette.astype(np.float32)
    nearest = (np.square(entries).sum(axis=-1) - 2.0 * cube.astype(np.float32) @ entries.T).argmin(axis=-1)
    # Quantisation averages, and white would turn grey: each entry becomes the most frequent colour that it stands for.
    palette[nearest[_cell(shades)]] = shades
    shade = palette[nearest]
    return [Image.fromarray(shade[_cell(f)]) for f in canvas]


def _cell(colours: Frames) -> NDArray[np.uint16]:
    """Cell of the colour cube that a colour lies in, five bits per channel: ``[..., 3] -> [...]``."""
    red, green, blue = np.moveaxis((colours >> 3).astype(np.uint16), -1, 0)
    return red << 10 | green << 5 | blue


def _encode(images: list[Image.Image], duration: int) -> bytes:
    buffer = io.BytesIO()
    first, *rest = images
    more = {"save_all": True, "append_images": rest, "duration": duration, "loop": 0}
    first.save(buffer, "WEBP", lossless=True, quality=20, method=1, **more)
    return buffer.getvalue()
