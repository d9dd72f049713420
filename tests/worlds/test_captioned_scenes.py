"""Scenes and sentences about them: exact both ways, seeded, with combinations that training never shows."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm_pipelines.episodes import read, write
from wm_pipelines.errors import UserError
from wm_pipelines.metrics.scene_parser import Look, attributes_right, parse
from wm_pipelines.worlds.captioned_scenes import (
    BACKGROUND,
    FILLS,
    RADII,
    SIDE,
    draw_centres,
    draw_scenes,
    held_out_pairs,
    render,
)
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts import scene_grammar as grammar
from wm_pipelines.worlds.parts.moving_scenes import changing, drifting
from wm_pipelines.worlds.parts.scene_grammar import COLOURS, PLACES, SHAPES, SIZES, Thing

PAIRS = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]
FEW = {"train": 120, "validation": 30, "test": 30, "held_out": 40}


def made(seed=0, **parameters):
    return ingest(WorldConfig(world="captioned_scenes", seed=seed, parameters={**FEW, "moving": 0, **parameters}))


@pytest.fixture(scope="module")
def splits():
    return made()


def things():
    attributes = st.tuples(*(st.integers(0, len(values) - 1) for values in (SIZES, COLOURS, SHAPES, PLACES)))
    return attributes.map(lambda numbers: Thing(*numbers))


def scenes():
    return st.lists(things(), min_size=1, max_size=4, unique_by=lambda thing: thing.place)


def drawn(count, seed=0, objects=(0.4, 0.3, 0.3)):
    rng = np.random.default_rng(seed)
    found = draw_scenes(rng, count, objects, PAIRS)
    return found, draw_centres(rng, found)


# ---------------------------------------------------------------- the grammar


@given(scenes())
def test_a_caption_is_read_back_exactly_and_does_not_depend_on_the_order_of_objects(scene):
    in_order = tuple(sorted(scene, key=lambda thing: thing.place))
    text = grammar.caption(scene)
    assert grammar.scene(text) == in_order
    assert grammar.caption(in_order) == text


def test_different_scenes_have_different_captions():
    every = [(Thing(a, b, c, d),) for a in range(2) for b in range(5) for c in range(3) for d in range(4)]
    pairs = [one + two for one in every[:40] for two in every if one[0].place < two[0].place]
    assert len({grammar.caption(scene) for scene in every + pairs}) == len(every) + len(pairs)


def test_relations_are_those_of_the_places():
    three = [Thing(0, 0, 0, 0), Thing(1, 1, 1, 1), Thing(0, 2, 2, 2)]
    assert grammar.caption(three) == (
        "a small red circle at the top left, left of a large blue square at the top right, "
        "above and right of a small amber triangle at the bottom left"
    )
    assert grammar.relation(0, 2) == grammar.relation(1, 3) == "above"
    assert grammar.relation(0, 3) == "above and left of"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle at the top left",
        "a small red circle at the top left.",
        "left of a small red circle at the top left",
        "a small red circle at the top left, a small red circle at the top right",
        "a small red circle at the top left, above a small red circle at the top right",
        "a small red circle at the top right, left of a small red circle at the top left",
        "a small red circle at the top left, left of a small red circle at the top left",
    ],
)
def test_other_sentences_are_refused(text):
    with pytest.raises(ValueError, match=r"no caption|contradict"):
        grammar.scene(text)


def test_arrays_of_scenes_are_read_back():
    found, _ = drawn(200)
    np.testing.assert_array_equal(grammar.scenes(grammar.captions(found).tolist()), found)


def test_impossible_scenes_have_no_caption():
    with pytest.raises(ValueError, match="without objects"):
        grammar.caption([])
    with pytest.raises(ValueError, match="share a place"):
        grammar.caption([Thing(0, 0, 0, 1), Thing(1, 0, 0, 1)])


# ---------------------------------------------------------------- combinations that are kept out


@pytest.mark.parametrize("share", [0.0, 0.07, 0.2, 1 / 3, 0.5, 0.69])
def test_every_colour_and_every_shape_remains(share):
    for seed in range(5):
        out = held_out_pairs(share, seed)
        assert len(set(out)) == len(out) == round(share * 15)
        left = [pair for pair in PAIRS if pair not in out]
        assert {c for c, _ in left} == set(range(5))
        assert {s for _, s in left} == set(range(3))


def test_the_seed_decides_which():
    assert len({tuple(held_out_pairs(0.2, seed)) for seed in range(10)}) > 3


def test_held_out_scenes_show_kept_out_combinations_alone_and_no_other_split_shows_one(splits):
    kept_out = set(splits["train"].metadata["held_out"])
    assert len(kept_out) == 3
    for name, episodes in splits.items():
        shown = {
            f"{COLOURS[thing.colour]} {SHAPES[thing.shape]}"
            for text in episodes["captions"].tolist()
            for thing in grammar.scene(text)
        }
        assert shown <= kept_out if name == "held_out" else not shown & kept_out


def test_without_a_share_nothing_is_kept_out():
    found = made(held_out_share=0.0)
    assert set(found) == {"train", "validation", "test"}
    assert found["train"].metadata["held_out"] == []


# ---------------------------------------------------------------- scenes and pictures


def test_shares_of_the_numbers_of_objects():
    found, _ = drawn(3000, objects=(0.5, 0.3, 0.2))
    number = np.bincount((found[..., 0] >= 0).sum(1), minlength=4) / 3000
    np.testing.assert_allclose(number, [0.0, 0.5, 0.3, 0.2], atol=0.035)  # four standard errors


def test_every_value_of_an_attribute_occurs_alike():
    found, _ = drawn(3000)
    there = found[found[..., 0] >= 0]
    for column, values in enumerate((SIZES, COLOURS, SHAPES, PLACES)):
        share = np.bincount(there[:, column], minlength=len(values)) / len(there)
        np.testing.assert_allclose(share, 1 / len(values), atol=4 * 0.5 / len(there) ** 0.5)


def test_objects_are_in_the_order_of_their_places_and_share_none():
    found, _ = drawn(500)
    places = np.where(found[..., 0] >= 0, found[..., 3], 100 + np.arange(3))
    assert (np.diff(places, axis=1) > 0).all()


def test_objects_stay_in_their_quarters_and_never_touch():
    """Nothing is painted outside, and along the edges of the quarter at most the faint end of a triangle's tip."""
    found, centres = drawn(400, objects=(1.0,))
    frames = render(found, centres)
    apart = abs(frames / 255 - np.rint(255 * np.array(BACKGROUND)) / 255).max(-1)
    full = abs(np.array(FILLS) - np.array(BACKGROUND)).max(-1)
    half = SIDE // 2
    for frame, scene in zip(apart, found, strict=True):
        row, column = divmod(int(scene[0, 3]), 2)
        quarter = frame[half * row : half * row + half, half * column : half * column + half]
        assert quarter.max() > 0.99 * full[scene[0, 1]]
        assert (frame > 0).sum() == (quarter > 0).sum()
        edge = quarter.copy()
        edge[1:-1, 1:-1] = 0
        assert edge.max() < 0.35 * full[scene[0, 1]]


@pytest.mark.parametrize(("shape", "area"), [(0, np.pi), (1, np.pi), (2, 2.0)])
def test_areas_and_colours_are_those_of_the_shapes(shape, area):
    count = 40
    found = np.tile([[1, 0, shape, 3]], (count, 1, 1))
    found[::2, 0, 0] = 0
    found[:, 0, 1] = np.arange(count) % len(COLOURS)
    frames = render(found, draw_centres(np.random.default_rng(0), found)) / 255
    towards = np.array(FILLS)[found[:, 0, 1]] - np.array(BACKGROUND)
    apart = (frames - np.array(BACKGROUND)).reshape(count, -1, 3)
    covered = (apart * towards[:, None]).sum((1, 2)) / (towards**2).sum(1)
    wanted = area * np.array(RADII)[found[:, 0, 0]] ** 2
    np.testing.assert_allclose(covered, wanted, rtol=0.07)  # edges are half covered on average, corners a little more


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(splits, tmp_path):
    again, other = made(), made(seed=1)
    for name, episodes in splits.items():
        assert again[name].content_hash == episodes.content_hash != other[name].content_hash
        for copy, one in enumerate((episodes, again[name])):
            write(tmp_path / f"{name}{copy}.arrow", one)
        assert (tmp_path / f"{name}0.arrow").read_bytes() == (tmp_path / f"{name}1.arrow").read_bytes()
        np.testing.assert_array_equal(read(tmp_path / f"{name}0.arrow")["captions"], episodes["captions"])


def test_splits_have_one_frame_and_one_caption_per_episode(splits):
    assert {name: len(episodes) for name, episodes in splits.items()} == FEW
    for episodes in splits.values():
        assert episodes["frames"].shape[1:] == (1, SIDE, SIDE, 3)
        assert episodes.spec.views["captions"].kind == "text"
        assert episodes.spec.rows == 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"objects": [0.5, 0.3, 0.1]}, "add up to 1"),
        ({"objects": [1.2, -0.1, -0.1]}, "add up to 1"),
        ({"held_out_share": 0.7}, "held_out_share"),
        ({"train": 0}, "train"),
    ],
)
def test_parameters_that_cannot_be_are_refused(parameters, message):
    with pytest.raises(UserError, match=message):
        made(**parameters)


# ---------------------------------------------------------------- clips


def moved(a, b):
    """By which of the objects of two scenes, as sets, they differ."""
    return {tuple(x) for x in a.tolist() if x[0] >= 0} ^ {tuple(x) for x in b.tolist() if x[0] >= 0}


def test_clips_change_one_object_at_a_time_and_as_often_as_told():
    rng = np.random.default_rng(0)
    allowed = PAIRS[:9]
    objects = (0.5, 0.3, 0.2)
    first = draw_scenes(rng, 60, objects, allowed)
    clips = changing(rng, first, 100, 0.1, allowed, objects)
    np.testing.assert_array_equal(clips[:, 0], first)
    changed = 0
    for clip in clips:
        for before, after in pairwise(clip):
            apart = moved(before, after)
            changed += bool(apart)
            assert len(apart) <= 2
            there = after[after[:, 0] >= 0]
            assert len(there) >= 1
            assert len(set(there[:, 3].tolist())) == len(there)  # each in a quarter of its own
            assert {(c, s) for _, c, s, _ in there.tolist()} <= set(allowed)
    assert changed / (60 * 99) == pytest.approx(0.1, abs=3 * (0.09 / (60 * 99)) ** 0.5)


def test_clips_have_as_many_objects_as_still_scenes_have():
    objects, rng = (0.6, 0.3, 0.1), np.random.default_rng(1)
    clips = changing(rng, draw_scenes(rng, 200, (0.0, 0.0, 1.0), PAIRS), 200, 1.0, PAIRS, objects)
    number = (clips[:, 50:, :, 0] >= 0).sum(2)  # after a while, wherever they began
    np.testing.assert_allclose(np.bincount(number.ravel(), minlength=4)[1:] / number.size, objects, atol=0.02)


def test_drift_stays_within_the_room_and_is_slow():
    offsets = drifting(np.random.default_rng(0), (30, 200, 3))
    assert np.abs(offsets).max() <= 1.0
    steps = np.diff(offsets, axis=1)
    assert 0.1 < steps.std() < 0.16
    assert np.abs(offsets.mean()) < 0.1
    assert offsets.std() == pytest.approx(3**-0.5, abs=0.05)  # uniform in the long run


def test_every_frame_of_a_clip_shows_its_caption(tmp_path):
    clips = made(moving=6, moving_frames=20, change=0.3)["moving"]
    assert clips["frames"].shape == (6, 20, SIDE, SIDE, 3)
    read_off = parse(clips["frames"].reshape(-1, SIDE, SIDE, 3) / 255.0, Look(BACKGROUND, FILLS, RADII))
    said = grammar.scenes(clips["captions"].ravel().tolist())
    assert attributes_right(read_off, said)["exact_places"].all()
    write(tmp_path / "moving.arrow", clips)
    assert read(tmp_path / "moving.arrow").content_hash == clips.content_hash


def test_clips_leave_all_other_splits_as_they_were(splits):
    clips = made(moving=4)
    assert set(clips) == {*splits, "moving"}
    for name, part in splits.items():
        assert part.content_hash == clips[name].content_hash
