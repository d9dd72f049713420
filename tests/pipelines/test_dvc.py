"""What one machine has computed another one takes from a remote: nothing is trained twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.pipelines.conftest import ROOT

pytestmark = pytest.mark.slow

KEPT = ("src", "conf", ".dvc/config", ".dvc/plots", ".dvcignore", ".gitignore", "pyproject.toml", "requirements.lock")
REPORTS = ("index.html", "physics.html", "leaderboard.parquet", "leaderboard.csv", "summary.csv", "metrics.json")
WHO = {f"GIT_{who}_{what}": "somebody@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(folder: Path, *command: str) -> str:
    """A command in a checkout, with this environment's programs and that checkout's code; what it said."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": programs, "PYTHONPATH": str(folder / "src"), "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", **WHO}
    done = subprocess.run(command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def commit(folder: Path) -> None:
    run(folder, "git", "add", ".")
    run(folder, "git", "commit", "--quiet", "--message=state")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of this project with two families on one world, run once and pushed to a folder."""
    folder, remote = tmp_path_factory.mktemp("origin"), tmp_path_factory.mktemp("remote")
    for name in KEPT:
        (folder / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    lists = folder / "conf/base/globals.yml"
    content = yaml.safe_load(lists.read_text())
    small = {"worlds": ["mass_spring"], "families": ["persistence", "mlp"], "seeds": [0]}
    content["tasks"] = {"physics": {**content["tasks"]["physics"], **small}}
    lists.write_text(yaml.safe_dump(content))
    run(folder, "git", "init", "--quiet")
    run(folder, sys.executable, "-m", "wm_pipelines.pipelines.stages")
    run(folder, "dvc", "remote", "add", "--default", "store", str(remote))
    commit(folder)
    said = run(folder, "dvc", "repro")
    assert said.count("Running stage 'fit_physics_") == 2
    commit(folder)
    run(folder, "dvc", "push")
    return folder


def clone(origin: Path, folder: Path) -> Path:
    run(origin, "git", "clone", "--quiet", str(origin), str(folder))
    assert not (folder / "data/06_models").exists()
    return folder


def stages_run(said: str) -> set[str]:
    return {line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")}


def assert_nothing_ran(said: str, folder: Path, origin: Path) -> None:
    assert stages_run(said) == set()
    assert not (folder / "data/checkpoints").exists(), "nothing was trained"
    for name in REPORTS:
        assert (folder / "data/08_reporting" / name).read_bytes() == (origin / "data/08_reporting" / name).read_bytes()


def test_a_fresh_clone_pulls_instead_of_training(origin, tmp_path):
    folder = clone(origin, tmp_path / "clone")
    run(folder, "dvc", "pull")
    assert_nothing_ran(run(folder, "dvc", "repro", "--pull"), folder, origin)
    assert run(folder, "git", "status", "--porcelain") == ""


def test_repro_alone_pulls_what_it_needs(origin, tmp_path):
    folder = clone(origin, tmp_path / "clone")
    assert_nothing_ran(run(folder, "dvc", "repro", "--pull"), folder, origin)


def test_a_change_trains_what_depends_on_it_and_takes_the_rest(origin, tmp_path):
    folder = clone(origin, tmp_path / "clone")
    path = folder / "conf/base/parameters_mlp.yml"
    path.write_text(path.read_text().replace("steps: 540,", "steps: 20,"))
    said = run(folder, "dvc", "repro", "--pull")
    assert stages_run(said) == {"fit_physics_mlp@mass_spring", "report_physics", "board"}


def test_machines_that_ran_stages_apart_are_put_together_without_training(origin, tmp_path):
    change = ("steps: 540,", "steps: 30,")
    fitted, whole = (clone(origin, tmp_path / name) for name in ("fitted", "whole"))
    for folder in (fitted, whole):
        path = folder / "conf/base/parameters_mlp.yml"
        path.write_text(path.read_text().replace(*change))
    assert "Running stage 'fit_physics_mlp" in run(fitted, "dvc", "repro", "--pull", "fit_physics_mlp")
    run(fitted, "dvc", "push", "--run-cache")
    run(whole, "dvc", "fetch", "--run-cache")
    said = run(whole, "dvc", "repro", "--pull")
    assert stages_run(said) == {"report_physics", "board"}
    assert not (whole / "data/checkpoints").exists(), "nothing was trained"


def test_experiments_wait_in_a_queue_and_are_compared(origin, tmp_path):
    folder = clone(origin, tmp_path / "clone")
    run(folder, "dvc", "pull")
    for width in (2, 16):
        setting = f"conf/base/parameters_mlp.yml:mlp.hidden=[{width}]"
        run(folder, "dvc", "exp", "run", "--queue", "--name", f"width-{width}", "--set-param", setting)
    run(folder, "dvc", "exp", "run", "--run-all")
    table = pd.read_csv(StringIO(run(folder, "dvc", "exp", "show", "--csv"))).set_index("Experiment")
    mine = table.loc[["width-2", "width-16"]]
    assert list(mine["State"]) == ["Success", "Success"]
    assert list(mine["mlp.hidden"]) == ["[2]", "[16]"]
    (number,) = json.loads((folder / "data/08_reporting/metrics.json").read_text())
    assert mine[number].nunique() == 2
