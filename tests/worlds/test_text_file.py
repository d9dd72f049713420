"""A text as a world: its passages in order, and pictures that tell nothing of them."""

import numpy as np
import pytest

from tests.user_files import refused
from tests.worlds.test_videos import ROOT
from wm_pipelines.errors import validate
from wm_pipelines.worlds.making import WorldConfig, ingest

WORDS = [f"word{k}" for k in range(200)]


def made(path, seed=0, **parameters):
    data = {"world": "text_file", "seed": seed, "parameters": {"path": str(path), "passage": 40, **parameters}}
    return ingest(validate(WorldConfig, data, "mine"), "mine")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("\n\n".join(WORDS))
    return path


def test_the_splits_are_the_text_one_after_the_other(text):
    splits = made(text)
    said = " ".join(" ".join(splits[name]["captions"].tolist()) for name in ("train", "validation", "test"))
    assert said.split() == WORDS
    assert set(splits["test"].views) == {"captions"}


def test_pictures_are_drawn_by_the_seed_and_the_passages_are_not(text):
    first, again, other = made(text, pictures=True), made(text, pictures=True), made(text, seed=1, pictures=True)
    for name, part in first.items():
        np.testing.assert_array_equal(part["frames"], again[name]["frames"])
        assert not np.array_equal(part["frames"], other[name]["frames"])
        np.testing.assert_array_equal(part["captions"], other[name]["captions"])


def test_faults_are_told(text, tmp_path):
    assert "cannot read the text" in refused(made, tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    assert "it is not in UTF-8" in refused(made, tmp_path / "latin.txt")
    (tmp_path / "short.txt").write_text("too short")
    assert "is empty: it has 1 passages" in refused(made, tmp_path / "short.txt")


def test_the_bundled_text_is_whole():
    splits = made(ROOT / "data/01_raw/texts/alice.txt", passage=160)
    assert splits["train"]["captions"][0].startswith("ALICE'S ADVENTURES IN WONDERLAND Lewis Carroll")
    assert splits["test"]["captions"][-1].endswith("happy summer days. THE END")
