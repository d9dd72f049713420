"""Features of what is hidden are predicted from what is seen, and nothing of the hidden leaks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.images import (
    ANYWHERE,
    IMAGES,
    LEARNING,
    VIDEO,
    blobs,
    resumes,
    seeds_are_independent,
    separates,
    spec_of,
)
from wm_pipelines.blocks.masks import random_masks
from wm_pipelines.errors import UserError
from wm_pipelines.families.ijepa import IJEPA, IJEPAConfig
from wm_pipelines.families.ijepa.masks import multi_block_masks
from wm_pipelines.learning.loop import train

SMALL = {"width": 16, "heads": 2, "predictor_width": 8, "projector": (16, 8)}
SCHEDULE = {"steps": 12, "batch_size": 8, "learning_rate": 3e-3, "warmup": 2}
VARIANTS = {
    "ema": {"predict": "blocks", "anti_collapse": "ema", "patch": 4, "depth": 2},
    "blocks_sigreg": {"predict": "blocks", "anti_collapse": "sigreg", "patch": 7, "depth": 1, "error": "l2"},
    "sigreg": {"predict": "view", "anti_collapse": "sigreg", "stem": (8, 8), "depth": 1, "error": "l2"},
    "vicreg": {"predict": "view", "anti_collapse": "vicreg", "patch": 7, "depth": 1, "error": "l2"},
}


def model(variant, seeds=(0,), spec=IMAGES, **changes):
    config = IJEPAConfig.model_validate({**SMALL, "schedule": SCHEDULE, **VARIANTS[variant], **changes})
    return IJEPA(config, spec, seeds)


def pixels_of(tokens, family):
    """Which pixels belong to the tokens ``[B, K]``: ``[B, 1, H, W, 1]``."""
    _, height, width = family.members[0].encoder.grid
    chosen = torch.zeros(len(tokens), height * width).scatter_(1, tokens, 1.0).view(-1, 1, height, width)
    return torch.nn.functional.interpolate(chosen, (28, 28)).permute(0, 2, 3, 1)[:, None]


@pytest.mark.parametrize("variant", ["ema", "sigreg", "vicreg"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_hidden_pixels_do_not_change_what_the_context_says(variant, seed):
    family = model(variant)
    encoder = family.members[0].encoder.eval()
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 1, 28, 28, 1, generator=draw)
    keep = random_masks(3, encoder.tokens, 0.5, generator=draw).context
    seen = pixels_of(keep, family)
    other = torch.where(seen > 0, x, torch.rand(x.shape, generator=draw))
    torch.testing.assert_close(encoder(other, keep), encoder(x, keep), rtol=0, atol=0)
    changed = torch.where(seen > 0, torch.rand(x.shape, generator=draw), x)
    assert not torch.allclose(encoder(changed, keep), encoder(x, keep))


def test_predictions_do_not_see_the_targets_pixels():
    """Through masks, encoder and predictor: the gradient of a prediction by hidden pixels is exactly zero."""
    family = model("ema")
    member = family.members[0]
    masks = multi_block_masks(4, member.encoder.grid[1:], generator=torch.Generator().manual_seed(1))
    x = torch.rand(4, 1, 28, 28, 1, requires_grad=True)
    member.predictor(member.encoder(x, masks.context), masks.context, masks.targets).square().sum().backward()
    seen = pixels_of(masks.context, family)
    assert x.grad[seen.expand_as(x) == 0].abs().max() == 0
    assert x.grad[seen.expand_as(x) > 0].abs().max() > 0


def test_the_target_gets_no_gradient_and_the_context_encoder_does():
    family = model("ema")
    member = family.members[0]
    loss, _ = family.loss({"frames": blobs(8)[0][None]}, 0.0)
    loss.sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in member.target.parameters())
    assert all(p.grad is not None for p in member.encoder.parameters())


def test_the_target_lags_behind():
    family = model("ema", tau=0.9)
    member = family.members[0]
    before = [p.clone() for p in member.target.parameters()]
    with torch.no_grad():
        for p in member.encoder.parameters():
            p.add_(1.0)
    family.after_step(1 / SCHEDULE["steps"])
    for old, new in zip(before, member.target.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(old, 0.1), rtol=0, atol=1e-5)


def test_drift_is_watched():
    family = model("ema")
    family.examples({"frames": blobs(16)[0]})
    assert float(family.monitor()["target_drift"]) == 0
    with torch.no_grad():
        for p in family.members[0].encoder.parameters():
            p.mul_(2.0)
    assert float(family.monitor()["target_drift"]) == pytest.approx(0.5)
    assert "target_drift" not in model("sigreg").config.model_fields_set


def test_the_paper_loss_is_the_error_to_normalised_targets():
    """With a context encoder that equals the target, the loss is what one computes from its parts."""
    family = model("ema", error="l2")
    member, frames = family.members[0], blobs(4)[0]
    draw = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    loss, _ = family.member_loss(member, {"frames": frames}, draw(), 0.0)
    generator = draw()
    torch.randint(1, (4, 1), generator=generator)  # the frame that is looked at
    masks = multi_block_masks(4, member.encoder.grid[1:], generator=generator)
    x = frames.float() / 255
    tokens = member.encoder(x)
    spread = tokens.var(-1, keepdim=True, unbiased=False)
    wanted = (tokens - tokens.mean(-1, keepdim=True)) / (spread + 1e-5).sqrt()
    predicted = member.predictor(member.encoder(x, masks.context), masks.context, masks.targets)
    each = torch.stack([wanted[b, masks.targets[b]] for b in range(4)])
    torch.testing.assert_close(loss, (predicted - each).square().mean())


def test_the_judged_weights_are_those_asked_for():
    family, frames = model("ema"), blobs(4)[0]
    with torch.no_grad():
        family.members[0].encoder.embed.weight.mul_(-1.0)
    target = family.encode({"frames": frames}).pooled
    family.config.evaluate = "context"
    assert not torch.allclose(target, family.encode({"frames": frames}).pooled)


@pytest.mark.training
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_training_resumes_to_the_same_bits(tmp_path, variant):
    resumes(lambda: model(variant, (0, 3)), tmp_path)


@pytest.mark.training
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_seed_alone_equals_that_seed_among_others(variant):
    seeds_are_independent(lambda seeds: model(variant, seeds))


@pytest.mark.training
@pytest.mark.parametrize("variant", ["sigreg", "vicreg"])
def test_training_makes_features_that_say_more(variant):
    schedule = {"steps": 60, "batch_size": 32, "learning_rate": 5e-3, "warmup": 5}
    changes = {"stem": (8, 8, 16), "depth": 0, "mask_ratio": 0.25, "augment": ANYWHERE, "schedule": schedule}
    before, after = separates(lambda: model(variant, **changes), noise=0.8)
    assert after > before + 0.05


@pytest.mark.training
def test_without_a_regulariser_features_collapse_and_the_monitors_show_it():
    schedule = {"steps": 30, "batch_size": 32, "learning_rate": 1e-2, "warmup": 5}
    stds = {}
    for weight in (0.0, 0.05):
        family = model("sigreg", sigreg_weight=weight, stem=(8, 8, 16), depth=0, schedule=schedule)
        run = train(family, {"frames": blobs(96)[0]}, LEARNING)
        with torch.no_grad():
            features = family.members[0].projector.eval()(family.encode({"frames": blobs(96)[0]}).pooled[0, :, 0])
        stds[weight] = float(features.std(0).mean())
        assert all(math.isfinite(row["effective_rank"]) for row in run.curve)
    assert stds[0.0] < 0.2 * stds[0.05]


def test_frames_of_videos_are_seen_one_by_one():
    family, frames = model("sigreg", spec=VIDEO), torch.randint(256, (2, 6, 16, 16, 1), dtype=torch.uint8)
    encoding = family.encode({"frames": frames})
    alone = family.encode({"frames": frames[:, 3:4]}).pooled
    torch.testing.assert_close(encoding.pooled[:, :, 3:4], alone, rtol=1e-5, atol=1e-6)
    assert encoding.tokens.shape[:4] == (1, 2, 6, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"patch": 5}, "28 is not a multiple of patch 5"), ({"heads": 3}, "width 16 is not a multiple of heads 3")],
)
def test_sizes_that_do_not_fit_are_one_line(changes, words):
    with pytest.raises(UserError, match=words) as error:
        model("ema", **changes)
    assert "\n" not in str(error.value)


def test_a_stem_too_deep_is_one_line():
    with pytest.raises(UserError, match="use fewer convolutional widths"):
        model("sigreg", stem=(8, 8, 8), spec=spec_of(1, 8, 8, 1, name="tiny"))


def test_a_slow_target_goes_with_blocks():
    with pytest.raises(ValueError, match="predict: view needs"):
        IJEPAConfig(predict="view", anti_collapse="ema")
