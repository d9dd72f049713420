"""Judging captions and frames: families whose answers are known."""

import hashlib

import numpy as np
import pytest
import torch

from tests.families.trained_encoders import stored_ijepa
from tests.tasks.knowing import FEW, Knowing, judged, value
from wm_pipelines.episodes import texts_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.families.training_copy import TrainingCopy, TrainingCopyConfig
from wm_pipelines.laws import Laws, laws_of, world_of
from wm_pipelines.learning.config import LearningConfig
from wm_pipelines.learning.fitting import as_tensors
from wm_pipelines.learning.loop import train
from wm_pipelines.metrics.distances import frechet_distance
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.base import Results
from wm_pipelines.tasks.judgement import Judgement, cost_rows, table
from wm_pipelines.tasks.language import Language
from wm_pipelines.tasks.language.asked import answers_of
from wm_pipelines.tasks.language.asked_report import beside_reference, beyond_words, verdict
from wm_pipelines.tasks.language.judge import coarse
from wm_pipelines.tasks.language.report import composition
from wm_pipelines.worlds.making import WorldConfig, ingest
from wm_pipelines.worlds.parts.scene_questions import KINDS


@pytest.fixture(scope="module")
def episodes():
    return ingest(WorldConfig(world="captioned_scenes", parameters=FEW), "captioned_scenes")


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


def test_frames_are_compared_by_features_of_networks_that_were_trained_elsewhere(episodes, tmp_path):
    class Means(torch.nn.Module):
        def forward(self, x: torch.Tensor, return_features: bool) -> torch.Tensor:
            return torch.nn.functional.pad(x.float().mean(dim=[2, 3]), [0, 2045])

    script = tmp_path / "inception.pt"
    torch.jit.script(Means()).save(str(script))
    inception = {"path": str(script), "sha256": hashlib.sha256(script.read_bytes()).hexdigest()}
    shown = torch.tensor(episodes["train"]["frames"])
    ijepa, encoder = stored_ijepa(tmp_path, episodes["train"].spec, shown, stem=(8, 8, 8))
    found = judged(episodes, inception=inception, encoder=encoder.model_dump())
    assert value(found, "fid") < 1e-6
    assert value(found, "frechet_encoder") < 1e-6
    config = {"drawn": 40, "shown": 40, "inception": inception, "encoder": encoder.model_dump()}
    laws = laws_of(episodes["test"].spec)
    floor = Language().judge(copies(episodes), episodes, "test", laws, Language().config(config))
    true, copied = (torch.tensor(f) for f in (episodes["test"]["frames"][:40], floor.arrays["drawn"][:, None]))
    a, b = (ijepa.encode({"frames": f}).pooled[0].flatten(1).double().numpy() for f in (true, copied))
    assert value(floor, "frechet_encoder") == pytest.approx(frechet_distance(b, a), rel=1e-3)
    assert value(floor, "fid") > 0
    with pytest.raises(UserError, match="SHA-256"):
        Language().check(Language().config({"inception": inception | {"sha256": "0" * 64}}))
    with pytest.raises(UserError, match="is no file"):
        Language().check(Language().config({"encoder": {"path": str(tmp_path / "no"), "sha256": "0" * 64}}))
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        Language().config({"encoder": {"path": "x", "sha256": "0" * 63}})


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
