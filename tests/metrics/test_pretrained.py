"""Networks that were trained elsewhere: what they are shown, and files that are not what was meant."""

import hashlib

import numpy as np
import pytest
import torch

from wm_pipelines.errors import UserError
from wm_pipelines.metrics.distances import frechet_distance, fvd
from wm_pipelines.metrics.pretrained import I3DFeatures, InceptionFeatures

# ---------------------------------------------------------------- videos


class I3D(torch.nn.Module):
    """Called as the published I3D is; its 400 numbers are means of channels, frames and corners."""

    def __init__(self, size: int = 400):
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert not rescale
        assert not resize
        assert return_features
        assert x.shape[1] == 3
        assert x.shape[3] == 224
        assert x.shape[4] == 224
        channels = x.mean(dim=[2, 3, 4])
        frames = x.mean(dim=[1, 3, 4])[:, :10]
        corners = torch.stack([x[:, 0, 0, 0, 0], x[:, 0, 0, 0, -1]], dim=1)
        found = torch.cat([channels, frames, corners], dim=1)
        return torch.nn.functional.pad(found, [0, self.size - found.shape[1]])


def scripted(module, folder):
    """A module as a file, and its checksum."""
    path = folder / "network.pt"
    torch.jit.script(module).save(str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def i3d(tmp_path_factory):
    return scripted(I3D(), tmp_path_factory.mktemp("i3d"))


def test_i3d_sees_resized_clips_from_minus_one_to_one(i3d):
    features = I3DFeatures(*i3d, batch=2)
    rng = np.random.default_rng(5)
    clips = rng.integers(0, 256, (3, 10, 8, 8, 3), dtype=np.uint8)
    found = features(clips)
    assert found.shape == (3, 400)
    assert found.dtype == np.float64
    scaled = 2 * (clips / 255.0) - 1
    np.testing.assert_allclose(found[:, :3], scaled.mean(axis=(1, 2, 3)), atol=1e-5)  # 224 is a multiple of 8
    np.testing.assert_allclose(found[:, 3:13], scaled.mean(axis=(2, 3, 4)), atol=1e-5)
    np.testing.assert_allclose(found[:, 13:15], scaled[:, 0, 0, [0, -1], 0], atol=1e-5)
    np.testing.assert_allclose(features(clips / 255.0), found, atol=1e-5)
    grey = features(clips[..., :1])
    np.testing.assert_allclose(grey[:, :3], found[:, :1].repeat(3, axis=1), atol=1e-5)


def test_fvd_of_brighter_clips_is_the_squared_shift_of_the_features(i3d):
    features = I3DFeatures(*i3d)
    clips = np.random.default_rng(6).uniform(0, 0.5, (4, 10, 8, 8, 1))
    assert fvd(clips, clips[::-1], features) < 1e-9
    np.testing.assert_allclose(fvd(clips, clips + 0.25, features), (3 + 10 + 2) * 0.5**2, rtol=1e-5)
    with pytest.raises(ValueError, match="one length and size"):
        fvd(clips, clips[:, :9], features)


def test_the_wrong_file_is_refused_in_one_line(i3d, tmp_path):
    path, checksum = i3d
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"not a network")
    small, checksum_of_small = scripted(I3D(16), tmp_path)
    cases = [
        (tmp_path / "none.pt", checksum, "is no file: take i3d_torchscript.pt"),
        (path, "0" * 64, "has SHA-256 .* expected 000"),
        (junk, hashlib.sha256(junk.read_bytes()).hexdigest(), "is no TorchScript module"),
    ]
    for file, sha256, message in cases:
        with pytest.raises(UserError, match=message) as error:
            I3DFeatures(file, sha256)
        assert "\n" not in str(error.value)
    other = I3DFeatures(small, checksum_of_small.upper())
    with pytest.raises(UserError, match="does not give the 400 features of I3D"):
        other(np.zeros((1, 10, 8, 8, 3)))


def test_clips_that_i3d_cannot_take_are_refused(i3d):
    features = I3DFeatures(*i3d)
    cases = [
        (np.zeros((10, 8, 8, 3)), "takes clips"),
        (np.zeros((1, 10, 8, 8, 2)), "takes clips"),
        (np.zeros((1, 9, 8, 8, 3)), "at least 10 frames, got 9"),
        (np.full((1, 10, 8, 8, 3), 255.0), r"lie in \[0, 1\], got 255"),
        (np.zeros((1, 10, 8, 8, 3), int), "uint8 or floating point, got int64"),
    ]
    for clips, message in cases:
        with pytest.raises(ValueError, match=message):
            features(clips)


# ---------------------------------------------------------------- images


class Inception(torch.nn.Module):
    """Called as the published InceptionV3 is; its 2048 numbers begin with means of channels and a corner."""

    def forward(self, x: torch.Tensor, return_features: bool) -> torch.Tensor:
        assert return_features
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        found = torch.cat([x.float().mean(dim=[2, 3]), x[:, :, 0, 0].float()], dim=1)
        return torch.nn.functional.pad(found, [0, 2042])


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return scripted(Inception(), tmp_path_factory.mktemp("inception"))


def test_inception_sees_whole_numbers_of_three_channels(inception):
    features = InceptionFeatures(*inception, batch=2)
    images = np.random.default_rng(5).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    found = features(images)
    assert found.shape == (5, 2048)
    np.testing.assert_allclose(found[:, :3], images.mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(found[:, 3:6], images[:, 0, 0])
    np.testing.assert_array_equal(features(images / 255.0), found)
    np.testing.assert_allclose(features(images[..., :1])[:, :3], found[:, :1].repeat(3, 1), rtol=1e-6)
    brighter = np.clip(images // 2, 0, 127)
    expected = 3 * 20.0**2 + 3 * 20.0**2  # six features, each 20 higher
    np.testing.assert_allclose(frechet_distance(features(brighter), features(brighter + 20)), expected, rtol=1e-5)


def test_images_and_files_that_inception_cannot_take_are_refused(inception, tmp_path, i3d):
    features = InceptionFeatures(*inception)
    for images, message in (
        (np.zeros((8, 8, 3)), "takes images"),
        (np.zeros((1, 8, 8, 2)), "takes images"),
        (np.full((1, 8, 8, 3), 255.0), r"images of floats lie in \[0, 1\], got 255"),
        (np.zeros((1, 8, 8, 3), int), "uint8 or floating point, got int64"),
    ):
        with pytest.raises(ValueError, match=message):
            features(images)
    with pytest.raises(UserError, match=r"is no file: take inception-2015-12-05\.pt"):
        InceptionFeatures(tmp_path / "none.pt", inception[1])
    with pytest.raises(UserError, match=r"has SHA-256 .* expected 000"):
        InceptionFeatures(inception[0], "0" * 64)


class Other(torch.nn.Module):
    """Somebody's network: of another size, not finite, or not to be called like this."""

    def __init__(self, size: int, value: float):
        super().__init__()
        self.size, self.value = size, value

    def forward(self, x: torch.Tensor, return_features: bool) -> torch.Tensor:
        return torch.full([x.shape[0], self.size], self.value)


class Alone(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Other(100, 0.0), "does not give the 2048 features of Inception"),
        (Other(2048, float("nan")), "not finite"),
        (Alone(), "cannot be called as the published one"),
    ],
)
def test_another_network_is_told_in_one_line(module, message, tmp_path):
    features = InceptionFeatures(*scripted(module, tmp_path))
    with pytest.raises(UserError, match=message) as error:
        features(np.zeros((2, 8, 8, 3)))
    assert "\n" not in str(error.value)
