"""MNIST: read from IDX files, checked, sampled."""

import gzip
import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

from wm_pipelines.errors import UserError
from wm_pipelines.worlds import mnist
from wm_pipelines.worlds.base import simulated
from wm_pipelines.worlds.making import WorldConfig, build_world, ingest
from wm_pipelines.worlds.mnist import SAMPLE, SAMPLE_MD5
from wm_pipelines.worlds.parts import idx
from wm_pipelines.worlds.parts.idx import FILES, read_idx

ROOT = Path(__file__).parents[2]
NAMES = [name for half in FILES.values() for name in half.values()]


def idx_bytes(values):
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.tobytes()


@pytest.fixture
def folder(tmp_path):
    """Digits of one's own: 60 to train, 20 to test; the label is written into every corner pixel."""
    rng = np.random.default_rng(0)
    for half, count in (("train", 60), ("test", 20)):
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = labels
        images[:, 0, 1] = np.arange(count)
        (tmp_path / FILES[half]["images"]).write_bytes(idx_bytes(images))
        (tmp_path / f"{FILES[half]['labels']}.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    return tmp_path


def config(**parameters):
    return WorldConfig(world="mnist", parameters=parameters)


def own(folder, **parameters):
    return config(source=str(folder), verify=False, **{"validation": 15, **parameters})


@pytest.fixture(scope="module")
def sample():
    return ingest(config())


def test_the_bundled_sample_has_ten_thousand_and_two_thousand_digits(sample):
    shapes = {name: part["frames"].shape for name, part in sample.items()}
    assert shapes == {"train": (9000, 1, 28, 28, 1), "validation": (1000, 1, 28, 28, 1), "test": (2000, 1, 28, 28, 1)}
    for part in sample.values():
        assert np.bincount(part["labels"], minlength=10).min() > 0.05 * len(part)
        assert set(part.views) == {"frames", "labels"}
        assert part.metadata["label_names"] == list("0123456789")
    assert sum(path.stat().st_size for path in (ROOT / SAMPLE).iterdir()) < 4_000_000


def test_images_are_where_the_labels_say(sample):
    """A nearest-mean classifier of the pixels reaches what it is known to reach on MNIST, 82 %."""
    train, test = sample["train"], sample["test"]
    means = np.stack([train["frames"][train["labels"] == c].reshape(-1, 784).mean(axis=0) for c in range(10)])
    distance = ((test["frames"].reshape(-1, 1, 784) - means) ** 2).sum(-1)
    assert 0.78 < (distance.argmin(axis=1) == test["labels"]).mean() < 0.86


def test_every_class_has_its_share_of_the_full_set(sample):
    """Class frequencies of the published training and test files."""
    full = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    found = np.bincount(np.concatenate([sample["train"]["labels"], sample["validation"]["labels"]]))
    np.testing.assert_allclose(found, np.array(full) / 6, atol=1.0)
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_allclose(np.bincount(sample["test"]["labels"]), np.array(test) / 5, atol=1.0)


def test_validation_is_taken_out_of_train_and_the_seed_decides_which(folder):
    parts = ingest(own(folder))
    numbers = {name: part["frames"][:, 0, 0, 1, 0].tolist() for name, part in parts.items()}
    assert sorted(numbers["train"] + numbers["validation"]) == list(range(60))
    assert len(numbers["validation"]) == 15
    for part in parts.values():
        np.testing.assert_array_equal(part["frames"][:, 0, 0, 0, 0], part["labels"])
    again = ingest(own(folder))
    assert again["train"].content_hash == parts["train"].content_hash
    other = ingest(WorldConfig(world="mnist", seed=1, parameters=own(folder).parameters))
    assert other["validation"].content_hash != parts["validation"].content_hash


def test_fewer_images_are_a_random_part_of_all(folder):
    few = ingest(own(folder, train=20, validation=5, test=7))
    assert {name: len(part) for name, part in few.items()} == {"train": 20, "validation": 5, "test": 7}
    assert not set(few["train"]["frames"][:, 0, 0, 1, 0]) & set(few["validation"]["frames"][:, 0, 0, 1, 0])
    with pytest.raises(UserError, match="61 training images are asked for, there are 60"):
        ingest(own(folder, train=50, validation=11))
    with pytest.raises(UserError, match="21 test images"):
        ingest(own(folder, test=21))
    with pytest.raises(UserError, match="training images"):
        ingest(own(folder, validation=60))


def test_files_are_downloaded_packed_or_not(folder, monkeypatch):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        over_the_web = ingest(own(url))
        with pytest.raises(UserError, match=r"no 'http://.*/nowhere/train-images-idx3-ubyte.gz'"):
            ingest(own(url + "nowhere"))
        server.shutdown()
    assert over_the_web["train"].content_hash == ingest(own(folder))["train"].content_hash
    with pytest.raises(UserError, match="cannot download"):
        ingest(own(url))


def test_other_files_than_the_published_ones_are_refused(folder):
    with pytest.raises(UserError, match=r"wrong checksum.*6bbc9ace898e44ae57da46a324031adb.*`verify: false`"):
        ingest(config(source=str(folder), validation=15))


# ---------------------------------------------------------------- Fashion-MNIST, the same form


def packed(folder):
    """The same files, all of them packed, as Fashion-MNIST is published; their checksums."""
    for name in NAMES:
        if (folder / name).exists():
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
    return {f"{name}.gz": hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest() for name in NAMES}


def fashion(folder, **parameters):
    """The entry of the parameter files, at the size of the test's own."""
    entry = yaml.safe_load((ROOT / "conf/base/parameters_fashion_mnist.yml").read_text())["fashion_mnist"]
    own = {"source": str(folder), "train": 30, "validation": 15, "test": 10, **parameters}
    return WorldConfig(**{**entry, "parameters": {**entry["parameters"], **own}})


def test_fashion_mnist_is_read_by_its_parameter_file_and_known_by_its_packed_checksums(folder, monkeypatch):
    monkeypatch.setitem(mnist._MD5, "fashion_mnist", packed(folder))
    parts = ingest(fashion(folder), "fashion_mnist")
    assert {name: part["frames"].shape for name, part in parts.items()} == {
        "train": (30, 1, 28, 28, 1), "validation": (15, 1, 28, 28, 1), "test": (10, 1, 28, 28, 1),
    }  # fmt: skip
    assert parts["test"].metadata["label_names"][0] == "T-shirt"
    assert len(parts["test"].metadata["label_names"]) == 10
    assert {part.spec.name for part in parts.values()} == {"fashion_mnist"}


def test_other_clothes_than_the_published_are_refused_unless_one_says_so(folder):
    packed(folder)
    with pytest.raises(UserError, match=r"wrong checksum.*8d4fb7e6c68d591d4c3dfef9ec88bf0d.*`verify: false`"):
        ingest(fashion(folder))
    assert len(ingest(fashion(folder, verify=False))["train"]) == 30


def test_unpacked_clothes_cannot_be_compared_with_the_published(folder):
    with pytest.raises(UserError, match=r"is unpacked.*'train-images-idx3-ubyte.gz'.*`verify: false`"):
        ingest(fashion(folder))
    assert len(ingest(fashion(folder, verify=False))["test"]) == 10


def test_checksums_are_those_of_the_content_and_there_is_one_for_every_file():
    assert set(idx.PUBLISHED_MD5) == set(SAMPLE_MD5) == set(NAMES)
    assert set(idx.FASHION_MD5) == {f"{name}.gz" for name in NAMES}
    for name, expected in SAMPLE_MD5.items():
        content = gzip.decompress((ROOT / SAMPLE / f"{name}.gz").read_bytes())
        assert hashlib.md5(content).hexdigest() == expected


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:-100], "is truncated or too long: 46940 values, its header says 47040"),
        (lambda b: b + b"x", "truncated or too long"),
        (lambda b: b"PNG" + b[3:], "not an IDX file"),
        (lambda b: b"", "not an IDX file"),
        (lambda b: b[:6], "not an IDX file"),
        (lambda b: gzip.compress(b)[:-500], "is damaged"),
        (lambda b: gzip.compress(b)[:20] + b"\0" * 40, "is damaged"),
    ],
)
def test_damage_is_named_on_one_line(folder, damage, message):
    path = folder / FILES["train"]["images"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        ingest(own(folder))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(folder):
    (folder / FILES["test"]["images"]).unlink()
    with pytest.raises(UserError, match=r"no '.*t10k-images-idx3-ubyte.gz' and no"):
        ingest(own(folder))


def test_images_and_labels_must_fit(folder):
    (folder / FILES["train"]["images"]).write_bytes(idx_bytes(np.zeros((3, 28, 28), np.uint8)))
    with pytest.raises(UserError, match="do not fit each other"):
        ingest(own(folder))


def test_a_digit_has_no_law(folder):
    world = build_world(own(folder), where="my_digits")
    with pytest.raises(UserError, match="'my_digits' is known by its recordings alone"):
        simulated(world)
    assert world.laws().simulate is None


def test_relative_folders_start_at_the_project(folder, monkeypatch):
    (folder / "pyproject.toml").touch()
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert read_idx(".", FILES["train"]["images"]).shape == (60, 28, 28)
