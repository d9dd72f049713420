"""Moving MNIST: the motion is the usual generator's, the frames show it, the published file is read."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.errors import UserError, validate
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.mnist import read_digits
from wm_pipelines.worlds.moving_mnist import MovingMnist, MovingMnistParameters

SMALL = {"train": 12, "validation": 4, "test": 6}


def world_of(**parameters):
    return MovingMnist(validate(MovingMnistParameters, parameters, "moving_mnist"))


def made(seed=0, **parameters):
    return ingest(WorldConfig(world="moving_mnist", seed=seed, parameters={**SMALL, **parameters}))


@pytest.fixture(scope="module")
def episodes():
    return made()


def usual_path(x, y, vx, vy, rows):
    """One digit's corners in pixels, step by step as the usual generator's authors tell it."""
    places = []
    for _ in range(rows):
        x, y = x + vx, y + vy
        if x <= 0 or x >= 1:
            x, vx = min(max(x, 0.0), 1.0), -vx
        if y <= 0 or y >= 1:
            y, vy = min(max(y, 0.0), 1.0), -vy
        places.append((int(36 * x), int(36 * y)))
    return places


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 2 * math.pi))
def test_digits_move_as_in_the_usual_generator(x, y, angle):
    world = world_of(digits=1)
    vx, vy = 0.1 * math.cos(angle), 0.1 * math.sin(angle)
    z = world.simulate(np.array([[x, y, vx, vy]]), 1.0, 20)
    digit = np.zeros((1, 1, 28, 28), np.uint8)
    digit[0, 0, 0, 0] = 9
    frames = world.draw(z[:, 1:], digit, 64)
    found = [tuple(np.argwhere(frame)[0][::-1].tolist()) for frame in frames[0]]
    assert found == usual_path(x, y, vx, vy, 20)


def test_speed_is_a_tenth_of_the_way_and_energy_is_kept(episodes):
    world = world_of()
    for part in episodes.values():
        np.testing.assert_allclose(world.laws().energy(part["states"]), 2 * 0.5 * 0.1**2, rtol=1e-12)
        assert part["states"][..., :4].min() >= 0.0
        assert part["states"][..., :4].max() <= 1.0


def test_states_follow_the_law_and_frames_show_the_states(episodes):
    world, part = world_of(), episodes["train"]
    np.testing.assert_array_equal(world.simulate(part["states"][:, 7], 1.0, 12), part["states"][:, 7:])
    frames = part["frames"][..., 0].astype(int)
    for episode, row, digit in np.ndindex(4, 20, 2):
        x, y = (36 * part["states"][episode, row, 2 * digit : 2 * digit + 2]).astype(int)
        outside = frames[episode, row].copy()
        for other in range(2):
            a, b = (36 * part["states"][episode, row, 2 * other : 2 * other + 2]).astype(int)
            outside[b : b + 28, a : a + 28] = 0
        assert not outside.any()
        assert frames[episode, row, y : y + 28, x : x + 28].any()


def test_digits_are_pasted_by_the_maximum():
    z = np.array([[[0.0, 0.0, 0.5, 0.25, 0, 0, 0, 0]]])
    digits = np.stack([np.full((28, 28), 100, np.uint8), np.full((28, 28), 60, np.uint8)])[None]
    frame = world_of().draw(z, digits, 64)[0, 0]
    expected = np.zeros((64, 64), int)
    expected[9:37, 18:46] = 60
    expected[:28, :28] = 100
    np.testing.assert_array_equal(frame, expected)


def test_the_statistics_are_those_of_the_published_set():
    """Constant-image floor in the usual units (sum of squares over a frame): 153, copy-last 287, within a tenth."""
    frames = made(test=200)["test"]["frames"][..., 0] / 255.0
    future, last = frames[:, 10:], frames[:, 9:10]
    assert ((future - future.mean(axis=(0, 1))) ** 2).sum((-2, -1)).mean() == pytest.approx(153, rel=0.1)
    assert ((future - last) ** 2).sum((-2, -1)).mean() == pytest.approx(287, rel=0.1)


def test_no_digit_is_in_two_splits(monkeypatch):
    """Every image is made to carry its own number as its only grey level."""
    numbered = {
        "train": (np.tile(np.arange(1, 101, dtype=np.uint8)[:, None, None], (1, 28, 28)), 100),
        "test": (np.tile(np.arange(101, 131, dtype=np.uint8)[:, None, None], (1, 28, 28)), 30),
    }
    monkeypatch.setattr(
        "wm_pipelines.worlds.moving_mnist.read_digits",
        lambda source, half, verify: (numbered[half][0], np.zeros(numbered[half][1], int), "here"),
    )
    parts = made(train=100, validation=30, test=30)
    seen = {name: set(np.unique(part["frames"])) - {0} for name, part in parts.items()}
    assert seen["test"] <= set(range(101, 131))
    assert not seen["train"] & seen["validation"]
    assert seen["train"] | seen["validation"] <= set(range(1, 101))
    assert len(seen["train"]) > 60


def test_splits_and_seeds_have_streams_of_their_own(episodes):
    again, other = made(), made(seed=1)
    assert {n: p.content_hash for n, p in again.items()} == {n: p.content_hash for n, p in episodes.items()}
    starts = [p["states"][0, 0].tolist() for parts in (episodes, other) for p in parts.values()]
    assert len({tuple(s) for s in starts}) == 6


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "mnist_test_seq.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (20, 15, 64, 64), dtype=np.uint8))
    return path, hashlib.md5(path.read_bytes()).hexdigest()


def test_the_published_file_is_the_test_split(published):
    path, md5 = published
    parts = made(test_file=str(path), test_md5=md5, test=None)
    np.testing.assert_array_equal(parts["test"]["frames"][..., 0], np.load(path).swapaxes(0, 1))
    assert set(parts["test"].views) == {"times", "frames"}
    assert parts["train"]["states"].shape == (12, 20, 8)
    first = made(test_file=str(path), test_md5=None, test=4)["test"]
    np.testing.assert_array_equal(first["frames"], parts["test"]["frames"][:4])


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (None, {}, "wrong checksum.*be083ec986bfe91a449d63653c411eb2"),
        (None, {"test_md5": None, "test": 16}, "has 15 sequences, `test` asks for 16"),
        (None, {"test_md5": None, "frames": 10}, "20 frames of 64 × 64"),
        (lambda p: p.write_bytes(p.read_bytes()[:1000]), {"test_md5": None}, "cannot read"),
        (lambda p: p.write_bytes(b""), {"test_md5": None}, "cannot read"),
        (lambda p: np.save(p, np.array([{}], object)), {"test_md5": None}, "cannot read"),
        (lambda p: np.save(p, np.zeros((20, 4))), {"test_md5": None}, "not a table"),
        (lambda p: p.unlink(), {"test_md5": None}, "no '.*mnist_test_seq.npy'"),
    ],
)
def test_another_file_is_refused(published, change, settings, message):
    path, _ = published
    if change:
        change(path)
    with pytest.raises(UserError, match=message):
        made(test_file=str(path), **settings)


@pytest.mark.parametrize("count", [15, 20, 24])
def test_swapped_axes_are_recognised(tmp_path, count):
    """``[sequences, 20, 64, 64]``, whichever of the two axes is longer: images that follow each other are alike."""
    right = made(test=count)["test"]["frames"]
    path = tmp_path / "swapped.npy"
    np.save(path, right[..., 0])
    found = made(test_file=str(path), test_md5=None, test=None)["test"]["frames"]
    np.testing.assert_array_equal(found, right)
    np.save(path, right[..., 0].swapaxes(0, 1))
    np.testing.assert_array_equal(made(test_file=str(path), test_md5=None, test=None)["test"]["frames"], right)


def test_swapped_axes_that_a_wrong_number_of_frames_hides_are_refused(tmp_path):
    path = tmp_path / "swapped.npy"
    np.save(path, made(test=24)["test"]["frames"][..., 0])
    with pytest.raises(UserError, match="its axes are swapped: images follow each other along its second axis, of 20"):
        made(test_file=str(path), test_md5=None, test=None, frames=24)


def test_it_can_be_drawn_and_described(episodes):
    world, z = world_of(), episodes["test"]["states"]
    image = world.render(z[:2], 64)
    assert image.shape == (2, 20, 64, 64, 3)
    digits, _, _ = read_digits("sample", "test")
    x, y = (36 * z[0, 0, :2]).astype(int)
    assert (image[0, 0, y : y + 28, x : x + 28, 0] >= digits[0]).all()
    assert "Two handwritten digits" in world.describe(z[0])
    with pytest.raises(UserError, match="test_file to take all from"):
        world_of(test=None)
