"""Compact objects over a still background are tracked, drawn and moved."""

import math

import pytest
import torch

from tests.families.images import LEARNING, resumes, seeds_are_independent, spec_of, squares
from wm_pipelines.blocks.videos import to_pixels
from wm_pipelines.errors import UserError
from wm_pipelines.families.object_tracker import ObjectTracker, ObjectTrackerConfig
from wm_pipelines.families.object_tracker.drawing import compose, crop, paste
from wm_pipelines.families.object_tracker.tracking import track
from wm_pipelines.learning.loop import train

SIZE, CONTEXT, ROWS = 16, 3, 10
SMALL = {"objects": 1, "extent": 8, "context": CONTEXT, "horizon": 2, "width": 8, "memory": 16, "tracked": 16}
SMALL |= {"schedule": {"steps": 8, "batch_size": 4, "gradient_clip": 1.0}}


def built(seeds=(0,), size=SIZE, rows=ROWS, **changes):
    return ObjectTracker(ObjectTrackerConfig(**{**SMALL, **changes}), spec_of(rows, size, size, 1), seeds)


def shaken(family, scale=0.05, seed=0):
    """Every weight moved at random, so that nothing holds by the first weights alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += scale / max(1, parameter[0].numel()) ** 0.5 * torch.randn(parameter.shape, generator=generator)
    return family


def test_its_prior_is_declared():
    assert ObjectTracker.knows(ObjectTrackerConfig()) == {"compact_objects", "still_background"}
    turned = ObjectTrackerConfig(symmetries=("rows",))
    assert ObjectTracker.knows(turned) == {"compact_objects", "still_background", "symmetries"}


def test_drawing_and_cutting_out_are_transposes():
    generator = torch.Generator().manual_seed(0)
    image, frame = torch.rand(3, 2, 4, 4, generator=generator), torch.rand(3, 2, 12, 12, generator=generator)
    centres = torch.tensor([[5.5, 6.5], [3.2, 7.9], [0.4, 11.3]])
    drawn, cut = paste(image, centres, (12, 12)), crop(frame, centres, 4)
    torch.testing.assert_close((drawn * frame).sum((1, 2, 3)), (image * cut).sum((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_first_object_hides_the_second():
    layers = torch.zeros(2, 2, 1, 2)  # objects, (colour x cover, cover), one row, two pixels
    layers[0, :, 0, 0] = torch.tensor([0.3, 1.0])
    layers[1, :, 0, :] = torch.tensor([0.9, 1.0])[:, None]
    torch.testing.assert_close(compose(layers), torch.tensor([[[0.3, 0.9]]]))


def test_objects_are_tracked_to_a_fraction_of_a_pixel():
    time = torch.arange(8.0)
    truth = torch.stack(
        [torch.stack([10 + 2.3 * time, 12 + 0.4 * time], 1), torch.stack([36 - 2.1 * time, 24 + 1.7 * time], 1)], 1
    )
    at = torch.arange(48.0)
    y, x = truth[..., 0], truth[..., 1]
    near = (at[:, None] - y[..., None, None]) ** 2 + (at - x[..., None, None]) ** 2
    frames = (-near / 18).exp().sum(1)[None, :, None]
    found = track(frames, 2, 16)[0]
    apart = min(float((found - t).norm(dim=-1).max()) for t in (truth, truth.flip(1)))
    assert apart < 0.5


@pytest.mark.training
def test_objects_that_turn_back_are_tracked_through_every_turn():
    # Two discs of unlike size reflected by the walls, twenty frames: no path is anywhere near straight.
    generator = torch.Generator().manual_seed(0)
    speed, angle = 3.5, 2 * math.pi * torch.rand(16, 1, 2, 1, generator=generator)
    start = 72 * torch.rand(16, 1, 2, 2, generator=generator)
    way = start + speed * torch.arange(20.0)[:, None, None] * torch.cat([angle.cos(), angle.sin()], -1)
    positions = 14 + 36 * (1 - (way / 36 % 2 - 1).abs())  # a triangle wave: the unfolded path, folded back
    at = torch.cartesian_prod(torch.arange(64.0), torch.arange(64.0)).unflatten(0, (64, 64))
    apart = (positions[:, :, :, None, None] - at).norm(dim=-1)
    frames = ((torch.tensor([9.0, 6.0])[:, None, None] - apart).clamp(0, 1)).amax(2)[:, :, None]
    found = track(frames, 2, 24)
    # In one piece the mean is 3.5 pixels. Where one disc covers the other, none can tell where it is.
    assert (found - positions).norm(dim=-1).mean() < 1.0


@pytest.mark.training
def test_positions_turn_as_frames_do():
    frames = squares(4, size=24)
    family = built(size=24, symmetries=("rows", "columns", "transpose", "time"))
    family.examples({"frames": frames})
    member = family.members[0]
    positions = member.paths(to_pixels(frames[:1]).expand(32, -1, -1, -1, -1))
    turned = family._turned(positions, torch.Generator().manual_seed(0))
    drawn = torch.rand(4, 32, 1, 1, generator=torch.Generator().manual_seed(0)) < 0.5
    for video, (rows, columns, swap, time) in zip(turned, drawn.flatten(1).T.tolist(), strict=True):
        x = to_pixels(frames[:1])
        for flag, axis in ((rows, -2), (columns, -1)):
            x = x.flip(axis) if flag else x
        x = x.transpose(-1, -2) if swap else x
        x = x.flip(1) if time else x
        torch.testing.assert_close(member.paths(x)[0], video, rtol=0, atol=0.35)


@pytest.mark.training
def test_it_learns_to_move_a_square():
    schedule = {"steps": 120, "batch_size": 4, "learning_rate": 5e-3, "warmup": 5, "gradient_clip": 1.0}
    family = built(tracked=64, position_batch=32, on_positions=0.8, schedule=schedule)
    train(family, {"frames": squares(64)}, LEARNING)
    held_out = squares(24, seed=1)
    truth = to_pixels(held_out).movedim(2, -1)
    error = (
        (family.predict({"frames": held_out[:, :CONTEXT]}, 4)["frames"][0] - truth[:, CONTEXT : CONTEXT + 4])
        .square()
        .mean()
    )
    standing = (truth[:, CONTEXT - 1 : CONTEXT] - truth[:, CONTEXT : CONTEXT + 4]).square().mean()
    assert error < 0.5 * standing


def test_a_short_prediction_is_the_beginning_of_a_long_one():
    family, past = shaken(built()), {"frames": squares(3)[:, :CONTEXT]}
    short, long = family.predict(past, 2), family.predict(past, 5)
    torch.testing.assert_close(short["frames"], long["frames"][:, :, :2])
    torch.testing.assert_close(short["latents"], long["latents"][:, :, :2])
    assert long["frames"].shape == (1, 3, 5, SIZE, SIZE, 1)
    assert long["frames"].min() >= 0
    assert long["frames"].max() <= 1


def test_predicted_latents_are_the_encodings_of_predicted_frames():
    family, past = shaken(built()), squares(3)[:, :CONTEXT]
    found = family.predict({"frames": past}, 2)
    seen = torch.cat([past, (found["frames"][0] * 255).round().to(torch.uint8)], 1)
    encoded = family.encode({"frames": seen}).pooled[:, :, CONTEXT:]
    torch.testing.assert_close(encoded, found["latents"], rtol=0, atol=0.02)


@pytest.mark.training
def test_a_killed_training_resumes_to_the_same_bits(tmp_path):
    resumes(lambda: built((0, 3)), tmp_path, squares())


def test_a_seed_alone_equals_that_seed_among_others():
    seeds_are_independent(built, squares())


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match=r"episodes of 4 frames are shorter than context 3 \+ horizon 2 = 5"):
        train(built(), {"frames": squares(rows=4)}, LEARNING)
    with pytest.raises(UserError, match="at least 3 frames"):
        built(context=2)
    with pytest.raises(UserError, match="must be a multiple of 4, and frames of 18 x 18 of 8"):
        built(size=18)
    with pytest.raises(UserError, match="2 frames of context; it was trained on 3"):
        built().predict({"frames": squares()[:, :2]}, 1)
    assert ObjectTracker.unsuitable(spec_of(1, SIZE, SIZE, 1), ObjectTrackerConfig()) == "needs videos"
