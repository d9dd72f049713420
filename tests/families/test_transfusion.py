"""The equations of Transfusion: who sees whom, noise levels, a vocabulary that belongs to its weights, sampling."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tests.families.images import resumes, seeds_are_independent
from tests.families.scenes import SCENES, codes, halves
from tests.specs import LEARNING
from wm_pipelines.episodes import texts_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Captions, Family, Generates, ScoresText
from wm_pipelines.families.transfusion import Transfusion, TransfusionConfig
from wm_pipelines.families.transfusion.autoencoder import Autoencoder
from wm_pipelines.families.transfusion.layout import PADDED, TEXT, Image, attention_mask, lay_out
from wm_pipelines.families.transfusion.network import Network, Size, next_tokens
from wm_pipelines.families.transfusion.noise import LEVELS, PREDICTIONS, SCHEDULES, Noise, betas
from wm_pipelines.families.transfusion.sampling import Painter
from wm_pipelines.families.transfusion.stems import stem
from wm_pipelines.families.transfusion.vocabulary import BOI, BOS, BYTES, EOI, EOS, SPECIAL, Vocabulary
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Spec

SMALL = {"width": 16, "depth": 2, "heads": 2, "vocabulary": 300, "longest": 12, "patch": 4, "channels": 8}
FLOAT32 = LEARNING.model_copy(update={"precision": "32-true"})
SHAPE, PATCHES = (3, 8, 8), 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(kind="linear", causal=False, images=3, seed=0):
    """A network away from where it starts: every weight counts."""
    torch.manual_seed(seed)
    made = Network(Size(300, 40, images, SHAPE, 4, 16, 2, 2, kind, 8), causal).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator(seed)))
    return made


def text(rng, count):
    return rng.integers(SPECIAL, 300, count).tolist()


def document(rng, pieces):
    """A random order of texts and images."""
    return [Image(PATCHES) if kind else text(rng, int(rng.integers(1, 5))) for kind in rng.permutation(pieces)]


def images_of(count, seed=0):
    return torch.randn(1, count, *SHAPE, generator=generator(seed))


def built(seeds=(0,), **changes):
    schedule = {"steps": 12, "batch_size": 8, "warmup": 2}
    return Transfusion(TransfusionConfig(**{"schedule": schedule, **SMALL, **changes}), SCENES, seeds)


def trained(seeds=(0,), **changes):
    family = built(seeds, **changes)
    train(family, halves(24), FLOAT32)
    return family.eval()


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


# ---------------------------------------------------------------- the family


def test_it_is_what_the_task_asks_for():
    family = built()
    assert isinstance(family, Family)
    assert isinstance(family, Captions)
    assert isinstance(family, Generates)
    assert isinstance(family, ScoresText)
    video = Spec("v", 1.0, SCENES.views, 4)
    assert Transfusion.unsuitable(video, TransfusionConfig()) == "needs single frames, not videos"


def test_half_of_a_batch_begins_with_the_text(monkeypatch):
    family = built(dropout=0.5)
    seen = []
    monkeypatch.setattr(family, "_losses", lambda m, layout, *_: (seen.append(layout), _zero(m))[1])
    batch = {k: v[:8] for k, v in family.examples(halves(16)).items()}
    for seed in range(20):
        family.member_loss(family.members[0], batch, generator(seed), 0.0)
    text_last = [bool((layout.kind[k, layout.tokens[k] == EOS] == TEXT).any()) for layout in seen for k in range(8)]
    assert sum(text_last) == len(text_last) / 2
    told = [bool((layout.tokens[k] == BOS).any()) for layout in seen for k in range(0, 8, 2)]
    assert 0.3 < np.mean(told) < 0.7  # of those whose text comes first half are left out


def test_levels_of_noise_are_spread_over_all_examples_whose_text_comes_first(monkeypatch):
    family, seen = built(), []
    monkeypatch.setattr(family, "_losses", lambda m, layout, data, noise, levels: (seen.append(levels), _zero(m))[1])
    batch = {k: v[:8] for k, v in family.examples(halves(16)).items()}
    for seed in range(200):
        family.member_loss(family.members[0], batch, generator(seed), 0.0)
    levels = torch.stack(seen)
    assert (levels[:, 1::2] == 0).all()  # an image before its text has none
    quarters = (levels[:, ::2] - 1).div(LEVELS / 4).long().sort(1).values
    assert torch.equal(quarters, torch.arange(4).expand(200, 4))
    assert levels[:, ::2].max() > 0.99 * LEVELS
    assert levels[:, ::2].min() < 0.01 * LEVELS + 1


def _zero(member):
    return torch.zeros(()), {"text": torch.zeros(()), "image": torch.zeros(())}


@pytest.mark.parametrize("balance", ["fixed", "dynamic"])
def test_lambda(balance):
    family = built(balance=balance, weight=5.0)
    member = family.members[0]
    family.train()
    for _ in range(400):
        weight = family._weight(member, {"text": torch.tensor(2.0), "image": torch.tensor(0.5)})
    assert float(weight) == pytest.approx(5.0 if balance == "fixed" else 4.0, rel=1e-2)


@pytest.fixture(scope="module")
def learned():
    """A family that speaks, and how it learned to."""
    family = built(schedule={"steps": 150, "batch_size": 16, "learning_rate": 3e-3, "warmup": 5}, average=0.9)
    run = train(family, halves(64), FLOAT32.model_copy(update={"log_every": 10}))
    return family.eval(), run


def test_training_lowers_both_losses_and_ends_in_the_moving_average(learned):
    family, run = learned
    first, last = run.curve[0], run.curve[-1]
    assert last["text"] < 0.4 * first["text"]
    assert last["image"] < 0.7 * first["image"]
    assert family.members[0].average is None
    assert not any("average" in name for name in family.state_dict())


def test_latents_are_learned_first_and_then_left_alone():
    family = built(
        latents=6,
        patch=1,
        stem="linear",
        latent_share=0.8,
        schedule={"steps": 100, "batch_size": 16, "learning_rate": 5e-3},
    )
    examples = family.to(torch.float32).examples(halves(64))
    batch, before = (
        {k: v[None, :16] for k, v in examples.items()},
        {k: v.clone() for k, v in family.state_dict().items()},
    )
    for progress, moved in ((0.2, "autoencoder"), (0.9, "network")):
        family.zero_grad()
        family.loss(batch, progress)[0].sum().backward()
        touched = {name.split(".")[2] for name, p in family.named_parameters() if p.grad is not None and p.grad.any()}
        assert touched == {moved}
    run = train(family, halves(64), FLOAT32.model_copy(update={"log_every": 10}))
    rows = {row["step"]: row for row in run.curve}
    assert rows[80]["loss"] < 0.5 * rows[10]["loss"]
    assert np.isnan(rows[80]["image"])
    assert np.isfinite(rows[100]["image"])
    assert any(not torch.equal(before[k], v) for k, v in family.state_dict().items() if "autoencoder" in k)
    member = family.members[0].eval()
    frames = halves(40, seed=1)["frames"][:, 0]
    latents = member.data(frames)
    torch.testing.assert_close(latents.mean(1), torch.zeros(40, 2, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents.var(1, correction=0), torch.ones(40, 2, 2), rtol=1e-2, atol=0)
    assert (member.frames(latents) - frames / 255).abs().mean() < 0.5 * (frames / 255).std()
    assert family.generate(halves(2)["captions"], 0, generator()).shape == (2, 8, 8, 3)
    with pytest.raises(UserError, match="not divisible by 4"):
        Autoencoder((3, 6, 8), 4, 8)


@pytest.mark.slow
def test_two_halves_are_described_and_painted():
    schedule = {"steps": 700, "batch_size": 32, "learning_rate": 3e-3, "warmup": 20}
    family = built(schedule=schedule, width=32, average=0.95, stem="unet")
    train(family, halves(200), FLOAT32)
    held_out = halves(40, seed=1)
    wanted = texts_of(held_out["captions"])
    assert np.mean([a == b for a, b in zip(family.caption(held_out["frames"][:, 0], 0), wanted, strict=True)]) > 0.9
    frames = family.generate(held_out["captions"], 0, generator())
    assert (frames - held_out["frames"][:, 0] / 255).abs().mean() < 0.1


def test_samples_depend_on_captions_and_generator_alone():
    family = trained()
    captions = codes(["red at the left", "blue at the right"])
    first = family.generate(captions, 0, generator())
    assert first.shape == (2, 8, 8, 3)
    assert ((first >= 0) & (first <= 1)).all()
    assert torch.equal(first, family.generate(captions, 0, generator()))
    assert not torch.equal(first, family.generate(captions, 0, generator(1)))


def test_inpainting_keeps_what_is_known_and_paints_the_rest():
    family, data = trained(), halves(3)
    captions, frames = data["captions"], data["frames"][:, 0]
    known = torch.zeros(3, 8, 8, dtype=torch.bool)
    nothing = family.inpaint(captions, frames, known, 0, generator())
    assert torch.equal(nothing, family.generate(captions, 0, generator()))
    known[:, :, :4] = True
    half = family.inpaint(captions, frames, known, 0, generator())
    torch.testing.assert_close(half[known], frames[known] / 255, rtol=0, atol=1e-5)
    assert not torch.isclose(half[~known], nothing[~known]).all()  # what is painted knows of what is known
    with pytest.raises(UserError, match="one plane of known pixels"):
        family.inpaint(captions, frames, known[:, :4], 0, generator())
    with pytest.raises(UserError, match="latents"):
        built(latents=8, patch=1, stem="linear").inpaint(captions, frames, known, 0, generator())


def test_a_caption_goes_on_as_it_would_have_from_its_own_beginning(learned):
    """Greedy: whatever part of its own caption a model is given, it says the rest; together as one by one."""
    family, frames = learned[0], halves(4)["frames"][:, 0]
    whole = family.caption(frames, 0)
    words = [said.split(" ") for said in whole]
    begun = [" ".join(row[: k % len(row)]) for k, row in enumerate(words)]
    assert family.continued(begun, frames, 0) == whole
    alone = family.continued([""], None, 0)[0]
    first = alone.split(" ")[0]
    assert family.continued([first, ""], None, 0) == [alone, alone]
    told = family.continued(["blue at", "red"], None, 0)
    assert told == [family.continued([text], None, 0)[0] for text in ("blue at", "red")]
    assert [a.startswith(b) for a, b in zip(told, ("blue at", "red"), strict=True)] == [True, True]
    with pytest.raises(UserError, match="1 beginnings for 4 frames"):
        family.continued([""], frames, 0)


def test_an_untrained_model_says_nothing_that_is_no_token():
    family = built(seeds=(0, 1, 2))
    family.examples(halves(12))
    with torch.no_grad():
        for member in family.members:
            member.network.head.bias[member.vocabulary.known :] = 100.0
            member.network.head.bias[:SPECIAL] = 50.0
            member.network.head.bias[EOS] = 0.0
    for seed in range(3):
        said = family.caption(halves(5)["frames"][:, 0], seed)
        assert len(said) == 5
        assert all(isinstance(text, str) for text in said)


def test_the_score_of_a_caption_is_the_sum_of_what_its_tokens_cost():
    family = trained()
    member, data = family.members[0], halves(3)
    captions, frames = data["captions"], data["frames"][:, 0]
    found = family.score(captions, frames, 0)
    for k, said in enumerate(texts_of(captions)):
        (tokens,) = member.vocabulary.tokens([said])
        assert found.tokens[k] == len(tokens) + 1
        image = member.data(frames[k : k + 1])
        layout = lay_out([[[BOI], Image(PATCHES), [EOI, *tokens, EOS]]])
        with torch.no_grad():
            logits = member.network.logits(member.network(layout, image[:, None], torch.zeros(1, 1).long()).features)
        cost = cross_entropy(logits[0, -len(tokens) - 2 : -1], torch.tensor([*tokens, EOS]), reduction="sum")
        assert found.nats[k] == pytest.approx(float(cost), rel=1e-4)
    alone = family.score(captions, None, 0)
    assert not torch.allclose(alone.nats, found.nats)
    assert torch.equal(alone.tokens, found.tokens)


def test_a_killed_training_ends_in_the_same_bits(tmp_path):
    resumes(lambda: built(average=0.9), tmp_path, halves(24))


def test_seeds_are_independent():
    seeds_are_independent(built, halves(24))
