"""Data sets of Minari (Farama Foundation), read from their folder: ``data/main_data.hdf5`` and ``data/metadata.json``.

An episode is a group ``episode_0``, … with ``observations [T + 1, …]`` (a group of them where the space is a dictionary
or a tuple), ``actions [T, …]``, ``rewards``, ``terminations`` and ``truncations`` ``[T]``. The action space is in the
metadata, or, of versions before 0.5, an attribute of the file. A discrete action becomes one entry per choice, 1 for
the one taken and 0 for the others. How many seconds a step takes is not told: `step`.

Needs h5py: ``pip install 'wm_pipelines[minari]'``.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.errors import UserError
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.quantities import Seconds
from wm_pipelines.worlds.parts.recorded import (
    RecordedParameters,
    RecordedWorld,
    Recording,
    Rows,
    chosen_pictures,
    damage_told,
    square,
)

_ALL = "observations"  # what an observation is called that has no parts


class MinariParameters(RecordedParameters):
    """Parameters of `Minari`."""

    observations: list[str] | None = Field(
        None, min_length=1, description="parts that make up the states, in this order (a/b for b in a); null: all"
    )
    step: Seconds = Field(1.0, description="between two rows, which the data set does not tell")


@register
class Minari(RecordedWorld):
    """Observations as ``states`` (vectors) and ``frames`` (pictures of bytes), actions, rewards."""

    name = "minari"
    Parameters = MinariParameters
    parameters: MinariParameters

    @property
    def file(self) -> Path:
        """Where the episodes are."""
        return self.path / "data" / "main_data.hdf5"

    def sources(self) -> list[Path]:
        """The one file of episodes."""
        return [self.file]

    def seconds(self) -> float:
        """As the parameters say."""
        return self.parameters.step

    def recordings(self) -> list[Recording]:
        """All episodes, by their number.

        Raises:
            UserError: h5py is not installed, or the file is not that of a Minari data set.
        """
        if not self.file.is_file():
            raise UserError(f"{self.entry}: no Minari data set at '{self.path}': there is no data/main_data.hdf5 in it")
        with damage_told(self.file), _opened(self.file) as file:
            names = sorted((n for n in file if n.startswith("episode_")), key=lambda n: int(n.split("_")[1]))
            if not names:
                raise UserError(f"'{self.file}' has no episodes; record some, or give another data set")
            return [self._recording(name, file[name]) for name in names]

    def _recording(self, name: str, group: Any) -> Recording:
        vectors, pictures = _parts(group["observations"])
        taken = chosen_pictures(self.entry, self.parameters.frames, sorted(pictures))
        actions = self._actions(group["actions"])
        return Recording(
            name,
            actions,
            self._states(vectors),
            np.asarray(group["rewards"], np.float64),
            None if taken is None else lambda rows: self._pictures(name, taken, rows),
        )

    def _states(self, vectors: dict[str, Any]) -> Float | None:
        wanted = self.parameters.observations or sorted(vectors)
        if missing := [part for part in wanted if part not in vectors]:
            there = ", ".join(sorted(vectors)) or "none"
            raise UserError(f"parameter '{self.entry}.observations': no vector '{missing[0]}'; there are {there}")
        if not wanted:
            return None
        return np.concatenate([_flat(vectors[part]) for part in wanted], axis=-1)

    def _pictures(self, name: str, part: str, rows: Rows) -> NDArray[np.uint8]:
        with damage_told(self.file), _opened(self.file) as file:
            stored = file[name]["observations"]
            seen = square((stored if part == _ALL else stored[part])[: rows.max() + 1], self.parameters.size)
            return seen[rows]

    # -- actions

    @cached_property
    def _action_space(self) -> dict[str, Any]:
        """As Minari writes a space, as a JSON object; empty where it is not told."""
        path = self.path / "data" / "metadata.json"
        with damage_told(path):
            metadata = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if metadata.get("data_format", "hdf5") != "hdf5":
                raise UserError(f"{self.entry}: '{self.path}' is in the format {metadata['data_format']}; use hdf5")
            text = metadata.get("action_space")
            if text is None:
                with _opened(self.file) as file:
                    text = file.attrs.get("action_space")
            space = {} if text is None else json.loads(text)
        if space.get("type", "Box") not in ("Box", "Discrete"):
            raise UserError(
                f"{self.entry}: actions of the kind {space['type']} are not read; only Box and Discrete are"
            )
        return space

    def declared_range(self) -> tuple[Float, Float] | None:
        """Of a box, its sides; the entries of a discrete action are 0 or 1 and stay so."""
        space = self._action_space
        if space.get("type") == "Discrete":
            return np.full(space["n"], -1.0), np.ones(space["n"])
        if "low" not in space:
            return None
        return np.ravel(np.array(space["low"], np.float64)), np.ravel(np.array(space["high"], np.float64))

    def _actions(self, stored: Any) -> Float:
        if not hasattr(stored, "shape"):
            raise UserError(f"{self.entry}: actions that are dictionaries or tuples are not read; only arrays are")
        if self._action_space.get("type") == "Discrete":
            choice = np.asarray(stored, np.int64).reshape(-1) - self._action_space.get("start", 0)
            return np.eye(self._action_space["n"])[choice]
        return _flat(stored)


def _opened(path: Path) -> Any:
    """The file, to be closed by ``with``."""
    try:
        import h5py
    except ImportError:
        raise UserError("Minari's data sets are HDF5 files: run `pip install 'wm_pipelines[minari]'` (h5py)") from None
    return h5py.File(path, "r")


def _parts(stored: Any, above: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """Vectors and pictures of an observation, by name; texts are left out."""
    if not hasattr(stored, "shape"):
        vectors: dict[str, Any] = {}
        pictures: dict[str, Any] = {}
        for name in stored:
            for found, parts in zip((vectors, pictures), _parts(stored[name], f"{above}{name}/"), strict=True):
                found.update(parts)
        return vectors, pictures
    name = above.rstrip("/") or _ALL
    if stored.dtype.kind not in "fiub":
        return {}, {}
    is_picture = stored.dtype == np.uint8 and stored.ndim == 4 and stored.shape[-1] in (1, 3)
    return ({}, {name: stored}) if is_picture else ({name: stored}, {})


def _flat(stored: Any) -> Float:
    """``[K, …] -> [K, n]`` in double precision."""
    return np.asarray(stored, np.float64).reshape(len(stored), -1)
