"""Pictures of coloured shapes are read right, what is none of the shapes is not named one, and scores tell what is."""

import numpy as np
import pytest
from scipy import ndimage

from wm_pipelines.metrics.scene_parser import Look, attributes_right, parse
from wm_pipelines.worlds.captioned_scenes import BACKGROUND, FILLS, RADII, draw_centres, draw_scenes, render
from wm_pipelines.worlds.parts.scene_grammar import COLOURS, SHAPES

LOOK = Look(BACKGROUND, FILLS, RADII)
PAIRS = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]


def scenes(count, seed=0, objects=(0.4, 0.3, 0.3)):
    rng = np.random.default_rng(seed)
    found = draw_scenes(rng, count, objects, PAIRS)
    return found, render(found, draw_centres(rng, found))


def disturbed(frames, noise=0.0, blur=0.0):
    pixels = ndimage.gaussian_filter(frames / 255, (0, blur, blur, 0))
    return np.clip(pixels + noise * np.random.default_rng(1).standard_normal(pixels.shape), 0, 1)


def share(found, wanted, name="exact_places"):
    return attributes_right(found, wanted)[name].mean()


def test_real_scenes_are_read_right():
    wanted, frames = scenes(1500)
    found = parse(frames, LOOK)
    right = attributes_right(found, wanted)
    assert {name: value.mean() >= 0.99 for name, value in right.items()} == dict.fromkeys(right, True)
    np.testing.assert_array_equal(parse(frames / 255, LOOK), found)


@pytest.mark.parametrize(("disturbance", "least"), [({"noise": 0.05}, 0.95), ({"blur": 0.5}, 0.95)])
def test_a_little_noise_and_blur_are_borne(disturbance, least):
    wanted, frames = scenes(400)
    assert share(parse(disturbed(frames, **disturbance), LOOK), wanted) >= least


def test_an_empty_picture_has_no_objects_nor_has_one_with_specks():
    empty = np.broadcast_to(np.array(BACKGROUND), (2, 32, 32, 3)).copy()
    empty[1, 4:7, 4:7] = FILLS[0]
    found = parse(empty, LOOK)
    assert found.shape == (2, 1, 4)
    assert (found == -1).all()


@pytest.mark.parametrize("kind", ["bar", "ring", "cross", "tip down"])
def test_what_is_none_of_the_shapes_is_not_called_one(kind):
    at = np.arange(32) + 0.5 - 8.0
    x, y = at[None, :], at[:, None]
    inside = {
        "bar": (abs(x) < 2) & (abs(y) < 6),
        "ring": (np.hypot(x, y) < 6) & (np.hypot(x, y) > 4),
        "cross": (np.minimum(abs(x), abs(y)) < 1.1) & (np.maximum(abs(x), abs(y)) < 6),
        "tip down": (2 * abs(x) + y < 6) & (y > -6),
    }[kind]
    frame = np.where(inside[..., None], np.array(FILLS[1]), np.array(BACKGROUND))[None]
    found = parse(frame, LOOK)
    assert found[0, 0].tolist()[1:] == [1, -1, 0]
    assert len(found[0]) == 1


def test_reading_a_picture_does_not_depend_on_the_others():
    wanted, frames = scenes(30)
    together = parse(frames, LOOK)
    for k in range(30):
        alone = parse(frames[k : k + 1], LOOK)[0]
        np.testing.assert_array_equal(alone[alone[:, 0] >= 0], together[k][together[k][:, 0] >= 0])
    del wanted


def test_attributes_are_counted_whatever_belongs_to_what():
    wanted = np.array([[[0, 1, 2, 0], [1, 3, 0, 3]]])
    cases = {
        "same": ([[1, 3, 0, 3], [0, 1, 2, 0]], set()),
        "swapped colours": ([[0, 3, 2, 0], [1, 1, 0, 3]], {"combination", "exact", "exact_places"}),
        "elsewhere": ([[0, 1, 2, 1], [1, 3, 0, 3]], {"place", "exact_places"}),
        "another shape": ([[0, 1, 1, 0], [1, 3, 0, 3]], {"shape", "combination", "exact", "exact_places"}),
        "no shape": ([[0, 1, -1, 0], [1, 3, 0, 3]], {"shape", "combination", "exact", "exact_places"}),
    }
    for name, (found, wrong) in cases.items():
        right = attributes_right(np.array([found]), wanted)
        assert {n for n, value in right.items() if not value[0]} == wrong, name
    for found in ([[0, 1, 2, 0]], [[0, 1, 2, 0], [1, 3, 0, 3], [1, 3, 0, 3]]):
        right = attributes_right(np.array([found]), wanted)
        assert not any(value[0] for value in right.values())
