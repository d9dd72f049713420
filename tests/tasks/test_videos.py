"""Judging models of videos: fake families whose answers are known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.tasks.watching import STEP, Reader, Stubborn, dots, judged, value
from wm_pipelines.episodes import Episodes
from wm_pipelines.errors import UserError
from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.laws import Laws
from wm_pipelines.metrics.explained import explained_variance
from wm_pipelines.tasks.videos import Videos
from wm_pipelines.tasks.videos.physics import best_window
from wm_pipelines.tasks.videos.probing import Observables, PhysicsProbe
from wm_pipelines.tasks.videos.surprise import latent_scale, surprises

# ------------------------------------------------------------------------------------------ reading


@given(
    st.integers(0, 3).flatmap(
        lambda d: st.tuples(st.just(d + 1), st.sets(st.integers(0, d)), st.integers(0, 2**32 - 1))
    )
)
def test_what_observables_say_is_the_state_up_to_whole_turns(case):
    dof, angles, seed = case
    seen = Observables(dof, tuple(sorted(angles)))
    states = np.random.default_rng(seed).uniform(-9, 9, (3, 2, 2 * dof))
    back = seen.states(seen.position(states), seen.velocity(states))
    turns = np.zeros(2 * dof, bool)
    turns[list(angles)] = True
    off = back - states
    np.testing.assert_allclose(off[..., turns] / (2 * np.pi), np.rint(off[..., turns] / (2 * np.pi)), atol=1e-12)
    np.testing.assert_array_equal(back[..., ~turns], states[..., ~turns])


def test_a_velocity_is_read_from_a_window_and_not_from_one_frame():
    train, test = dots(40), dots(20, seed=1)
    family = Reader(FamilyConfig(), train.spec, [0])
    views = ({"frames": torch.tensor(e["frames"])} for e in (train, test))
    learned, held_out = (family.encode(v).pooled.double().numpy() for v in views)
    probe = PhysicsProbe(Observables.of(train.spec), 3, 1, learned, train["states"])
    where, how_fast = probe.read(held_out)
    at = probe.latent_steps(test["states"])[:, 2:]
    assert explained_variance(where[0], at[..., :2]).value > 0.9999
    assert explained_variance(how_fast[0], at[..., 2:]).value > 0.9
    # The first two frames of a window alone, repeated, tell nothing of speed.
    still = np.repeat(held_out[:, :, :1], held_out.shape[2], axis=2)
    assert explained_variance(probe.read(still)[1][0], at[..., 2:]).value < 0.3


def test_windows_that_do_not_fit_are_one_line():
    with pytest.raises(UserError, match=r"videos\.window: 3 latents .* episodes of 2 frames"):
        PhysicsProbe(Observables(2), 3, 1, np.zeros((1, 3, 2, 2)), np.zeros((3, 2, 4)))


@pytest.mark.parametrize(("window", "stride", "latents"), [(4, 1, 4), (4, 2, 2), (6, 3, 2), (4, 4, 1)])
def test_a_window_spans_the_same_seconds_whatever_a_latent_step_spans(window, stride, latents):
    states = np.random.default_rng(0).normal(size=(6, 24, 4))
    features = np.random.default_rng(1).normal(size=(1, 6, 24 // stride, 3))
    probe = PhysicsProbe(Observables(2), window, stride, features, states)
    assert probe.window == latents
    assert len(probe.velocity[0].mean) == 3 * latents
    # The first state that is read is that of the window's last frame, the same for all.
    np.testing.assert_array_equal(probe.latent_steps(states)[:, probe.window - 1], states[:, window - 1])


def test_a_window_of_no_whole_latent_steps_is_one_line():
    with pytest.raises(UserError, match=r"videos\.window: 4 frames are no whole number of latent steps of 3"):
        PhysicsProbe(Observables(2), 4, 3, np.zeros((1, 3, 8, 2)), np.zeros((3, 24, 4)))


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
    found = judged(Reader, states=False, laws=Laws())
    assert value(found, "mse") < 1e-3
    assert not [row for row in found.rows if "r2_" in row["metric"] or "energy" in row["metric"]]


def test_frames_are_judged_in_the_units_of_openstl():
    found = judged(Stubborn)
    assert value(found, "mse_per_frame") == pytest.approx(12 * 12 * value(found, "mse"))
    np.testing.assert_array_equal(found.arrays["shown"], [0, 19, 39])
    assert found.arrays["predicted_frames"].shape == found.arrays["true_frames"].shape == (40, 8, 12, 12, 1)


def test_predictions_of_one_episode_are_one_observation():
    found = judged(Stubborn)
    of_predictions = {"mse", "psnr", "ssim", "r2_position_probed", "horizon_probed", "r2_position_predicted_probed"}
    assert {row["n"] for row in found.rows if row["metric"] in of_predictions} == {20}  # two predictions of each
    for metric in ("mse", "r2_position_probed", "energy_error_probed"):
        kept = found.arrays[f"by_episode/{metric}"]
        assert kept.shape == (1, 20)
        assert kept.mean() == pytest.approx(value(found, metric))


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
    score = surprises(Reader(FamilyConfig(), broken.spec, [0]), broken["frames"], np.ones((1, 2)))
    assert score.shape == (1, 5, 30 - 3)
    assert np.all(np.isin(score[0].argmax(1), [12, 13, 14]))  # windows of three frames that reach frame 15


def test_episodes_too_short_for_context_and_steps_are_one_line():
    with pytest.raises(UserError, match=r"28 frames of context and 8 steps do not fit .* episodes of 30 frames"):
        judged(Reader, context=28)


def test_a_world_changes_its_own_evaluation():
    config = {"steps": 8, "worlds": {"dot": {"steps": 3}}}
    assert [Videos().config(config, world).steps for world in ("dot", "other")] == [3, 8]
    with pytest.raises(UserError, match=r"unknown parameter 'videos.*dot\.stepps'; did you mean"):
        Videos().config({"worlds": {"dot": {"stepps": 3}}}, "dot")


def test_predictions_are_compared_in_the_jurys_features():
    kept = {f"test/{name}": array for name, array in judged(Stubborn).arrays.items()}
    same = kept | {"test/predicted_frames": kept["test/true_frames"]}
    jury = Reader(FamilyConfig(), dots(1).spec, [0])
    still, right = Videos().compare(
        jury, {}, {"still/a": kept, "right/b": same, "blind/c": {"test/shown": kept["test/shown"]}}
    )
    assert (still["model"], right["model"], still["metric"], still["split"]) == (
        "still/a",
        "right/b",
        "embedding_mmd",
        "test",
    )
    assert right["value"] < still["value"]
    assert right["value"] < right["ci_high"]
    assert still["n"] == 20  # episodes, of two predictions each


# ------------------------------------------------------------------------------------------ laws that are read


class Blind(Reader):
    """Its features say nothing: the probe always returns the mean."""

    def member_encode(self, member, views):
        return super().member_encode(member, views)[0] * 0 + 1, None

    def member_predict(self, member, past, steps, actions):
        found = super().member_predict(member, past, steps, actions)
        return {**found, "latents": found["latents"] * 0 + 1}


class Dim(Reader):
    """Its features tell the position to three pixels."""

    def member_encode(self, member, views):
        return (super().member_encode(member, views)[0] / 3).round() * 3, None


def test_a_constant_read_out_is_the_worst_keeper_of_energy_and_not_the_best():
    found = {kind.__name__: judged(kind) for kind in (Reader, Dim, Blind)}
    for metric in (
        "energy_error_probed",
        "energy_mse_probed",
        "violation_rate_probed",
        "defect_dynamics_energy_probed",
    ):
        right, dim, blind = (value(found[name], metric) for name in ("Reader", "Dim", "Blind"))
        assert right < dim < blind, metric
    assert value(found["Blind"], "r2_energy_probed") < 0.01 < value(found["Reader"], "r2_energy_probed")
    # From its own start the constant has moved nowhere: that says nothing, and is not judged.
    read = found["Blind"].arrays["read_energy"]
    assert np.ptp(read) < 1e-9 < np.ptp(found["Blind"].arrays["true_energy"][:, 0])
    assert not [row for row in found["Blind"].rows if "drift" in row["metric"]]


def test_energies_are_compared_with_the_truth_at_every_step():
    found = judged(Reader)
    steps = [value(found, "energy_error_probed", step) for step in range(1, 9)]
    assert value(found, "energy_error_probed") == pytest.approx(np.mean(steps))
    arrays = found.arrays
    assert arrays["read_energy"].shape == arrays["true_energy"].shape == (3, 9, 1)
    np.testing.assert_allclose(arrays["read_times"], STEP * np.arange(9))


class Forgetful(Reader):
    """Has a decoder, which leaves a quarter of the contrast of what was encoded, and predicts from the encoding."""

    def round_trip(self, views):
        z = self.encode(views).pooled
        return z.mean((1, 2), keepdim=True) + 0.25 * (z - z.mean((1, 2), keepdim=True))


STAGES = [
    (Reader, ("reading", "encoding", "dynamics"), "none"),
    (Stubborn, ("reading", "encoding"), "dynamics"),
    (Forgetful, ("reading", "dynamics"), "encoding"),
    (Blind, (), "reading"),
]


@pytest.mark.parametrize(("kind", "small", "lost"), STAGES)
def test_an_error_stands_where_it_is_made(kind, small, lost):
    found = judged(kind)
    for stage in ("reading", "encoding", "dynamics"):
        error = value(found, f"defect_{stage}_position_probed", 8)
        # Positions are whole pixels: a speed of three frames is off by 0.3 of one, a place 8 frames ahead by 2.4 of 25.
        assert (error < 0.1) == (stage in small), (stage, error)
    if lost == "reading":  # the mean of the truth scores about 1
        assert value(found, "defect_reading_position_probed", 8) == pytest.approx(1, abs=0.3)
    row = next(r for r in found.rows if r["metric"] == "defect_dynamics_velocity_probed" and r["step"] == 8)
    assert row["n"] == 20
    assert row["ci_low"] <= row["value"] <= row["ci_high"]


def test_without_a_decoder_the_encoding_is_what_was_read():
    found = judged(Reader)
    for quantity in ("position", "velocity", "energy"):
        for step in range(1, 9):
            read, encoded = (value(found, f"defect_{s}_{quantity}_probed", step) for s in ("reading", "encoding"))
            assert read == encoded


# ------------------------------------------------------------------------------------------ floors and controls


def test_the_floor_sees_as_much_of_the_context_as_tells_the_future_and_no_more():
    rng = np.random.default_rng(0)
    past = rng.normal(size=(60, 4, 12))
    place, change = past[:, -1, :2], past[:, -1, :2] - past[:, -2, :2]
    noise = 0.3 * rng.normal(size=place.shape)
    assert best_window(past, place + noise, 4, 48) == 1  # 48 examples, up to 48 features: the rest is chance
    assert best_window(past, change, 4, 48) == 2
    assert best_window(past, place, 4, 60) == 4


class Renamed(Reader):
    """Pixels, whatever it learned of prediction."""

    learned_features = False


def test_pixels_by_another_name_get_no_probe_rows_but_predictions_are_judged():
    metrics = {row["metric"] for row in judged(Renamed).rows}
    learned = {"r2_position_probed", "r2_velocity_probed", "r2_energy_probed", "effective_rank", "collapsed"}
    assert not metrics & learned
    assert learned <= {row["metric"] for row in judged(Reader).rows}
    assert {"mse", "energy_error_probed", "defect_dynamics_energy_probed"} <= metrics
    assert not judged(Renamed, trained=False).rows


class Normalised(Reader):
    """Subtracts a mean frame that `examples` finds, and normalises over the batch."""

    def make_member(self):
        return nn.BatchNorm1d(2, affine=False)

    def examples(self, episodes):
        self.mean = episodes["frames"].float().mean((0, 1))
        return super().examples(episodes)

    def member_encode(self, member, views):
        z = (views["frames"] - self.mean)[:, :, 0, :2, 0]
        return member(z.flatten(0, 1)).unflatten(0, z.shape[:2]), None


def test_the_untrained_control_is_calibrated_on_the_training_split():
    """As after training: its mean frame is that of the data, its normalised features have mean 0 and spread 1."""
    from wm_pipelines.tasks._pixels.features import calibrate

    train, test = dots(64), dots(64, seed=1)
    family = Normalised(FamilyConfig(), train.spec, (0, 1)).eval()
    calibrate(family, train)
    z = family.encode({"frames": torch.tensor(train["frames"])}).pooled
    assert z.mean((1, 2)).abs().max() < 1e-4
    assert (z.flatten(1, 2).std(1) - 1).abs().max() < 0.2
    once = family.encode({"frames": torch.tensor(test["frames"])}).pooled
    assert torch.equal(once, family.encode({"frames": torch.tensor(test["frames"])}).pooled)
    assert not family.training


# ------------------------------------------------------------------------------------------ surprise, repeats


def test_surprises_have_one_scale_and_it_is_that_of_lawful_training_clips():
    """Twice the training variance halves every surprise, of possible and impossible clips alike; no clip's own does."""
    clips = {"possible": dots(6, seed=4), "impossible": dots(6, seed=5, jump=True)}
    family = Reader(FamilyConfig(), clips["possible"].spec, [0])
    scale = latent_scale(family.encode({"frames": torch.tensor(dots(40)["frames"])}).pooled.double().numpy())
    assert scale.shape == (1, 2)
    for part in clips.values():
        one, two = (surprises(family, part["frames"], factor * scale) for factor in (1, 2))
        np.testing.assert_allclose(one, 2 * two)
        alone = surprises(family, part["frames"][:1], scale)
        np.testing.assert_array_equal(alone, one[:, :1])


def test_a_feature_that_never_varied_in_training_does_not_outweigh_all_others():
    learned = np.random.default_rng(0).normal(size=(1, 5, 7, 4)) * [1.0, 1.0, 1.0, 0.0]
    scale = latent_scale(learned)[0]
    np.testing.assert_allclose(scale[:3], learned.reshape(-1, 4)[:, :3].var(0))
    assert scale[3] == pytest.approx(0.01 * learned.reshape(-1, 4).var(0).mean())


def test_frames_that_training_showed_are_counted():
    train, other = dots(10), dots(5, seed=7)
    found = judged(Reader, train=train, test=Episodes(train.spec, {n: v[:4] for n, v in train.views.items()}))
    np.testing.assert_array_equal(found.arrays["repeated"], [4 * 30, 4 * 30])
    assert judged(Reader, train=train, test=other).arrays["repeated"][1] == 150
