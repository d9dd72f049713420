"""The search for parameters: the same for every task, on the validation split alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.pipelines.conftest import ROOT, Project
from wm_pipelines.errors import UserError
from wm_pipelines.learning.config import FamilyParameters
from wm_pipelines.learning.search_space import tuning_config
from wm_pipelines.pipelines import combinations
from wm_pipelines.pipelines.tuning import Objective
from wm_pipelines.worlds.making import WorldConfig, ingest

# ---------------------------------------------------------------- one trial

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
    "tasks": {"videos": {"seeds": [0], "learning": {"precision": "32-true"}}},
    "videos": {"context": 8},
}


@pytest.fixture(scope="module")
def episodes():
    return ingest(WorldConfig(**WORLD), "pendulum_video")


@pytest.fixture(autouse=True)
def base(monkeypatch):
    monkeypatch.setattr(combinations, "_environment", {"conf_source": ROOT / "conf", "env": "base"})


def objective(episodes, **changes):
    space = {"side": {"type": "int", "low": 1, "high": 8}}
    settings = {"family": "raw_pixels", "world": "pendulum_video", "direction": "maximize", "space": space}
    config = tuning_config({**settings, "metric": "r2_position_probed", "trials": 2, **changes})
    return Objective.create(config, PARAMETERS, {"pendulum_video": lambda: episodes})


def test_a_trial_is_judged_on_validation_episodes_and_uses_what_it_proposes(episodes):
    coarse, fine = (objective(episodes)({"side": side}) for side in (1, 8))
    assert fine > coarse
    assert np.isfinite([coarse, fine]).all()
    assert objective({**episodes, "test": episodes["train"]})({"side": 8}) == fine
    assert objective({**episodes, "validation": episodes["test"]})({"side": 8}) != fine


def test_a_study_is_resumed_on_the_same_data_alone(episodes):
    assert objective(episodes).context == objective(dict(episodes)).context
    assert objective(episodes).context != objective({**episodes, "validation": episodes["test"]}).context


@pytest.mark.parametrize(
    ("changes", "gone", "message"),
    [
        ({"metric": "beauty"}, None, "no 'beauty' on pendulum_video; there is .*r2_position_probed"),
        ({}, "validation", "has no split 'validation'"),
        ({"variant": "fancy"}, None, "raw_pixels has no variant 'fancy'"),
        ({"family": "mlp"}, None, "no task lists both the family 'mlp' and the world 'pendulum_video'"),
        ({"world": "nowhere"}, None, "'nowhere' has no parameter file"),
        ({"world": "pendulum"}, None, "'pendulum' has no parameter file; did you mean 'pendulum_video'"),
    ],
)
def test_a_mistake_is_one_line(episodes, changes, gone, message):
    with pytest.raises(UserError, match=message):
        objective({name: own for name, own in episodes.items() if name != gone}, **changes)({"side": 2})


# ---------------------------------------------------------------- whole studies

STUDIES = {
    "physics": ("mlp", "mass_spring", "mse", "schedule.learning_rate", (1e-4, 1e-2)),
    "fields": ("random_feature_collocation", "heat_1d", "residual_norm", "features", (40, 80)),
    "images": ("raw_pixels", "mnist", "knn_probe", "side", (4, 14)),
    "videos": ("raw_pixels", "pendulum_video", "r2_position_probed", "side", (2, 8)),
}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("tuning"))
    project.run("--pipeline=data_ingestion", f"--namespaces={','.join(world for _, world, *_ in STUDIES.values())}")
    return project


def set_up(project: Project, task: str, **changes) -> None:
    family, world, metric, name, (low, high) = STUDIES[task]
    dimension = {"type": "int" if isinstance(low, int) else "float", "low": low, "high": high}
    content = {"family": family, "world": world, "metric": metric, "trials": 2, "space": {name: dimension}, **changes}
    (project.folder / "conf/base/parameters_tuning.yml").write_text(yaml.safe_dump({"tuning": content}))


@pytest.mark.pipeline
@pytest.mark.parametrize("task", STUDIES)
def test_it_writes_parameters_that_the_next_run_uses_and_goes_on_where_it_stopped(ingested, task):
    family, world, _, name, _ = STUDIES[task]
    set_up(ingested, task)
    ingested.run("--pipeline=tuning")
    if task == "physics":
        ingested.run("--pipeline=tuning", "--params=tuning.trials=3")
    trials = pd.read_csv(ingested.reports / "tuning_trials.csv")
    assert list(trials["number"]) == list(range(3 if task == "physics" else 2))
    assert set(trials["state"]) == {"COMPLETE"}
    assert f"{family}/{world}/plain" in (ingested.reports / "tuning.html").read_text()
    assert (ingested.reports / "plotly.min.js").is_file()
    best = trials.loc[trials["value"].idxmin()]
    tuned = yaml.safe_load((ingested.folder / f"conf/tuned/parameters_{family}.yml").read_text())
    found = FamilyParameters(**tuned[family]).resolve(task, "plain", world)
    for part in name.split("."):
        found = found[part]
    assert found == pytest.approx(best[name])
    assert FamilyParameters(**tuned[family]).resolve(task, "plain", "elsewhere") == {}


@pytest.mark.pipeline
def test_a_search_of_parameters_that_do_not_exist_is_one_line(ingested):
    set_up(ingested, "physics", space={"hiden": {"type": "int", "low": 1, "high": 2}})
    assert "hiden" in ingested.error_of("--pipeline=tuning")
