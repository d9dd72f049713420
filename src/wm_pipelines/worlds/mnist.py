"""MNIST: handwritten digits, 28 × 28 grey (LeCun et al. 1998), from a bundled sample or the full files.

Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) has the same form, and other pictures: ``published: fashion_mnist``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import World, WorldParameters, stream
from wm_pipelines.worlds.parts.idx import FASHION_MD5, FILES, PUBLISHED_MD5, read_idx

SAMPLE = "data/01_raw/mnist_sample"  # benchmarks/make_mnist_sample.py
SAMPLE_MD5 = {
    "train-images-idx3-ubyte": "dc63e1c5abb16baf4a3305aa641efc82",
    "train-labels-idx1-ubyte": "5c523aabcc1a3f5ba46c4660cedb5b71",
    "t10k-images-idx3-ubyte": "7e967b1727e22437fc5b590436d03b18",
    "t10k-labels-idx1-ubyte": "6cf1acbd7688877e5de856842c3ff154",
}
Half = Literal["train", "test"]
Published = Literal["mnist", "fashion_mnist"]
_MD5 = {"mnist": PUBLISHED_MD5, "fashion_mnist": FASHION_MD5}
_CLOTHES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


class MnistParameters(WorldParameters):
    """Which digits, and how many."""

    source: str = Field("sample", description="`sample` (bundled), or folder or URL of the four IDX files")
    published: Published = Field("mnist", description="which published data they are: checksums, names of the classes")
    verify: bool = Field(True, description="compare with the published MD5s; false for other data in this form")
    train: int | None = Field(None, ge=1, description="training images; null: all that validation leaves")
    validation: int = Field(1000, ge=1, description="images set apart from the training files")
    test: int | None = Field(None, ge=1, description="test images; null: all")


def read_digits(
    source: str, half: Half, verify: bool = True, published: Published = "mnist"
) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Images ``[N, H, W]``, their labels ``[N]`` and the folder or URL that they came from.

    Raises:
        UserError: a file is missing, damaged, or not the published one.
    """
    place, md5 = (SAMPLE, SAMPLE_MD5) if source == "sample" else (source, _MD5[published] if verify else None)
    images, labels = (read_idx(place, FILES[half][kind], md5) for kind in ("images", "labels"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"'{place}', {half}: images {list(images.shape)} and labels {list(labels.shape)} do not fit each other"
        )
    return images, labels.astype(np.int64), place


def chosen(seed: int, what: str, available: int, counts: list[int | None]) -> list[NDArray[np.intp]]:
    """Disjoint random indices, sorted, so many per entry of ``counts``; the last may be None: all that are left.

    Raises:
        UserError: there are fewer.
    """
    wanted = [available - sum(c or 0 for c in counts) if count is None else count for count in counts]
    if sum(wanted) > available or min(wanted) < 1:
        raise UserError(f"{sum(max(w, 1) for w in wanted)} {what} images are asked for, there are {available}")
    order = np.random.default_rng(stream(seed, what)).permutation(available)
    ends = np.cumsum(wanted)
    return [np.sort(order[end - count : end]) for end, count in zip(ends, wanted, strict=True)]


@register
class Mnist(World):
    """Single images with labels: frames ``[E, 1, 28, 28, 1]``, no state."""

    name = "mnist"
    Parameters = MnistParameters
    parameters: MnistParameters

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """Train, validation (from the training files, drawn with ``seed``) and test."""
        p = self.parameters
        images, labels, place = read_digits(p.source, "train", p.verify, p.published)
        validation, train = chosen(seed, "training", len(images), [p.validation, p.train])
        test_images, test_labels, _ = read_digits(p.source, "test", p.verify, p.published)
        [test] = chosen(seed, "test", len(test_images), [p.test])
        parts = {
            "train": (images[train], labels[train]),
            "validation": (images[validation], labels[validation]),
            "test": (test_images[test], test_labels[test]),
        }
        digits = [str(c) for c in range(int(labels.max()) + 1)]
        facts = {
            "source": place,
            "seed": seed,
            "label_names": [*_CLOTHES, *digits[len(_CLOTHES) :]] if p.published == "fashion_mnist" else digits,
            "generator": __version__,
        }
        return {
            split: self.episodes(
                {"frames": frames[:, None, :, :, None], "labels": labels}, 1.0, facts | {"split": split}
            )
            for split, (frames, labels) in parts.items()
        }
