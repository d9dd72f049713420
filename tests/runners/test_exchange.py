"""What machines without a common disk hand to each other."""

import os
import sys
from copy import copy

import fsspec
import pytest

from tests.object_store import object_store
from wm_pipelines.datasets.local import PathDataset, TextDataset
from wm_pipelines.errors import UserError
from wm_pipelines.learning.config import RayConfig
from wm_pipelines.runners.exchange import SCRATCH, Exchange


@pytest.fixture(scope="module")
def bucket():
    """An S3-like server."""
    with object_store() as found:
        yield found


@pytest.fixture(params=["file", "memory", "s3"])
def storage(request, tmp_path):
    """A folder, and object stores in this process and behind a server."""
    if request.param == "s3":
        request.getfixturevalue("bucket")
        yield f"s3://bucket/{tmp_path.name}"
        return
    url = f"{request.param}://{tmp_path / 'storage'}"
    yield url
    system, root = fsspec.core.url_to_fs(url)
    if system.exists(root):
        system.rm(root, recursive=True)


def machine(place):
    """A project's folder with one folder, one file, and checkpoints of its own."""
    place.mkdir()
    below = place / "data"
    return {
        "folder": TextDataset(filepath=str(below / "models")),
        "file": TextDataset(filepath=str(below / "page.html")),
        "own": PathDataset(filepath=str(below / "checkpoints")),
        "parameters": object(),
    }


def fill(catalog, text="one"):
    folder = catalog["folder"].path
    (folder / "below").mkdir(parents=True, exist_ok=True)
    (folder / "below" / "weights").write_bytes(text.encode())
    (folder / "models.json").write_text(text)
    catalog["file"].path.write_text(text)
    catalog["own"].path.mkdir(exist_ok=True)


def sent(storage):
    system, root = fsspec.core.url_to_fs(storage)
    return sorted(path.rsplit("/", 1)[1] for path in system.find(f"{root}/archives"))


def sent_to(storage):
    system, root = fsspec.core.url_to_fs(storage)
    return sorted(path.rsplit("/", 1)[1] for path in system.find(root))


def test_files_and_folders_arrive_whole_and_checkpoints_stay(tmp_path, storage):
    first, second = tmp_path / "first", tmp_path / "second"
    here, there = machine(first), machine(second)
    fill(here)
    Exchange(storage, first).give(here, here)
    Exchange(storage, second).take(there, there)
    assert (there["folder"].path / "below" / "weights").read_bytes() == b"one"
    assert there["file"].path.read_text() == "one"
    assert not there["own"].path.exists()
    assert {path.name for path in (second / "data").iterdir()} == {"models", "page.html"}, "nothing is left beside them"


def test_what_is_new_replaces_what_is_old_and_what_is_the_same_is_sent_once(tmp_path, storage):
    first, second = tmp_path / "first", tmp_path / "second"
    here, there = machine(first), machine(second)
    fill(here)
    (here["folder"].path / "old").write_text("gone later")
    for text in ("one", "two", "two"):
        fill(here, text)
        Exchange(storage, first).give(here, here)
        Exchange(storage, second).take(there, there)
        assert (there["folder"].path / "models.json").read_text() == text
        (here["folder"].path / "old").unlink(missing_ok=True)
    assert len(sent(storage)) == 4, "folder and file, twice each"
    assert not (there["folder"].path / "old").exists()


def test_a_copy_that_is_there_is_not_fetched_and_one_that_was_changed_is(tmp_path, storage):
    place = tmp_path / "first"
    here = machine(place)
    fill(here)
    exchange = Exchange(storage, place)
    exchange.give(here, here)
    system, root = fsspec.core.url_to_fs(storage)
    system.rm(f"{root}/archives", recursive=True)
    exchange.take(here, here)
    file = here["file"].path
    file.write_text("by hand")
    os.utime(file, ns=(0, 0))
    with pytest.raises(UserError, match="is missing"):
        exchange.take(here, ["file"])


def test_what_was_written_into_a_folder_later_comes_after_it(tmp_path, storage):
    first, second = tmp_path / "first", tmp_path / "second"
    here, there = machine(first), machine(second)
    for catalog in (here, there):
        catalog["part"] = TextDataset(filepath=str(catalog["folder"].path / "part.txt"))
    fill(here)
    Exchange(storage, first).give(here, ["folder"])
    here["part"].path.write_text("new")
    Exchange(storage, first).give(here, ["part"])
    Exchange(storage, second).take(there, ["part", "folder"])
    assert there["part"].path.read_text() == "new"
    assert (there["folder"].path / "models.json").exists()


def test_damage_on_the_way_is_found(tmp_path, storage):
    first, second = tmp_path / "first", tmp_path / "second"
    here, there = machine(first), machine(second)
    fill(here)
    Exchange(storage, first).give(here, ["file"])
    system, root = fsspec.core.url_to_fs(storage)
    (name,) = sent(storage)
    system.pipe_file(f"{root}/archives/{name}", b"less")
    with pytest.raises(UserError, match=f"{name}' is damaged"):
        Exchange(storage, second).take(there, ["file"])
    Exchange(storage, second).take(there, ["folder"])
    assert not there["folder"].path.exists(), "nobody gave it; whoever reads it says so"


def test_a_storage_is_tried_before_anything_is_computed(tmp_path, storage):
    Exchange(storage, tmp_path).check()
    assert sent_to(storage) == ["probe"]


def test_a_storage_that_cannot_be_used_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    for url, reason in {
        "nowhere://bucket": "Protocol not known: nowhere",
        f"file://{tmp_path}/file/below": "cannot write to",
    }.items():
        with pytest.raises(UserError, match=reason):
            Exchange(url, tmp_path).check()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UserError, match=r"needs a package: Install s3fs .*pip install 'wm_pipelines\[s3\]'"):
        Exchange("s3://bucket/runs", tmp_path).check()


def test_a_worker_keeps_its_data_in_a_folder_of_its_own(tmp_path, monkeypatch, storage):
    driver = machine(tmp_path / "driver")
    fill(driver)
    exchange = Exchange(storage, tmp_path / "driver")
    exchange.give(driver, driver)
    for place in (tmp_path / "unpacked", tmp_path / "scratch"):
        place.mkdir()
        monkeypatch.chdir(tmp_path / "unpacked")
        there = {name: copy(dataset) for name, dataset in driver.items()}
        exchange.of_worker(there, there).take(there, there)
        assert (place / "data/page.html").read_text() == "one"
        monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    assert driver["file"].path == tmp_path / "driver/data/page.html"


def test_the_last_tag_that_fits_says_what_a_node_asks_for():
    config = RayConfig(resources={"train": {"num_gpus": 0.5}, "flow": {"num_cpus": 2, "resources": {"big": 1}}})
    assert config.asked({"ingest"}) == {"num_cpus": 1.0, "num_gpus": 0.0, "resources": {}}
    assert config.asked({"train", "mlp"})["num_gpus"] == 0.5
    assert config.asked({"train", "flow"}) == {"num_cpus": 2.0, "num_gpus": 0.0, "resources": {"big": 1.0}}
