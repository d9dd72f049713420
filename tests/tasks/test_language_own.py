"""Judging captions of somebody's own: no scenes, no grammar, perhaps no frames."""

import numpy as np
import pytest

from tests.tasks.knowing import Knowing, judged, value
from tests.worlds.test_videos import ROOT
from wm_pipelines.episodes import Episodes, texts_of
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.laws import Laws, world_of
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.language import Language
from wm_pipelines.worlds.making import WorldConfig, ingest


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
        "text_rank", "collapsed", "ms_per_caption",
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
