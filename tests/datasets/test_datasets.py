"""The project's own datasets: whole or not at all, and refused where they are damaged or belong elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from wm_pipelines import episodes as episodes_module
from wm_pipelines.cli import user_error
from wm_pipelines.datasets.atomic import CSVDataset, JSONDataset, ParquetDataset, PartsDataset
from wm_pipelines.datasets.bundle import BundleDataset
from wm_pipelines.datasets.figures import FiguresDataset
from wm_pipelines.datasets.local import (
    EpisodesByWorldDataset,
    EpisodesDataset,
    ModelsDataset,
    ParameterFilesDataset,
    TextDataset,
)
from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.errors import UserError
from wm_pipelines.learning.artifacts import Models, TrainedModel
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS, LEADERBOARD_KEYS, check_unique
from wm_pipelines.spec import Spec


def message_of(action):
    """The one line that the command line shows."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Kedro wraps it
        action()
    error = user_error(caught.value)
    assert error is not None, f"not a user's error: {caught.value!r}"
    assert "\n" not in str(error)
    return str(error)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ---------------------------------------------------------------- episodes


def episodes(seed=0, world="pendulum", steps=3):
    rng = np.random.default_rng(seed)
    views = {"times": np.tile(np.arange(steps + 1.0), (2, 1)), "states": rng.normal(size=(2, steps + 1, 2))}
    return Episodes(Spec(world, 1.0, spaces_of(views), steps + 1), views, {"seed": seed})


@pytest.fixture
def world(tmp_path):
    dataset = EpisodesDataset(filepath=str(tmp_path / "pendulum"))
    dataset.save({"train": episodes(1), "test": episodes(2, steps=5)})
    return dataset


def test_splits_come_back(world):
    loaded = world.load()
    assert {s: e.content_hash for s, e in loaded.items()} == {
        "train": episodes(1).content_hash,
        "test": episodes(2, steps=5).content_hash,
    }
    index = json.loads((world.path / "episodes.json").read_text())
    assert index["facts"]["belongs_to"] == "pendulum"
    assert index["facts"]["content_hashes"] == {s: e.content_hash for s, e in loaded.items()}
    assert set(index["files"]) == {"train.arrow", "test.arrow"}


def test_a_save_that_fails_leaves_the_older_splits_whole(world, monkeypatch):
    before, write = world.load(), episodes_module.write

    def full(path, data):
        if path.name == "test.arrow":
            raise UserError(f"cannot write '{path}': disk full")
        write(path, data)

    monkeypatch.setattr(episodes_module, "write", full)
    message = message_of(lambda: world.save({"train": episodes(3), "test": episodes(4)}))
    assert message == f"cannot write '{world.path / 'test.arrow'}': disk full"
    assert {s: e.content_hash for s, e in world.load().items()} == {s: e.content_hash for s, e in before.items()}
    assert names(world.path) == ["episodes.json", "test.arrow", "train.arrow"]


def test_splits_that_are_gone_from_the_parameters_are_gone_from_the_folder(world):
    world.save({"train": episodes()})
    assert names(world.path) == ["episodes.json", "train.arrow"]


def test_a_split_replaced_by_another_is_refused(world):
    shutil.copy(world.path / "train.arrow", world.path / "test.arrow")
    assert message_of(world.load) == (
        f"'{world.path / 'test.arrow'}' was damaged or replaced (its SHA-256 is not the one in episodes.json); "
        "run: kedro run --pipeline=data_ingestion"
    )


def test_a_folder_of_another_world_is_refused(world, tmp_path):
    shutil.copytree(world.path, tmp_path / "mass_spring")
    assert message_of(EpisodesDataset(filepath=str(tmp_path / "mass_spring")).load) == (
        f"'{tmp_path / 'mass_spring'}' holds episodes of 'pendulum', not of 'mass_spring'; "
        "run: kedro run --pipeline=data_ingestion"
    )
    with pytest.raises(Exception, match="split 'train' is of 'two_body', not of 'pendulum'"):
        world.save({"train": episodes(world="two_body")})


def test_no_episodes_and_those_of_an_older_version(tmp_path):
    dataset = EpisodesDataset(filepath=str(tmp_path / "pendulum"))
    assert not dataset.exists()
    assert message_of(dataset.load) == (
        f"no complete episodes in '{dataset.path}'; run: kedro run --pipeline=data_ingestion"
    )
    dataset.path.mkdir()
    (dataset.path / "episodes.json").write_text('{"train": "0123"}')
    assert "episodes.json' is damaged, edited, or of an older version; run:" in message_of(dataset.load)


def test_worlds_are_the_folders_that_are_not_hidden(world, tmp_path):
    (tmp_path / ".partial-of-somebody").mkdir()
    (tmp_path / "a_file").touch()
    loaders = EpisodesByWorldDataset(filepath=str(tmp_path)).load()
    assert list(loaders) == ["pendulum"]
    assert set(loaders["pendulum"]()) == {"train", "test"}


# ---------------------------------------------------------------- models


def model(name, seed=0, **card):
    place = {"task": "physics", "family": "hnn", "world": "pendulum", "variant": name}
    weights = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed))
    return TrainedModel({"net.weight": weights}, place | {"seeds": [0, 1]} | card)


@pytest.fixture
def models(tmp_path):
    dataset = ModelsDataset(filepath=str(tmp_path / "physics" / "hnn" / "pendulum"))
    dataset.save(Models({"plain": model("plain"), "structured": model("structured", 1)}, {"known": "no energy"}))
    return dataset


def test_models_come_back(models):
    loaded = models.load()
    assert loaded.not_applicable == {"known": "no energy"}
    assert set(loaded.variants) == {"plain", "structured"}
    assert loaded.variants["plain"].card == model("plain").card
    assert torch.equal(loaded.variants["plain"].tensors["net.weight"], model("plain").tensors["net.weight"])
    written = {p.name: p.read_bytes() for p in models.path.iterdir()}
    assert set(written) == {"models.json", *(f"{v}.{s}" for v in loaded.variants for s in ("json", "safetensors"))}
    models.save(loaded)
    assert {p.name: p.read_bytes() for p in models.path.iterdir()} == written


def edit_card(folder):
    card = folder / "plain.json"
    card.write_text(card.read_text().replace("1\n", "2\n"))


MODEL_DAMAGES = {
    "edited card": (edit_card, "plain.json' was damaged or replaced"),
    "card of another variant": (lambda f: shutil.copy(f / "structured.json", f / "plain.json"), "plain.json' was"),
    "no card": (lambda f: (f / "plain.json").unlink(), "plain.json' is missing"),
    "other weights": (lambda f: (f / "structured.safetensors").replace(f / "plain.safetensors"), "plain.safetensors"),
    "no weights": (lambda f: (f / "plain.safetensors").unlink(), "plain.safetensors' is missing"),
    "empty index": (lambda f: (f / "models.json").write_text("{}"), "models.json' is damaged, edited, or of an older"),
    "no index": (lambda f: (f / "models.json").unlink(), "no complete models in"),
}  # fmt: skip


@pytest.mark.parametrize("damage", MODEL_DAMAGES)
def test_damaged_models_are_refused(models, damage):
    act, words = MODEL_DAMAGES[damage]
    act(models.path)
    message = message_of(models.load)
    assert words in message
    assert message.endswith("; run: kedro run --pipeline=training")


def test_models_of_another_folder_are_refused(models, tmp_path):
    for place in ("physics/hnn/two_body", "physics/mlp/pendulum", "fields/hnn/pendulum"):
        shutil.copytree(models.path, tmp_path / place)
        message = message_of(ModelsDataset(filepath=str(tmp_path / place)).load)
        assert f"holds models of 'physics/hnn/pendulum', not of '{place}'" in message


@pytest.mark.parametrize(
    "wrong", [{"task": "fields"}, {"family": "mlp"}, {"world": "two_body"}, {"variant": "structured"}]
)
def test_a_card_that_does_not_belong_to_the_folder_is_not_written(models, wrong):
    with pytest.raises(Exception, match="does not belong to 'physics/hnn/pendulum/plain'"):
        models.save(Models({"plain": model("plain", **wrong)}, {}))
    assert set(models.load().variants) == {"plain", "structured"}


def test_a_variant_cannot_take_the_name_of_the_index(models):
    message = message_of(lambda: models.save(Models({"models": model("models")}, {})))
    assert "'models.json' cannot be a file of" in message


def test_a_family_that_does_not_apply_at_all_is_a_result_too(models):
    models.save(Models({}, {"plain": "images only"}))
    assert (models.load().variants, models.load().not_applicable) == ({}, {"plain": "images only"})
    assert names(models.path) == ["models.json"]


# ---------------------------------------------------------------- bundles

PARTS = {"scores": "parquet", "arrays": "safetensors", "facts": "json", "curves": "csv"}


def results():
    table = pd.DataFrame({"world": ["pendulum", "π²"], "value": [0.1 + 0.2, np.nan], "step": [-1, 3]})
    arrays = {
        "b": np.eye(2),
        "a": np.arange(3),
        "scalar": np.array(2.5),
        "c": np.ones((2, 3)).T,
        "empty": np.zeros((0, 2)),
    }
    return {"scores": table, "arrays": arrays, "facts": {"z": 1.5, "a": {"unit": "m²"}}, "curves": table}


@pytest.fixture
def bundle(tmp_path):
    dataset = BundleDataset(
        filepath=str(tmp_path / "hnn" / "pendulum"), parts=PARTS, made_by="physics_eval", belongs_to=2
    )
    dataset.save(results())
    return dataset


def test_results_come_back_bit_by_bit(bundle):
    loaded, wanted = bundle.load(), results()
    pd.testing.assert_frame_equal(loaded["scores"], wanted["scores"], check_exact=True)
    pd.testing.assert_frame_equal(loaded["curves"], wanted["curves"], check_exact=True)
    assert loaded["facts"] == wanted["facts"]
    assert set(loaded["arrays"]) == set(wanted["arrays"])
    for name, array in wanted["arrays"].items():
        np.testing.assert_array_equal(loaded["arrays"][name], array)
        assert (loaded["arrays"][name].shape, loaded["arrays"][name].dtype) == (array.shape, array.dtype)


def test_equal_content_is_equal_bytes(bundle, tmp_path):
    before = {p.name: p.read_bytes() for p in bundle.path.iterdir()}
    again = dict(reversed(results().items()))
    for name in ("arrays", "facts"):
        again[name] = dict(reversed(again[name].items()))
    bundle.save(again)
    assert {p.name: p.read_bytes() for p in bundle.path.iterdir()} == before
    for number, order in enumerate((["b", "a"], ["a", "b"])):
        JSONDataset(filepath=str(tmp_path / f"{number}.json")).save(dict.fromkeys(order, 1.5))
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()


@pytest.mark.parametrize("part", [f"{name}.{kind}" for name, kind in PARTS.items()])
def test_each_part_is_checked(bundle, part):
    data = bytearray((bundle.path / part).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.path / part).write_bytes(data)
    assert message_of(bundle.load) == (
        f"'{bundle.path / part}' was damaged or replaced (its SHA-256 is not the one in results.json); "
        "run: kedro run --pipeline=physics_eval"
    )
    (bundle.path / part).unlink()
    assert f"{part}' is missing" in message_of(bundle.load)


def test_results_that_belong_elsewhere_or_hold_other_parts_are_refused(bundle, tmp_path):
    shutil.copytree(bundle.path, tmp_path / "mlp" / "pendulum")
    settings = {"made_by": "physics_eval", "belongs_to": 2}
    foreign = BundleDataset(filepath=str(tmp_path / "mlp" / "pendulum"), parts=PARTS, **settings)
    assert "holds results of 'hnn/pendulum', not of 'mlp/pendulum'" in message_of(foreign.load)
    more = BundleDataset(filepath=str(bundle.path), parts={**PARTS, "maps": "safetensors"}, **settings)
    assert "maps.safetensors' is missing; run:" in message_of(more.load)
    with pytest.raises(Exception, match=r"got the parts \['facts'\], the catalog lists"):
        bundle.save({"facts": {}})
    with pytest.raises(Exception, match="unknown format 'pickle'; known: csv, json, parquet, safetensors"):
        BundleDataset(filepath="x", parts={"a": "pickle"}, made_by="x")


def test_figures_come_back_and_those_that_are_gone_are_gone(tmp_path):
    from plotly.graph_objects import Figure

    dataset = FiguresDataset(filepath=str(tmp_path / "physics"))
    figures = {name: Figure(layout={"title": {"text": f"{name} in m²"}}) for name in ("error", "horizon")}
    dataset.save(figures)
    assert dataset.load() == figures
    dataset.save({"error": figures["error"]})
    assert names(dataset.path) == ["error.json", "figures.json"]
    (dataset.path / "error.json").write_text("{}")
    assert "error.json' was damaged or replaced" in message_of(dataset.load)


# ---------------------------------------------------------------- the leaderboard


def part(world="pendulum", **columns):
    row = dict.fromkeys(LEADERBOARD_COLUMNS, "x") | {"world": world, "seed": 0, "step": -1, "value": 1.0}
    return pd.DataFrame([row | columns])


def save_part(folder, name, table):
    ParquetDataset(filepath=str(folder / f"{name}.parquet")).save(table)


def test_parts_written_during_a_run_are_seen_and_only_those_that_are_named(tmp_path):
    everything, some = PartsDataset(filepath=str(tmp_path)), PartsDataset(filepath=str(tmp_path), names=["b", "later"])
    assert everything.load() == {}
    save_part(tmp_path, "b", part("b"))
    save_part(tmp_path, "a", part("a"))
    assert list(everything.load()) == ["a", "b"]
    assert list(some.load()) == ["b"]


def test_what_a_dead_writer_left_is_no_part(tmp_path):
    """Of this version, in a directory; and of the one before, a hidden file."""
    save_part(tmp_path, "a", part())
    (tmp_path / ".partial-x1").mkdir()
    for left in (".partial-x1/a.parquet", ".a.parquet.x1.partial.parquet"):
        shutil.copy(tmp_path / "a.parquet", tmp_path / left)
    assert list(PartsDataset(filepath=str(tmp_path)).load()) == ["a"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"a": [1]}), "it lacks task, world, .*, it has the unknown a"),
        (part().drop(columns="view"), r"\(it lacks view\)"),
        (part(extra=1), r"\(it has the unknown extra\)"),
        (part()[list(reversed(LEADERBOARD_COLUMNS))], "its columns are in another order"),
    ],
)
def test_a_table_that_is_no_part_of_a_leaderboard_is_refused(tmp_path, table, words):
    save_part(tmp_path, "a", table)
    with pytest.raises(Exception, match=rf"'\S+a.parquet' is no part of the leaderboard .*{words}.*; remove it"):
        PartsDataset(filepath=str(tmp_path)).load()
    message_of(PartsDataset(filepath=str(tmp_path)).load)


def test_a_part_that_is_cut_off_is_one_line(tmp_path):
    save_part(tmp_path, "a", part())
    path = tmp_path / "a.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert message_of(PartsDataset(filepath=str(tmp_path)).load).startswith(f"'{path}' cannot be read (")


def test_a_part_comes_with_what_it_was_made_from(tmp_path):
    save_part(tmp_path, "a", part("a"))
    save_part(tmp_path, "b", part("b"))
    JSONDataset(filepath=str(tmp_path / "a.json")).save({"code": "0123"})
    parts = PartsDataset(filepath=str(tmp_path))
    assert {name: made_from for name, (_, made_from) in parts.load().items()} == {"a": {"code": "0123"}, "b": {}}
    for text, words in (("[]", "a.json' holds no provenance"), ("{", "a.json' cannot be read")):
        (tmp_path / "a.json").write_text(text)
        assert words in message_of(parts.load)


@pytest.mark.parametrize("key", LEADERBOARD_KEYS)
def test_rows_that_differ_in_one_key_are_two_measurements(key):
    check_unique(pd.concat([part(), part(**{key: 7})]))
    with pytest.raises(UserError, match=f"{key}=7"):
        check_unique(pd.concat([part(), part(**{key: 7}), part(**{key: 7}, value=3.0)]))


# ---------------------------------------------------------------- single files


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


def test_out_of_memory_is_not_called_damage(tmp_path, monkeypatch):
    dataset = CSVDataset(filepath=str(tmp_path / "a.csv"))
    dataset.save(pd.DataFrame({"a": [1]}))

    def read_csv(*_, **__):
        raise MemoryError("too large")

    monkeypatch.setattr(pd, "read_csv", read_csv)
    assert message_of(dataset.load).startswith("out of memory (too large)")


def test_text_is_utf8_whatever_the_locale(tmp_path):
    script = f"""
import pandas as pd
from wm_pipelines.datasets.atomic import CSVDataset, JSONDataset
from wm_pipelines.datasets.bundle import BundleDataset
from wm_pipelines.datasets.local import ParameterFilesDataset, TextDataset
text = {"m²·π"!r}
tree = {{"hnn": {{"a": text}}}}
for kind, data in ((TextDataset, text), (JSONDataset, tree), (ParameterFilesDataset, tree)):
    dataset = kind(filepath={str(tmp_path)!r} + "/" + kind.__name__)
    dataset.save(data)
    assert dataset.load() == data
dataset = CSVDataset(filepath={str(tmp_path / "a.csv")!r}, save_args={{"index": False}})
dataset.save(pd.DataFrame({{"a": [text]}}))
assert dataset.load()["a"][0] == text
dataset = BundleDataset(filepath={str(tmp_path / "b")!r}, parts={{"c": "csv", "f": "json"}}, made_by="x")
dataset.save({{"c": pd.DataFrame({{"a": [text]}}), "f": text}})
assert dataset.load()["f"] == dataset.load()["c"]["a"][0] == text
"""
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, path], check=True, env=os.environ | ascii_only)
    assert (tmp_path / "a.csv").read_bytes().decode() == "a\nm²·π\n"
    assert TextDataset(filepath=str(tmp_path / "TextDataset")).load() == "m²·π"


def test_parameter_files_grow_by_what_is_saved(tmp_path):
    dataset = ParameterFilesDataset(filepath=str(tmp_path))
    dataset.save({"hnn": {"worlds": {"pendulum": {"features": 10}}}})
    dataset.save({"hnn": {"worlds": {"two_body": {"features": 20}}}})
    assert dataset.load() == {"hnn": {"worlds": {"pendulum": {"features": 10}, "two_body": {"features": 20}}}}


@pytest.mark.parametrize("text", [b"a: [1", b"- 1", b"\tx", b"\xe4: 1"])
def test_a_faulty_parameter_file_is_one_line(tmp_path, text):
    (tmp_path / "parameters_hnn.yml").write_bytes(text)
    dataset = ParameterFilesDataset(filepath=str(tmp_path))
    for action in (dataset.load, lambda: dataset.save({"hnn": {"a": 1}})):
        assert "parameters_hnn.yml" in message_of(action)
    assert (tmp_path / "parameters_hnn.yml").read_bytes() == text
