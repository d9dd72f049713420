"""Judging codes: a world of two dots, one that is moved and one that goes its way, and models whose codes are known."""

import numpy as np
import pytest
import torch
from torch import nn

from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.laws import Laws
from wm_pipelines.spec import Spec
from wm_pipelines.tasks.judgement import Judgement
from wm_pipelines.tasks.videos import VideosConfig
from wm_pipelines.tasks.videos.codes import add_codes

LAWS = Laws(agent=(0,))
CONFIG = VideosConfig(context=2, steps=4, every=5)


def two_dots(count=12, rows=30, seed=0):
    """Frames hold both positions; the first moves by -2, 0 or 2 as is acted, the second at random."""
    rng = np.random.default_rng(seed)
    acted, other = rng.integers(3, size=(2, count, rows - 1))
    walk = [100 + np.pad(np.cumsum(2 * (w - 1), 1), ((0, 0), (1, 0))) for w in (acted, other)]
    q = np.stack(walk, -1).astype(np.float64)
    frames = np.zeros((count, rows, 12, 12, 1), np.uint8)
    frames[:, :, :6, :, 0] = q[..., None, None, 0]
    frames[:, :, 6:, :, 0] = q[..., None, None, 1]
    views = {"frames": frames, "states": np.concatenate([q, 0 * q], -1), "actions": np.eye(3)[acted]}
    return Episodes(Spec("two", 0.1, spaces_of(views), rows), views)


class Follower(MemberFamily):
    """A code says how far one of the dots moves; the other stays where it is."""

    name = "follower"
    Config = FamilyConfig
    needs = ("frames",)
    uses = ("actions",)
    context = 1
    codes = 4
    dot = 0

    def make_member(self):
        return nn.Linear(1, 1)

    def member_loss(self, member, batch, generator, progress):
        raise TypeError

    def member_encode(self, member, views):
        return views["frames"][:, :, ::6, 0, 0].float(), None

    def discover(self, views):
        place = views["frames"][:, :, 6 * self.dot, 0, 0].long()
        return (1 + place.diff(dim=1) // 2).expand(len(self.seeds), -1, -1)

    def follow(self, past, codes):
        rows = slice(6 * self.dot, 6 * self.dot + 6)
        frames = (
            past["frames"][:, -1:].float().repeat(1, codes.shape[2], 1, 1, 1).expand(len(codes), -1, -1, -1, -1, -1)
        )
        frames = frames.clone()
        frames[:, :, :, rows] += 2 * (codes - 1).cumsum(2)[..., None, None, None]
        return {"frames": frames / 255}

    def predict(self, past, steps, actions=None, step=None):
        return self.follow(past, actions.argmax(-1).expand(len(self.seeds), -1, -1))


class Distracted(Follower):
    dot = 1


def judged(kind):
    train, test = two_dots(seed=0), two_dots(seed=1)
    model = kind(FamilyConfig(), train.spec, (0, 1))
    found = Judgement(model.seeds)
    add_codes(found, model, train, test, LAWS, CONFIG)
    return {(row["metric"], row["step"]): row for row in found.rows if row["seed"] == 1}


def test_codes_that_are_the_actions_tell_everything_of_the_agent_and_nothing_of_the_other():
    rows = judged(Follower)

    def value(metric, step=-1):
        return rows[metric, step]["value"]

    assert value("codebook_usage") == 0.75
    assert value("codes_in_use") == 3
    assert value("code_perplexity") == pytest.approx(3, abs=0.05)
    for who in ("action", "agent"):
        assert value(f"code_ami_{who}") == pytest.approx(1)
        assert value(f"code_nmi_{who}") == pytest.approx(1)
        assert value(f"code_ami_{who}_null") < 0.05
    assert value("code_ami_exogenous") < value("code_ami_exogenous_null")
    assert value("distractor_share") < 0.02
    assert value("action_consistency") == 1
    assert value("action_consistency_chance") == pytest.approx(1 / 3, abs=0.1)
    assert rows["action_consistency", -1]["n"] == 12
    for step in (1, 4):
        assert value("delta_psnr", step) > 0
        assert value("delta_psnr_mapped", step) == pytest.approx(value("delta_psnr", step))
    assert rows["code_ami_agent", -1]["ci_low"] <= 1


def test_codes_of_the_distractor_are_exposed():
    rows = judged(Distracted)
    assert rows["distractor_share", -1]["value"] > 0.98
    assert rows["code_ami_agent", -1]["value"] < 0.05
    assert rows["code_ami_exogenous", -1]["value"] == pytest.approx(1)
    assert rows["action_consistency", -1]["value"] < 0.5
    assert rows["delta_psnr", 1]["value"] > 0  # frames alone do not tell whose codes they are


def test_worlds_without_actions_and_states_are_judged_by_use_and_futures():
    whole = two_dots()
    views = {"frames": whole["frames"]}
    part = Episodes(Spec("two", 0.1, spaces_of(views), 30), views)
    model = Follower(FamilyConfig(), part.spec, (0,))
    found = Judgement((0,))
    add_codes(found, model, part, part, Laws(), CONFIG)
    assert {row["metric"] for row in found.rows} == {"codebook_usage", "codes_in_use", "code_perplexity", "delta_psnr"}
    assert torch.is_tensor(model.discover({"frames": torch.tensor(part["frames"])}))
