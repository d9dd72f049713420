import io

import numpy as np
import pytest
from PIL import Image

from wm_pipelines.reporting.animation import animate, strip


def moving_square(count=20, size=32, offset=0):
    frames = np.full((count, size, size, 3), 255, dtype=np.uint8)
    for f in range(count):
        x = (f + offset) % (size - 6)
        frames[f, 10:16, x : x + 6] = (200, 30, 30)
    return frames


def decoded(animation):
    image = Image.open(io.BytesIO(animation.data))
    images = []
    for i in range(image.n_frames):
        image.seek(i)
        images.append(np.asarray(image.convert("RGB")).astype(int))
    return image, images


def test_images_come_back_in_order_and_unblurred():
    frames = {"truth": moving_square(), "mlp/default": moving_square(offset=9)}
    canvas = strip(frames)
    image, images = decoded(animate(frames))
    assert len(images) == 20
    for drawn, expected in zip(images, canvas, strict=True):
        assert np.abs(drawn - expected).mean() < 1.0
    assert image.info["duration"] == round(1000 / 12)


def test_the_colours_of_many_models_stay_apart():
    rng = np.random.default_rng(0)
    model_colours = rng.integers(0, 256, (20, 3)).astype(np.uint8)
    shades = np.repeat(rng.integers(0, 256, (1, 96, 96, 1)), 3, 3).astype(np.uint8)  # of edges, seldom the same
    frames = {}
    for k, colour in enumerate(model_colours):
        frames[str(k)] = np.repeat(shades, 6, 0)
        frames[str(k)][:, :12, :] = colour
    shown = np.asarray(Image.open(io.BytesIO(animate(frames).data)).convert("RGB")).reshape(-1, 3)
    for colour in model_colours:
        assert (shown == colour).all(1).sum() >= 12 * 96


def test_truth_comes_first_and_rows_wrap():
    white, black = (np.full((1, 64, 64, 3), v, dtype=np.uint8) for v in (255, 0))
    models = {f"m{i}/x": white for i in range(6)}
    canvas = strip({**models, "truth": black}, columns=4)
    assert canvas.shape[1] > canvas.shape[2] // 2
    panel = canvas[0, 50:150, 10:120]
    assert panel.max() == 0


def test_long_sequences_keep_their_speed_and_stay_within_the_budget():
    noise = np.random.default_rng(0).integers(0, 255, (100, 32, 32, 3), dtype=np.uint8)
    small = animate({"truth": noise}, frames_per_second=20.0, budget=60_000)
    assert len(small.data) <= 60_000
    image, images = decoded(small)
    assert 1 < len(images) < 100
    assert image.info["duration"] * len(images) == pytest.approx(5000, rel=0.1)


def test_same_frames_same_bytes():
    assert animate({"truth": moving_square()}) == animate({"truth": moving_square()})


def test_what_cannot_be_animated_is_refused():
    with pytest.raises(ValueError, match="no frames"):
        animate({})
    with pytest.raises(ValueError, match="alike in shape"):
        animate({"truth": moving_square(), "mlp/x": moving_square(size=16)})
    with pytest.raises(ValueError, match="exceeds"):
        animate({"truth": moving_square()}, budget=10)
