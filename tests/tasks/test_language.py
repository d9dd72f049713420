"""Judging captions and frames: families whose answers are known."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.worlds.test_videos import ROOT
from wm_pipelines.episodes import Episodes, texts_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import FamilyConfig, TextScore
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.families.training_copy import TrainingCopy, TrainingCopyConfig
from wm_pipelines.laws import Laws, laws_of, world_of
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.fitting import as_tensors
from wm_pipelines.learning.loop import train
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.judgement import Judgement, cost_rows, table
from wm_pipelines.tasks.language import Language
from wm_pipelines.tasks.language.asked import answers_of
from wm_pipelines.tasks.language.asked_report import beside_reference, beyond_words, verdict
from wm_pipelines.tasks.language.judge import coarse
from wm_pipelines.tasks.language.report import composition
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.scene_grammar import caption, scene
from wm_pipelines.worlds.parts.scene_questions import KINDS

FEW = {
    "train": 80,
    "validation": 10,
    "test": 60,
    "held_out": 40,
    "moving": 12,
    "moving_frames": 30,
    "objects": (0.5, 0.3, 0.2),
}


@pytest.fixture(scope="module")
def episodes():
    return ingest(WorldConfig(world="captioned_scenes", parameters=FEW), "captioned_scenes")


class Knowing(MemberFamily):
    """Answers with the truth of the episodes it is given; ``wrong`` turns the first object of some captions."""

    name = "knowing"
    Config = FamilyConfig
    needs = ("frames", "captions")
    truth = None
    wrong = ()
    deaf = False

    def make_member(self):
        return nn.Linear(1, 1)

    def member_loss(self, member, batch, generator, progress):
        raise TypeError

    def member_encode(self, member, views):
        return views["frames"].float().flatten(2), None

    def caption(self, frames, seed):
        said = self.truth["captions"].tolist()[: len(frames)]
        return [_turned(text) if k in self.wrong else text for k, text in enumerate(said)]

    def generate(self, captions, seed, generator):
        return torch.tensor(self.truth["frames"][: len(captions), 0]).float() / 255

    def choose(self, frames, questions, candidates, seed):
        """Knows what is asked of which episode; ``deaf`` to questions, it likes all candidates alike."""
        offered = [bytes(row).rstrip(b"\0").decode() for row in candidates.numpy()]
        scores = torch.zeros(*questions.shape[:2], len(offered))
        if self.deaf:
            return scores
        wanted = {}
        for one, asked, answers in zip(*(self.truth[v] for v in ("frames", "questions", "answers")), strict=True):
            for question, answer in zip(asked.tolist(), answers.tolist(), strict=True):
                wanted[one.tobytes(), question] = answer
        for one, asked, row in zip(frames.numpy(), questions, scores, strict=True):
            for question, row_of_one in zip(asked, row, strict=True):
                answer = wanted[one.tobytes(), bytes(question.tolist()).rstrip(b"\0").decode()]
                if answer in offered:
                    row_of_one[offered.index(answer)] = 1.0
        return scores

    def embed_texts(self, texts, seed):
        noise = torch.randn(len(texts), 4, generator=torch.Generator().manual_seed(0))
        return 1.0 + (0.01 if self.deaf else 1.0) * noise

    def language_parameters(self):
        return {"language": 7, "text": 3}

    def score(self, captions, frames, seed):
        count = len(captions)
        certain = torch.zeros(count) if frames is not None else torch.full((count,), 10 * np.log(2))
        return TextScore(certain.double(), torch.full((count,), 10))


def _turned(text):
    first, *rest = scene(text)
    return caption([first._replace(colour=(first.colour + 1) % 5), *rest])


def judged(episodes, split="test", wrong=(), deaf=False, **config):
    family = Knowing(FamilyConfig(), episodes["train"].spec.showing(Language.shows), [0, 1])
    family.truth, family.wrong, family.deaf = episodes[split], wrong, deaf
    config = Language().config({"drawn": 40, "shown": 3, "retrieved": 40, "retrieved_of": 100, **config})
    return Language().judge(family, episodes, split, laws_of(episodes[split].spec), config)


def value(judgement, metric, step=-1, seed=0):
    (found,) = [r["value"] for r in judgement.rows if (r["metric"], r["step"], r["seed"]) == (metric, step, seed)]
    return found


def test_who_knows_is_right_in_everything(episodes):
    found = judged(episodes)
    for metric in ("caption_exact", "caption_exact_one", "caption_exact_up_to_two", "caption_combination"):
        assert value(found, metric) == 1, metric
    assert value(found, "frame_exact") >= 0.97  # but for what the parser itself cannot read
    assert value(found, "frame_shape") >= 0.97
    assert value(found, "caption_exact_chance") < 0.1
    assert value(found, "frame_exact_chance") < 0.1
    assert value(found, "perplexity") == 1
    assert value(found, "prior_perplexity") == pytest.approx(2)
    sizes = [len(text.encode()) for text in episodes["test"]["captions"].tolist()]
    assert value(found, "prior_perplexity_per_byte") == pytest.approx(2 ** (10 * 60 / sum(sizes)))
    assert value(found, "frechet_pixels") < 1e-6


def test_who_knows_answers_everything_and_finds_every_caption(episodes):
    found = judged(episodes)
    kinds = set(laws_of(episodes["test"].spec).question_kinds) - {"description"}
    for metric in ("answer_accuracy", "retrieval_r1", "swapped_attribute", "swapped_relation"):
        assert value(found, metric) == 1, metric
    assert {f"answer_{kind}" for kind in kinds} < {row["metric"] for row in found.rows}
    assert value(found, "retrieval_of") == 100
    assert value(found, "collapsed") == 0
    assert (value(found, "language_parameters"), value(found, "text_parameters")) == (7, 3)
    assert found.arrays["by_episode/answer_accuracy"].shape == (2, 60)


def test_who_likes_all_answers_alike_is_right_by_chance_and_collapsed(episodes):
    found = judged(episodes, deaf=True)
    assert value(found, "retrieval_r1") == pytest.approx(1 / 100)
    assert value(found, "swapped_attribute") == value(found, "swapped_relation") == 0.5
    assert value(found, "collapsed") == 1
    assert value(found, "answer_accuracy") < 0.6


def test_candidates_are_the_answers_of_their_kind(episodes):
    candidates, fits = answers_of(episodes["train"], KINDS)
    offered = {
        kind: {c for c, ok in zip(candidates, row, strict=True) if ok} for kind, row in zip(KINDS, fits, strict=True)
    }
    assert offered["shape"] == {"circle", "square", "triangle"}
    assert offered["existence"] == {"yes", "no"}
    assert offered["size"] == {"small", "large"}
    assert not {c for c in candidates if c.startswith("a ")}


def test_clips_with_questions_alone_are_judged(episodes):
    parameters = {"of": "pendulum", "asks": ["law", "swing"], "train": 20, "validation": 4, "test": 12, "rows": 8}
    clips = ingest(WorldConfig(world="law_questions", parameters=parameters), "clips")
    found = judged(clips)
    assert value(found, "answer_accuracy") == value(found, "answer_law") == value(found, "answer_swing") == 1
    assert not {row["metric"] for row in found.rows} & {"retrieval_r1", "caption_exact"}
    assert episodes


def test_what_is_wrong_is_found_where_it_is(episodes):
    number = (episodes["test"]["scenes"][..., 0] >= 0).sum(1)
    wrong = np.flatnonzero(number == 2)[:4].tolist()
    found = judged(episodes, wrong=wrong)
    assert value(found, "caption_exact") == pytest.approx(1 - 4 / 60)
    assert (
        value(found, "caption_exact", 1) == value(found, "caption_exact", 3) == value(found, "caption_exact_one") == 1
    )
    assert value(found, "caption_exact", 2) == pytest.approx(1 - 4 / (number == 2).sum())
    assert value(found, "caption_colour") == pytest.approx(1 - 4 / 60)
    assert value(found, "caption_shape") == value(found, "caption_place") == value(found, "caption_sentence") == 1


def test_episodes_are_kept_for_paired_comparisons_and_pictures_for_the_page(episodes):
    found = judged(episodes)
    assert found.arrays["by_episode/caption_exact"].shape == (2, 60)
    assert found.arrays["by_episode/frame_exact"].shape == (2, 40)
    assert found.arrays["by_episode/perplexity"].shape == (2, 60)
    assert found.arrays["drawn"].shape == found.arrays["true"].shape == (3, 32, 32, 3)
    assert (
        texts_of(found.arrays["prompts"]) == texts_of(found.arrays["said"]) == episodes["test"]["captions"].tolist()[:3]
    )


def copies(episodes, **config):
    spec = episodes["train"].spec.showing(Language.shows)
    family = TrainingCopy(TrainingCopyConfig(**config), spec, (0, 1)).float()
    train(family, as_tensors(episodes["train"], Language.shows), LearningConfig(progress=False, precision="32-true"))
    return family


def test_floors_answer_with_training_examples_and_the_parser_is_judged_with_them(episodes):
    family = copies(episodes)
    known = set(episodes["train"]["captions"].tolist())
    assert set(family.caption(torch.zeros(30, 32, 32, 3), 0)) <= known
    assert len(set(family.caption(torch.zeros(30, 32, 32, 3), 0))) > 10
    found = Language().judge(family, episodes, "test", laws_of(episodes["test"].spec), Language().config({"drawn": 40}))
    assert value(found, "caption_exact") < 0.1
    assert value(found, "caption_sentence") == 1
    assert value(found, "parser_exact") >= 0.97
    assert value(found, "parser_exact") >= value(found, "parser_exact", 20)
    assert value(found, "frechet_pixels") > 0
    again = TrainingCopy(TrainingCopyConfig(), family.spec, (0, 1))
    again.load_state_dict(family.state_dict())
    assert again.caption(torch.zeros(5, 32, 32, 3), 1) == family.caption(torch.zeros(5, 32, 32, 3), 1)


def test_the_majority_is_the_most_frequent_caption(episodes):
    family = copies(episodes, answer="frequent")
    said = set(family.caption(torch.zeros(9, 32, 32, 3), 0))
    captions = episodes["train"]["captions"].tolist()
    assert len(said) == 1
    assert captions.count(said.pop()) == max(map(captions.count, captions))
    with pytest.raises(UserError, match="raise bytes above 10"):
        copies(episodes, bytes=10)


def test_who_cannot_be_asked_or_read_is_told(episodes):
    family = copies(episodes)
    silent = {s: world_of(p.spec).episodes({"frames": p["frames"]}, 1.0) for s, p in episodes.items()}
    with pytest.raises(UserError, match="'captioned_scenes' has no captions: nobody knows what should be said of it"):
        Language().judge(family, silent, "test", Laws(), Language().config({}))

    mute = type(
        "Mute", (MemberFamily,), {k: Knowing.__dict__[k] for k in ("make_member", "member_loss", "member_encode")}
    )
    mute.name, mute.Config = "mute", FamilyConfig
    with pytest.raises(UserError, match="'mute' neither describes frames nor draws captions"):
        Language().judge(
            mute(FamilyConfig(), episodes["train"].spec.showing(("frames",)), [0]),
            episodes, "test", laws_of(episodes["test"].spec), Language().config({}),
        )  # fmt: skip
    with pytest.raises(UserError, match="cannot be averaged"):
        coarse(np.zeros((1, 12, 12, 3)))


def test_both_splits_are_judged(episodes):
    assert Language().splits(episodes) == ["held_out", "test"]


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def results(episodes):
    rows, arrays = [], {}
    family = copies(episodes)
    laws, config = laws_of(episodes["test"].spec), Language().config({"drawn": 40})
    models = {("transfusion", "plain"): None, ("training_copy", "random"): family}
    for (name, variant), own in models.items():
        kept = {}
        for split in ("test", "held_out"):
            found = judged(episodes, split) if own is None else Language().judge(own, episodes, split, laws, config)
            assert isinstance(found, Judgement)
            rows += [
                {"family": name, "variant": variant, "view": "frames+captions", "knows": "", **r} for r in found.rows
            ]
            kept |= {f"{split}/{key}": array for key, array in found.arrays.items()}
        kept["test/seen_attention_mask"] = np.zeros((2, 1, 9, 9, 3), np.uint8)
        arrays[f"{name}/{variant}"] = kept
    rows += [
        {"family": "transfusion", "variant": "plain", "view": "frames+captions", "knows": "", **r}
        for r in cost_rows({"train_seconds": 3.0}, [0, 1])
    ]
    scores = table(rows, task="language", world="captioned_scenes")
    specs = {"captioned_scenes": {split: Spec("captioned_scenes", 1.0, {}) for split in ("test", "held_out")}}
    return Results(scores, specs=specs, arrays={"captioned_scenes": arrays})


def test_the_page_shows_prompts_beside_frames_and_floors_beside_models(results, episodes):
    text = Language().page(results)
    assert text == Language().page(results)
    for words in (
        "Frames of captions: transfusion",
        "Captions of frames: transfusion",
        "Attention mask: transfusion",
        "never seen together",
        "What the parser itself can read",
        episodes["test"]["captions"][0],
        "captions of one object are right in everything for 100.0 %",
    ):
        assert words in text, words


def test_composition_tells_seen_from_unseen(results):
    rows = [r for r in composition(results.summary) if r["model"] == "transfusion/plain"]
    assert {r["metric"] for r in rows} >= {"Caption exact, one object", "Frame exact, one object"}
    assert all(r["seen"].endswith("%") and "±" in r["gap"] for r in rows)


@pytest.mark.parametrize(
    ("interval", "said"),
    [((0.01, 0.05), "better"), ((-0.01, 0.05), "not inferior"), ((-0.05, 0.01), "open"), ((-0.09, -0.03), "inferior")],
)
def test_verdicts_follow_from_intervals(interval, said):
    assert verdict(*interval) == said


def test_models_are_compared_on_the_same_episodes_and_with_those_who_see_nothing():
    rng = np.random.default_rng(0)
    right = np.repeat((rng.random((1, 400)) < 0.8).astype(float), 2, axis=0)
    guess = (rng.random((1, 400)) < 0.5).astype(float)
    kept = {
        "vljepa/plain": {"by_episode/answer_accuracy": right, "by_episode/answer_law": right},
        "token_vlm/plain": {"by_episode/answer_accuracy": right, "by_episode/answer_law": guess},
        "token_vlm/blind": {"by_episode/answer_accuracy": guess, "by_episode/answer_law": guess},
    }
    (row,) = beside_reference(kept, {"vljepa/plain": 50.0, "token_vlm/plain": 100.0})
    assert (row["verdict"], row["parameters"]) == ("not inferior", "50 %")
    found = beyond_words(kept)
    assert [(r["model"], r["above"]) for r in found["rows"]] == [("vljepa/plain", 1), ("token_vlm/plain", 0)]
    assert found["nobody"] == []
    assert beyond_words({m: a for m, a in kept.items() if m == "token_vlm/plain"}) == {}


# ---------------------------------------------------------------- captions of one's own


@pytest.fixture(scope="module")
def own():
    sample = str(ROOT / "data/01_raw/captioned_sample/table.csv")
    parameters = {"path": sample, "columns": {"caption": "text", "picture": "file", "group": "series"}}
    return ingest(WorldConfig(world="captioned_files", parameters=parameters), "mine")


def test_of_ones_own_captions_what_needs_no_scene_is_judged_and_nothing_else(own):
    knowing = judged(own)
    rows = {row["metric"] for row in knowing.rows}
    assert rows == {
        "retrieval_r1", "retrieval_of", "perplexity", "perplexity_per_byte", "prior_perplexity",
        "prior_perplexity_per_byte", "frechet_pixels", "language_parameters", "text_parameters", "text_spread",
        "text_rank", "collapsed",
    }  # fmt: skip
    assert value(knowing, "retrieval_r1") == 1.0
    assert value(knowing, "frechet_pixels") == pytest.approx(0.0, abs=1e-6)
    assert value(knowing, "perplexity") == pytest.approx(1.0)
    assert value(knowing, "prior_perplexity") == pytest.approx(2.0)
    captions = len(set(own["test"]["captions"].tolist()) | set(own["train"]["captions"].tolist()))
    assert value(judged(own, deaf=True), "retrieval_r1") == pytest.approx(1.0 / value(knowing, "retrieval_of"))
    assert value(knowing, "retrieval_of") <= min(100, captions + len(own["validation"]))
    assert "said_right" not in knowing.arrays
    assert texts_of(knowing.arrays["said"]) == own["test"]["captions"][:3].tolist()


def test_questions_of_the_table_are_judged_beside(own):
    asked = {}
    for split, part in own.items():
        count = len(part)
        views = dict(part.views) | {
            "questions": np.stack([part["questions"][:, 0], np.array(["which?"] * count)], 1),
            "answers": np.stack([part["captions"], np.where(np.arange(count) % 2, "odd", "even")], 1),
            "asked": np.tile([0, 1], (count, 1)),
        }
        asked[split] = world_of(part.spec).episodes(views, 1.0)
    rows = {row["metric"] for row in judged(asked).rows}
    assert {"answer_accuracy", "answer_own", "retrieval_r1"} <= rows
    assert value(judged(asked), "answer_own") == 1.0
    assert value(judged(asked, deaf=True), "answer_own") == pytest.approx(0.5, abs=0.1)


class TextOnly(Knowing):
    """The same, which never sees a frame."""

    @classmethod
    def observed(cls, spec, config):
        return ("captions",)


def test_who_learns_texts_alone_is_judged_by_their_likelihood_alone(own):
    family = TextOnly(FamilyConfig(), own["train"].spec.showing(("frames", "captions")), [0, 1])
    family.truth = own["test"]
    plain = {s: Spec(p.spec.name, 1.0, {"captions": p.spec.views["captions"]}) for s, p in own.items()}
    texts = {s: Episodes(plain[s], {"captions": p["captions"]}) for s, p in own.items()}
    for episodes in (texts, {s: world_of(p.spec).episodes({k: p[k] for k in ("captions", "frames")}, 1.0)
                             for s, p in own.items()}):  # fmt: skip
        found = Language().judge(family, episodes, "test", Laws(), Language().config({}))
        assert {row["metric"] for row in found.rows} == {"prior_perplexity", "prior_perplexity_per_byte"}


# ---------------------------------------------------------------- clips whose captions change


class Pointing(Knowing):
    """Knows where the caption of every frame lies; ``stuck``, it expects all of them at one place."""

    stuck = False

    def embed_texts(self, texts, seed):
        return torch.stack([_place(text) for text in texts_of(texts)])

    def point_at(self, frames, questions, seed):
        known = {}
        for part in (self.truth, self.moving):
            shape = part["frames"].shape[-3:]
            known |= dict(
                zip(map(bytes, part["frames"].reshape(-1, *shape)), part["captions"].ravel().tolist(), strict=True)
            )
        found = torch.stack([_place(known[bytes(frame)]) for frame in frames[:, 0].numpy()])[:, None]
        return torch.ones_like(found) + 1e-3 * found if self.stuck else found


def _place(text):
    return torch.randn(16, generator=torch.Generator().manual_seed(hash_of(text)))


def hash_of(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def pointing(episodes, stuck=False, share=0.9):
    family = Pointing(FamilyConfig(), episodes["train"].spec.showing(Language.shows), [0, 1])
    family.truth, family.moving, family.stuck = episodes["test"], episodes["moving"], stuck
    config = Language().config({"drawn": 4, "retrieved": 4, "retrieved_of": 1000, "selective_share": share})
    return Language().judge(family, episodes, "test", laws_of(episodes["test"].spec), config)


def test_who_sees_every_change_says_it_once(episodes):
    found = pointing(episodes, share=1.0)
    captions = episodes["moving"]["captions"][6:]  # the second half of the clips
    changed = (captions[:, 1:] != captions[:, :-1]).sum()
    assert changed > 3
    assert value(found, "scene_changes") == pytest.approx(changed / (6 * 29))
    assert value(found, "decodes_embedding") == pytest.approx((6 + changed) / (6 * 30))
    for rule in ("embedding", "pixels", "stride"):
        assert value(found, f"right_{rule}") == 1.0
    assert value(found, "decodes_stride") == 1.0  # a change may come at any frame
    assert value(found, "fewer_than_stride") == pytest.approx(6 * 30 / (6 + changed))
    assert value(found, "fewer_than_pixels") > 1.0  # what drifts moves pixels, too
    assert found.arrays["by_episode/decodes_embedding"].shape == (2, 6)
    assert value(found, "collapsed") == 0


def test_thresholds_are_taken_from_other_clips(episodes):
    rows = pointing(episodes).rows
    turned = dict(episodes)
    moving = episodes["moving"]
    order = [*range(6), *range(11, 5, -1)]  # the judged half in another order
    turned["moving"] = replace(moving, views={name: view[order] for name, view in moving.views.items()})
    assert [row["value"] for row in pointing(turned).rows] == pytest.approx([row["value"] for row in rows])


def test_predictions_at_one_place_are_a_collapse_though_texts_lie_apart(episodes):
    found = pointing(episodes, stuck=True)
    assert value(found, "text_spread") > 0.9
    assert value(found, "predicted_spread") < 0.01
    assert value(found, "collapsed") == 1
    assert value(pointing(episodes), "predicted_spread") > 0.9
