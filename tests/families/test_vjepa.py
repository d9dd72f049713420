"""A video JEPA learns to predict features, sees no future, and leaks no gradient into its targets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.families.images import spec_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.vjepa import VJEPAConfig
from wm_pipelines.learning.checkpoints import CheckpointStore
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.loop import train
from wm_pipelines.registry import families

SIZE, ROWS = 16, 16
SPEC = spec_of(ROWS, SIZE, SIZE, 1, name="dot")
MASKED = {"predict": "masked", "clip": 8, "patch": 8, "width": 16, "depth": 2, "heads": 2}
MASKED |= {"predictor_width": 16, "predictor_depth": 1, "mask_block": (1, 1), "stem": (4, 8), "latent": 8}
ROLLOUT = {"predict": "rollout", "clip": 8, "widths": (8, 16), "latent": 8, "memory": 2, "hidden": 32, "rollout": 3}
BOTH = pytest.mark.parametrize("variant", [MASKED, ROLLOUT], ids=["masked", "rollout"])


def dots(episodes=32, seed=0):
    """A bright dot that runs round a circle at a speed of its own: ``[E, ROWS, SIZE, SIZE, 1]`` uint8."""
    g = torch.Generator().manual_seed(seed)
    start, speed = 6.3 * torch.rand(episodes, 1, generator=g), 0.3 + 0.3 * torch.rand(episodes, 1, generator=g)
    angle = start + speed * torch.arange(ROWS)
    y, x = (SIZE / 2 + 4.5 * f(angle)[..., None, None] for f in (torch.sin, torch.cos))
    far = (torch.arange(SIZE)[:, None] + 0.5 - y) ** 2 + (torch.arange(SIZE) + 0.5 - x) ** 2
    return (255 * torch.exp(-far / 4)).to(torch.uint8)[..., None]


def made(variant, seeds=(0,), steps=4, batch_size=8, **changes):
    schedule = {"steps": steps, "batch_size": batch_size, "learning_rate": 3e-3}
    return families.get("vjepa")(VJEPAConfig(**{"schedule": schedule, **variant, **changes}), SPEC, seeds)


def fitted(family, store=None, episodes=32, **learning):
    train(family, {"frames": dots(episodes)}, LearningConfig(progress=False, precision="32-true", **learning), store)
    return family


def jumbled(frames, start, seed=1):
    """The same up to a frame, noise from there on."""
    g = torch.Generator().manual_seed(seed)
    changed = frames.clone()
    changed[:, start:] = torch.randint(256, changed[:, start:].shape, generator=g, dtype=torch.uint8)
    return changed


# ---------------------------------------------------------------- nothing looks ahead


@pytest.mark.training
@BOTH
@pytest.mark.parametrize("anti_collapse", ["sigreg", "ema"])
def test_the_past_is_encoded_alike_whatever_comes(variant, anti_collapse):
    family = fitted(made(variant, anti_collapse=anti_collapse))
    frames, cut = dots(4), 10
    before, after = (family.encode({"frames": x}).pooled for x in (frames, jumbled(frames, cut)))
    known = cut // family.frames_per_latent
    torch.testing.assert_close(before[:, :, :known], after[:, :, :known], rtol=0, atol=1e-5)
    assert (before - after)[:, :, known:].abs().min(-1).values.max() > 1e-3


@BOTH
def test_a_prediction_comes_from_its_context_alone(variant):
    family = fitted(made(variant))
    frames, context = dots(4), family.context
    first = family.predict({"frames": frames[:, :context]}, 4)["latents"]
    more = torch.cat([jumbled(frames, 0)[:, :3], frames[:, :context]], 1)
    torch.testing.assert_close(first, family.predict({"frames": more}, 4)["latents"], rtol=0, atol=1e-6)
    assert (
        first - family.predict({"frames": jumbled(frames, context - 1)[:, :context]}, 4)["latents"]
    ).abs().max() > 1e-4


def test_hidden_pixels_change_no_token_of_the_context():
    member = made(MASKED).members[0]
    x = dots(4)[:, :8].float() / 255
    masks = member.masks(4, False, torch.Generator().manual_seed(3))
    hidden = torch.zeros(4, 16, dtype=torch.bool).scatter_(1, masks.targets, True).view(4, 4, 2, 2)
    shade = hidden.repeat_interleave(2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)[..., None]
    changed = torch.where(shade, torch.rand(x.shape, generator=torch.Generator().manual_seed(4)), x)
    assert torch.equal(member.encoder(x, masks.context), member.encoder(changed, masks.context))
    assert not torch.equal(member.encoder(x), member.encoder(changed))


def test_half_a_clip_alone_has_the_tokens_it_has_with_its_future():
    """Why one pass serves as context and as target where the second half is hidden."""
    encoder = made(MASKED).members[0].encoder.eval()
    x = dots(4)[:, :8].float() / 255
    torch.testing.assert_close(encoder(x)[:, :8], encoder(x[:, :4]), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- targets


@BOTH
def test_no_gradient_reaches_the_target_encoder(variant):
    family = made(variant, anti_collapse="ema")
    loss, _ = family.loss({"frames": dots(8)[None]}, 0.0)
    loss.sum().backward()
    member = family.members[0]
    assert all(p.grad is None and not p.requires_grad for p in member.target.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in member.encoder.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in member.predictor.parameters())


@BOTH
def test_without_a_target_encoder_both_sides_of_the_error_are_trained(variant):
    member = made(variant).members[0]
    x = dots(8)[:, :8].float() / 255
    terms, latents = member.loss(x, torch.Generator().manual_seed(0), 0.0)
    assert latents.requires_grad
    assert not any(isinstance(part, torch.nn.Module) and part is member.target for part in member.modules())
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in member.encoder.parameters())


@BOTH
def test_the_target_encoder_moves_by_tau_first_and_stands_still_last(variant):
    family = made(variant, anti_collapse="ema", steps=5, tau=0.75)
    member, moved = family.members[0], []
    for step in range(5):
        with torch.no_grad():
            for p in member.target.parameters():
                p.zero_()
            for p in member.encoder.parameters():
                p.fill_(1.0)
        family.after_step((step + 1) / 5)
        moved.append({round(float(v), 6) for p in member.target.parameters() for v in p.flatten()[:3]})
    assert moved[0] == {0.25}
    assert moved[-1] == {0.0}


# ---------------------------------------------------------------- predictions


@pytest.mark.training
@BOTH
@settings(max_examples=8, deadline=None)
@given(short=st.integers(1, 6), more=st.integers(0, 6))
def test_a_shorter_prediction_is_the_beginning_of_a_longer_one(variant, short, more):
    family = made(variant, seeds=(0, 1))
    stride, context = family.frames_per_latent, dots(3)[:, : family.context]
    near, far = (family.predict({"frames": context}, stride * n)["latents"] for n in (short, short + more))
    assert near.shape == (2, 3, short, family.encode({"frames": context}).pooled.shape[-1])
    torch.testing.assert_close(near, far[:, :, :short], rtol=0, atol=1e-6)


@pytest.mark.training
@BOTH
def test_training_makes_the_prediction_better_than_a_copy_of_the_last_latent(variant):
    """On a dot that runs round: two latent steps ahead, on episodes not trained on."""
    enough = {"predictor_width": 32, "predictor_depth": 2, "half_share": 0.8, "latent": 4, "sigreg_weight": 0.1}
    family = fitted(made(variant, steps=250, batch_size=16, **enough), episodes=64)
    frames, context, stride = dots(32, seed=9), family.context, family.frames_per_latent
    latents = family.encode({"frames": frames[:, : context + 2 * stride]}).pooled[0]
    predicted = family.predict({"frames": frames[:, :context]}, 2 * stride)["latents"][0, :, -1]
    error = (predicted - latents[:, -1]).square().mean()
    assert latents[:, -1].std(0).min() > 0.1  # not collapsed
    assert error < 0.3 * (latents[:, -3] - latents[:, -1]).square().mean()
    assert error < 0.5 * (latents.mean((0, 1)) - latents[:, -1]).square().mean()


def test_dynamics_start_as_nothing_changes():
    family = made(ROLLOUT)
    context = dots(3)[:, : family.context]
    torch.testing.assert_close(
        family.predict({"frames": context}, 3)["latents"],
        family.encode({"frames": context}).pooled[:, :, -1:].expand(-1, -1, 3, -1),
    )


def test_one_latent_per_whole_tubelet():
    encoding = made(MASKED).encode({"frames": dots(3)[:, :15]})
    assert encoding.pooled.shape == (1, 3, 7, 8)
    assert encoding.tokens.shape == (1, 3, 7, 4, 8)
    torch.testing.assert_close(encoding.pooled, encoding.tokens.mean(3))


# ---------------------------------------------------------------- training


@pytest.mark.training
@BOTH
@pytest.mark.parametrize("anti_collapse", ["sigreg", "ema"])
def test_a_training_goes_on_bit_by_bit_where_it_was_killed(variant, anti_collapse, tmp_path):
    whole = fitted(made(variant, steps=6, anti_collapse=anti_collapse), checkpoint_every=3)
    killed, store = made(variant, steps=6, anti_collapse=anti_collapse), CheckpointStore(tmp_path)

    def dies(progress, move=killed.after_step):
        if progress > 0.6:
            raise KeyboardInterrupt
        move(progress)

    killed.after_step = dies
    with pytest.raises(KeyboardInterrupt):
        fitted(killed, store, checkpoint_every=3)
    resumed = fitted(made(variant, steps=6, anti_collapse=anti_collapse), store, checkpoint_every=3)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.training
@BOTH
def test_a_seed_learns_the_same_alone_and_among_others(variant):
    alone, among = fitted(made(variant, (1,))), fitted(made(variant, (0, 1)))
    for (name, a), b in zip(alone.members[0].state_dict().items(), among.members[1].state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**MASKED, "tubelet": 3}, "multiple of 6"),
        ({**MASKED, "mask_ratio": 0.0}, "mask_ratio"),
        ({**MASKED, "mask_ratio": 1.0}, "mask_ratio"),
        ({**ROLLOUT, "rollout": 7}, "lengthen it"),
        ({**ROLLOUT, "unknown": 1}, "unknown"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        VJEPAConfig(**changes)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        (MASKED, {"clip": 20}, "20 frames do not fit into episodes of 16"),
        (ROLLOUT, {"clip": 17}, "17 frames do not fit into episodes of 16"),
        (MASKED, {"patch": 5}, "not a multiple of patch 5"),
        (ROLLOUT, {"widths": (4, 4, 4, 4, 4)}, "multiples of 32"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_one_line(variant, changes, message):
    with pytest.raises(UserError, match=message):
        made(variant, **changes)


def test_single_images_are_no_videos():
    family = families.get("vjepa")
    assert family.unsuitable(spec_of(1, 28, 28, 1, name="digits"), VJEPAConfig()) == "needs videos"
    assert family.unsuitable(SPEC, VJEPAConfig()) is None
