"""Judging encoders of images: fake families whose answers are known; signs of collapse."""

import numpy as np
import pytest
import torch
from torch import nn

from wm_pipelines.episodes import Episodes, spaces_of
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.laws import Laws
from wm_pipelines.spec import Spec
from wm_pipelines.tasks._pixels.features import add_spread, encoder
from wm_pipelines.tasks.images import Images
from wm_pipelines.tasks.images.judge import as_colours
from wm_pipelines.tasks.judgement import Judgement


class Flat(MemberFamily):
    """Pixels, and every row of them as a patch."""

    name = "flat"
    Config = FamilyConfig

    def make_member(self):
        return nn.Linear(1, 1)

    def member_loss(self, member, batch, generator, progress):
        raise TypeError

    def member_encode(self, member, views):
        frames = views["frames"].float()
        return frames.flatten(2), frames.flatten(3)


class Blind(Flat):
    """Encodes every image alike, but for rounding."""

    def member_encode(self, member, views):
        noise = 1e-4 * torch.rand(*views["frames"].shape[:2], 16, generator=torch.Generator().manual_seed(0))
        return 1.0 + noise, None


def digits(count, seed, labels=True):
    """Ten classes, each a bright bar in a column of its own, and noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, count)
    frames = rng.integers(0, 60, (count, 1, 12, 12, 1), dtype=np.uint8)
    frames[np.arange(count), 0, :, label] = 255
    views = {"frames": frames} | ({"labels": label} if labels else {})
    return Episodes(Spec("bars", 1.0, spaces_of(views), 1), views)


def judged(kind, trained=True, labels=True, **config):
    data = {"train": digits(300, 0, labels), "test": digits(100, 1, labels)}
    family = kind(FamilyConfig(), data["train"].spec.showing(Images.shows), [0])
    config = Images().config({"shown": 4, "attentive_steps": 20, "labels": [50, 9999], **config})
    return Images().judge(family, data, "test", Laws(), config, trained)


def value(judgement, metric, step=-1):
    (found,) = [r["value"] for r in judgement.rows if (r["metric"], r["step"]) == (metric, step)]
    return found


def test_probes_tell_a_seeing_encoder_from_a_blind_one():
    sees, blind = judged(Flat), judged(Blind)
    assert value(sees, "linear_probe") == value(sees, "linear_probe_by_labels", 300) > 0.95
    assert value(sees, "linear_probe_by_labels", 50) <= 1.0
    assert value(sees, "knn_probe") > 0.95
    assert value(sees, "attentive_probe") > 0.5
    assert value(sees, "collapsed") == 0
    assert value(blind, "linear_probe") < 0.4
    assert value(blind, "collapsed") == 1
    assert sees.arrays["neighbours"].shape == (4, 6, 12, 12, 1)
    assert sees.arrays["patches"].shape == (4, 12, 3)


def test_of_an_untrained_encoder_features_alone_are_judged():
    control = judged(Flat, trained=False)
    assert value(control, "linear_probe") > 0.95
    assert {name.split("/")[0] for name in control.arrays} == {"by_episode"}
    assert control.value("collapsed") is None


def test_images_without_labels_and_families_without_features_are_one_line():
    with pytest.raises(UserError, match="images of 'bars' have no labels"):
        judged(Flat, labels=False)
    with pytest.raises(UserError, match="'dumb' has no features to judge"):
        encoder(type("Dumb", (), {"name": "dumb"})())


def test_colours_of_patches_follow_the_largest_differences():
    tokens = np.zeros((2, 9, 5))
    tokens[:, :, 3] = np.linspace(0, 1, 9)
    red = as_colours(tokens)[..., 0].astype(int)
    assert abs(red[0, 0] - red[0, -1]) == 255
    assert np.all(np.diff(red[0]) <= 0) or np.all(np.diff(red[0]) >= 0)


def test_spread_is_called_for_what_was_learned_alone():
    judgement = Judgement([0])
    flat = np.ones((1, 50, 8)) + 1e-6 * np.eye(50, 8)
    add_spread(judgement, flat, None)
    assert "collapsed" not in {row["metric"] for row in judgement.rows}
    add_spread(judgement, flat, np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8))
    assert value(judgement, "collapsed") == 1


def test_features_may_vary_as_little_as_the_images():
    """Before a still background one dim pixel moves: two hundredths of the features vary, and all of it tells."""
    rng = np.random.default_rng(0)
    features = 1 + 0.02 * rng.standard_normal((1, 200, 8))
    for frames, called in ((np.full((200, 9, 9, 1), 200, np.uint8), 0), (rng.integers(0, 256, (200, 9, 9, 1)), 1)):
        frames = np.asarray(frames, np.uint8)
        frames[np.arange(200), rng.integers(0, 9, 200), 0] = 180
        judgement = Judgement([0])
        add_spread(judgement, features, frames)
        assert value(judgement, "collapsed") == called
