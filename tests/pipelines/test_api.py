"""`import wm_pipelines as wm`: what notebooks are handed is what the pipelines store and measure."""

import subprocess
import sys

import numpy as np
import pytest

import wm_pipelines as wm
from wm_pipelines.errors import UserError

pytestmark = pytest.mark.pipeline


@pytest.fixture
def here(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    return finished


def test_a_loaded_model_is_judged_as_on_the_leaderboard(here):
    model = wm.load("physics/hnn/mass_spring/gradient", root=here.data)
    judged = wm.judge(model, "mass_spring", env="smoke")
    table = here.leaderboard().query("family == 'hnn' and variant == 'gradient' and world == 'mass_spring'")
    table = table.query("split == 'test' and metric != 'step_ms'")
    keys = ["metric", "seed", "step"]
    both = judged.merge(table, on=keys, suffixes=("", "_there"), how="right")
    assert len(both) == len(table) > 20
    for column in ("value", "ci_low", "ci_high"):
        np.testing.assert_array_equal(both[column], both[f"{column}_there"])
    assert (both["knows"] == both["knows_there"]).all()


def test_episodes_are_those_of_the_run_or_fresh(here):
    world = wm.world("mass_spring", env="smoke")
    again, stored = world.episodes(), world.all_stored()["test"]
    assert again.content_hash == stored.content_hash
    fresh = world.episodes(7, seed=5)
    assert len(fresh) == 7
    assert not np.isin(fresh["states"][:, 0], stored["states"][:, 0]).any()


def test_predictions_start_where_the_episodes_do(here):
    test = wm.world("mass_spring", env="smoke").episodes(3, seed=1)
    model = wm.load("physics/mlp/mass_spring/plain", root=here.data)
    states = model.predict(test, steps=4)["states"]
    assert states.shape == (2, 3, 5, 2)
    np.testing.assert_array_equal(states[:, :, 0], np.broadcast_to(test["states"][:, 0], (2, 3, 2)))
    again = model.predict({"states": test["states"][:, :1]}, steps=4)["states"]
    np.testing.assert_array_equal(states, again)


def test_features_and_predictions_of_videos(here):
    test = wm.world("pendulum_video", env="smoke").all_stored()["test"]
    model = wm.load("videos/latent_dynamics/pendulum_video/deterministic", root=here.data)
    assert model.encode(test).shape[:2] == (2, len(test))
    assert model.predict(test, steps=3)["frames"].shape[:3] == (2, len(test), 3)


def test_predictions_of_episodes_are_under_their_actions(here):
    test = wm.world("driven_pendulum", env="smoke").all_stored()["test"]
    model = wm.load("control/latent_dynamics/driven_pendulum/deterministic", root=here.data)
    found = model.predict(test, steps=4)["states"]
    np.testing.assert_array_equal(found, model.predict(test, steps=4, actions=test["actions"][:, :4])["states"])
    assert not np.array_equal(found, model.predict(test, steps=4, actions=-test["actions"][:, :4])["states"])
    for wrong in (None, test["actions"][:, :5], test["actions"][:1, :4]):
        with pytest.raises(UserError, match=r"takes actions \[\d+, 4, 1\] for 4 steps, got"):
            model.predict({"states": test["states"][:, :1]}, steps=4, actions=wrong)
    with pytest.raises(UserError, match="views by name"):
        model.predict(test["states"], steps=4)


def test_a_policy_acts_on_what_it_has_seen(here):
    test = wm.world("driven_pendulum", env="smoke").all_stored()["test"]
    model = wm.load("control/rssm/driven_pendulum/plain", root=here.data)
    first = model.act({"states": test["states"][:, :1]})
    assert first.shape == (len(test), 1)
    assert (np.abs(first) <= 1).all()
    later = model.act({"states": test["states"][:, :3]}, test["actions"][:, :2])
    assert not np.array_equal(first, later)
    with pytest.raises(UserError, match="actions must be"):
        model.act({"states": test["states"][:, :3]}, test["actions"][:, :1])


def test_a_function_of_the_users_is_judged_beside_all_others(here):
    test = wm.world("mass_spring", env="smoke").all_stored()["test"]

    def standing_still(start, steps):
        return np.repeat(start[:, None], steps + 1, 1)

    judged = wm.judge(standing_still, test, env="smoke").set_index(["metric", "step"])["value"]
    table = here.leaderboard().query("family == 'persistence' and world == 'mass_spring' and split == 'test'")
    floor = table.query("metric == 'mse' and step == -1")["value"]
    assert judged["mse", -1] == floor.iloc[0]
    assert judged["energy_error", -1] == 0.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("physics/hnn/mass_spring", "has gradient, pairs"),
        ("physics/hnn/mass_spring/gradiant", "did you mean 'gradient'"),
        ("hnn", "give task/family/world/variant"),
    ],
)
def test_names_that_do_not_exist(here, name, message):
    with pytest.raises(UserError, match=message):
        wm.load(name, root=here.data)


def test_unknown_worlds_splits_and_methods(here):
    with pytest.raises(UserError, match="did you mean 'mass_spring'"):
        wm.world("mass_sprung", env="smoke")
    with pytest.raises(UserError, match="unknown split"):
        wm.world("mass_spring", env="smoke").episodes(split="tests")
    model = wm.load("physics/mlp/mass_spring/plain", root=here.data)
    with pytest.raises(UserError, match="does not encode"):
        model.encode(wm.world("mass_spring", env="smoke").episodes(1))
    with pytest.raises(UserError, match="no policy"):
        model.act({"states": np.zeros((1, 1, 2))})


def test_importing_the_package_imports_no_pytorch():
    code = "import sys, wm_pipelines; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
