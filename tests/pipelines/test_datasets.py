"""The project's own datasets: whole or not at all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wm_pipelines.datasets.atomic import CSVDataset, JSONDataset, ParquetDataset, PartsDataset
from wm_pipelines.datasets.local import ArraysDataset, EpisodesDataset, ParameterFilesDataset
from wm_pipelines.errors import UserError
from wm_pipelines.worlds import episodes as episodes_module
from wm_pipelines.worlds.episodes import Episodes


def episodes(steps: int = 3) -> Episodes:
    rng = np.random.default_rng(steps)
    return Episodes(time=np.tile(np.arange(steps + 1.0), (2, 1)), state=rng.normal(size=(2, steps + 1, 2)))


def test_splits_that_were_not_all_written_are_not_taken_for_a_whole(tmp_path, monkeypatch):
    dataset = EpisodesDataset(filepath=str(tmp_path / "world"))
    dataset.save({"train": episodes(), "test": episodes(5)})
    assert set(dataset.load()) == {"train", "test"}
    write = episodes_module.write

    def full(path, data):
        if path.name == "test.arrow":
            raise UserError("disk full")
        write(path, data)

    monkeypatch.setattr(episodes_module, "write", full)
    with pytest.raises(Exception, match="disk full"):
        dataset.save({"train": episodes(4), "test": episodes(6)})
    with pytest.raises(Exception, match=r"no complete episodes.*data_ingestion"):
        dataset.load()


def test_splits_that_are_gone_from_the_parameters_are_gone_from_the_folder(tmp_path):
    dataset = EpisodesDataset(filepath=str(tmp_path))
    dataset.save({"train": episodes(), "B": episodes(5)})
    dataset.save({"train": episodes()})
    assert [p.name for p in tmp_path.glob("*.arrow")] == ["train.arrow"]


@pytest.mark.parametrize("kind", [CSVDataset, ParquetDataset])
def test_a_table_that_fails_to_be_written_leaves_the_older_one(tmp_path, kind):
    path = tmp_path / f"table.{kind.__name__}"
    dataset = kind(filepath=str(path))
    dataset.save(pd.DataFrame({"a": [1, 2]}))
    before = path.read_bytes()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the writer says
        dataset.save("not a table")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_equal_content_is_equal_bytes(tmp_path):
    for number, order in enumerate((["b", "a"], ["a", "b"])):
        ArraysDataset(filepath=str(tmp_path / f"{number}.safetensors")).save({k: np.eye(2) for k in order})
        JSONDataset(filepath=str(tmp_path / f"{number}.json")).save(dict.fromkeys(order, 1.5))
    for suffix in ("safetensors", "json"):
        assert (tmp_path / f"0.{suffix}").read_bytes() == (tmp_path / f"1.{suffix}").read_bytes()


def test_parts_written_during_a_run_are_seen(tmp_path):
    parts = PartsDataset(filepath=str(tmp_path))
    assert not parts.exists() or parts.load() == {}
    ParquetDataset(filepath=str(tmp_path / "one.parquet")).save(pd.DataFrame({"a": [1]}))
    assert set(parts.load()) == {"one"}


def test_parameter_files_grow_by_what_is_saved(tmp_path):
    files = ParameterFilesDataset(filepath=str(tmp_path))
    files.save({"hnn": {"worlds": {"pendulum": {"features": 10}}}})
    files.save({"hnn": {"worlds": {"two_body": {"features": 20}}}})
    assert files.load() == {"hnn": {"worlds": {"pendulum": {"features": 10}, "two_body": {"features": 20}}}}
