"""Data sets in the layout of the Hub, from local folders: what stands in the files is what is shown."""

import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.user_files import refused
from wm_pipelines.errors import validate
from wm_pipelines.worlds.making import WorldConfig, ingest

CLASSES = ["tench, Tinca tinca", "great_white shark", "cock"]
SPLITS = {"train": {"split": "train", "count": 8}, "test": {"split": "validation", "count": 4}}


def made(folder, seed=0, **parameters):
    data = {
        "world": "huggingface",
        "seed": seed,
        "parameters": {"dataset": str(folder), "size": 8, "splits": SPLITS, **parameters},
    }
    return ingest(validate(WorldConfig, data, "mine"), "mine")


def png(level):
    data = io.BytesIO()
    Image.fromarray(np.full((12, 10, 3), level, np.uint8)).save(data, "PNG")
    return data.getvalue()


def photographs(folder, caption=None):
    """Pictures as the Hub keeps them: a structure of bytes and path, with the classes' names in the schema."""
    import datasets

    (folder / "data").mkdir(parents=True)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    if caption:
        features["caption"] = datasets.Value("string")
    for split, first in (("train", 0), ("validation", 100)):
        rows = {
            "image": [{"bytes": png(first + 10 * k), "path": None} for k in range(9)],
            "label": [k % 3 for k in range(9)],
            **({"caption": [f"{caption} {first + 10 * k}" for k in range(9)]} if caption else {}),
        }
        one = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        one.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def texts(folder):
    """As WikiText: a folder for each configuration, named in the card; a line per row, many empty, headings between."""
    (folder / "raw-v1").mkdir(parents=True)
    for split in ("train", "validation"):
        lines = ["", f" = {split} = \n", *(f" line {k} of {split} with some words . \n" for k in range(20)), ""]
        pq.write_table(pa.table({"text": lines}), folder / "raw-v1" / f"{split}-00000-of-00001.parquet")
    files = [{"split": split, "path": f"raw-v1/{split}-*"} for split in ("train", "validation")]
    card = {"configs": [{"config_name": "raw-v1", "data_files": files}]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    return folder


@pytest.fixture(autouse=True)
def cached_here(tmp_path, monkeypatch):
    if "without" not in str(tmp_path):
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)


@pytest.mark.parametrize("streaming", [True, False])
def test_pictures_and_captions_of_their_classes(tmp_path, streaming):
    splits = made(photographs(tmp_path / "photos"), image="image", label="label", streaming=streaming)
    assert {name: len(part) for name, part in splits.items()} == {"train": 8, "test": 4}
    assert splits["test"]["captions"].tolist()[:3] == [
        "a photo of tench", "a photo of great white shark", "a photo of cock",
    ]  # fmt: skip
    np.testing.assert_array_equal(splits["test"]["frames"][:, 0, 3, 3, 0], [100, 110, 120, 130])
    np.testing.assert_array_equal(splits["test"]["answers"][:, 0], splits["test"]["captions"])


@pytest.mark.parametrize("streaming", [True, False])
def test_texts_are_cut_to_passages_and_empty_lines_are_none(tmp_path, streaming):
    splits = made(texts(tmp_path / "wiki"), text="text", config="raw-v1", passage=20, streaming=streaming)
    assert set(splits["train"].views) == {"captions"}
    assert splits["train"]["captions"].tolist()[:3] == ["= train =", "line 0 of train with", "some words ."]
    further = {"train": {"split": "train", "count": 2, "first": 1}, "test": SPLITS["test"]}
    assert made(tmp_path / "wiki", text="text", config="raw-v1", passage=20, streaming=streaming, splits=further)[
        "train"
    ]["captions"].tolist() == ["line 0 of train with", "some words ."]


@pytest.mark.parametrize("streaming", [True, False])
def test_examples_are_put_in_another_order_by_the_seed(tmp_path, streaming):
    folder = photographs(tmp_path / "photos", caption="level")
    ordered = {k: 10 * k for k in range(9)}
    seen = [
        tuple(made(folder, seed, image="image", text="caption", streaming=streaming, shuffle=100)["train"]["captions"])
        for seed in (0, 0, 1)
    ]
    assert seen[0] == seen[1] != seen[2]
    assert {int(text.split()[1]) for text in seen[0]} < set(ordered.values())


def test_own_captions_and_the_checksum(tmp_path):
    folder = photographs(tmp_path / "photos", caption="level")
    splits = made(folder, image="image", text="caption")
    assert splits["train"]["captions"].tolist()[:2] == ["level 0", "level 10"]
    checksum = splits["train"].metadata["source_sha256"]
    assert made(folder, image="image", text="caption", sha256=checksum)["test"].content_hash == (
        splits["test"].content_hash
    )
    assert f"has the checksum {checksum}, not 00" in refused(made, folder, image="image", text="caption", sha256="00")


def test_faults_are_one_line(tmp_path):
    folder = texts(tmp_path / "wiki")
    assert "has no column 'txet'" in refused(made, folder, text="txet")
    assert "cannot load 'train' of the data set 'nobody/nothing'" in refused(made, "nobody/nothing", text="text")
    far = {"train": SPLITS["train"], "test": {"split": "validation", "count": 4, "first": 1000}}
    assert "split 'test' is empty" in refused(made, folder, text="text", splits=far)
    assert "text: name the column" in refused(made, folder)
    assert "stands for the name of the class" in refused(made, folder, image="a", label="b", caption="a photo")


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refused(made, tmp_path, text="text")
    assert "needs the package datasets: pip install 'wm_pipelines[huggingface]'" in message
