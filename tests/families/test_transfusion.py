"""Transfusion as a family: what it is asked for, sampling, training."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.families.images import resumes, seeds_are_independent
from tests.families.scenes import SCENES, codes, halves
from tests.families.transfused import FLOAT32, PATCHES, SMALL, built, generator, trained
from wm_pipelines.episodes import texts_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import Family
from wm_pipelines.families.parts.language import Captions, Generates, ScoresText
from wm_pipelines.families.transfusion import Transfusion, TransfusionConfig
from wm_pipelines.families.transfusion.autoencoder import Autoencoder
from wm_pipelines.families.transfusion.layout import TEXT, Image, lay_out
from wm_pipelines.families.transfusion.noise import LEVELS
from wm_pipelines.families.transfusion.vocabulary import BOI, BOS, EOI, EOS, SPECIAL
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Spec

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


# ---------------------------------------------------------------- texts alone


def test_of_texts_alone_it_is_a_causal_language_model_that_needs_no_frames():
    texts = Spec("texts", 1.0, {"captions": SCENES.views["captions"]})
    assert Transfusion.unsuitable(texts, TransfusionConfig()) == "needs frames"
    config = TransfusionConfig(
        **SMALL, text_only=True, stem="linear", average=0.0,
        schedule={"steps": 80, "batch_size": 8, "learning_rate": 1e-2},
    )  # fmt: skip
    assert Transfusion.unsuitable(texts, config) is None
    for spec in (texts, SCENES):
        assert Transfusion.observed(spec, config) == ("captions",)
    family = Transfusion(config, texts, (0,))
    captions = halves(24)["captions"]
    before = Transfusion(config, texts, (0,))
    before.examples({"captions": captions})
    train(family, {"captions": captions}, FLOAT32)
    found, untrained = (one.eval().score(captions, None, 0).nats.mean() for one in (family, before))
    assert found < 0.3 * untrained
    # The loss is what scores are made of: nats of the tokens and of the end.
    member, rows = family.members[0], family.examples({"captions": captions})["captions"]
    with torch.no_grad():
        loss, _ = family.member_loss(member, {"captions": rows}, generator(), 0.0)
    score = family.score(captions, None, 0)
    torch.testing.assert_close(float(loss), float(score.nats.sum() / score.tokens.sum()), rtol=1e-4, atol=1e-5)


def test_of_texts_alone_nothing_depends_on_the_frames():
    config = TransfusionConfig(**SMALL, text_only=True, stem="linear", schedule={"steps": 6, "batch_size": 8})
    views, weights = halves(24), []
    for shift in (0, 100):
        family = Transfusion(config, SCENES, (0,))
        train(family, {**views, "frames": views["frames"] - shift}, FLOAT32)
        weights.append(family.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
