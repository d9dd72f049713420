"""Episodes: what a world produced, the same shape for every world; how they are made, written and read.

On the disk one split is one Arrow IPC file, uncompressed: one row per episode, one fixed-shape tensor column per view,
so that reading is a memory map and not a copy. Equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wm_pipelines import __version__
from wm_pipelines.errors import UserError, validate
from wm_pipelines.files import atomic_path
from wm_pipelines.integrators import IntegrationError
from wm_pipelines.mappings import deep_merge
from wm_pipelines.worlds import get_world
from wm_pipelines.worlds.base import World
from wm_pipelines.worlds.impossible import Impossible, simulate_impossible
from wm_pipelines.worlds.quantities import Quantity

_VIEWS = ("time", "state", "derivative", "action", "reward", "frames", "label", "caption")
_AXES = {"time": 2, "state": 3, "derivative": 3, "action": 3, "reward": 2, "frames": 5, "label": 1, "caption": 1}
_TYPES = {"frames": np.dtype(np.uint8), "label": np.dtype(np.int64)}  # all others but the caption: float64
_FORMAT, _VERSION, _HEADER = "wm_pipelines.episodes", 1, b"wm_pipelines"
_REMEDY = "make it again with `kedro run --pipeline=data_ingestion`"


@dataclass(frozen=True)
class Episodes:
    """``E`` episodes of ``T`` steps of one world; one split (train, validation, test …) is one `Episodes`.

    Attributes:
        time: ``[E, T+1]`` seconds. state: ``[E, T+1, 2d]`` float64, what an observer measured (may carry noise);
            of width 0 where only pictures are known.
        derivative: ``[E, T+1, 2d]`` or None: dz/dt at the noise-free state, where the simulator gives it.
        action ``[E, T, A]``, reward ``[E, T]``, frames ``[E, T+1, H, W, C]`` uint8, caption ``[E]``: or None.
        label: ``[E]`` int64, the class of an episode, or None.
        metadata: world, parameters, seed, generator version … JSON types only; kept in the file's header.

    Raises:
        ValueError: the views do not fit together.
    """

    time: NDArray[np.float64]
    state: NDArray[np.float64]
    derivative: NDArray[np.float64] | None = None
    action: NDArray[np.float64] | None = None
    reward: NDArray[np.float64] | None = None
    frames: NDArray[np.uint8] | None = None
    label: NDArray[np.int64] | None = None
    caption: NDArray[np.str_] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        widths = self.state.shape if self.frames is None else self.state.shape[:2]
        if self.state.ndim != 3 or min(widths) < 1:
            raise ValueError(f"state must be [E, T+1, 2d] and not empty, got {list(self.state.shape)}")
        episodes, rows, size = self.state.shape
        leading: dict[str, tuple[int, ...]] = {"action": (episodes, rows - 1), "reward": (episodes, rows - 1)}
        leading |= {"caption": (episodes,), "label": (episodes,)}
        leading["derivative"] = (episodes, rows, size)
        for name, view in self.views().items():
            wanted = leading.get(name, (episodes, rows))
            if view.ndim != _AXES[name] or view.shape[: len(wanted)] != wanted:
                raise ValueError(f"{name} {list(view.shape)} does not fit state {list(self.state.shape)}")
            if view.dtype != _TYPES.get(name, np.dtype(np.float64)) and name != "caption":
                raise ValueError(f"{name} must be {_TYPES.get(name, 'float64')}, got {view.dtype}")

    def __len__(self) -> int:
        return int(self.state.shape[0])

    def views(self) -> dict[str, NDArray[Any]]:
        """The views that exist, by name, in a fixed order; a state of width 0 is none."""
        found = {name: view for name in _VIEWS if (view := getattr(self, name)) is not None}
        return {name: view for name, view in found.items() if name != "state" or view.shape[2]}

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all views (not over the metadata), in hexadecimal."""
        digest = hashlib.sha256()
        for name, view in self.views().items():
            if name == "caption":
                data = json.dumps(view.tolist()).encode()
                digest.update(f"{name} text {len(view)}\n".encode())
                digest.update(data)
            else:
                digest.update(f"{name} {view.dtype.str} {list(view.shape)}\n".encode())
                digest.update(np.ascontiguousarray(view).data)
        return digest.hexdigest()

    def check_finite(self) -> None:
        """Raise ValueError where a number is NaN or infinite; the message names the place."""
        for name, view in self.views().items():
            if view.dtype.kind == "f" and not np.isfinite(view).all():
                episode, row = np.argwhere(~np.isfinite(view))[0][:2]
                raise ValueError(f"{name} is not finite in episode {episode}, row {row}")


# ---------------------------------------------------------------- making


def generate(
    world: World,
    *,
    step: float,
    steps: int,
    episodes: int,
    seed: int | Sequence[int],
    noise: float = 0.0,
    derivative: bool = True,
    frame_size: int | None = None,
    captions: bool = False,
    impossible: Impossible | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Episodes:
    """Simulate episodes of a world.

    Start states and noise have random streams of their own: the noise does not change the trajectories under it, and
    longer episodes begin like shorter ones.

    Args:
        world: the world.
        step: seconds between rows.
        steps: ``T``.
        episodes: ``E``.
        seed: entropy of the streams (`stream` makes one per split).
        noise: standard deviation of the Gaussian noise on the state, same for all entries; derivative, frames and
            captions show the noise-free state.
        derivative: keep the true dz/dt, where the world knows it.
        frame_size: side of the rendered frames in pixels; None for no frames.
        captions: keep what `World.describe` says of each episode.
        impossible: break the law once per episode; where is told by ``metadata["altered_row"]``, one row per episode.
        metadata: further facts for the header, JSON types.

    Raises:
        IntegrationError: the simulator could not keep its accuracy.
    """
    starts, disturbance, breach = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    facts = {"world": world.name, "parameters": world.parameters.model_dump(mode="json"), "step": step, "noise": noise}
    if impossible is None:
        z = np.asarray(world.simulate(world.sample_initial_state(starts, episodes), step, steps), np.float64)
    else:
        z, rows = simulate_impossible(
            world, impossible, step=step, steps=steps, episodes=episodes, starts=starts, rng=breach
        )
        facts |= {"impossible": impossible.model_dump(mode="json"), "altered_row": rows.tolist()}
    dynamics = world.system(step).dynamics if derivative else None
    facts |= {"seed": list(seed) if isinstance(seed, Sequence) else seed, "generator": __version__, **(metadata or {})}
    return Episodes(
        time=np.tile(step * np.arange(steps + 1.0), (episodes, 1)),
        state=z + noise * disturbance.standard_normal(z.shape) if noise > 0 else z,
        derivative=None if dynamics is None else np.asarray(dynamics(z), np.float64),
        frames=None if frame_size is None else world.render(z, frame_size),
        caption=np.array([world.describe(episode) for episode in z]) if captions else None,
        metadata=facts,
    )


def stream(seed: int, split: str) -> list[int]:
    """Entropy of one split's random stream: independent between splits, the same on every machine and in every run."""
    return [seed, int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "big")]


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
    columns = {name: _to_arrow(view) for name, view in episodes.views().items()}
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "content_hash": episodes.content_hash,
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
        episodes = Episodes(**_views_of(table), metadata=header["metadata"])
        if verify:
            if episodes.content_hash != header["content_hash"]:
                raise ValueError("its content does not match its hash")
            episodes.check_finite()
    except (ValueError, KeyError, TypeError, OSError, MemoryError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"cannot read episodes '{path}': {reason}; {_REMEDY}") from error
    return episodes


def _to_arrow(view: NDArray[Any]) -> Any:
    import pyarrow as pa

    if view.dtype.kind == "U":
        return pa.array(view.tolist(), pa.string())
    if view.ndim == 1:
        return pa.array(np.ascontiguousarray(view))
    # Arrow reads the order of axes from strides, and an axis of length 1 may have any: give it those of plain C order.
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(view).ravel().reshape(view.shape))


def _views_of(table: Any) -> dict[str, NDArray[Any]]:
    unknown = set(table.column_names) - set(_VIEWS)
    if unknown or any(column.num_chunks != 1 for column in table.columns):
        raise ValueError("it is not one batch of known columns")
    chunks = {name: table.column(name).chunk(0) for name in table.column_names}
    views = {name: _from_arrow(name, chunk) for name, chunk in chunks.items()}
    if "state" not in views:
        views["state"] = np.zeros((*views["time"].shape, 0))
    return views


def _from_arrow(name: str, chunk: Any) -> NDArray[Any]:
    chunk.validate(full=True)
    if name == "caption":
        return np.array(chunk.to_pylist(), dtype=np.str_)
    if name == "label":
        return chunk.to_numpy()
    if not hasattr(chunk, "to_numpy_ndarray"):
        raise ValueError(f"column '{name}' is not a tensor")
    return chunk.to_numpy_ndarray()


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


# ---------------------------------------------------------------- from parameters


Seconds = Annotated[float, Quantity("s"), Field(gt=0)]


class SplitConfig(BaseModel):
    """One split of a simulated world; what is set here goes before the world's own setting."""

    model_config = ConfigDict(extra="forbid")

    episodes: int = Field(ge=1)
    steps: int = Field(ge=1, description="T; an episode has T + 1 rows")
    step: Seconds | None = None
    noise: float | None = Field(None, ge=0, allow_inf_nan=False)
    derivative: bool | None = None
    frame_size: int | None = Field(None, ge=8)
    impossible: Impossible | None = Field(None, description="break the law once per episode; for tests of surprise")
    parameters: dict[str, Any] = Field(default_factory=dict, description="merged into the world's parameters")


class WorldConfig(BaseModel):
    """One entry of the parameter files: which world, with which laws, how many episodes of which length."""

    model_config = ConfigDict(extra="forbid")

    world: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    step: Seconds | None = Field(None, description="time between rows")
    seed: int = Field(0, ge=0)
    noise: float = Field(0.0, ge=0, allow_inf_nan=False, description="standard deviation on the state")
    derivative: bool = True
    frame_size: int | None = Field(None, ge=8, description="pixels; null for no frames")
    captions: bool = False
    paper_files: str | None = Field(None, description="folder of the HNN paper's files to read instead of simulating")
    splits: dict[str, SplitConfig] = Field(default_factory=dict, description="empty: the world brings its own episodes")

    @model_validator(mode="after")
    def _complete(self) -> WorldConfig:
        if self.splits and "train" not in self.splits:
            raise ValueError(f"splits need at least 'train', got {', '.join(sorted(self.splits))}")
        if self.splits and self.step is None and any(split.step is None for split in self.splits.values()):
            raise ValueError("step is missing; give the seconds between rows")
        return self


def build_world(config: WorldConfig, split: str | None = None, where: str | None = None) -> World:
    """The world of a configuration, with the parameters of one split where that overrides them.

    Args:
        config: the entry.
        split: name of a split, or None for the world's own parameters.
        where: the entry's name in the parameter files, for messages (default: the world's name).

    Raises:
        UserError: unknown world or split, or a parameter that cannot be.
    """
    where = where or config.world
    kind = get_world(config.world)
    override: Mapping[str, Any] = {}
    if split is not None and config.splits:
        if split not in config.splits:
            raise UserError(f"'{where}.splits' has no '{split}'; it has {', '.join(config.splits)}")
        override = config.splits[split].parameters
    place = f"{where}.splits.{split}.parameters" if override else f"{where}.parameters"
    return kind(validate(kind.Parameters, deep_merge(config.parameters, override), place))


def ingest(config: WorldConfig, where: str | None = None) -> dict[str, Episodes]:
    """All splits of one entry of the parameter files, simulated or, where the world has its own episodes, read.

    Raises:
        UserError: unknown world, a parameter that cannot be, a system that cannot be integrated, a table with faults.
    """
    where = where or config.world
    own = build_world(config, where=where).own_episodes(config.seed)
    if own is not None:
        for name in config.model_fields_set & {"splits", "step", "noise", "derivative", "frame_size"}:
            raise UserError(f"parameter '{where}.{name}': world '{config.world}' brings its own episodes; remove it")
        return own
    if config.paper_files is not None:
        from wm_pipelines.worlds.paper_files import read_paper_files

        return read_paper_files(config.paper_files, config.world)
    if not config.splits:
        raise UserError(f"parameter '{where}.splits': missing; give at least train: {{episodes: …, steps: …}}")
    return {name: _simulated_split(config, name, where) for name in config.splits}


def _simulated_split(config: WorldConfig, name: str, where: str) -> Episodes:
    split = config.splits[name]

    def setting(key: str) -> Any:
        own = getattr(split, key)
        return getattr(config, key) if own is None else own

    try:
        episodes = generate(
            build_world(config, name, where),
            steps=split.steps,
            episodes=split.episodes,
            seed=stream(config.seed, name),
            captions=config.captions,
            impossible=split.impossible,
            metadata={"split": name},
            **{key: setting(key) for key in ("step", "noise", "derivative", "frame_size")},
        )
        episodes.check_finite()
    except (IntegrationError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"'{where}', split '{name}': {error}") from error
    return episodes
