"""The equations of Transfusion: who sees whom, noise levels, a vocabulary that belongs to its weights."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tests.families.scenes import codes, halves
from tests.families.transfused import (
    FLOAT32,
    PATCHES,
    SHAPE,
    built,
    document,
    generator,
    images_of,
    network,
    text,
    trained,
)
from wm_pipelines.errors import UserError
from wm_pipelines.families.transfusion import TransfusionConfig
from wm_pipelines.families.transfusion.layout import PADDED, TEXT, Image, attention_mask, lay_out
from wm_pipelines.families.transfusion.network import next_tokens
from wm_pipelines.families.transfusion.noise import LEVELS, PREDICTIONS, SCHEDULES, Noise, betas
from wm_pipelines.families.transfusion.sampling import Painter
from wm_pipelines.families.transfusion.stems import stem
from wm_pipelines.families.transfusion.vocabulary import BOI, BOS, BYTES, EOI, EOS, SPECIAL, Vocabulary
from wm_pipelines.learning.loop import train

# ---------------------------------------------------------------- who sees whom


def sees(document_, causal=False):
    """The mask by its words, position by position: the paper's section 3.1."""
    kinds = [k for k, piece in enumerate(document_) for _ in range(getattr(piece, "patches", 0) or len(piece))]
    is_image = [isinstance(piece, Image) for piece in document_]
    size = len(kinds)
    return torch.tensor(
        [
            [j <= i or (not causal and kinds[i] == kinds[j] and is_image[kinds[i]]) for j in range(size)]
            for i in range(size)
        ]
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_mask_is_causal_on_text_and_whole_within_an_image(seed, causal):
    rng = np.random.default_rng(seed)
    documents = [document(rng, [0, 1, 0, 1, 1, 0]), document(rng, [0, 1])]
    layout = lay_out(documents)
    mask = attention_mask(layout.kind, causal)
    for own, found, kind in zip(documents, mask, layout.kind, strict=True):
        size = int((kind != PADDED).sum())
        assert torch.equal(found[:size, :size], sees(own, causal))
        assert not found[:size, size:].any()  # padding is seen by itself alone
        assert torch.equal(found[size:, size:], torch.eye(len(kind) - size, dtype=torch.bool))


@pytest.fixture
def one_thread():
    """As in every training and judging here: several share out sums by what there is to sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["linear", "unet"])
@pytest.mark.parametrize("seed", range(6))
def test_text_logits_are_the_same_bits_whatever_follows(seed, kind):
    """At one padded length, in random layouts: other tokens, other images, other kinds of pieces behind."""
    rng, model = np.random.default_rng(seed), network(kind)
    before, length = [*document(rng, [0, 1, 0]), text(rng, 3)], 40
    count = sum(isinstance(piece, Image) for piece in before)
    known = sum(getattr(piece, "patches", 0) or len(piece) for piece in before)
    first = images_of(3)
    other = torch.cat([first[:, :count], 5 * images_of(3 - count, seed=9)], 1)
    found = []
    for behind, images in (([], first), ([text(rng, 7)], first), ([Image(PATCHES), text(rng, 2)], other)):
        layout = lay_out([[*before, *behind]], length)
        answer = model(layout, images, torch.full((1, 3), 300))
        logits = model.logits(answer.features)[0, :known]
        found.append(logits[layout.kind[0, :known] == TEXT])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_text_before_an_image_does_not_see_it_and_text_behind_it_does():
    model, layout = network(), lay_out([[[BOS, 7, 8, BOI], Image(PATCHES), [EOI, 9]]])
    logits = [model.logits(model(layout, images_of(1, seed), torch.ones(1, 1).long()).features)[0] for seed in (0, 1)]
    assert torch.equal(logits[0][:4], logits[1][:4])
    assert not torch.isclose(logits[0][-2:], logits[1][-2:]).all(1).any()


def test_patches_see_each_other_both_ways_and_the_text_before():
    model, layout = network(), lay_out([[[BOS, 7, BOI], Image(PATCHES), [EOI, 9, 10]]])
    x = images_of(1).requires_grad_()
    patches, _, _ = model.embed_images(x, torch.ones(1, 1).long())
    features, _ = model.through(model.embed(layout, patches), layout.kind)
    for patch in range(PATCHES):
        (slope,) = torch.autograd.grad(features[0, 3 + patch].sum(), x, retain_graph=True)
        assert (torch.nn.functional.pixel_unshuffle(slope[0], 4).abs().sum(1).flatten(1) > 0).all()
    others = (
        lay_out([[[BOS, 8, BOI], Image(PATCHES), [EOI, 9, 10]]]),
        lay_out([[[BOS, 7, BOI], Image(PATCHES), [EOI, 9, 11]]]),
    )
    said = [model(one, x, torch.ones(1, 1).long()).features[0, 3:7] for one in (layout, *others)]
    assert not torch.isclose(said[0], said[1]).all(1).any()  # the text before
    assert torch.equal(said[0], said[2])  # but not the text behind


def test_patches_of_the_causal_ablation_see_earlier_ones_alone():
    model, layout = network(causal=True), lay_out([[[BOI], Image(PATCHES)]])
    x = images_of(1).requires_grad_()
    features = model(layout, x, torch.ones(1, 1).long()).features
    for patch in range(PATCHES):
        (slope,) = torch.autograd.grad(features[0, 1 + patch].sum(), x, retain_graph=True)
        seen = torch.nn.functional.pixel_unshuffle(slope[0], 4).abs().sum(1).flatten() > 0
        assert seen.tolist() == [k <= patch for k in range(PATCHES)]
    with pytest.raises(UserError, match="causal_images needs the linear stem"):
        network("unet", causal=True)


def test_padding_changes_nothing_but_rounding():
    rng, model = np.random.default_rng(0), network("unet")
    documents = [document(rng, [0, 1, 0, 1]), document(rng, [0, 0, 0, 0, 1, 1])]
    images, levels = torch.cat([images_of(2), images_of(2, 5)]), torch.full((2, 2), 300)
    together = model(lay_out(documents), images, levels).features
    for k, own in enumerate(documents):
        alone = model(lay_out([own]), images[k : k + 1], levels[k : k + 1]).features[0]
        torch.testing.assert_close(together[k, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [0, 1])
def test_what_is_said_of_a_patch_scales_and_shifts_its_own_positions_at_every_level(depth):
    made, level = stem("unet", (3, 32, 32), 8, 12, 4), torch.zeros(1, 12)
    with torch.no_grad():
        made.up[depth].weight.zero_()  # nothing but the modulation tells this level what was said
        for part in made.outward:
            part.second.weight.normal_()
    _, kept = made.embed(torch.randn(1, 3, 32, 32), level)
    said, other = torch.randn(2, 1, 16, 12)
    other[:, 1:] = said[:, 1:]  # the patch at the top left says something else
    assert torch.equal(made.images(said, level, kept), made.images(other, level, kept))  # not at first
    with torch.no_grad():
        made.told[depth].weight.normal_()
    changed = (made.images(said, level, kept) - made.images(other, level, kept)).abs().sum(1)[0] > 0
    assert changed[:8, :8].all()
    assert not changed[24:, 24:].any()  # convolutions carry it further, not over the image


# ---------------------------------------------------------------- equal to what is known


def causal_lm(model, tokens):
    """A plain causal language model with the same weights, written out."""
    x = model.words[tokens] + model.text_place[: len(tokens)]
    for block in model.blocks:
        h = block.norm1(x)
        split = lambda y: y.unflatten(-1, (2, -1)).transpose(0, 1)  # noqa: E731
        q, (k, v) = split(block.attention.query(h)), map(split, block.attention.key_value(h).chunk(2, -1))
        x = x + block.attention.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).flatten(1))
        x = x + block.mlp(block.norm2(x))
    return model.head(model.norm(x))


def test_without_images_it_is_a_causal_language_model():
    model, tokens = network(), text(np.random.default_rng(0), 9)
    layout = lay_out([[tokens]])
    found = model.logits(model(layout).features)[0]
    torch.testing.assert_close(found, causal_lm(model, torch.tensor(tokens)), rtol=1e-4, atol=1e-5)
    wanted, counts = next_tokens(layout)
    assert counts.all()
    assert wanted[0].tolist() == tokens[1:]


@pytest.mark.parametrize("detail", [0.0, 9.0])
def test_without_text_the_loss_is_that_of_a_diffusion_model(detail):
    """The image term is the mean squared error of the prediction, by its level's weight, and no text is counted."""
    family = trained(dropout=0.5, detail=detail)
    member = family.members[0]
    data = member.data(halves(4)["frames"][:, 0])
    noise, levels = torch.randn(data.shape, generator=generator()), torch.tensor([1, 300, 700, LEVELS])
    layout = lay_out([[Image(PATCHES)]] * 4)
    with torch.no_grad():
        loss, terms = family._losses(member, layout, data, noise, levels)
        a, s = (table[levels].reshape(4, 1, 1, 1) for table in (member.noise.signal, member.noise.sigma))
        answer = member.network(layout, (a * data + s * noise)[:, None], levels[:, None])
        said = member.network.images(answer.features, layout, answer.level, answer.kept, 1)[:, 0]
    assert terms["text"] == 0
    weights = 1 + (detail * (a / s) ** 2).clamp(max=7)
    assert float(weights[0]) == (8 if detail else 1)
    assert float(weights[-1]) == pytest.approx(1)
    torch.testing.assert_close(terms["image"], (weights * (said - data).square()).mean())
    torch.testing.assert_close(loss, family.config.weight * terms["image"])


def test_the_loss_of_text_is_the_cross_entropy_of_tokens_that_follow_text():
    family = trained()
    member = family.members[0]
    data = member.data(halves(2)["frames"][:, 0])
    documents = [[[BOS, 261, 262, BOI], Image(PATCHES)], [[BOI], Image(PATCHES), [EOI, 263, EOS]]]
    layout, levels = lay_out(documents), torch.tensor([500, 0])
    noise = torch.randn(data.shape, generator=generator())
    with torch.no_grad():
        _, terms = family._losses(member, layout, data, noise, levels)
        x = torch.stack([member.noise.add(data[:1], noise[:1], levels[:1])[0], data[1]])
        logits = member.network.logits(member.network(layout, x[:, None], levels[:, None]).features)
    asked = [(0, 0, 261), (0, 1, 262), (0, 2, BOI), (1, 5, 263), (1, 6, EOS)]
    by_hand = [cross_entropy(logits[row, place], torch.tensor(token)) for row, place, token in asked]
    torch.testing.assert_close(terms["text"], torch.stack(by_hand).mean())


def test_what_was_kept_of_what_was_read_says_the_same_as_reading_it_again():
    model, rng = network(), np.random.default_rng(3)
    tokens = text(rng, 8)
    image, none = images_of(1), torch.zeros(1, 1).long()
    whole = model.logits(model(lay_out([[[BOI], Image(PATCHES), [EOI, *tokens]]]), image, none).features)[0, -9:]
    answer = model(lay_out([[[BOI], Image(PATCHES), [EOI]]]), image, none)
    found, memory = [model.logits(answer.features[:, -1])], answer.memory
    for place, token in enumerate(tokens, start=2):
        one = lay_out([[[token]]])
        one.place.fill_(place)
        features, memory = model.read(one, memory)
        found.append(model.logits(features[:, -1]))
    torch.testing.assert_close(torch.cat(found), whole, rtol=1e-4, atol=1e-5)


def test_an_image_after_kept_text_is_the_image_after_the_text():
    family = trained(stem="unet")
    member = family.members[0]
    x, levels, texts = torch.randn(2, *SHAPE, generator=generator()), torch.tensor([400, 400]), [[BOS, 261, BOI], [BOI]]
    layout = lay_out([[Image(PATCHES)]] * 2)
    with torch.no_grad():
        painter = Painter(member.network, member.noise, 1, 1.0)
        found = painter.said(layout, x, levels, painter.heard(texts))
        whole = lay_out([[row, Image(PATCHES)] for row in texts])
        answer = member.network(whole, x[:, None], levels[:, None])
        wanted = member.network.images(answer.features, whole, answer.level, answer.kept, 1)[:, 0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_bar_is_the_cumulative_product(schedule, shift):
    beta, noise = betas(schedule, shift), Noise(schedule, shift, "x0")
    product, by_hand = 1.0, [1.0]
    for one in beta.tolist():
        product *= 1.0 - one
        by_hand.append(product)
    alpha_bar = noise.signal.double() ** 2
    np.testing.assert_allclose(alpha_bar.numpy(), by_hand, atol=2e-7)
    np.testing.assert_allclose((noise.signal.double() ** 2 + noise.sigma.double() ** 2).numpy(), 1.0, atol=1e-6)
    assert (beta > 0).all()
    assert (beta < 1).all()
    assert alpha_bar[0] == 1.0
    assert alpha_bar[-1] < 1e-3
    assert (alpha_bar.diff() < 0).all()


def test_the_schedules_are_those_of_the_papers():
    linear = betas("linear")
    assert linear[0].item() == pytest.approx(1e-4)
    assert linear[-1].item() == pytest.approx(0.02)
    half = (1 - betas("cosine")).cumprod(0)[LEVELS // 2 - 1].item()
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert half == pytest.approx(math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2 / start, rel=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_shift_multiplies_noise_over_signal(prediction):
    plain, shifted = (Noise("cosine", shift, prediction) for shift in (1.0, 3.0))
    ratios = [(n.sigma / n.signal)[100:900].double() for n in (plain, shifted)]
    torch.testing.assert_close(ratios[1], 3.0 * ratios[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_knows_leads_back_to_the_image(prediction):
    """With the true answer, one step and many end in the image, and between them lies the path of one noise."""
    noise, draw = Noise("cosine", 3.0, prediction), generator()
    x0, e = torch.randn(4, 3, 8, 8, generator=draw), torch.randn(4, 3, 8, 8, generator=draw)
    start, zero = torch.full((4,), 950), torch.zeros(4).long()
    x = noise.add(x0, e, start)
    for levels in ([950, 0], [950, 600, 200, 0]):
        at = x
        for level, to in pairwise(levels):
            t, lower = torch.full((4,), level), torch.full((4,), to)
            at = noise.back(noise.target(x0, e, t), at, t, lower)
            torch.testing.assert_close(at, noise.add(x0, e, lower), rtol=1e-3, atol=2e-3)
    image, found = noise.parts(noise.target(x0, e, start), x, start)
    torch.testing.assert_close(image, x0, rtol=1e-2, atol=2e-2)
    torch.testing.assert_close(found, e, rtol=1e-2, atol=2e-2)
    assert torch.equal(noise.add(x0, e, zero), x0)


def test_a_step_of_flow_matching_is_eulers():
    noise, draw = Noise("cosine", 1.0, "flow"), generator()
    x, said = torch.randn(2, 3, 8, 8, generator=draw), torch.randn(2, 3, 8, 8, generator=draw)
    t, to = torch.full((2,), 800), torch.full((2,), 650)
    torch.testing.assert_close(noise.back(said, x, t, to), x + (0.65 - 0.8) * said, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- vocabulary


def test_any_text_comes_back_from_its_tokens_and_merges_shorten_what_was_seen():
    words = Vocabulary(300, 60)
    words.learn(codes(["a red dot", "a red square", "a red dot"]))
    for said in ("a red dot", "a red square", "grün, 12 %"):
        (tokens,) = words.tokens([said])
        assert words.text(tokens) == said
        assert words.text([BOS, *tokens, EOS]) == said
    assert len(words.tokens(["a red dot"])[0]) == 3
    assert max(max(row) for row in words.tokens(["a red dot", "grün"])) < 300


def test_the_vocabulary_travels_with_the_weights_and_no_other_is_taken():
    first, second = trained(), built()
    second.load_state_dict(first.state_dict())
    captions = codes(["red at the left", "blue at the right"])
    assert torch.equal(first.generate(captions, 0, generator()), second.generate(captions, 0, generator()))
    other = Vocabulary(300, 12)
    other.learn(codes(["something else altogether"]))
    second = built()
    second.load_state_dict(first.state_dict() | {"members.0.vocabulary.merges": other.merges})
    with pytest.raises(UserError, match="the vocabulary is that of another checkpoint"):
        second.generate(captions, 0, generator())


def test_mistakes_are_told_in_one_line():
    words = Vocabulary(300, 3)
    words.learn(codes(["a red dot"]))
    with pytest.raises(UserError, match="an empty caption"):
        words.tokens(["a red dot", " "])
    with pytest.raises(UserError, match="a caption has 7 tokens, the model takes 3; raise longest"):
        words.tokens(["a red dot a red dot a"])
    with pytest.raises(UserError, match="token 299 is out of range: the vocabulary has"):
        words.text([299])
    with pytest.raises(UserError, match="has no room for 5 special tokens and 256 bytes"):
        Vocabulary(SPECIAL + BYTES - 1, 3)
    model = network()
    with pytest.raises(UserError, match="token 300 is out of range: the vocabulary has 300"):
        model(lay_out([[[BOS, 300]]]))
    with pytest.raises(UserError, match=r"images of \[3, 8, 12\] were given, the model takes \[3, 8, 8\]"):
        model(lay_out([[Image(PATCHES)]]), torch.zeros(1, 1, 3, 8, 12), torch.zeros(1, 1).long())
    with pytest.raises(UserError, match="images of 8 x 8 pixels are not divisible into patches of 3"):
        stem("linear", SHAPE, 3, 16, 8)
    with pytest.raises(UserError, match="unknown modality str"):
        lay_out([[[BOS], "sound"]])
    with pytest.raises(UserError, match="a document without text and images"):
        lay_out([[]])
    with pytest.raises(UserError, match="a document has 4 images, the model takes 3"):
        model(lay_out([[Image(PATCHES)] * 4]), torch.zeros(1, 4, *SHAPE), torch.zeros(1, 4).long())
    with pytest.raises(UserError, match="prediction 'y' unknown; known: x0, eps, v, flow"):
        Noise("cosine", 1.0, "y")
    with pytest.raises(UserError, match="schedule 'sine' unknown"):
        betas("sine")
    with pytest.raises(ValueError, match="guidance needs dropout above 0"):
        TransfusionConfig(dropout=0.0)
    with pytest.raises(UserError, match="an empty caption"):
        train(built(), halves(8) | {"captions": torch.zeros(8, 4, dtype=torch.uint8)}, FLOAT32)
