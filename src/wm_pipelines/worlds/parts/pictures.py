"""Single pictures of any size and kind (PNG, JPEG, WebP …), through Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.worlds.parts.recorded import square
from wm_pipelines.worlds.parts.video_files import UnusableVideoError
from wm_pipelines.worlds.parts.video_lists import exists


def picture(path: Path, size: int, grey: bool = False) -> NDArray[np.uint8]:
    """A picture ``[size, size, 3 | 1]``, turned as the file says: the shorter side scaled, the centre cut out.

    Raises:
        UnusableVideoError: it is missing or cannot be read; the message says why, without its name.
    """
    from PIL import Image, UnidentifiedImageError

    if not exists(path):
        raise UnusableVideoError("there is no such file")
    try:
        with Image.open(path) as image:
            return fitted(image, size, grey)
    except UnidentifiedImageError as error:
        raise UnusableVideoError("it is no picture that can be read (PNG, JPEG, WebP …)") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusableVideoError(f"it is damaged ({' '.join(str(error).split())[:80]})") from error


def fitted(image: Any, size: int, grey: bool = False) -> NDArray[np.uint8]:
    """The same of a picture of Pillow's; what is transparent becomes white."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    pixels = np.asarray(upright.convert("L" if grey else "RGB"))
    return square(pixels.reshape(1, *pixels.shape[:2], -1), size)[0]
