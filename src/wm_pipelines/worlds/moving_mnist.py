"""Moving MNIST: two handwritten digits cross a 64 × 64 image and turn back at its edges (Srivastava et al. 2015).

The generator is the usual one: a digit's corner moves in the unit square by 0.1 per frame in a fixed direction; beyond
an edge it is put onto the edge and its velocity reversed there. The square is scaled to the 36 × 36 pixels that corners
move in, rounded down, and digits are pasted by the maximum. The published test sequences can be read instead.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.files import project_path
from wm_pipelines.laws import Laws
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Array, Float, SimulatedWorld, WorldParameters, stream
from wm_pipelines.worlds.mnist import chosen, read_digits
from wm_pipelines.worlds.parts import captions

logger = logging.getLogger(__name__)

PUBLISHED_MD5 = "be083ec986bfe91a449d63653c411eb2"  # mnist_test_seq.npy, 10,000 sequences
_LOOKED_AT = 50  # frames and sequences, to tell one from the other
_MORE_ALIKE = 0.9  # ratio of mean differences below which images follow each other along an axis
_HELD_OUT = 0.1  # share of the training digits that only validation sequences show


class MovingMnistParameters(WorldParameters):
    """How many sequences of which digits; of `source` and `verify` see the world `mnist`."""

    source: str = Field("sample", description="`sample` (bundled digits), or folder or URL of MNIST's IDX files")
    verify: bool = Field(True, description="compare the files with the published MD5s")
    train: int = Field(2000, ge=1, description="sequences of training digits")
    validation: int = Field(200, ge=1, description="sequences of other training digits")
    test: int | None = Field(200, ge=1, description="sequences of test digits; null: all of `test_file`")
    frames: int = Field(20, ge=2)
    size: int = Field(64, ge=29, description="pixels along a side")
    digits: int = Field(2, ge=1)
    step_length: float = Field(0.1, gt=0, lt=1, description="way per frame, as a share of the way from edge to edge")
    test_file: str | None = Field(None, description="mnist_test_seq.npy, to be the test split")
    test_md5: str | None = Field(PUBLISHED_MD5, description="of `test_file`; null: any file will do")

    @model_validator(mode="after")
    def _some_test(self) -> MovingMnistParameters:
        if self.test is None and self.test_file is None:
            raise ValueError("test: give a number of sequences, or a test_file to take all from")
        return self


@register
class MovingMnist(SimulatedWorld):
    """State ``(q_1 … q_N, p_1 … p_N)`` per digit ``(x, y)``: the corner's position in the unit square and its velocity.

    y points down; time is counted in frames; every digit has mass 1.
    """

    name = "moving_mnist"
    Parameters = MovingMnistParameters
    parameters: MovingMnistParameters

    # -- the motion

    def energy(self, z: Array) -> Array:
        """``sum p^2 / 2 [...]``: speeds never change."""
        return 0.5 * array_namespace(z).sum(z[..., 2 * self.parameters.digits :] ** 2, axis=-1)

    def sample_initial_state(self, rng: np.random.Generator, episodes: int) -> Float:
        """Start states ``[E, 4 N]``: anywhere, in any direction, one step taken."""
        shape = (episodes, self.parameters.digits)
        q, angle = rng.random((*shape, 2)), 2.0 * np.pi * rng.random(shape)
        p = self.parameters.step_length * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return self.simulate(np.concatenate([a.reshape(episodes, -1) for a in (q, p)], axis=-1), 1.0, 1)[:, 1]

    def simulate(self, z0: Float, step: float, steps: int) -> Float:
        """``[E, 4 N] -> [E, steps + 1, 4 N]``. What lies beyond an edge is lost, so the motion has no way back."""
        q, p = np.split(np.array(z0, np.float64), 2, axis=-1)
        rows = [np.concatenate([q, p], axis=-1)]
        for _ in range(steps):
            q = q + step * p
            p = np.where((q <= 0.0) | (q >= 1.0), -p, p)
            q = np.clip(q, 0.0, 1.0)
            rows.append(np.concatenate([q, p], axis=-1))
        return np.stack(rows, axis=1)

    def facts(self) -> dict[str, Any]:
        """Particles of mass 1 in a plane; the edges take their momentum."""
        digits = self.parameters.digits
        return {
            "particles": digits,
            "space": 2,
            "attributes": {"mass": [1.0] * digits},
            "conserved": ["energy"],
            "energy": {"law": "energy"},
        }

    def laws(self) -> Laws:
        """Straight motion between the edges."""
        return Laws(energy=self.energy, simulate=self.simulate)

    # -- the images

    def own_episodes(self, seed: int) -> dict[str, Episodes]:
        """Train, validation and test; digits of one split are in no other.

        Raises:
            UserError: files are missing, damaged or not the published ones.
        """
        p = self.parameters
        images, _, place = read_digits(p.source, "train", p.verify)
        validation, train = chosen(seed, "training", len(images), [round(_HELD_OUT * len(images)), None])
        facts = {"source": place, "seed": seed, "generator": __version__}
        parts = {"train": (images[train], p.train), "validation": (images[validation], p.validation)}
        if p.test_file is None and p.test is not None:
            parts["test"] = (read_digits(p.source, "test", p.verify)[0], p.test)
        made = {
            name: self._sequences(digits, count, stream(seed, name), {**facts, "split": name})
            for name, (digits, count) in parts.items()
        }
        if p.test_file is not None:
            made["test"] = self._published(p.test_file, {**facts, "source": p.test_file, "split": "test"})
        return made

    def _sequences(self, images: NDArray[np.uint8], count: int, seed: list[int], facts: dict[str, Any]) -> Episodes:
        motion, choice = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        frames = self.parameters.frames
        z = self.simulate(self.sample_initial_state(motion, count), 1.0, frames - 1)
        digits = images[choice.integers(len(images), size=(count, self.parameters.digits))]
        views = {
            "times": np.tile(np.arange(float(frames)), (count, 1)),
            "states": z,
            "frames": self.draw(z, digits, self.parameters.size)[..., None],
        }
        return self.episodes(views, 1.0, facts)

    def draw(self, z: Float, digits: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """Paste digits ``[E, N, h, w]`` where the states ``[E, T, 4 N]`` say: ``[E, T, size, size]``."""
        height, width = digits.shape[2:]
        q = z[..., : 2 * self.parameters.digits].reshape(*z.shape[:2], self.parameters.digits, 2)
        corner = (q * [size - width, size - height]).astype(np.intp)
        frames = np.zeros((*z.shape[:2], size, size), dtype=np.uint8)
        for (episode, row, digit), x in np.ndenumerate(corner[..., 0]):
            y = corner[episode, row, digit, 1]
            patch = frames[episode, row, y : y + height, x : x + width]
            np.maximum(patch, digits[episode, digit], out=patch)
        return frames

    def _published(self, file: str, facts: dict[str, Any]) -> Episodes:
        """The published sequences ``[20, 10000, 64, 64]``; where their digits are is not known."""
        path = project_path(file)
        frames = _in_order(_read_sequences(str(path), self.parameters.test_md5), self.parameters.frames, str(path))
        if frames.shape[0] != self.parameters.frames or frames.shape[2:] != (self.parameters.size,) * 2:
            raise UserError(
                f"'{path}' has {frames.shape[0]} frames of {frames.shape[2]} × {frames.shape[3]} pixels, if its axes "
                "are [frames, sequences, height, width] as published; set `frames` and `size` to that"
            )
        wanted = self.parameters.test or frames.shape[1]
        if wanted > frames.shape[1]:
            raise UserError(f"'{path}' has {frames.shape[1]} sequences, `test` asks for {wanted}; lower it")
        taken = np.ascontiguousarray(frames[:, :wanted].swapaxes(0, 1))[..., None]
        time = np.tile(np.arange(float(frames.shape[0])), (wanted, 1))
        return self.episodes({"times": time, "frames": taken}, 1.0, facts)

    def render(self, z: Float, size: int = 64) -> NDArray[np.uint8]:
        """The motion of the states ``[..., 4 N]``, shown by the first test digits: ``[..., size, size, 3]``."""
        images, _, _ = read_digits(self.parameters.source, "test", self.parameters.verify)
        flat = np.asarray(z, np.float64).reshape(1, -1, z.shape[-1])
        grey = self.draw(flat, images[None, : self.parameters.digits], size)
        return np.repeat(grey.reshape(*z.shape[:-1], size, size, 1), 3, axis=-1)

    def describe(self, z: Float) -> str:
        """How many digits, and how often they turn back."""
        p = z[:, 2 * self.parameters.digits :]
        turns = int((np.diff(np.sign(p), axis=0) != 0).sum())
        number = captions.count(self.parameters.digits, "handwritten digit").capitalize()
        return f"{number} in straight motion, turned back {captions.count(turns, 'time')} by the edges."


def _in_order(sequences: NDArray[np.uint8], frames: int, path: str) -> NDArray[np.uint8]:
    """The table with its frames in front: ``[frames, sequences, height, width]``, recognised if the two are swapped.

    Frames that follow each other resemble each other more than frames of different sequences do.

    Raises:
        UserError: they resemble each other along the second axis, whose length is not that of a sequence.
    """
    some = sequences[:_LOOKED_AT, :_LOOKED_AT].astype(np.float32)
    along = [float(np.abs(np.diff(some, axis=axis)).mean()) if some.shape[axis] > 1 else np.inf for axis in (0, 1)]
    if not along[1] < _MORE_ALIKE * along[0]:
        return sequences
    if sequences.shape[1] != frames:
        raise UserError(
            f"'{path}': its axes are swapped: images follow each other along its second axis, of {sequences.shape[1]}; "
            f"set `frames` to that, or save it as [frames, sequences, height, width]"
        )
    logger.info(
        "'%s' is read as [sequences, frames, height, width]: images follow each other along its second axis", path
    )
    return sequences.swapaxes(0, 1)


def _read_sequences(path: str, md5: str | None) -> NDArray[np.uint8]:
    try:
        sequences = np.load(path, mmap_mode="r", allow_pickle=False)
        if md5 is not None:
            with open(path, "rb") as file:  # noqa: PTH123
                found = hashlib.file_digest(file, "md5").hexdigest()
            if found != md5:
                raise UserError(f"'{path}': wrong checksum (MD5 {found}, expected {md5}); get the file again")
    except FileNotFoundError:
        raise UserError(f"no '{path}'; give the path of mnist_test_seq.npy, or no test_file") from None
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read '{path}': {error}; get the file again") from error
    if not isinstance(sequences, np.ndarray) or sequences.ndim != 4 or sequences.dtype != np.uint8:
        raise UserError(f"'{path}' is not a table [frames, sequences, height, width] of bytes")
    return sequences
