"""Judging models of pictures and videos: fake families whose answers are known."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score as sklearn_r2
from torch import nn

from wm_pipelines.errors import UserError
from wm_pipelines.families.pixel_protocol import PixelFamily
from wm_pipelines.families.protocol import FamilyConfig
from wm_pipelines.metrics.explained import explained_variance
from wm_pipelines.pipelines.configuration import ImageEvaluationConfig, VideoEvaluationConfig
from wm_pipelines.pipelines.evaluation.judging import Judgement
from wm_pipelines.pipelines.pixels.images import as_colours, judge_images
from wm_pipelines.pipelines.pixels.judging import _call_collapsed, add_spread, frame_system
from wm_pipelines.pipelines.pixels.observables import Observables
from wm_pipelines.pipelines.pixels.surprise import surprises
from wm_pipelines.pipelines.pixels.videos import ReadOut, judge_videos
from wm_pipelines.system import System
from wm_pipelines.worlds.episodes import Episodes

STEP = 0.1
DOT = System("dot", dof=2, step=STEP, energy=lambda z: 0.5 * (z[..., 2:] ** 2).sum(-1))


def dots(episodes: int, rows: int = 30, seed: int = 0, jump: bool = False) -> Episodes:
    """A dot that moves straight on at constant speed: its place is written into the first two pixels.

    ``jump``: halfway it is put elsewhere, against the law.
    """
    rng = np.random.default_rng(seed)
    q0, v = rng.uniform(60, 120, (episodes, 1, 2)), rng.uniform(-2, 2, (episodes, 1, 2))
    time = STEP * np.arange(rows)
    q = q0 + v * 10 * time[:, None]
    if jump:
        q[:, rows // 2 :] += 40
    frames = np.zeros((episodes, rows, 12, 12, 1), np.uint8)
    frames[:, :, 0, :2, 0] = np.rint(q)
    state = np.concatenate([np.rint(q), np.broadcast_to(v * 10, q.shape)], axis=-1)
    return Episodes(time=np.tile(time, (episodes, 1)), state=state, frames=frames, metadata={"step": STEP})


class Reader(PixelFamily):
    """Reads the two pixels; predicts that the dot goes straight on, or, if it is ``stubborn``, stays."""

    name = "reader"
    Config = FamilyConfig
    stubborn = False
    context = 3

    def make_member(self):
        return nn.Linear(1, 1)

    def member_loss(self, member, frames, generator, progress):
        raise TypeError

    def member_encode(self, member, frames):
        return frames[:, :, 0, :2, 0].float(), None

    def member_predict(self, member, context, steps):
        q = context[:, :, 0, :2, 0].float()
        v = torch.zeros_like(q[:, 0]) if self.stubborn else (q[:, -1] - q[:, 0]) / 2
        latents = torch.stack([q[:, -1] + k * v for k in range(1, steps + 1)], 1)
        frames = torch.zeros(len(q), steps, 12, 12, 1)
        frames[:, :, 0, :2, 0] = (latents / 255).clamp(0, 1)
        return frames, latents


class Stubborn(Reader):
    stubborn = True


def judged(kind, seeds=(0,), **splits):
    train, test = dots(40), dots(20, seed=1)
    family = kind(FamilyConfig(), frame_system(train, "dot"), seeds)
    config = VideoEvaluationConfig(context=10, steps=8, every=10, resamples=50)
    return judge_videos(family, True, {"train": train, "test": test, **splits}, DOT, config)


def value(judgement, metric, step=-1, seed=0):
    (found,) = [r["value"] for r in judgement.rows if (r["metric"], r["step"], r["seed"]) == (metric, step, seed)]
    return found


# ------------------------------------------------------------------------------------------ reading


@given(
    st.integers(0, 3).flatmap(
        lambda d: st.tuples(st.just(d + 1), st.sets(st.integers(0, d)), st.integers(0, 2**32 - 1))
    )
)
def test_what_observables_say_is_the_state_up_to_whole_turns(case):
    dof, angles, seed = case
    seen = Observables(System("any", dof=dof, step=1.0, angles=tuple(sorted(angles))))
    state = np.random.default_rng(seed).uniform(-9, 9, (3, 2, 2 * dof))
    back = seen.state(seen.position(state), seen.velocity(state))
    turns = np.zeros(2 * dof, bool)
    turns[list(angles)] = True
    off = back - state
    np.testing.assert_allclose(off[..., turns] / (2 * np.pi), np.rint(off[..., turns] / (2 * np.pi)), atol=1e-12)
    np.testing.assert_array_equal(back[..., ~turns], state[..., ~turns])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 4))
def test_explained_variance_is_that_of_scikit_learn(seed, episodes, columns):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((episodes, 5, columns)) * rng.uniform(0.5, 3, columns)
    predicted = truth + rng.standard_normal(truth.shape)
    found = explained_variance(predicted, truth, resamples=50)
    # scikit-learn centres every column for itself, as we do, and weighs columns by their variance, as pooling does.
    expected = sklearn_r2(truth.reshape(-1, columns), predicted.reshape(-1, columns), multioutput="variance_weighted")
    assert float(found.value) == pytest.approx(expected)
    assert found.ci_low <= found.value <= found.ci_high
    assert found.n == episodes


def test_a_lost_prediction_explains_nothing():
    truth = np.random.default_rng(0).standard_normal((4, 3, 1))
    predicted = truth.copy()
    predicted[2, 1] = np.nan
    assert explained_variance(predicted, truth).value == -np.inf
    with pytest.raises(ValueError, match=r"\[E, M, Q\]"):
        explained_variance(truth[0], truth[0])


def test_a_velocity_is_read_from_a_window_and_not_from_one_frame():
    train, test = dots(40), dots(20, seed=1)
    family = Reader(FamilyConfig(), frame_system(train, "dot"), [0])
    learned, held_out = (family.encode(torch.tensor(e.frames)).pooled.double().numpy() for e in (train, test))
    reader = ReadOut(Observables(DOT), 3, 1, learned, train.state)
    where, how_fast = reader.read(held_out)
    at = reader.instants(test.state)[:, 2:]
    assert explained_variance(where[0], at[..., :2]).value > 0.9999
    assert explained_variance(how_fast[0], at[..., 2:]).value > 0.9
    # The first two frames of a window alone, repeated, tell nothing of speed.
    still = np.repeat(held_out[:, :, :1], held_out.shape[2], axis=2)
    assert explained_variance(reader.read(still)[1][0], at[..., 2:]).value < 0.3


def test_windows_that_do_not_fit_are_one_line():
    short = dots(3, rows=2)
    with pytest.raises(UserError, match=r"video_evaluation\.window: 3 latents .* episodes of 2 frames"):
        ReadOut(Observables(DOT), 3, 1, np.zeros((1, 3, 2, 2)), short.state)


# ------------------------------------------------------------------------------------------ predicting


def test_the_law_itself_explains_the_future_keeps_its_energy_and_beats_standing_still():
    right, still = judged(Reader), judged(Stubborn)
    for step in (1, 4, 8):
        assert value(right, "r2_position_predicted_probed", step) > 0.99
    assert value(still, "r2_position_predicted_probed", 8) < value(right, "r2_position_predicted_probed", 8)
    assert value(right, "mse") < value(still, "mse")
    assert value(right, "ssim") > value(still, "ssim")
    assert value(right, "energy_mse_probed") < value(still, "energy_mse_probed")
    # The motion is linear, so ridge regression from the context is right, too.
    assert value(right, "r2_position_ridge_probed", 8) > 0.95


def test_videos_of_which_no_state_is_known_are_judged_by_frames_alone():
    nothing = System("film", dof=0, step=STEP)
    train, test = (replace(e, state=e.state[..., :0]) for e in (dots(40), dots(20, seed=1)))
    family = Reader(FamilyConfig(), frame_system(train, "film"), (0,))
    config = VideoEvaluationConfig(context=10, steps=8, every=10, resamples=50)
    found = judge_videos(family, True, {"train": train, "test": test}, nothing, config)
    assert value(found, "mse") < 1e-3
    assert not [row for row in found.rows if "r2_" in row["metric"] or "energy" in row["metric"]]


def test_frames_are_judged_in_the_units_of_openstl():
    found = judged(Stubborn)
    assert value(found, "mse_per_frame") == pytest.approx(12 * 12 * value(found, "mse"))
    assert found.arrays["predicted_frames"].shape == found.arrays["true_frames"].shape == (40, 8, 12, 12, 1)


def test_every_seed_has_rows_of_its_own():
    found = judged(Reader, seeds=(3, 5))
    assert value(found, "mse", seed=3) == value(found, "mse", seed=5)


def test_a_jump_surprises_who_knows_the_law():
    found = judged(Reader, impossible_teleport=dots(20, seed=2, jump=True))
    assert value(found, "surprise_teleport_auc") == 1.0
    lawful = judged(Reader, impossible_nothing=dots(20, seed=3))
    assert 0.1 < value(lawful, "surprise_nothing_auc") < 0.9


def test_surprise_is_where_the_law_is_broken():
    broken = dots(5, seed=2, jump=True)
    family = Reader(FamilyConfig(), frame_system(broken, "dot"), [0])
    score = surprises(family, broken.frames)
    assert score.shape == (1, 5, 30 - 3)
    assert np.all(np.isin(score[0].argmax(1), [12, 13, 14]))  # windows of three frames that reach frame 15


def test_episodes_too_short_for_context_and_steps_are_one_line():
    train = dots(4)
    family = Reader(FamilyConfig(), frame_system(train, "dot"), [0])
    config = VideoEvaluationConfig(context=28, steps=8)
    with pytest.raises(UserError, match=r"28 frames of context and 8 steps do not fit .* episodes of 30 frames"):
        judge_videos(family, True, {"train": train, "test": train}, DOT, config)


def test_a_world_changes_its_own_evaluation():
    config = VideoEvaluationConfig(steps=8, worlds={"dot": {"steps": 3}})
    assert (config.on("dot").steps, config.on("other").steps) == (3, 8)
    with pytest.raises(UserError, match=r"video_evaluation\.worlds\.dot\.stepps': unknown"):
        VideoEvaluationConfig(worlds={"dot": {"stepps": 3}}).on("dot")


# ------------------------------------------------------------------------------------------ pictures


class Blind(Reader):
    """Encodes every picture alike, but for rounding."""

    def member_encode(self, member, frames):
        noise = 1e-4 * torch.rand(*frames.shape[:2], 16, generator=torch.Generator().manual_seed(0))
        return 1.0 + noise, None


def digits(count, seed):
    """Ten classes, each a bright bar in a column of its own, and noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 10, count)
    frames = rng.integers(0, 60, (count, 1, 12, 12, 1), dtype=np.uint8)
    frames[np.arange(count), 0, :, label] = 255
    return Episodes(time=np.zeros((count, 1)), state=np.zeros((count, 1, 0)), frames=frames, label=label)


class Flat(Reader):
    def member_encode(self, member, frames):
        return frames.flatten(2).float(), None


def test_probes_tell_seeing_from_being_blind(caplog):
    data = {"train": digits(300, 0), "test": digits(100, 1)}
    system = frame_system(data["train"], "bars")
    config = ImageEvaluationConfig(resamples=50, shown=4)
    sees = judge_images(Flat(FamilyConfig(), system, [0]), True, data, config)
    blind = judge_images(Blind(FamilyConfig(), system, [0]), True, data, config)
    assert value(sees, "linear_probe") > 0.95
    assert value(sees, "knn_probe") > 0.95
    assert value(sees, "collapsed") == 0
    assert value(blind, "linear_probe") < 0.4
    assert value(blind, "collapsed") == 1
    with caplog.at_level(logging.WARNING):
        _call_collapsed(sees, "flat")
        assert not caplog.records
        _call_collapsed(blind, "blind (plain) on bars")
    assert "blind (plain) on bars COLLAPSED for seed(s) [0]" in caplog.text
    assert sees.arrays["neighbours"].shape == (4, 6, 12, 12, 1)


def test_pictures_without_labels_are_one_line():
    data = dots(4)
    family = Reader(FamilyConfig(), frame_system(data, "dot"), [0])
    with pytest.raises(UserError, match="probes need pictures with labels"):
        judge_images(family, True, {"train": data, "test": data}, ImageEvaluationConfig())


def test_a_world_without_frames_is_one_line():
    blank = Episodes(time=np.zeros((2, 3)), state=np.zeros((2, 3, 4)))
    with pytest.raises(UserError, match=r"world 'dot' has no frames; set 'dot\.frame_size'"):
        frame_system(blank, "dot")


def test_colours_of_places_follow_the_largest_differences():
    tokens = np.zeros((2, 9, 5))
    tokens[:, :, 3] = np.linspace(0, 1, 9)
    red = as_colours(tokens)[..., 0].astype(int)
    assert abs(red[0, 0] - red[0, -1]) == 255
    assert np.all(np.diff(red[0]) <= 0) or np.all(np.diff(red[0]) >= 0)


def test_spread_is_called_for_what_was_learned_alone():
    judgement = Judgement([0], resamples=50)
    flat = np.ones((1, 50, 8)) + 1e-6 * np.eye(50, 8)
    add_spread(judgement, flat, None)
    assert "collapsed" not in {row["metric"] for row in judgement.rows}
    add_spread(judgement, flat, np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8))
    assert value(judgement, "collapsed") == 1


def test_features_may_vary_as_little_as_the_pictures():
    """Before a still background one dim pixel moves: two hundredths of the features vary, and all of it tells."""
    rng = np.random.default_rng(0)
    features = 1 + 0.02 * rng.standard_normal((1, 200, 8))
    for frames, called in ((np.full((200, 9, 9, 1), 200, np.uint8), 0), (rng.integers(0, 256, (200, 9, 9, 1)), 1)):
        frames = np.asarray(frames, np.uint8)
        frames[np.arange(200), rng.integers(0, 9, 200), 0] = 180
        judgement = Judgement([0], resamples=50)
        add_spread(judgement, features, frames)
        assert value(judgement, "collapsed") == called
