"""Whole runs of ``kedro run --env=smoke --pipeline=physics_eval``, as a user starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.pipelines.conftest import Project
from wm_pipelines.pipelines.configuration import FamilyParameters

pytestmark = pytest.mark.pipeline

COLUMNS = ["world", "family", "variant", "seed", "split", "metric", "step", "value", "ci_low", "ci_high", "n", "unit"]


def test_the_leaderboard_holds_every_combination_with_intervals(finished):
    table = pd.read_parquet(finished.data / "08_reporting/leaderboard.parquet")
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(COLUMNS[:7]).any()
    lists = yaml.safe_load((finished.folder / "conf/base/globals.yml").read_text())
    for world in ("mass_spring", "two_body"):
        judged = set(table[table["world"] == world]["family"])
        expected = set(lists["families"]) - ({"momentum_gnn"} if world == "mass_spring" else set())
        assert judged == expected
    mse = table[(table["metric"] == "mse") & (table["split"] == "test")]
    assert set(mse["seed"]) == {0, 1}
    assert set(mse["step"]) == {-1, 1, 10}
    assert ((mse["ci_low"] <= mse["value"]) & (mse["value"] <= mse["ci_high"])).all()
    assert set(table[table["split"] == "train"]["metric"]) <= {
        "train_seconds",
        "train_flops",
        "parameters",
        "peak_memory_mb",
    }


def test_the_oracle_is_the_ceiling_and_persistence_the_floor(finished):
    table = pd.read_parquet(finished.data / "08_reporting/leaderboard.parquet")
    horizon = table[(table["metric"] == "horizon")].groupby(["world", "family"])["value"].max()
    for world in ("mass_spring", "two_body"):
        assert horizon[world, "oracle"] == horizon[world].max()
        assert horizon[world, "persistence"] < 0.5 * horizon[world, "oracle"]


def test_csv_and_parquet_say_the_same(finished):
    folder = finished.data / "08_reporting"
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "leaderboard.parquet"), pd.read_csv(folder / "leaderboard.csv"), check_dtype=False
    )


def test_the_run_says_where_the_report_lies(finished):
    report = finished.data / "08_reporting/index.html"
    assert str(report.resolve()) in finished.log.stdout
    text = report.read_text()
    assert "two_body" in text
    loaded = re.findall(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']?(https?:[^"' >]*)""", text)
    assert not loaded, "the report must work offline"


def test_same_seed_twice_gives_identical_files(finished, project):
    project.run()
    assert project.hashes() == finished.hashes()


def test_a_run_killed_at_several_points_ends_in_the_same_files(finished, project):
    arguments = project.command("run", "--env=smoke", "--pipeline=physics_eval")
    killed = 0
    for wait in (4.0, 6.0, 8.0):
        running = subprocess.Popen(
            arguments, cwd=project.folder, env=project.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(wait)
        killed += running.poll() is None
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert killed > 0
    project.run()
    assert project.hashes() == finished.hashes()


def test_running_one_pipeline_keeps_the_other_pipelines_rows(finished):
    parts = finished.data / "08_reporting/leaderboard_parts"
    rows = pd.read_parquet(parts / "physics_eval.parquet").head(1).assign(world="elsewhere")
    rows.to_parquet(parts / "other_eval.parquet")
    try:
        finished.run("--tags=collect")
        table = pd.read_parquet(finished.data / "08_reporting/leaderboard.parquet")
        assert "elsewhere" in set(table["world"])
        assert "two_body" in set(table["world"])
    finally:
        (parts / "other_eval.parquet").unlink()
        finished.run("--tags=collect,report")


def change(project: Project, file: str, text: str) -> None:
    path = project.folder / "conf" / "smoke" / file
    path.parent.mkdir(exist_ok=True)
    merged = yaml.safe_load(path.read_text()) if path.exists() else {}
    for key, value in yaml.safe_load(text).items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(merged))


MISTAKES = {
    "unknown world": (
        "globals.yml",
        "worlds: [nowhere]",
        r"no parameters for 'nowhere'.*parameters_nowhere\.yml",
    ),
    "unknown kind of world": (
        "parameters_mass_spring.yml",
        "mass_spring: {world: nowhere}",
        r"unknown world 'nowhere'; known: .*pendulum",
    ),
    "unknown family": (
        "globals.yml",
        "families: [oracle, magic]",
        r"no parameters for 'magic'",
    ),
    "empty list": (
        "globals.yml",
        "worlds: []",
        r"'worlds' must be a non-empty list",
    ),
    "negative mass": (
        "parameters_mass_spring.yml",
        "mass_spring: {parameters: {mass: -1}}",
        r"mass_spring\.parameters\.mass.*greater than 0",
    ),
    "wrong unit": (
        "parameters_mass_spring.yml",
        "mass_spring: {parameters: {mass: 3 s}}",
        r"mass_spring\.parameters\.mass.*kg.*3 s",
    ),
    "misspelt parameter": (
        "parameters_mass_spring.yml",
        "mass_spring: {parameters: {mas: 1}}",
        r"mass_spring\.parameters\.mas.*unknown",
    ),
    "no episodes": (
        "parameters_mass_spring.yml",
        "mass_spring: {splits: {train: {episodes: 0, steps: 3}}}",
        r"splits\.train\.episodes.*greater than or equal to 1, got 0",
    ),
    "negative seed": (
        "globals.yml",
        "seeds: [-1]",
        r"parameter 'seeds'.*>= 0",
    ),
    "seed twice": (
        "globals.yml",
        "seeds: [1, 1]",
        r"parameter 'seeds'.*twice",
    ),
    "unknown family setting": (
        "parameters_mlp.yml",
        "mlp: {hiden: 3}",
        r"mlp.*hiden.*unknown",
    ),
    "impossible schedule": (
        "parameters_mlp.yml",
        "mlp: {schedule: {steps: 0}}",
        r"mlp.*schedule\.steps.*got 0",
    ),
    "unknown device": (
        "parameters.yml",
        "learning: {accelerator: abacus}",
        r"learning\.accelerator.*abacus",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_parameters_is_one_clear_line(project, name):
    file, text, pattern = MISTAKES[name]
    change(project, file, text)
    done = project.kedro("run", "--env=smoke", "--pipeline=physics_eval")
    message = [line for line in (done.stdout + done.stderr).splitlines() if "WARNING" not in line and line.strip()]
    assert done.returncode == 1
    assert message[0].startswith("Error: "), "\n".join(message[:20])
    assert re.search(pattern, message[0]), message[0]
    assert len(message) == 1, message
    assert not project.data.exists(), "nothing is written before the parameters are right"


def broken(path: Path, how: str) -> bytes:
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "corrupt": data[:-9] + b"\x01" + data[-8:]}[how])
    return data


@pytest.mark.parametrize(
    ("file", "how", "pipeline"),
    [
        ("03_primary/two_body/train.arrow", "truncated", "training"),
        ("06_models/mlp/two_body/plain.safetensors", "truncated", "evaluation"),
        ("06_models/mlp/two_body/plain.safetensors", "corrupt", "evaluation"),
        ("07_model_output/mlp/two_body_scores.parquet", "truncated", "evaluation --tags=collect"),
        ("08_reporting/collected/mlp_rollouts.safetensors", "truncated", "reporting"),
    ],
)
def test_a_damaged_file_is_one_clear_line_and_earlier_results_stay(finished, file, how, pipeline):
    before = finished.hashes()
    original = broken(finished.data / file, how)
    try:
        done = finished.kedro("run", "--env=smoke", *f"--pipeline={pipeline}".split())
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert done.returncode == 1
        assert len(errors) == 1, done.stderr[-2000:]
        assert Path(file).name in errors[0]
        assert "kedro run" in errors[0]
        assert "Traceback" not in done.stderr
    finally:
        (finished.data / file).write_bytes(original)
    assert finished.hashes() == before


def test_missing_inputs_say_which_pipeline_makes_them(project):
    done = project.kedro("run", "--env=smoke", "--pipeline=training")
    assert done.returncode == 1
    assert "kedro run --pipeline=data_ingestion" in done.stderr.splitlines()[-1]


def test_a_place_that_cannot_be_written_is_one_clear_line(project):
    (project.folder / "data").mkdir(exist_ok=True)
    project.data.write_text("a file where the folder should be")
    done = project.kedro("run", "--env=smoke", "--pipeline=data_ingestion")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert str(Path("data/smoke")) in errors[0]


def test_a_notebook_reads_the_results(finished):
    import nbformat
    from nbclient import NotebookClient

    source = Path(__file__).parents[2] / "notebooks" / "read_the_results.ipynb"
    os.environ["KEDRO_ENV"] = "smoke"
    try:
        notebook = nbformat.read(source, as_version=4)
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(finished.folder)}}).execute()
    finally:
        del os.environ["KEDRO_ENV"]
    assert any("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", []))


def test_the_registry_lists_the_pipelines(project):
    done = project.kedro("registry", "list")
    assert done.returncode == 0
    assert "physics_eval" in done.stdout


def test_tuning_writes_parameters_that_the_next_run_uses_and_goes_on_where_it_stopped(finished):
    settings = "tuning.world=mass_spring,tuning.trials={},tuning.processes=1"
    first = finished.kedro("run", "--env=smoke", "--pipeline=tuning", "--params", settings.format(2))
    assert first.returncode == 0, first.stderr[-2000:]
    finished.kedro("run", "--env=smoke", "--pipeline=tuning", "--params", settings.format(3))
    trials = pd.read_csv(finished.data / "08_reporting/tuning_trials.csv")
    assert list(trials["number"]) == [0, 1, 2]
    assert set(trials["state"]) == {"COMPLETE"}
    best = trials.loc[trials["value"].idxmin()]
    tuned = yaml.safe_load((finished.folder / "conf/tuned/parameters_mlp.yml").read_text())
    settings = FamilyParameters(**tuned["mlp"]).resolve("plain", "mass_spring")
    assert settings["schedule"]["learning_rate"] == pytest.approx(best["schedule.learning_rate"])
    assert "schedule" not in FamilyParameters(**tuned["mlp"]).resolve("plain", "two_body")


def test_a_search_of_parameters_that_do_not_exist_is_one_clear_line(finished):
    done = finished.kedro(
        "run", "--env=smoke", "--pipeline=tuning", "--params", "tuning.world=mass_spring,tuning.space.hiden.type=int"
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == 1
    assert len(errors) == 1, done.stderr[-2000:]
    assert "hiden" in errors[0]
    unknown = finished.kedro("run", "--env=smoke", "--pipeline=tuning", "--params", "tuning.world=nowhere")
    assert "'nowhere' has no parameter file" in unknown.stderr
