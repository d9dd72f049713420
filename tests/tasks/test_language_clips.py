"""Judging selective decoding on clips, and collapse: a family that knows where every caption lies."""

import hashlib
from dataclasses import replace

import pytest
import torch

from tests.tasks.knowing import FEW, Knowing, value
from wm_pipelines.episodes import texts_of
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.laws import laws_of
from wm_pipelines.tasks.language import Language
from wm_pipelines.worlds.making import WorldConfig, ingest


@pytest.fixture(scope="module")
def episodes():
    return ingest(WorldConfig(world="captioned_scenes", parameters=FEW), "captioned_scenes")


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
    found = [[row["value"] for row in one if row["unit"] != "ms"] for one in (pointing(turned).rows, rows)]
    assert found[0] == pytest.approx(found[1])


def test_predictions_at_one_place_are_a_collapse_though_texts_lie_apart(episodes):
    found = pointing(episodes, stuck=True)
    assert value(found, "text_spread") > 0.9
    assert value(found, "predicted_spread") < 0.01
    assert value(found, "collapsed") == 1
    assert value(pointing(episodes), "predicted_spread") > 0.9
