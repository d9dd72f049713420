"""Episodes: what a world produced, the same for every kind of view; how they are written and read.

On the disk one split is one Arrow IPC file, uncompressed: one row per episode, one column per view, so that reading is
a memory map and not a copy. How a view becomes a column is the codec of its kind of space. Equal content gives equal
bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.files import atomic_path
from wm_pipelines.spec import Space, Spec

Array = NDArray[Any]

_FORMAT, _VERSION, _HEADER = "wm_pipelines.episodes", 2, b"wm_pipelines"
_REMEDY = "make it again with `kedro run --pipeline=data_ingestion`"

_STANDARD: dict[str, tuple[str, str]] = {
    "times": ("scalar", "row"),
    "states": ("vector", "row"),
    "derivatives": ("vector", "row"),
    "actions": ("vector", "transition"),
    "rewards": ("scalar", "transition"),
    "frames": ("frames", "row"),
    "labels": ("class", "episode"),
    "captions": ("text", "episode"),
    "questions": ("text", "episode"),
    "answers": ("text", "episode"),
}
"""Views that worlds offer by convention: kind of space, and how many entries an episode has."""


def spaces_of(views: Mapping[str, Array]) -> dict[str, Space]:
    """Spaces of views with conventional names, told from their arrays; any other view counts as points per episode."""
    found = {}
    for name, array in views.items():
        kind, per = _STANDARD.get(name, ("points", "episode"))
        axes = 1 if per == "episode" else 2
        found[name] = Space(kind, array.shape[axes:], "str" if array.dtype.kind == "U" else array.dtype.name, per)  # type: ignore[arg-type]
    return found


@dataclass(frozen=True, repr=False)
class Episodes:
    """``E`` episodes of one world; one split (train, validation, test …) is one `Episodes`.

    ``episodes["states"]`` is the view ``[E, T+1, 2d]``; which views there are, and their shapes, is in `spec`: ``times
    [E, T+1]`` in seconds, ``states`` (what an observer measured, may carry noise), ``derivatives`` (dz/dt at the
    noise-free state), ``actions [E, T, A]``, ``rewards [E, T]``, ``frames [E, T+1, H, W, C]`` uint8, ``labels [E]``,
    ``captions [E]`` … In all but the views per episode the second axis is time.

    Attributes:
        spec: of the world. views: arrays by name.
        metadata: seed, generator version … JSON types only; kept in the file's header.

    Raises:
        ValueError: the views do not fit the spec.
    """

    spec: Spec
    views: Mapping[str, Array]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.views) != set(self.spec.views):
            raise ValueError(f"views {sorted(self.views)} are not those of the spec, {sorted(self.spec.views)}")
        if not self.views or not len(self):
            raise ValueError("there are no episodes")
        for name, space in self.spec.views.items():
            array, wanted = self.views[name], (*space.leading(len(self), self.spec.rows), *space.shape)
            dtype = "str" if array.dtype.kind == "U" else array.dtype.name
            if array.shape != wanted or dtype != space.dtype:
                raise ValueError(f"view '{name}' is {dtype} {list(array.shape)}, not {space.dtype} {list(wanted)}")

    def __repr__(self) -> str:
        """What is there, in a line: ``<Episodes mass_spring, test: 20 of 400 rows each, step 0.05 s; states …>``."""
        split = f", {self.metadata['split']}" if "split" in self.metadata else ""
        rows = f"{len(self)} of {self.spec.rows} row{'s' * (self.spec.rows != 1)} each"
        views = ", ".join(f"{name} {list(view.shape)} {view.dtype}" for name, view in sorted(self.views.items()))
        return f"<Episodes {self.spec.name}{split}: {rows}, step {self.spec.step:g} s; {views}>"

    def __getitem__(self, view: str) -> Array:
        """A view.

        Raises:
            UserError: the world has none of that name.
        """
        if view not in self.views:
            raise UserError(f"world '{self.spec.name}' has no view '{view}'; it has {', '.join(self.views)}")
        return self.views[view]

    def __contains__(self, view: object) -> bool:
        return view in self.views

    def get(self, view: str) -> Array | None:
        """A view, or None."""
        return self.views.get(view)

    def __len__(self) -> int:
        return len(next(iter(self.views.values())))

    def first(self, count: int | None) -> Episodes:
        """The first episodes; None: all."""
        return replace(self, views={name: array[:count] for name, array in self.views.items()})

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all views (not over spec and metadata), in hexadecimal."""
        digest = hashlib.sha256()
        for name, view in sorted(self.views.items()):
            codec = codec_of(self.spec.views[name])
            digest.update(f"{name} {self.spec.views[name].dtype} {list(view.shape)}\n".encode())
            digest.update(codec.content(view))
        return digest.hexdigest()

    def check_finite(self) -> None:
        """Raise ValueError where a number is NaN or infinite; the message names the place."""
        for name, view in self.views.items():
            if view.dtype.kind == "f" and not np.isfinite(view).all():
                episode, *row = np.argwhere(~np.isfinite(view))[0]
                raise ValueError(f"{name} is not finite in episode {episode}, row {row[0] if row else 0}")


# ---------------------------------------------------------------- how many there are

_LEARNED_FROM = ("train", "validation")
_FEW = 5


def counted(counts: Mapping[str, int]) -> str:
    """``12 episodes: 8 train, 2 validation, 2 test``, by the number in every split."""
    total = sum(counts.values())
    counts = {split: counts[split] for split in (*_LEARNED_FROM, *counts) if split in counts}
    return f"{total} episode{'s' * (total != 1)}: {', '.join(f'{count} {split}' for split, count in counts.items())}"


def too_few(counts: Mapping[str, int]) -> list[str]:
    """A line for every split to judge on that has too few episodes to tell models apart, with what to do about it."""
    return [
        f"split '{split}' has {count} episode{'s' * (count != 1)}: hardly any difference between models can be told "
        f"with fewer than {_FEW}; give `splits.{split}` a larger share, record more, or cut long episodes into "
        "stretches with `steps:` (videos: `clips_per_video:`)"
        for split, count in counts.items()
        if count < _FEW and split not in _LEARNED_FROM
    ]


# ---------------------------------------------------------------- codecs


class Codec(Protocol):
    """How the views of one kind of space are kept on the disk and handed to networks."""

    def to_arrow(self, view: Array) -> Any:
        """One Arrow array with an entry per episode."""

    def from_arrow(self, column: Any, space: Space) -> Array:
        """Inverse of `to_arrow`, without a copy where that can be."""

    def content(self, view: Array) -> bytes | memoryview:
        """What the content hash is taken of."""

    def to_numbers(self, view: Array) -> Array:
        """What a family is handed, ``[E, …]`` of numbers."""


class DenseCodec:
    """Arrays of one shape: a tensor column, memory-mapped."""

    def to_arrow(self, view: Array) -> Any:
        """See `Codec`."""
        import pyarrow as pa

        if view.ndim == 1:
            return pa.array(np.ascontiguousarray(view))
        # Arrow reads the order of axes from strides; an axis of length 1 may have any: give it those of plain C order.
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(view).ravel().reshape(view.shape))

    def from_arrow(self, column: Any, space: Space) -> Array:  # noqa: ARG002
        """See `Codec`."""
        return column.to_numpy_ndarray() if hasattr(column, "to_numpy_ndarray") else column.to_numpy()

    def content(self, view: Array) -> bytes | memoryview:
        """See `Codec`."""
        return np.ascontiguousarray(view).data

    def to_numbers(self, view: Array) -> Array:
        """See `Codec`."""
        return view


class TextCodec:
    """Texts of any length: ragged on the disk; to networks UTF-8 bytes, padded with 0 to the longest."""

    def to_arrow(self, view: Array) -> Any:
        """See `Codec`; a list of strings per episode where there is more than one."""
        import pyarrow as pa

        return pa.array(view.tolist(), pa.string() if view.ndim == 1 else pa.list_(pa.string()))

    def from_arrow(self, column: Any, space: Space) -> Array:
        """See `Codec`."""
        del space
        return np.array(column.to_pylist(), dtype=np.str_)

    def content(self, view: Array) -> bytes | memoryview:
        """See `Codec`."""
        return json.dumps(view.tolist()).encode()

    def to_numbers(self, view: Array) -> Array:
        """Bytes ``[E, …, L]`` uint8."""
        return utf8(view)


def utf8(texts: Any) -> Array:
    """Texts, an array or nested lists of them, as UTF-8 bytes padded with 0 to the longest: ``[…] -> […, L]`` uint8."""
    texts = np.asarray(texts, dtype=np.str_)
    codes = [text.encode() for text in texts.ravel().tolist()]
    padded = np.zeros((len(codes), max(map(len, codes), default=0)), np.uint8)
    for row, code in zip(padded, codes, strict=True):
        row[: len(code)] = np.frombuffer(code, np.uint8)
    return padded.reshape(*texts.shape, padded.shape[1])


def texts_of(codes: Any) -> list[str]:
    """The texts of `utf8`: ``[N, L]``, an array or a tensor."""
    return [bytes(row).rstrip(b"\0").decode() for row in (codes.cpu().numpy() if hasattr(codes, "cpu") else codes)]


CODECS: dict[str, Codec] = {"text": TextCodec()}
"""Codecs by kind of space; kinds that are not here are dense."""

_DENSE = DenseCodec()


def codec_of(space: Space) -> Codec:
    """The codec of a space."""
    return CODECS.get(space.kind, _DENSE)


# ---------------------------------------------------------------- the disk


def write(path: str | Path, episodes: Episodes) -> None:
    """Write one split, whole or not at all.

    Raises:
        UserError: a number is not finite, or the file cannot be written.
    """
    import pyarrow as pa

    try:
        episodes.check_finite()
    except ValueError as error:
        raise UserError(f"episodes for '{path}' not written: {error}") from None
    views = sorted(episodes.views.items())
    columns = {name: codec_of(episodes.spec.views[name]).to_arrow(view) for name, view in views}
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "content_hash": episodes.content_hash,
        "spec": episodes.spec.to_json(),
        "metadata": dict(episodes.metadata),
    }
    header["header_hash"] = _header_hash(header)
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    schema = pa.schema([pa.field(n, c.type, nullable=False) for n, c in columns.items()], metadata={_HEADER: text})
    batch = pa.record_batch(list(columns.values()), schema=schema)
    with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        file.write_batch(batch)


def read(path: str | Path, *, verify: bool = True) -> Episodes:
    """Read one split; the arrays are read-only views of the memory-mapped file.

    Args:
        path: the file.
        verify: compare the content with its hash and look for NaN (reads every byte once).

    Raises:
        UserError: there is no such file, or it is truncated, corrupt, or of another format version.
    """
    import pyarrow as pa

    path = Path(path)
    if not path.is_file():
        raise UserError(f"no episodes at '{path}'; {_REMEDY}")
    try:
        # pyarrow reports damage as ArrowInvalid (a ValueError), OSError, or a plain exception of its flatbuffer reader.
        table = pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()
        header = _checked_header(table.schema.metadata or {})
        spec = Spec.from_json(header["spec"])
        episodes = Episodes(spec, dict(_views_of(table, spec)), header["metadata"])
        if verify:
            if episodes.content_hash != header["content_hash"]:
                raise ValueError("its content does not match its hash")
            episodes.check_finite()
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"cannot read episodes '{path}': {reason}; {_REMEDY}") from error
    return episodes


def _views_of(table: Any, spec: Spec) -> Iterator[tuple[str, Array]]:
    if set(table.column_names) != set(spec.views) or any(column.num_chunks != 1 for column in table.columns):
        raise ValueError("it is not one batch of the views that its header names")
    for name, space in spec.views.items():
        column = table.column(name).chunk(0)
        column.validate(full=True)
        yield name, codec_of(space).from_arrow(column, space)


def _checked_header(schema_metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    header = json.loads(schema_metadata.get(_HEADER, b"{}"))
    if header.get("format") != _FORMAT:
        raise ValueError("it is an Arrow file, but not one of episodes")
    if header.get("version") != _VERSION:
        raise ValueError(f"it has format version {header.get('version')}, this program reads {_VERSION}")
    if header.pop("header_hash", None) != _header_hash(header):
        raise ValueError("its header does not match its hash")
    return header


def _header_hash(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
