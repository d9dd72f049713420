"""Families that answer: one encoder for all, candidates by embeddings and by likelihood, what collapses."""

import pytest
import torch

from tests.families.images import resumes, seeds_are_independent
from tests.families.scenes import ASKED, COLOURS, SCENES, SIDES, SIZE, codes, halves
from tests.families.trained_encoders import stored_ijepa
from tests.specs import LEARNING
from wm_pipelines.errors import UserError
from wm_pipelines.families.dual_encoder import DualEncoder, joined, known
from wm_pipelines.families.frequent_answer import FrequentAnswer, FrequentAnswerConfig
from wm_pipelines.families.parts.asking import Sight, tokens_of
from wm_pipelines.families.parts.language import Answers, Describes, EmbedsTexts, PointsAtTexts
from wm_pipelines.families.token_vlm import TokenVLM
from wm_pipelines.families.vljepa import VLJEPA
from wm_pipelines.families.vljepa.family import alike
from wm_pipelines.learning.loop import train
from wm_pipelines.metrics.representation import is_collapsed, relative_spread
from wm_pipelines.spec import Space, Spec

FLOAT32 = LEARNING.model_copy(update={"precision": "32-true"})
SMALL = {
    "stem": (8, 8), "features": 8, "projector": (16, 8), "width": 16, "depth": 2, "heads": 2, "words": 10,
    "vocabulary": 20, "encoder_share": 0.3,
}  # fmt: skip
KINDS = (VLJEPA, TokenVLM, DualEncoder)
SHORT = ["red", "blue", "left", "right"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def built(kind, seeds=(0,), steps=10, **changes):
    schedule = {"steps": steps, "batch_size": 16, "warmup": 2, "learning_rate": 5e-3}
    return kind(kind.Config(**{"schedule": schedule, **SMALL, **changes}), SCENES, seeds).float()


def trained(kind, seeds=(0,), count=64, **changes):
    family = built(kind, seeds, **changes)
    train(family, halves(count), FLOAT32)
    return family.eval()


def accuracy(family):
    """Of colours and sides, two candidates each, in pictures that training has not."""
    views = halves(40, seed=5)
    scores = family.choose(views["frames"], views["questions"][:, 1:], codes(SHORT), 0)
    said = torch.stack([scores[:, 0, :2].argmax(-1), 2 + scores[:, 1, 2:].argmax(-1)], 1)
    words = [[bytes(a).rstrip(b"\0").decode() for a in row] for row in views["answers"][:, 1:].numpy()]
    wanted = torch.tensor([[SHORT.index(word) for word in row] for row in words])
    return float((said == wanted).double().mean())


@every_kind
def test_resumed_trainings_end_in_the_same_bits_and_seeds_do_not_meddle(kind, tmp_path):
    resumes(lambda: built(kind), tmp_path, halves(24))
    seeds_are_independent(lambda seeds: built(kind, seeds), halves(24))


def test_all_see_through_the_same_encoder_to_the_bit():
    eyes = [dict(trained(kind, steps=12).members[0].eye.state_dict()) for kind in KINDS]
    for other in eyes[1:]:
        for name, weights in eyes[0].items():
            assert torch.equal(weights, other[name]), name


def test_a_frozen_encoder_stays_and_a_tuned_one_does_not():
    first = {n: p.clone() for n, p in trained(VLJEPA, steps=12).members[0].eye.named_parameters()}
    longer = dict(trained(VLJEPA, steps=12, encoder_rate=0.5).members[0].eye.named_parameters())
    moved = [n for n in first if not torch.equal(first[n], longer[n])]
    assert any("stem" in name for name in moved)
    family = built(VLJEPA, steps=12)
    family.examples(halves(64))
    before = {n: p.clone() for n, p in family.members[0].eye.named_parameters()}
    family.loss({k: v[None, :16] for k, v in family.examples(halves(64)).items()}, 0.9)[0].sum().backward()
    assert all(p.grad is None for p in family.members[0].eye.parameters())
    assert all(torch.equal(before[n], p) for n, p in family.members[0].eye.named_parameters())


def test_the_text_encoder_has_a_rate_of_its_own():
    still, slow = (trained(VLJEPA, steps=12, text_rate=rate).members[0].network for rate in (0.0, 0.3))
    start = built(VLJEPA, steps=12).members[0].network
    assert all(torch.equal(a, b) for a, b in zip(still.text.parameters(), start.text.parameters(), strict=True))
    assert not torch.equal(slow.text.words, start.text.words)
    assert not torch.equal(still.predictor.words, start.predictor.words)


@every_kind
def test_questions_about_what_is_seen_are_answered(kind):
    family = trained(kind, steps=100, count=96)
    assert isinstance(family, Answers)
    assert accuracy(family) > 0.9  # chance is one half


def test_without_sight_nothing_is_known_but_what_is_asked():
    family = trained(TokenVLM, steps=60, blind=True)
    assert 0.3 < accuracy(family) < 0.7
    views, offered = halves(3), codes(SHORT)
    found = [family.choose(f, views["questions"], offered, 0) for f in (views["frames"], 255 - views["frames"])]
    assert torch.equal(*found)


def test_distances_alone_collapse_and_infonce_does_not():
    """Of answers that pictures do not tell, the least distance is that of one point for all texts."""
    texts = codes(SHORT + [f"{colour} at the {side}" for colour in ("red", "blue") for side in ("left", "right")])
    views = halves(96)
    views["frames"] = torch.randint(256, views["frames"].shape, dtype=torch.uint8, generator=torch.Generator())
    spread = {}
    for loss in ("l2", "info_nce"):
        family = built(VLJEPA, steps=120, loss=loss, text_rate=1.0)
        assert isinstance(family, EmbedsTexts)
        train(family, views, FLOAT32)
        spread[loss] = relative_spread(family.embed_texts(texts, 0).double().numpy())
    assert spread["l2"] < 0.3 * spread["info_nce"]


@pytest.mark.training
def test_predictions_collapse_before_the_texts_of_a_slow_encoder_do():
    """Four captions: where those of new pictures are expected is one point under L2, and is flagged so."""
    views = halves(96)
    new, texts = halves(40, seed=5), codes([f"{c} at the {s}" for c in COLOURS for s in SIDES])
    for loss in ("l2", "info_nce"):
        family = built(VLJEPA, steps=140, loss=loss, text_rate=0.3, embedding=8)
        train(family, views, FLOAT32)
        points = family.point_at(new["frames"], new["questions"][:, :1], 0)[:, 0].double().numpy()
        assert is_collapsed(points) == (loss == "l2")
        if loss == "l2":
            assert relative_spread(points) < relative_spread(family.embed_texts(texts, 0).double().numpy())


def test_likelihoods_of_candidates_are_those_of_the_whole_sequences():
    """Keys and values kept, groups by length and repeated rows change nothing."""
    family = trained(TokenVLM, steps=12)
    member, views = family.members[0], halves(5, seed=2)
    offered = codes([*SHORT, "red at the left", "blue at the right"])
    scores = family.choose(views["frames"], views["questions"], offered, 0)
    seen, asked = family.seen(member, views["frames"]), tokens_of(member.words, views["questions"])
    for k, candidate in enumerate(tokens_of(member.words, offered)):
        answers = candidate.expand(5, 3, -1)
        with torch.no_grad():
            nats = member.network(seen, asked, answers).sum(1).unflatten(0, (5, 3))
        torch.testing.assert_close(-nats, scores[..., k], rtol=1e-4, atol=1e-4)


def test_probabilities_of_all_that_can_be_said_next_add_up_to_one():
    family = trained(TokenVLM, steps=12)
    member, views = family.members[0], halves(2)
    network, asked = member.network, tokens_of(member.words, views["questions"])
    kept, there = network.read(family.seen(member, views["frames"]), asked)
    with torch.no_grad():
        one = torch.stack([family._likelihood(network, kept, there, torch.tensor([[t]])) for t in range(1, 20)])
        logits, _, _ = network.go_on((network.begin + network.said[0]).expand(len(there), 1, -1), kept, there)
        first = logits[:, 0].softmax(1)[:, 1:].T
    assert (one[..., 0].exp() <= first + 1e-6).all()  # a word and the end are less likely than the word


def test_words_are_decoded_as_the_likeliest_ones():
    family = trained(TokenVLM, steps=100, count=96)
    views = halves(12, seed=3)
    assert isinstance(family, Describes)
    for k in range(3):
        wanted = [bytes(row).rstrip(b"\0").decode() for row in views["answers"][:, k].numpy()]
        said = family.describe(views["frames"], views["questions"][:, k], 0)
        assert sum(a == b for a, b in zip(said, wanted, strict=True)) >= 11


@pytest.mark.parametrize("loss", ["info_nce", "l2"])
def test_the_answer_is_the_text_nearest_to_where_it_points(loss):
    family = trained(VLJEPA, steps=20, loss=loss)
    views = halves(12, seed=3)
    points, texts = family.point_at(views["frames"], views["questions"], 0), family.embed_texts(codes(SHORT), 0)
    assert isinstance(family, PointsAtTexts)
    if loss == "info_nce":
        near = torch.cosine_similarity(points[:, :, None], texts, dim=-1)
    else:
        near = -(points[:, :, None] - texts).square().sum(-1).sqrt()
    torch.testing.assert_close(
        family.choose(views["frames"], views["questions"], codes(SHORT), 0), near, rtol=1e-3, atol=1e-4
    )


def test_equal_answers_are_no_negatives():
    assert alike(torch.tensor([[1, 2], [1, 0], [1, 2]])).tolist() == [
        [True, False, True],
        [False, True, False],
        [True, False, True],
    ]


def test_what_is_known_to_be_true_of_an_image_is_no_negative():
    texts, images = torch.tensor([[1], [2], [1], [3]]), torch.tensor([7, 7, 8, 8])
    assert known(texts, images).tolist() == [
        [True, True, True, False],
        [True, True, True, False],
        [True, False, True, True],
        [True, False, True, True],
    ]


def test_questions_are_joined_by_their_answers_without_gaps():
    assert joined(torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([[4, 0], [5, 6]])).tolist() == [
        [1, 2, 4, 0, 0],
        [3, 5, 6, 0, 0],
    ]


def test_who_takes_no_notice_of_its_vocabulary_is_told():
    with pytest.raises(UserError, match="raise vocabulary above 5"):
        built(VLJEPA, vocabulary=5).examples(halves(8))
    with pytest.raises(UserError, match="the model takes 3"):
        built(VLJEPA, words=3).examples(halves(8))


def test_the_token_of_a_frame_sees_it_and_the_one_before():
    torch.manual_seed(0)
    sight, features = Sight(5, 4, 3, 6), torch.randn(1, 5, 4, 3)
    other = features.clone()
    other[:, 2] += 1
    changed = (sight(features) != sight(other)).any(-1)[0]
    assert changed.tolist() == [False, False, True, True, False]
    assert Sight(1, 4, 3, 6)(features[:, :1]).shape == (1, 4, 6)


def clips(count, seed=0):
    """A dark column that moves one way, and the question which way; its places say nothing of it."""
    draw = torch.Generator().manual_seed(seed)
    way = torch.randint(2, (count,), generator=draw)
    frames = torch.full((count, 3, SIZE, SIZE, 3), 255, dtype=torch.uint8)
    for clip, right in zip(frames, way.tolist(), strict=True):
        first = int(torch.randint(2, 6, (), generator=draw))
        for t in range(3):
            clip[t, :, first + (t - 1) * (1 if right else -1)] = 0
    answers = codes([["left", "right"][k : k + 1] for k in way.tolist()])
    return {"frames": frames, "questions": codes([["which way?"]] * count), "answers": answers}, way


def test_motion_is_seen():
    spaces = {
        "frames": SCENES.views["frames"],
        **{n: Space("text", (1,), "str", "episode") for n in ("questions", "answers")},
    }
    schedule = {"steps": 120, "batch_size": 16, "warmup": 2, "learning_rate": 5e-3}
    family = VLJEPA(VLJEPA.Config(**{"schedule": schedule, **SMALL}), Spec("clips", 0.1, spaces, 3), (0,)).float()
    train(family, clips(128)[0], FLOAT32)
    views, way = clips(60, seed=1)
    found = family.choose(views["frames"], views["questions"], codes(["left", "right"]), 0)[:, 0].argmax(-1)
    assert (found == way).double().mean() > 0.9


@pytest.mark.parametrize(("kind", "tower"), [(VLJEPA, True), (TokenVLM, False), (DualEncoder, True)])
def test_parameters_are_counted_with_the_text_tower_and_without_the_encoder(kind, tower):
    family = built(kind)
    found = family.language_parameters()
    assert found["language"] == sum(p.numel() for p in family.members[0].network.parameters())
    assert (0 < found["text"] < found["language"]) == tower


# ---------------------------------------------------------------- the floor


def floor(**config):
    family = FrequentAnswer(FrequentAnswerConfig(**config), SCENES, (0,))
    views = {"questions": codes([[*ASKED]] * 5)}
    views["answers"] = codes([["red at the left", "red", "left"]] * 3 + [["blue at the right", "blue", "left"]] * 2)
    train(family, views, FLOAT32)
    return family


def test_the_majority_of_the_kind_is_answered_whatever_is_shown():
    family = floor()
    asked = codes([[*ASKED], ["what colour has it?", "on which hand?", "who is it?"]])
    best = family.choose(torch.zeros(2, 1, 8, 8, 3), asked, codes(SHORT), 0)
    assert best.argmax(-1)[0, 1:].tolist() == [SHORT.index("red"), SHORT.index("left")]
    assert best.argmax(-1)[1, :2].tolist() == [SHORT.index("red"), SHORT.index("left")]
    assert best[1, 2].argmax() == SHORT.index("left")  # of all answers the most frequent one
    again = FrequentAnswer(FrequentAnswerConfig(), SCENES, (0,))
    again.load_state_dict(family.state_dict())
    assert torch.equal(again.choose(torch.zeros(2, 1, 8, 8, 3), asked, codes(SHORT), 0), best)


def test_the_whole_question_comes_first():
    views = {
        "questions": codes([["is it red?"], ["is it red?"], ["is it blue?"], ["is it blue?"], ["is it blue?"]]),
        "answers": codes([["yes"], ["yes"], ["no"], ["no"], ["no"]]),
    }
    answers = {}
    for whole in (False, True):
        family = FrequentAnswer(FrequentAnswerConfig(whole=whole), SCENES, (0,))
        family.fit(views)
        asked = codes([["is it red?"], ["is it green?"]])
        answers[whole] = family.choose(torch.zeros(2), asked, codes(["yes", "no"]), 0).argmax(-1).flatten().tolist()
    assert answers == {False: [1, 1], True: [0, 1]}


@every_kind
def test_the_encoder_may_be_one_that_was_trained_before(kind, tmp_path):
    views = halves(64)
    ijepa, file = stored_ijepa(tmp_path, SCENES, views["frames"], (0, 1))
    frozen = trained(kind, seeds=(0, 1, 2), encoder=file, encoder_rate=0.0)
    for member, of in zip(frozen.members, (0, 1, 0), strict=True):
        own, theirs = member.eye.encoder.state_dict(), ijepa.members[of].encoder.state_dict()
        assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    tuned = trained(kind, encoder=file, encoder_rate=0.5)
    own, theirs = tuned.members[0].eye.encoder.state_dict(), ijepa.members[0].encoder.state_dict()
    assert not all(torch.equal(own[name], theirs[name]) for name in theirs)


def test_encoders_that_do_not_fit_are_refused_in_one_line(tmp_path):
    frames = halves(20)["frames"]
    wide, flat, none = tmp_path / "wide", tmp_path / "flat", tmp_path / "none"
    for folder in (wide, flat, none):
        folder.mkdir()
    _, wider = stored_ijepa(wide, SCENES, frames, stem=(8, 16))
    _, patches = stored_ijepa(flat, SCENES, frames, stem=None, patch=4)
    _, alone = stored_ijepa(none, SCENES, frames)
    large = Spec("large", 1.0, {"frames": Space("frames", (16, 16, 3), "uint8")})
    (tmp_path / "large").mkdir()
    _, larger = stored_ijepa(tmp_path / "large", large, frames.repeat(1, 1, 2, 2, 1))
    (none / "sigreg.json").unlink()
    missing = alone.model_copy(update={"path": str(none / "no.safetensors")})
    for file, message in (
        (wider, "set stem and features"),
        (larger, r"has seen frames \[16, 16, 3\]"),
        (patches, "has no encoder of convolutions"),
        (alone, "are no model"),
        (missing, "is no file"),
        (alone.model_copy(update={"sha256": "0" * 64}), "has SHA-256"),
    ):
        with pytest.raises(UserError, match=message) as error:
            trained(VLJEPA, encoder=file)
        assert "\n" not in str(error.value)


def test_who_sees_nothing_has_no_encoder_and_no_features():
    blind = trained(TokenVLM, blind=True)
    assert not [name for name, _ in blind.named_parameters() if ".eye." in name]
    assert not blind.monitor()
    with pytest.raises(UserError, match="sees nothing"):
        blind.encode({"frames": halves(3)["frames"]})


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("steps", [1, 60])
def test_the_best_of_many_texts_is_found_without_scoring_all(blind, steps):
    family = trained(TokenVLM, steps=steps, blind=blind)
    views = halves(30, seed=6)
    alike = [*COLOURS, "a red left", "a red right", "a blue", "a blue left", "red left a", "left left left", "a"]
    offered = codes([*SHORT, *alike])
    scores = family.choose(views["frames"], views["questions"], offered, 0)
    assert torch.equal(
        family.choose_best(views["frames"], views["questions"], offered, 0), scores == scores.amax(-1, keepdim=True)
    )
    assert len(scores.argmax(-1).unique()) > 1 or steps == 1


def test_texts_that_read_alike_are_the_best_together():
    family = trained(TokenVLM, steps=5)
    views = halves(4, seed=6)
    best = family.choose_best(views["frames"], views["questions"], codes(["unheard", "unknown", "unread"]), 0)
    assert best.all()
