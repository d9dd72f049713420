"""Data sets of LeRobot (Hugging Face), versions 2.0 and 2.1, read from their folder.

``meta/info.json`` gives the rate, the features and where things are, ``meta/episodes.jsonl`` an episode and what was
asked for per line, ``data/chunk-000/episode_000000.parquet`` its rows, and
``videos/chunk-000/<key>/episode_000000.mp4`` what a camera saw. The action of a row acts until the next row. How large
actions may be is not told: `action_range`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wm_pipelines.errors import UserError
from wm_pipelines.worlds import register
from wm_pipelines.worlds.base import Float
from wm_pipelines.worlds.parts.recorded import (
    RecordedParameters,
    RecordedWorld,
    Recording,
    Rows,
    chosen_pictures,
    damage_told,
    entry_of,
    square,
)
from wm_pipelines.worlds.parts.video_files import Cut, UnusableVideoError, check_memory, cut_clips, plan_clips

_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEOS = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_REWARD = "next.reward"


class LeRobotParameters(RecordedParameters):
    """Parameters of `LeRobot`."""

    observation: str | None = Field("observation.state", description="feature that is the states; null: none")
    action: str = Field("action", description="feature that is the actions")
    captions: bool = Field(False, description="show what was asked for, in words")


@register
class LeRobot(RecordedWorld):
    """What joints and cameras tell, as ``states`` and ``frames``; actions; rewards where there are any."""

    name = "lerobot"
    Parameters = LeRobotParameters
    parameters: LeRobotParameters

    @cached_property
    def info(self) -> dict[str, Any]:
        """The contents of ``meta/info.json``.

        Raises:
            UserError: there is none, or it is that of another version.
        """
        path = self.path / "meta" / "info.json"
        if not path.is_file():
            raise UserError(f"{self.entry}: no LeRobot data set at '{self.path}': there is no meta/info.json in it")
        with damage_told(path):
            info = json.loads(path.read_text(encoding="utf-8"))
        version = str(entry_of(info, "codebase_version", path))
        if not version.startswith("v2"):
            raise UserError(f"{self.entry}: '{self.path}' has version {version}; v2.0 and v2.1 are read, convert it")
        return info

    @cached_property
    def _episodes(self) -> list[dict[str, Any]]:
        path = self.path / "meta" / "episodes.jsonl"
        with damage_told(path):
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not lines:
            raise UserError(f"'{path}' lists no episodes; record some, or give another data set")
        return sorted(lines, key=lambda line: entry_of(line, "episode_index", path))

    @property
    def _features(self) -> dict[str, Any]:
        return entry_of(self.info, "features", self.path / "meta" / "info.json")

    @cached_property
    def _pictures(self) -> str | None:
        there = [name for name, feature in self._features.items() if feature.get("dtype") in ("video", "image")]
        return chosen_pictures(self.entry, self.parameters.frames, there)

    def seconds(self) -> float:
        """One over the frames per second of the data set."""
        return 1.0 / float(entry_of(self.info, "fps", self.path / "meta" / "info.json"))

    def sources(self) -> list[Path]:
        """The tables, and the videos of the camera that is shown."""
        numbers = [line["episode_index"] for line in self._episodes]
        films = [self._place("video_path", _VIDEOS, n) for n in numbers] if self._filmed else []
        return [*(self._place("data_path", _DATA, n) for n in numbers), *films]

    @property
    def _filmed(self) -> bool:
        return self._pictures is not None and self._features[self._pictures]["dtype"] == "video"

    def _place(self, kind: str, usual: str, number: int) -> Path:
        form, chunk = self.info.get(kind) or usual, number // int(self.info.get("chunks_size", 1000))
        return self.path / form.format(episode_chunk=chunk, episode_index=number, video_key=self._pictures)

    def recordings(self) -> list[Recording]:
        """All episodes, by their number.

        Raises:
            UserError: a file is missing or damaged, or a feature is not there.
        """
        for name in (self.parameters.action, self.parameters.observation):
            if name is not None and name not in self._features:
                numbers = ", ".join(n for n, f in self._features.items() if str(f.get("dtype")).startswith("float"))
                raise UserError(f"{self.entry}: '{self.path}' has no feature '{name}'; there are {numbers}")
        return [self._recording(line) for line in self._episodes]

    def _recording(self, line: Mapping[str, Any]) -> Recording:
        p, number = self.parameters, int(line["episode_index"])
        wanted = [p.action, *([] if p.observation is None else [p.observation])]
        wanted += [_REWARD] if _REWARD in self._features else []
        table = self._table(number, wanted)
        rows = len(table[p.action])
        asked = line.get("tasks") or []
        return Recording(
            str(number),
            table[p.action][:-1],
            None if p.observation is None else table[p.observation],
            table[_REWARD][:-1, 0] if _REWARD in table else None,
            None if self._pictures is None else lambda places: self._seen(number, places, rows),
            (asked[0] if asked else "") if p.captions else None,
        )

    def _table(self, number: int, columns: list[str]) -> dict[str, Float]:
        """Columns of an episode, ``[rows, n]`` each."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._place("data_path", _DATA, number)
        with damage_told(path, pa.ArrowException):
            table = pq.read_table(path, columns=[*columns, "frame_index"]).sort_by("frame_index")
            if len(missing := set(columns) - set(table.column_names)):
                raise UserError(f"'{path}' has no column '{sorted(missing)[0]}'; is the data set whole?")
            return {name: _numbers(table.column(name)) for name in columns}

    # -- what a camera saw

    def _seen(self, number: int, places: Rows, rows: int) -> NDArray[np.uint8]:
        return self._from_video(number, places, rows) if self._filmed else self._from_table(number, places)

    def _from_video(self, number: int, places: Rows, rows: int) -> NDArray[np.uint8]:
        """Frames at the times of the rows, the nearest to each."""
        path, fps = self._place("video_path", _VIDEOS, number), 1.0 / self.seconds()
        cut = Cut(places.shape[1], self.parameters.stride, fps, 1, self.parameters.size, False)
        try:
            plan = plan_clips(path, cut)
            lasts = float(plan.stamps[-1] - plan.stamps[0]) * plan.unit
            if round(lasts * fps) + 1 < rows:
                raise UnusableVideoError(f"it is too short ({round(lasts * fps) + 1} frames for {rows} rows)")
            check_memory(len(places), cut, f"'{path.name}'")
            return cut_clips(replace(plan, starts=places[:, 0], fps=fps), cut).frames
        except UnusableVideoError as reason:
            raise UserError(
                f"{self.entry}: video '{path}' cannot be used: {reason}; is the data set whole?"
            ) from reason

    def _from_table(self, number: int, places: Rows) -> NDArray[np.uint8]:
        """Pictures that are kept in the table, packed as PNG or JPEG."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from PIL import Image

        path, name = self._place("data_path", _DATA, number), str(self._pictures)
        with damage_told(path, pa.ArrowException):
            table = pq.read_table(path, columns=[name, "frame_index"]).sort_by("frame_index")
            packed = [row["bytes"] for row in table.column(name).to_pylist()[: places.max() + 1]]
            pictures = [np.asarray(Image.open(BytesIO(data)).convert("RGB")) for data in packed]
            return square(np.stack(pictures), self.parameters.size)[places]


def _numbers(column: Any) -> Float:
    """A column of numbers or of equally long lists of them, ``[rows, n]`` in double precision."""
    values, rows = column.combine_chunks(), len(column)
    while hasattr(values, "flatten") and hasattr(values.type, "value_type"):
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64).reshape(rows, -1)
