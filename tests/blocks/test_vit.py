"""Vision transformers: pixels to tokens and back, positions, and who sees whom."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wm_pipelines.blocks.masks import random_masks
from wm_pipelines.blocks.transformer import Attention, Trunk, axis_angles, rotate, take
from wm_pipelines.blocks.vit import Predictor, VisionTransformer, patchify, token_grid
from wm_pipelines.errors import UserError
from wm_pipelines.families.ijepa.masks import multi_block_masks
from wm_pipelines.families.mae.clips import encode_in_chunks, unpatchify
from wm_pipelines.families.vjepa.masks import spatiotemporal_masks

SMALL = {"width": 24, "depth": 2, "heads": 2}
POSITIONS = pytest.mark.parametrize("positions", ["sincos", "rope"])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def clips(*shape, seed=0):
    return torch.rand(*shape, generator=draw(seed))


def video_encoder(**options):
    return VisionTransformer((16, 24), 8, frames=8, tubelet=2, **{**SMALL, **options})


def spread(module):
    """Weights large enough for attention to matter."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1 / math.sqrt(parameter.shape[-1]))
    return module


# --------------------------------------------------------------------------------------------------------------- pixels


@settings(max_examples=30, deadline=None)
@given(*[st.integers(1, 3)] * 7)
def test_patches_go_back_where_they_came_from(batch, t, h, w, patch, tubelet, channels):
    video = torch.randn(batch, t * tubelet, h * patch, w * patch, channels)
    patches = patchify(video, patch, tubelet)
    assert patches.shape == (batch, t * h * w, tubelet * patch * patch * channels)
    assert torch.equal(unpatchify(patches, (t, h, w), patch, tubelet), video)


def test_a_row_of_patchify_is_the_pixels_of_its_token():
    video = clips(2, 4, 6, 9, 3)
    index = (1 * 2 + 1) * 3 + 2  # t = 1, y = 1, x = 2 in a grid (2, 2, 3)
    assert torch.equal(patchify(video, 3, 2)[:, index], video[:, 2:4, 3:6, 6:9].flatten(1))


def test_the_embedding_is_a_strided_convolution():
    encoder = video_encoder()
    video = clips(2, 8, 16, 24, 3)
    kernel = encoder.embed.weight.unflatten(1, (2, 8, 8, 3)).permute(0, 4, 1, 2, 3)
    by_convolution = torch.nn.functional.conv3d(
        video.permute(0, 4, 1, 2, 3), kernel, encoder.embed.bias, stride=kernel.shape[2:]
    )
    torch.testing.assert_close(encoder.embed(patchify(video, 8, 2)), by_convolution.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("size", "frames", "tubelet", "message"),
    [
        ((65, 64), 1, 1, "image height 65 is not a multiple of patch 8; use 64 or 72"),
        ((64, 7), 1, 1, "image width 7 is not a multiple of patch 8; use 8"),
        ((64, 64), 7, 2, "7 frames are not a multiple of tubelet 2; use 6 or 8"),
        ((64, 64), 1, 2, "1 frames are not a multiple of tubelet 2; use 2"),
    ],
)
def test_sizes_that_cannot_be_cut_are_refused(size, frames, tubelet, message):
    with pytest.raises(UserError, match=message):
        token_grid(size, 8, frames, tubelet)
    with pytest.raises(UserError, match=message):
        VisionTransformer(size, 8, frames=frames, tubelet=tubelet)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 25}, "width 25 is not a multiple of heads 2"),
        ({"positions": "learnt"}, "positions 'learnt' unknown; known: sincos, rope"),
        ({"width": 18, "positions": "rope"}, "width per head 9 is odd"),
        ({"width": 15, "heads": 3}, "width 15 is odd"),
        ({"width": 2, "heads": 1}, "cannot hold positions along 2 axes"),
    ],
)
def test_widths_that_hold_no_positions_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        VisionTransformer((16, 16), 8, **{**SMALL, **options})


def test_inputs_of_another_shape_are_refused():
    encoder = VisionTransformer((16, 16), 8, **SMALL)
    with pytest.raises(UserError, match=r"takes \[B, T, 16, 16, 3\], got \[2, 1, 16, 16, 1\]"):
        encoder(clips(2, 1, 16, 16, 1))
    with pytest.raises(UserError, match="clips of at most 1 frames, got 4"):
        encoder(clips(2, 4, 16, 16, 3))
    with pytest.raises(UserError, match="takes floats, got uint8"):
        encoder(torch.zeros(2, 1, 16, 16, 3, dtype=torch.uint8))
    with pytest.raises(UserError, match="5 frames are not a multiple of tubelet 2"):
        video_encoder()(clips(2, 5, 16, 24, 3))


# ------------------------------------------------------------------------------------------------------------ positions


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 4)] * 3), st.integers(3, 9))
def test_rotary_attention_knows_relative_positions_only(seed, shift, pairs):
    grid, base = (6, 7, 8), 100.0
    angles = axis_angles(grid, pairs, base)
    cosine, sine = angles.cos(), angles.sin()
    strides = torch.tensor([56, 8, 1])
    first, second = (
        torch.stack(
            [torch.randint(0, n - s, (5,), generator=draw(seed + k)) for n, s in zip(grid, shift, strict=True)], 1
        )
        for k in (0, 1)
    )
    q, k = torch.randn(2, 5, 2 * pairs, generator=draw(seed), dtype=torch.float64)

    def scores(at, to):
        i, j = at @ strides, to @ strides
        return rotate(q, (cosine[i], sine[i])) @ rotate(k, (cosine[j], sine[j])).T

    moved = torch.tensor(shift)
    torch.testing.assert_close(scores(first + moved, second + moved), scores(first, second), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(scores(first + moved, second), scores(first, second))


def test_a_rotary_trunk_does_not_notice_a_shift_and_a_sine_cosine_one_does():
    tokens = torch.randn(2, 6, 24)
    at = random_masks(2, 2 * 7 * 8, 1 - 6 / 112, generator=draw()).context
    for positions, same in (("rope", True), ("sincos", False)):
        trunk = spread(Trunk((6, 7, 8), **SMALL, positions=positions)).double()
        here, there = (trunk(trunk.place(tokens.double(), i), i) for i in (at, at + 2 * 56))
        assert torch.allclose(here, there, rtol=1e-5, atol=1e-6) == same


@pytest.mark.parametrize("grid", [(1, 5, 6), (4, 3, 5)])
def test_sine_cosine_positions_are_distinct_and_their_products_depend_on_the_difference(grid):
    table = Trunk(grid, 24, 0, 2).table
    assert table.shape == (math.prod(grid), 24)
    assert torch.cdist(table, table).fill_diagonal_(math.inf).min() > 0.1
    product = (table @ table.T).view(*grid, *grid)
    torch.testing.assert_close(product[:, 0, 0, :, 1, 1], product[:, 1, 2, :, 2, 3])


@POSITIONS
def test_positions_of_a_shorter_video_are_those_of_the_clip(positions):
    short, long = (VisionTransformer((16, 16), 8, frames=f, positions=positions, **SMALL) for f in (4, 12))
    short.load_state_dict(long.state_dict())
    for frames in (4, 2, 1):
        video = clips(2, frames, 16, 16, 3)
        torch.testing.assert_close(short(video), long(video))


# ------------------------------------------------------------------------------------------------------------ attention


def test_attention_is_the_explicit_softmax():
    attention = spread(Attention(24, 3)).double()
    x, source = torch.randn(2, 5, 24, dtype=torch.float64), torch.randn(2, 7, 24, dtype=torch.float64)
    q = attention.query(x).view(2, 5, 3, 8)
    k, v = attention.key_value(source).view(2, 7, 2, 3, 8).unbind(2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(8)
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(2, 5, 24)
    torch.testing.assert_close(attention(x, source), attention.out(expected), rtol=1e-10, atol=1e-12)


@POSITIONS
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_what_masked_tokens_show_does_not_reach_the_context(positions, seed):
    encoder = spread(video_encoder(positions=positions))
    masks = spatiotemporal_masks(3, encoder.grid, 2, 2, 0.5, generator=draw(seed))
    video = clips(3, 8, 16, 24, 3, seed=seed)
    other = patchify(clips(3, 8, 16, 24, 3, seed=seed + 1), 8, 2)
    rows = torch.arange(3)[:, None]
    other[rows, masks.context] = patchify(video, 8, 2)[rows, masks.context]
    other = unpatchify(other, encoder.grid, 8, 2)
    assert not torch.equal(other, video)
    assert torch.equal(encoder(other, masks.context), encoder(video, masks.context))


@POSITIONS
def test_encoding_all_kept_tokens_is_encoding_all(positions):
    encoder = spread(video_encoder(positions=positions))
    video = clips(2, 8, 16, 24, 3)
    order = torch.stack([torch.randperm(24, generator=draw(s)) for s in range(2)])
    torch.testing.assert_close(encoder(video, order), take(encoder(video), order), rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- predictor


@POSITIONS
def test_groups_of_targets_are_predicted_each_on_its_own(positions):
    encoder = VisionTransformer((64, 64), 8, positions=positions, **SMALL)
    predictor = spread(Predictor(encoder.grid, 24, width=16, depth=2, heads=2, positions=positions))
    masks = multi_block_masks(3, (8, 8), generator=draw())
    context = encoder(clips(3, 1, 64, 64, 3), masks.context)
    together = predictor(context, masks.context, masks.targets)
    assert together.shape == (*masks.targets.shape, 24)
    for j in range(masks.targets.shape[1]):
        alone = predictor(context, masks.context, masks.targets[:, j])
        torch.testing.assert_close(together[:, j], alone, rtol=1e-4, atol=1e-5)


@POSITIONS
def test_the_predictor_looks_at_positions_not_at_order(positions):
    predictor = spread(Predictor((1, 4, 4), 24, width=16, depth=2, heads=2, positions=positions))
    masks = random_masks(2, 16, 0.5, generator=draw())
    context = torch.randn(2, 8, 24)
    found = predictor(context, masks.context, masks.targets)
    turned = predictor(context.flip(1), masks.context.flip(1), masks.targets.flip(1)).flip(1)
    torch.testing.assert_close(found, turned, rtol=1e-4, atol=1e-5)
    assert (found[:, :1] - found[:, 1:]).abs().amax(-1).min() > 1e-3  # different positions, different predictions


def test_chunks_are_clips_of_their_own():
    encoder = spread(video_encoder())
    video = (255 * clips(2, 20, 16, 24, 3)).to(torch.uint8)
    found = encode_in_chunks(encoder, video, encoder.frames)
    assert not found.requires_grad
    separate = [encoder(video[:, k : k + 8].float() / 255) for k in (0, 8, 16)]
    assert torch.equal(found, torch.cat(separate, 1))
    with pytest.raises(UserError, match="19 frames are not a multiple"):
        encode_in_chunks(encoder, video[:, :19], encoder.frames)
