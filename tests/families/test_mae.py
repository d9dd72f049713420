"""Hidden patches are painted from visible ones; only they count."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.images import IMAGES, LEARNING, VIDEO, blobs, moving_dots, resumes, seeds_are_independent
from wm_pipelines.blocks.masks import Masks
from wm_pipelines.blocks.transformer import take
from wm_pipelines.blocks.vit import patchify
from wm_pipelines.errors import UserError
from wm_pipelines.families.mae import MAE, MAEConfig
from wm_pipelines.learning.loop import train

SCHEDULE = {"steps": 12, "batch_size": 8, "learning_rate": 3e-3, "warmup": 2}
SMALL = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "patch": 7, "schedule": SCHEDULE}
CLIPS = {"patch": 4, "tubelet": 2, "clip": 8, "context": 4}


def model(seeds=(0,), spec=IMAGES, **changes):
    return MAE(MAEConfig.model_validate({**SMALL, **(CLIPS if spec.rows > 1 else {}), **changes}), spec, seeds)


def fixed(family, masks):
    family._masks = lambda grid, batch, generator: masks
    return family


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_only_hidden_patches_count(seed):
    """The loss by what is wanted at a token is zero where the token is seen and not where it is hidden."""
    draw = torch.Generator().manual_seed(seed)
    family = model()
    order = torch.rand(2, 16, generator=draw).argsort(1)
    masks = Masks(order[:, :4].sort(1).values, order[:, 4:].sort(1).values)
    fixed(family, masks)
    wanted = torch.rand(2, 16, 49, generator=draw, requires_grad=True)
    family._targets = lambda x: wanted
    loss, _ = family.member_loss(family.members[0], {"frames": blobs(2)[0]}, draw, 0.0)
    loss.backward()
    size = wanted.grad.square().sum(-1)
    assert size.gather(1, masks.context).max() == 0
    assert size.gather(1, masks.targets).min() > 0


def test_the_loss_is_the_error_of_pixels_in_units_of_their_patch():
    family = model()
    member, frames = family.members[0], blobs(3)[0]
    masks = Masks(torch.arange(4).expand(3, -1), torch.arange(4, 16).expand(3, -1))
    loss, _ = fixed(family, masks).member_loss(member, {"frames": frames}, torch.Generator().manual_seed(0), 0.0)
    x = frames.float() / 255
    pixels = take(patchify(x, 7), masks.targets)
    normalised = (pixels - pixels.mean(-1, keepdim=True)) / (pixels.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(loss, (member.paint(x, masks) - normalised).square().mean())


def test_hidden_pixels_do_not_change_what_is_painted():
    family = model(spec=VIDEO)
    member = family.members[0]
    grid = member.encoder.grid
    masks = family._future(grid, 2)
    x = torch.rand(2, 8, 16, 16, 1)
    other = x.clone()
    other[:, 4:] = torch.rand(2, 4, 16, 16, 1)
    assert torch.equal(member.paint(x, masks), member.paint(other, masks))
    other[:, 0] = 0.0
    assert not torch.equal(member.paint(x, masks), member.paint(other, masks))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_tubes_are_hidden_at_all_times(seed):
    family = model(spec=VIDEO, future_share=0.0)
    time, height, width = grid = family.members[0].encoder.grid
    context, targets = family._masks(grid, 3, torch.Generator().manual_seed(seed))
    per_time = height * width
    for b in range(3):
        assert sorted(torch.cat([context[b], targets[b]]).tolist()) == list(range(time * per_time))
        hidden = [{int(i) % per_time for i in targets[b] if int(i) // per_time == t} for t in range(time)]
        assert all(patches == hidden[0] for patches in hidden)
        assert len(hidden[0]) == round(family.config.mask_ratio * per_time)


def test_both_kinds_of_masks_are_drawn():
    family = model(spec=VIDEO)
    grid = family.members[0].encoder.grid
    kinds = [family._masks(grid, 1, torch.Generator().manual_seed(k)).context.shape[1] for k in range(40)]
    assert 8 < kinds.count(2 * 16) < 32  # half of the clip is seen; of tubes a quarter


@pytest.mark.parametrize("normalise", [True, False])
def test_what_is_wanted_can_be_painted(normalise):
    """Targets put in the decoder's place give back the frames."""
    family = model(spec=VIDEO, normalise=normalise)
    grid = family.members[0].encoder.grid
    frames = moving_dots(2, rows=8)[0].float() / 255
    torch.testing.assert_close(family._frames(family._targets(frames), grid), frames, rtol=0, atol=1e-4)


@pytest.mark.training
@pytest.mark.parametrize("normalise", [True, False])
def test_a_video_is_predicted_better_after_training(normalise):
    frames, _ = moving_dots(64)
    held, _ = moving_dots(16, seed=1)
    errors = []
    schedule = {**SCHEDULE, "steps": 60, "batch_size": 16, "learning_rate": 5e-3}
    family = model(spec=VIDEO, normalise=normalise, schedule=schedule, width=32, decoder_width=32)
    for trained in (False, True):
        if trained:
            train(family, {"frames": frames}, LEARNING)
        future = family.predict({"frames": held[:, :4]}, 6)
        errors.append(float((future["frames"][0] - held[:, 4:10].float() / 255).square().mean()))
    assert errors[1] < 0.8 * errors[0]


@given(st.integers(0, 5))
@settings(max_examples=6, deadline=None)
def test_any_number_of_steps_is_predicted_and_begins_like_fewer(pairs):
    family = model(spec=VIDEO)
    context = moving_dots(2)[0][:, :6]
    longest = family.predict({"frames": context}, 12)
    assert longest["latents"].shape == (1, 2, 6, 16)
    assert longest["frames"].min() >= 0
    assert longest["frames"].max() <= 1
    if pairs:
        few = family.predict({"frames": context}, 2 * pairs)
        torch.testing.assert_close(few["frames"], longest["frames"][:, :, : 2 * pairs], rtol=0, atol=0)
        assert few["latents"].shape == (1, 2, pairs, 16)


def test_only_the_last_frames_of_a_context_matter():
    family = model(spec=VIDEO)
    context = moving_dots(2)[0][:, :8]
    other = context.clone()
    other[:, :4] = 0
    assert torch.equal(family.predict({"frames": context}, 4)["frames"], family.predict({"frames": other}, 4)["frames"])


def test_clips_are_encoded_on_their_own_and_spare_frames_left_out():
    family = model(spec=VIDEO)
    frames = moving_dots(2, rows=13)[0]
    whole = family.encode({"frames": frames}).pooled
    assert whole.shape == (1, 2, 6, 16)
    torch.testing.assert_close(whole[:, :, :4], family.encode({"frames": frames[:, :8]}).pooled)
    torch.testing.assert_close(whole[:, :, 4:], family.encode({"frames": frames[:, 8:12]}).pooled)


def test_images_have_no_future():
    future = model().predict({"frames": blobs(2)[0]}, 3)
    assert future == {}


@pytest.mark.training
def test_training_lowers_the_error_on_images_not_seen():
    family = model(
        schedule={**SCHEDULE, "steps": 80, "batch_size": 16, "learning_rate": 5e-3}, width=32, normalise=False
    )
    held = blobs(64, seed=5, noise=0.0)[0]

    def error():
        with torch.no_grad():
            return float(
                family.member_loss(family.members[0], {"frames": held}, torch.Generator().manual_seed(0), 0.0)[0]
            )

    before = error()
    train(family, {"frames": blobs(128, noise=0.0)[0]}, LEARNING)
    assert error() < 0.7 * before


@pytest.mark.training
def test_a_killed_training_resumes_to_the_same_bits(tmp_path):
    resumes(lambda: model((0, 3)), tmp_path)


@pytest.mark.training
def test_a_killed_training_on_videos_resumes_to_the_same_bits(tmp_path):
    resumes(lambda: model((0,), VIDEO), tmp_path, moving_dots(12)[0])


@pytest.mark.training
def test_a_seed_alone_equals_that_seed_among_others():
    seeds_are_independent(model)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_ratio_of_nothing_or_all_is_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        MAEConfig(mask_ratio=ratio)


def test_sizes_that_do_not_fit_are_one_line():
    with pytest.raises(UserError, match="not a multiple of patch 5"):
        model(patch=5)
    with pytest.raises(UserError, match="longer than an episode"):
        model(spec=VIDEO, clip=16)
    with pytest.raises(ValueError, match="multiples of tubelet"):
        MAEConfig(tubelet=3)
    with pytest.raises(UserError, match="predicts from 4 frames, got 2"):
        model(spec=VIDEO).predict({"frames": moving_dots(1)[0][:, :2]}, 4)
