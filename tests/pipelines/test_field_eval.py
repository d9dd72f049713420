"""Whole runs of ``kedro run --env=smoke --pipeline=field_eval``, as a user starts them."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.pipelines.conftest import Project
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS

WORLDS = {"heat_1d", "heat_1d_inverse"}
FAMILIES = {"pinn", "random_feature_collocation"}


def run(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = project.kedro("run", "--env=smoke", "--pipeline=field_eval", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def hashes(project: Project) -> dict[str, str]:
    """Everything the run made but for wall-clock measurements and the texts that show them."""
    found = project.hashes()
    return {name: digest for name, digest in found.items() if not name.endswith(("fields.html", "field_summary.txt"))}


@pytest.fixture(scope="module")
def solved(tmp_path_factory) -> Project:
    """A project on which the smoke run of the fields went through once."""
    project = Project(tmp_path_factory.mktemp("solved"))
    project.log = run(project)
    return project


@pytest.mark.pipeline
def test_the_leaderboard_holds_every_field_with_its_laws_and_costs(solved):
    table = pd.read_parquet(solved.data / "08_reporting/leaderboard.parquet")
    assert tuple(table.columns) == tuple(LEADERBOARD_COLUMNS)
    assert not table.duplicated(["world", "family", "variant", "seed", "split", "metric", "step"]).any()
    assert set(table["world"]) == WORLDS
    assert set(table["family"]) == FAMILIES
    assert set(table["variant"]) == {"plain"}
    judged = {"relative_l2_u", "residual_norm", "boundary_error", "energy_balance_error", "step_ms"}
    found = {"coefficient_alpha", "coefficient_error", "coefficient_covered", "coefficient_identified"}
    test = table[table["split"] == "test"]
    assert set(test.query("world == 'heat_1d'")["metric"]) == judged
    assert set(test.query("world == 'heat_1d_inverse'")["metric"]) == judged | found
    assert {"train_seconds", "parameters", "peak_memory_mb"} <= set(table.query("split == 'train'")["metric"])
    assert set(table["seed"]) == {0, 1}
    alpha = table.query("metric == 'coefficient_alpha'")
    assert ((alpha["ci_low"] < alpha["value"]) & (alpha["value"] < alpha["ci_high"])).all()
    assert set(alpha["unit"]) == {"m^2/s"}


@pytest.mark.pipeline
def test_collocation_solves_even_the_small_problem_and_finds_the_coefficient(solved):
    table = pd.read_parquet(solved.data / "08_reporting/leaderboard.parquet").query(
        "family == 'random_feature_collocation'"
    )
    assert table.query("metric == 'relative_l2_u'")["value"].max() < 1e-2
    assert table.query("metric == 'coefficient_error'")["value"].max() < 1e-2


@pytest.mark.pipeline
def test_the_report_shows_every_field_and_reads_no_network(solved):
    report = solved.data / "08_reporting/fields.html"
    assert str(report.resolve()) in solved.log.stdout
    text = report.read_text()
    for world in WORLDS:
        assert f"<h2>{world}</h2>" in text
    assert "heatmap" in text
    assert "the truth is alpha = 0.400 m²/s" in text
    assert not re.findall(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']?(https?:[^"' >]*)""", text)
    assert 'href="index.html"' not in text, "no link to a report that is not there"


@pytest.mark.pipeline
def test_a_run_killed_on_the_way_ends_in_the_same_files_as_one_that_was_not(solved, project):
    running = subprocess.Popen(
        project.command("run", "--env=smoke", "--pipeline=field_eval"),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(project.data / "checkpoints", running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (project.data / "08_reporting/fields.html").exists()
    again = run(project)
    assert "reusing the checkpoint" in again.stdout + again.stderr
    assert hashes(project) == hashes(solved)


def wait_for(folder: Path, running: subprocess.Popen[bytes]) -> None:
    """Until a first training is finished."""
    while not (
        folder.exists() and any(p.is_file() and "random_feature_collocation" in p.parts for p in folder.rglob("*"))
    ):
        assert running.poll() is None
        time.sleep(0.02)


@pytest.mark.pipeline
def test_the_rows_of_other_pipelines_stay(solved):
    parts = solved.data / "08_reporting/leaderboard_parts"
    rows = pd.read_parquet(parts / "field_eval.parquet").head(1).assign(world="elsewhere")
    rows.to_parquet(parts / "physics_eval.parquet")
    try:
        run(solved, "--tags=collect,report")
        assert {"elsewhere", *WORLDS} == set(pd.read_parquet(solved.data / "08_reporting/leaderboard.parquet")["world"])
        assert 'href="index.html"' in (solved.data / "08_reporting/fields.html").read_text()
    finally:
        (parts / "physics_eval.parquet").unlink()
        run(solved, "--tags=collect,report")


@pytest.mark.pipeline
def test_tuning_searches_by_the_residual_between_the_points(solved):
    settings = (
        "tuning.task=fields,tuning.family=random_feature_collocation,tuning.world=heat_1d,tuning.variant=plain,"
        "tuning.metric={},"
        "tuning.trials=2,tuning.processes=1"
    )
    file = solved.folder / "conf/smoke/parameters_tuning.yml"
    space = {"features": {"type": "int", "low": 40, "high": 80}}
    file.write_text(yaml.safe_dump({"tuning": {"space": space}}))
    base = solved.folder / "conf/base/parameters_tuning.yml"
    base.write_text(yaml.safe_dump({"tuning": {**yaml.safe_load(base.read_text())["tuning"], "space": space}}))
    arguments = ("run", "--env=smoke", "--pipeline=tuning", "--params")
    done = solved.kedro(*arguments, settings.format("residual_norm"))
    assert done.returncode == 0, done.stderr[-2000:]
    trials = pd.read_csv(solved.data / "08_reporting/tuning_trials.csv")
    assert set(trials["state"]) == {"COMPLETE"}
    best = trials.loc[trials["value"].idxmin()]
    tuned = yaml.safe_load((solved.folder / "conf/tuned/parameters_random_feature_collocation.yml").read_text())
    own = tuned["random_feature_collocation"]["worlds"]["heat_1d"]["variants"]["plain"]
    assert own["features"] == best["features"]
    wrong = solved.kedro(*arguments, settings.format("relative_l2_u"))
    assert wrong.returncode == 1
    assert "no 'relative_l2_u' on heat_1d; there is residual_norm" in wrong.stdout + wrong.stderr


TABLE = "x,t,u\n0.5,0.1,0.7\n0.4,0.2,nan\n"
MISTAKES = {
    "negative weight": (
        "pinn",
        {"condition_weight": -1},
        r"pinn .*condition_weight.*greater than or equal to 0, got -1",
    ),
    "too few points": (
        "heat_1d",
        {"parameters": {"points": {"interior": 3}}},
        r"heat_1d\.parameters\.points\.interior.*greater than or equal to 16, got 3",
    ),
    "contradicting boundary values": (
        "heat_1d",
        {"parameters": {"ends": [1.0, 0.0]}},
        r"conditions 'initial' and 'left end' contradict each other",
    ),
    "measurements that are no numbers": (
        "heat_1d_inverse",
        {"parameters": {"measurements": {"count": 0, "table": "measured.csv"}}},
        r"'measured\.csv': u is not a number in row 2",
    ),
    "nothing to find a coefficient from": (
        "heat_1d_inverse",
        {"parameters": {"measurements": {"count": 0}}},
        r"nothing to find alpha from",
    ),
    "unknown equation": (
        "heat_1d",
        {"world": "wave_9d"},
        r"unknown world 'wave_9d'",
    ),
    "unknown coefficient": (
        "heat_1d_inverse",
        {"parameters": {"unknown": {"beta": [0.1, 1.0]}}},
        r"no coefficient 'beta' to be found",
    ),
    "no parameters": ("globals", {"tasks": {"fields": {"worlds": ["nowhere"]}}}, r"no parameters for 'nowhere'"),
}


@pytest.mark.pipeline
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line_before_anything_is_written(project, name):
    what, change, pattern = MISTAKES[name]
    file = project.folder / "conf/smoke" / ("globals.yml" if what == "globals" else f"parameters_{what}.yml")
    before = yaml.safe_load(file.read_text()) if file.exists() else {}
    after = merged(before, change) if what == "globals" else {what: merged(before.get(what, {}), change)}
    file.write_text(yaml.safe_dump(after))
    (project.folder / "measured.csv").write_text(TABLE)
    done = project.kedro("run", "--env=smoke", "--pipeline=field_eval")
    message = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" not in line and line.strip()]
    assert done.returncode == 1
    assert re.search(pattern, message[0]), "\n".join(message[:20])
    assert message[0].startswith("Error: ")
    assert len(message) == 1, message
    assert not project.data.exists()


def merged(old, new):
    return {
        **old,
        **{k: merged(old[k], v) if isinstance(v, dict) and isinstance(old.get(k), dict) else v for k, v in new.items()},
    }
