"""The search of parameters on pictures and videos is judged on the validation split."""

from __future__ import annotations

import numpy as np
import pytest

from wm_pipelines.errors import UserError
from wm_pipelines.learning.search_space import tuning_config
from wm_pipelines.pipelines.tuning.pixel_objective import PixelObjective
from wm_pipelines.worlds.episodes import WorldConfig, ingest

WORLD = {
    "world": "pendulum",
    "step": 0.1,
    "frame_size": 16,
    "splits": {name: {"episodes": 6, "steps": 20} for name in ("train", "validation", "test")},
}
PARAMETERS = {
    "pendulum_video": WORLD,
    "raw_pixels": {"side": 4},
    "mlp": {},
    "pixel_seeds": [0],
    "pixel_learning": {"precision": "32-true"},
    "video_evaluation": {"resamples": 20, "context": 8},
}


@pytest.fixture(scope="module")
def episodes():
    return ingest(WorldConfig(**WORLD))


def config(**changes):
    space = {"side": {"type": "int", "low": 1, "high": 8}}
    settings = {"family": "raw_pixels", "world": "pendulum_video", "variant": "plain", "direction": "maximize"}
    return tuning_config({**settings, "metric": "r2_position_probed", "trials": 2, "space": space, **changes})


def test_a_trial_is_judged_on_validation_episodes_and_sees_what_it_proposes(episodes):
    objective = PixelObjective.create(config(), PARAMETERS, episodes)
    coarse, fine = objective({"side": 1}), objective({"side": 8})
    assert fine > coarse
    elsewhere = PixelObjective.create(config(), PARAMETERS, {**episodes, "test": episodes["train"]})
    assert elsewhere({"side": 8}) == fine  # held-out episodes have no part in it
    other = PixelObjective.create(config(), PARAMETERS, {**episodes, "validation": episodes["test"]})
    assert other({"side": 8}) != fine
    assert np.isfinite([coarse, fine]).all()


def test_a_study_is_resumed_on_the_same_data_alone(episodes):
    mine = PixelObjective.create(config(), PARAMETERS, episodes)
    other = PixelObjective.create(config(), PARAMETERS, {**episodes, "validation": episodes["test"]})
    assert mine.context != other.context


@pytest.mark.parametrize(
    ("changes", "gone", "message"),
    [
        ({"metric": "beauty"}, None, "no 'beauty' on pendulum_video; there is .*r2_position_probed"),
        ({}, "validation", "has no split 'validation'"),
        ({"variant": "fancy"}, None, "raw_pixels has no variant 'fancy'"),
    ],
)
def test_a_mistake_is_one_line(episodes, changes, gone, message):
    with pytest.raises(UserError, match=message):
        PixelObjective.create(config(**changes), PARAMETERS, {name: e for name, e in episodes.items() if name != gone})(
            {"side": 2}
        )
