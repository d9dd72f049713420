"""Masks: counts, shares, uniform places, and what they cost."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.blocks.masks import random_masks, shade
from wm_pipelines.blocks.vit import patchify
from wm_pipelines.errors import UserError
from wm_pipelines.families.ijepa.masks import multi_block_masks
from wm_pipelines.families.vjepa.masks import spatiotemporal_masks, temporal_half_mask

SEED = st.integers(0, 2**31)
MULTI = {
    "random": lambda b, g: random_masks(b, 64, generator=g),
    "multi_block": lambda b, g: multi_block_masks(b, (8, 8), generator=g),
    "multi_block_14": lambda b, g: multi_block_masks(b, generator=g),
    "spatiotemporal": lambda b, g: spatiotemporal_masks(b, generator=g),
    "half": lambda b, g: temporal_half_mask(b),
}


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def chi_square(counts):
    """Excess of the chi-square statistic over its mean, in standard deviations."""
    counts = torch.as_tensor(counts, dtype=torch.float64).flatten()
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float(((counts - expected).square().sum() / expected - freedom) / (2 * freedom) ** 0.5)


def rises(rows):
    """Ascending, hence unique."""
    return bool((rows.diff(dim=-1) > 0).all())


@pytest.mark.parametrize("name", MULTI)
@settings(max_examples=15, deadline=None)
@given(seed=SEED, batch=st.integers(1, 9))
def test_rows_ascend_and_context_never_meets_targets(name, seed, batch):
    masks = MULTI[name](batch, draw(seed))
    assert masks.context.dtype == masks.targets.dtype == torch.int64
    assert len(masks.context) == len(masks.targets) == batch
    assert min(masks.context.shape[1], masks.targets.shape[-1]) > 0
    assert rises(masks.context)
    assert rises(masks.targets)
    for context, targets in zip(masks.context.tolist(), masks.targets.flatten(1).tolist(), strict=True):
        assert not set(context) & set(targets)
    again = MULTI[name](batch, draw(seed))
    assert torch.equal(again.context, masks.context)
    assert torch.equal(again.targets, masks.targets)


@pytest.mark.parametrize("name", [n for n in MULTI if n != "half"])
def test_examples_of_a_batch_and_batches_differ(name):
    generator = draw()
    first, second = MULTI[name](8, generator), MULTI[name](8, generator)
    assert len(first.context.unique(dim=0)) > 1
    assert first.context.shape != second.context.shape or not torch.equal(first.context, second.context)


# --------------------------------------------------------------------------------------------------------------- blocks


@settings(max_examples=30, deadline=None)
@given(SEED, st.integers(2, 24), st.sampled_from([(8, 8), (14, 14), (6, 12)]))
def test_multi_block_sizes_are_within_their_ranges(seed, batch, grid):
    masks = multi_block_masks(batch, grid, generator=draw(seed))
    assert masks.targets.shape[:2] == (batch, 4)
    y, x = masks.targets // grid[1], masks.targets % grid[1]
    tall, wide = ((z.amax(-1) - z.amin(-1) + 1).unique() for z in (y, x))
    assert len(tall) == len(wide) == 1
    tall, wide = int(tall), int(wide)
    assert masks.targets.shape[-1] == tall * wide
    tokens = grid[0] * grid[1]
    low, high = (s * tokens for s in (0.15, 0.2))
    assert (tall + 0.5) * (wide + 0.5) >= low
    assert (tall - 0.5) * (wide - 0.5) <= high
    assert masks.context.shape[1] >= 0.15 * tokens


def test_scale_and_aspect_of_targets_are_drawn_apart():
    generator = draw()
    found = []
    for _ in range(400):
        targets = multi_block_masks(1, (40, 40), generator=generator).targets[0, 0]
        tall = int((targets // 40).max() - (targets // 40).min()) + 1
        found.append((len(targets) / 1600, tall / (len(targets) / tall)))
    area, aspect = torch.tensor(found).T
    assert 0.14 < area.min() < 0.16 < 0.19 < area.max() < 0.21
    assert 0.7 < aspect.min() < 0.85 < 1.4 < aspect.max() < 1.6
    assert abs(float(torch.corrcoef(torch.stack((area, aspect)))[0, 1])) < 0.2


def test_multi_block_targets_reach_the_last_row_as_often_as_the_first():
    generator = draw()
    first = last = 0
    for _ in range(40):
        rows = multi_block_masks(64, (8, 8), generator=generator).targets // 8
        first += int((rows.amin(-1) == 0).sum())
        last += int((rows.amax(-1) == 7).sum())
    assert first > 500
    assert abs(first - last) < 5 * (first + last) ** 0.5


def test_context_that_is_too_large_is_thinned_everywhere():
    generator = draw()
    counts = torch.zeros(14, 14)
    for _ in range(30):
        context = multi_block_masks(64, generator=generator).context
        counts += torch.bincount(context.flatten(), minlength=196).view(14, 14)
    assert ((counts - counts.flip(0)).sum(1) / (counts + counts.flip(0)).sum(1)).abs().max() < 0.1


def test_targets_that_leave_no_context_are_refused():
    with pytest.raises(UserError, match="use fewer or smaller"):
        multi_block_masks(4, (8, 8), targets=4, scale=(0.9, 1.0), generator=draw())


# ---------------------------------------------------------------------------------------------------------------- video


@settings(max_examples=30, deadline=None)
@given(SEED, st.integers(1, 9), st.sampled_from([(8, 14, 14), (4, 8, 8), (3, 5, 6)]))
def test_two_fifths_of_a_video_stay_visible(seed, batch, grid):
    masks = spatiotemporal_masks(batch, grid, generator=draw(seed))
    tokens = grid[0] * grid[1] * grid[2]
    assert masks.context.shape[1] + masks.targets.shape[1] == tokens
    assert 0.35 < masks.context.shape[1] / tokens < 0.45
    frames = torch.zeros(batch, grid[0]).scatter_(1, masks.context // (grid[1] * grid[2]), 1.0)
    assert bool((frames.sum(1) >= 1).all())


@settings(max_examples=20, deadline=None)
@given(SEED, st.floats(0.05, 0.95), st.integers(1, 3), st.integers(1, 4))
def test_any_ratio_is_met_to_a_token(seed, ratio, span, block):
    masks = spatiotemporal_masks(2, (4, 6, 7), span, block, ratio, generator=draw(seed))
    assert masks.targets.shape[1] == round(ratio * 168)


def test_hidden_tokens_of_a_video_come_in_boxes():
    masks = spatiotemporal_masks(64, generator=draw())
    dark = torch.zeros(64, 8 * 196).scatter_(1, masks.targets, 1.0).view(64, 1, 8, 14, 14)
    whole = torch.nn.functional.avg_pool3d(dark, (3, 4, 4), 1) > 0.999
    covered = torch.nn.functional.conv_transpose3d(whole.float(), torch.ones(1, 1, 3, 4, 4)) > 0
    alone = (dark.bool() & ~covered).flatten(1).sum(1)
    assert alone.max() <= 48  # those of the last, partial box
    share = dark.mean((0, 1))
    for axis in range(3):  # no side is favoured
        assert ((share - share.flip(axis)).mean([a for a in range(3) if a != axis])).abs().max() < 0.08


def test_half_of_the_time_is_seen():
    masks = temporal_half_mask(2, (4, 2, 3))
    assert masks.context.tolist() == [list(range(12))] * 2
    assert masks.targets.tolist() == [list(range(12, 24))] * 2
    odd = temporal_half_mask(1, (3, 1, 2))
    assert (odd.context.tolist(), odd.targets.tolist()) == ([[0, 1]], [[2, 3, 4, 5]])
    with pytest.raises(UserError, match="at least 2"):
        temporal_half_mask(2, (1, 2, 3))


# --------------------------------------------------------------------------------------------------------------- ratios


@settings(max_examples=30, deadline=None)
@given(SEED, st.integers(4, 80), st.floats(0.2, 0.8))
def test_random_masks_hide_a_share(seed, tokens, ratio):
    masks = random_masks(5, tokens, ratio, generator=draw(seed))
    assert masks.targets.shape == (5, round(ratio * tokens))
    for context, targets in zip(masks.context.tolist(), masks.targets.tolist(), strict=True):
        assert sorted(context + targets) == list(range(tokens))


def test_random_masks_are_uniform():
    counts = torch.bincount(random_masks(8000, 25, 0.2, generator=draw()).targets.flatten(), minlength=25)
    assert chi_square(counts) < 4


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.2, 1.5, float("nan"), 0.001, 0.999])
def test_ratios_that_hide_nothing_or_all_are_refused(ratio):
    with pytest.raises(UserError, match="ratio"):
        random_masks(2, 64, ratio, generator=draw())
    with pytest.raises(UserError, match="ratio"):
        spatiotemporal_masks(2, (2, 4, 4), 1, 2, ratio, generator=draw())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g: multi_block_masks(2, scale=(0.3, 0.2), generator=g),
        lambda g: multi_block_masks(2, aspect=(0.0, 1.0), generator=g),
        lambda g: spatiotemporal_masks(2, (2, 14, 14), span=3, generator=g),
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError):
        wrong(draw())


@pytest.mark.parametrize("name", ["random", "multi_block"])
def test_masks_cost_milliseconds(name):
    """A training step of a small network on 256 images takes seconds; a step of masks must not be seen beside it."""
    generator, threads = draw(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(15):
            start = time.process_time()
            MULTI[name](256, generator)
            times.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(times) < 0.010  # about 1 to 4 ms on an idle core


def test_shade_greys_what_is_hidden_and_nothing_else():
    grid, video = (2, 4, 4), torch.rand(3, 4, 16, 16, 1, generator=torch.Generator().manual_seed(0))
    hidden = spatiotemporal_masks(
        3, grid, span=1, block=2, ratio=0.5, generator=torch.Generator().manual_seed(1)
    ).targets
    shaded = patchify(shade(video, hidden, grid), 4, 2)
    covered = torch.zeros(3, 32, dtype=torch.bool).scatter_(1, hidden, True)
    assert (shaded[covered] == 0.5).all()
    assert torch.equal(shaded[~covered], patchify(video, 4, 2)[~covered])
