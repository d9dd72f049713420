import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from wm_pipelines.errors import UserError
from wm_pipelines.metrics import perception as p

UNIT = arrays(np.float64, (2, 3, 12, 13, 1), elements=st.floats(0, 1, width=16))


def images(shape=(2, 3, 24, 20, 3), noise=0.1, seed=0):
    """Smooth frames in [0, 1] and noisy copies."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[-3], : shape[-2]] / 5.0
    phase = rng.uniform(0, 6, (*shape[:-3], 1, 1, shape[-1]))
    truth = 0.5 + 0.4 * np.sin(x[..., None] + phase) * np.cos(y[..., None] - phase)
    return np.clip(truth + noise * rng.normal(size=shape), 0, 1), truth


def framewise(function, predicted, truth):
    flat = [function(a, b) for a, b in zip(*(x.reshape(-1, *x.shape[-3:]) for x in (predicted, truth)), strict=True)]
    return np.reshape(flat, truth.shape[:-3])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bytes_", [False, True])
def test_psnr_and_ssim_agree_with_skimage(channels, bytes_):
    predicted, truth = images((2, 3, 24, 20, channels))
    scale = 255 if bytes_ else 1.0
    if bytes_:
        predicted, truth = (np.round(255 * x).astype(np.uint8) for x in (predicted, truth))
    expected = framewise(lambda a, b: peak_signal_noise_ratio(b, a, data_range=scale), predicted, truth)
    np.testing.assert_allclose(p.psnr(predicted, truth, data_range=scale), expected, rtol=1e-12)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    expected = framewise(lambda a, b: structural_similarity(b, a, data_range=scale, **options), predicted, truth)
    np.testing.assert_allclose(p.ssim(predicted, truth, data_range=scale), expected, rtol=1e-9)


def test_a_constant_offset_has_the_closed_form_error_in_both_conventions():
    truth = np.full((2, 4, 16, 15, 3), 0.25)
    np.testing.assert_allclose(p.frame_mse(truth + 0.1, truth, data_range=1.0), np.full((2, 4), 0.01))
    np.testing.assert_allclose(p.frame_mse(truth + 0.1, truth, data_range=1.0, reduction="sum"), 0.01 * 16 * 15 * 3)
    np.testing.assert_allclose(p.psnr(truth + 0.1, truth, data_range=1.0), 20.0)


@given(UNIT, UNIT)
@settings(max_examples=15, deadline=None)
def test_the_unit_of_the_pixels_does_not_matter(predicted, truth):
    for metric in (p.frame_mse, p.psnr, p.ssim):
        wide = metric(510 * predicted - 255, 510 * truth - 255, data_range=510)
        if metric is not p.ssim:  # whose luminance term knows what black is
            np.testing.assert_allclose(wide, metric(predicted, truth, data_range=1.0), rtol=1e-9, atol=1e-9)
        wide = metric(255 * predicted, 255 * truth, data_range=255)
        np.testing.assert_allclose(wide, metric(predicted, truth, data_range=1.0), rtol=1e-6, atol=1e-9)


@given(UNIT, UNIT)
@settings(max_examples=15, deadline=None)
def test_ssim_is_symmetric_bounded_and_one_for_equality(a, b):
    value = p.ssim(a, b, data_range=1.0)
    assert value.shape == (2, 3)
    assert (np.abs(value) <= 1 + 1e-12).all()
    np.testing.assert_allclose(p.ssim(b, a, data_range=1.0), value, atol=1e-12)
    np.testing.assert_allclose(p.ssim(a, a, data_range=1.0), 1.0, rtol=1e-9)


def test_truth_without_the_seed_axis_and_small_chunks_give_the_same(monkeypatch):
    predicted, truth = images()
    both = np.stack([predicted, predicted[::-1]])
    whole = [m(both, truth, data_range=1.0) for m in (p.frame_mse, p.psnr, p.ssim)]
    assert whole[0].shape == (2, 2, 3)
    monkeypatch.setattr(p, "_CHUNK_VALUES", 24 * 20 * 3 * 5)
    for metric, expected in zip((p.frame_mse, p.psnr, p.ssim), whole, strict=True):
        np.testing.assert_allclose(metric(both, truth, data_range=1.0), expected, rtol=1e-12)
        np.testing.assert_allclose(metric(both[1], truth, data_range=1.0), expected[1], rtol=1e-12)


def test_uint8_does_not_wrap_around():
    black, white = (np.full((1, 1, 11, 11, 1), v, np.uint8) for v in (0, 255))
    assert p.frame_mse(black, white, data_range=255) == 1.0
    assert p.psnr(black, white, data_range=255) == 0.0
    assert p.psnr(white, white, data_range=255) == 100.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_frame_that_is_not_finite_is_as_bad_as_can_be_and_spoils_no_other(bad):
    predicted, truth = images(noise=0.0)
    predicted[1, 2, 0, 0, 0] = bad
    for metric, perfect, worst in ((p.frame_mse, 0, np.inf), (p.psnr, 100, 0), (p.ssim, 1, -1)):
        value = metric(predicted, truth, data_range=1.0)
        assert value[1, 2] == worst
        np.testing.assert_allclose(np.delete(value.ravel(), 5), perfect, atol=1e-12)


def test_what_does_not_fit_together_is_refused():
    predicted, truth = images()
    with pytest.raises(TypeError, match="data_range"):
        p.psnr(predicted, truth)
    cases = [
        (predicted, truth, None, "data_range must be given"),
        (predicted, truth, 0.0, "data_range must be given and positive"),
        (predicted, 255 * truth, 1.0, "extend over .* more than data_range 1"),
        (predicted[:, :2], truth, 1.0, "do not end in the shape"),
        (predicted[0], truth, 1.0, "do not end in the shape"),
        (predicted[..., 0], truth[..., 0], 1.0, "1 to 4 channels last"),
        ((255 * predicted).astype(np.uint8), truth, 255, "bring both to one scale"),
        ((255 * predicted).astype(int), truth, 255, "uint8 or floating point, got int64"),
        (*[np.zeros((1, 1, 12, 12, 1), np.uint8)] * 2, 1.0, "uint8 frames have data_range 255"),
    ]
    for a, b, data_range, message in cases:
        for metric in (p.frame_mse, p.psnr, p.ssim, p.lpips):
            with pytest.raises(ValueError, match=message):
                metric(a, b, data_range=data_range)
    with pytest.raises(ValueError, match="11 × 11 pixels, got 8 × 20"):
        p.ssim(predicted[:, :, :8], truth[:, :, :8], data_range=1.0)
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        p.frame_mse(predicted, truth, data_range=1.0, reduction="max")


def test_lpips_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    p._perceptual_network.cache_clear()
    predicted, truth = images()
    with pytest.raises(UserError, match=r"pip install 'wm_pipelines\[lpips\]'") as error:
        p.lpips(predicted, truth, data_range=1.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_shows_the_network_three_channels_from_minus_one_to_one(monkeypatch, channels):
    class Network(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()

        def forward(self, a, b):
            assert a.shape[1:] == (3, 24, 20)
            assert len(a) <= 4
            assert a.min() >= -1
            assert a.max() <= 1
            return (a - b).square().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Network))
    p._perceptual_network.cache_clear()
    predicted, truth = images((2, 3, 24, 20, channels))
    value = p.lpips(255 * predicted, 255 * truth, data_range=255, batch=4)
    np.testing.assert_allclose(value, 4 * p.frame_mse(predicted, truth, data_range=1.0), rtol=1e-5)
    predicted[0, 0] = np.nan
    monkeypatch.setattr(Network, "forward", lambda self, a, b: (a - b).square().mean((1, 2, 3), keepdim=True))
    assert p.lpips(predicted, truth, data_range=1.0)[0, 0] == np.inf
    with pytest.raises(ValueError, match="1 or 3 channels"):
        p.lpips(np.zeros((1, 32, 32, 2)), np.zeros((1, 32, 32, 2)), data_range=1.0)
    p._perceptual_network.cache_clear()
