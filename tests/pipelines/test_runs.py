"""Everything at smoke sizes, once: what lies there afterwards, and that it is the same however it was run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.docs.site import pages
from tests.pipelines.conftest import ROOT, Project
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.registry import families, tasks

pytestmark = pytest.mark.pipeline

SMOKE = {
    "physics": {"mass_spring", "two_body"},
    "fields": {"heat_1d", "heat_1d_inverse"},
    "images": {"mnist"},
    "videos": {"pendulum_video"},
    "control": {"driven_pendulum"},
    "language": {"captioned_scenes", "balls_asked"},
}
COSTS = {"train_seconds", "train_flops", "parameters", "peak_memory_mb"}


@pytest.fixture(scope="module")
def table(finished: Project) -> pd.DataFrame:
    return finished.leaderboard()


# ---------------------------------------------------------------- the leaderboard


def test_the_leaderboard_holds_every_combination_once(table):
    assert tuple(table.columns) == LEADERBOARD_COLUMNS
    assert not table.duplicated(list(LEADERBOARD_COLUMNS[: LEADERBOARD_COLUMNS.index("value")])).any()
    assert {task: set(own["world"]) for task, own in table.groupby("task")} == SMOKE
    families_of = {task: set(own["family"]) for task, own in table.groupby("task")}
    assert families_of["images"] == {"raw_pixels", "ijepa", "mae", "contrastive"}
    assert {"persistence", "oracle", "hnn", "latent_dynamics", "sequence"} <= families_of["physics"]
    assert {"raw_pixels", "vjepa", "mae", "latent_dynamics", "object_tracker"} <= families_of["videos"]
    assert {"fixed_policies", "oracle", "latent_dynamics"} <= families_of["control"]
    assert families_of["language"] == {
        "training_copy", "frequent_answer", "text_flow", "transfusion", "vljepa", "token_vlm", "dual_encoder",
    }  # fmt: skip
    assert table["value"].notna().all()
    assert (table["ci_low"].isna() | (table["ci_low"] <= table["ci_high"])).all()
    for task, own in table.groupby("task"):
        assert set(own[own["split"] == "train"]["metric"]) <= COSTS, task
        assert set(own["seed"]) == {0, 1}, task


def test_every_row_says_what_the_family_was_shown_and_told(table):
    assert {task: set(own["view"]) for task, own in table.groupby("task")} == {
        "physics": {"states", "states+derivatives"},
        "fields": {"interior"},
        "images": {"frames"},
        "videos": {"frames"},
        "control": {"actions", "states", "states+actions+rewards"},
        "language": {"frames+captions", "frames+questions+answers", "questions+answers+frames"},
    }
    told = {family: set(own["knows"]) for family, own in table.groupby("family")}
    for family in ("persistence", "latent_dynamics", "sequence", "raw_pixels", "ijepa", "vjepa", "mae", "contrastive"):
        assert told[family] == {""}, family
    assert told["mlp"] == {"", "second_order"}
    assert told["oracle"] == {"simulator"}
    assert all("equations" in line for line in told["pinn"])
    assert all(line == ",".join(sorted(line.split(","))) for lines in told.values() for line in lines)


def test_csv_parts_and_union_say_the_same(finished, table):
    pd.testing.assert_frame_equal(
        table.fillna(""), pd.read_csv(finished.reports / "leaderboard.csv").fillna(""), check_dtype=False
    )
    parts = pd.concat(pd.read_parquet(p) for p in sorted((finished.reports / "leaderboard_parts").glob("*.parquet")))
    assert len(parts) == len(table)


def test_physics_the_oracle_is_the_ceiling_and_persistence_the_floor(table):
    physics = table[table["task"] == "physics"]
    horizon = physics[physics["metric"] == "horizon"].groupby(["world", "family"])["value"].max()
    for world in SMOKE["physics"]:
        assert horizon[world, "oracle"] == horizon[world].max()
        assert horizon[world, "persistence"] < 0.5 * horizon[world, "oracle"]
    mse = physics[physics["metric"] == "mse"]
    assert set(mse["step"]) == {-1, 1, 10}
    assert ((mse["ci_low"] <= mse["value"]) & (mse["value"] <= mse["ci_high"])).all()
    assert "momentum_gnn" not in set(physics[physics["world"] == "mass_spring"]["family"])


def test_fields_are_judged_by_reference_equations_and_coefficients(table):
    fields = table[(table["task"] == "fields") & (table["split"] == "test")]
    judged = {"relative_l2_u", "residual_norm", "boundary_error", "energy_balance_error", "step_ms"}
    found = {"coefficient_alpha", "coefficient_error", "coefficient_covered", "coefficient_identified"}
    assert set(fields.query("world == 'heat_1d'")["metric"]) == judged
    assert set(fields.query("world == 'heat_1d_inverse'")["metric"]) == judged | found
    collocation = fields.query("family == 'random_feature_collocation'")
    assert collocation.query("metric == 'relative_l2_u'")["value"].max() < 1e-2
    assert collocation.query("metric == 'coefficient_error'")["value"].max() < 1e-2
    alpha = fields.query("metric == 'coefficient_alpha'")
    assert ((alpha["ci_low"] < alpha["value"]) & (alpha["value"] < alpha["ci_high"])).all()
    assert set(alpha["unit"]) == {"m^2/s"}


def test_images_every_model_stands_beside_raw_pixels_and_its_untrained_control(table):
    rows = table[table["task"] == "images"]
    probes = rows[rows["metric"] == "linear_probe"]
    models = set(zip(probes["family"], probes["variant"], strict=True))
    trained = {(f, v) for f, v in models if not v.endswith("_untrained")} - {("raw_pixels", "plain")}
    assert trained
    assert {(f, f"{v}_untrained") for f, v in trained} <= models
    assert probes["value"].between(0, 1).all()
    assert set(probes["n"]) == {200}
    assert {"knn_probe", "attentive_probe", "effective_rank", "rankme", "collapsed"} <= set(rows["metric"])


def test_videos_are_judged_by_physics_frames_and_surprise(table):
    rows = table[table["task"] == "videos"]
    probed = {"r2_position_probed", "r2_velocity_probed", "energy_error_probed", "horizon_probed"}
    surprise = {"surprise_teleport_auc", "surprise_energy_jump_auc"}
    for family in ("raw_pixels", "vjepa"):
        assert probed | surprise <= set(rows[rows["family"] == family]["metric"]), family
    steps = rows[(rows["metric"] == "r2_position_predicted_probed") & (rows["family"] == "raw_pixels")]["step"]
    assert set(steps) == {1, 2, 3, 4}
    assert {"mse", "psnr", "ssim", "mse_per_frame", "embedding_mmd"} <= set(rows[rows["family"] == "mae"]["metric"])


def test_control_stands_between_random_actions_and_the_planner_on_the_true_world(table, finished):
    rows = table[table["task"] == "control"]
    score = rows[rows["metric"] == "normalised_score"].groupby(["family", "variant", "split"])["value"]
    np.testing.assert_allclose(score.mean()["fixed_policies", "random"], 0.0, atol=1e-12)
    np.testing.assert_allclose(score.mean()["oracle"], 1.0, rtol=1e-12)
    assert set(rows["split"]) == {"train", "test", "transfer_friction", "transfer_length", "transfer_mass"}
    judged = {"return", "over_random", "planning_gap", "optimism", "mse", "reward_mse", "action_sensitivity"}
    assert judged | {"ignores_actions", "decision_ms"} <= set(rows[rows["family"] == "latent_dynamics"]["metric"])
    drawn = json.loads((finished.data / "05_model_input/control/driven_pendulum_manifest.json").read_text())
    assert {split: own["judged"] for split, own in drawn.items()} == {
        "test": 4, "transfer_friction": 2, "transfer_length": 2, "transfer_mass": 2,
    }  # fmt: skip


# ---------------------------------------------------------------- the reports


def test_the_run_says_where_the_reports_lie(finished):
    said = (finished.folder / "said.txt").read_text()
    for name in ["index.html", *(tasks.get(task).file for task in SMOKE)]:
        assert str((finished.reports / name).resolve()) in said


@pytest.mark.parametrize("page", ["index", *SMOKE])
def test_reports_need_nothing_but_a_browser(finished, page):
    text = (finished.reports / f"{page}.html").read_text()
    markup = re.sub(r"(<(script|style)\b[^>]*>).*?</\2>", r"\1", text, flags=re.S)
    tags = re.findall(r"<(?:img|source|link|script|a|iframe)\b[^>]*>", markup)
    sources = [source for tag in tags for source in re.findall(r'(?:src|href|srcset)="([^"]*)"', tag)]
    elsewhere = {source for source in sources if not source.startswith(("data:", "#"))}
    assert all((finished.reports / name).is_file() for name in elsewhere), elsewhere
    linked = {f"{task}.html" for task in SMOKE} if page == "index" else {"plotly.min.js", "index.html"}
    assert elsewhere == linked | {"leaderboard.csv"}
    assert len(text) < 4_000_000
    for world in SMOKE.get(page, ()):
        assert world in text


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_read_the_results(finished, monkeypatch, path):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("KEDRO_ENV", "smoke")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(finished.folder)}}).execute()
    assert any("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", []))


def test_every_metric_has_a_page_of_the_documentation_with_its_unit(finished):
    table, names = finished.leaderboard()[["metric", "unit"]].drop_duplicates(), pages.named()
    for metric, unit in table.itertuples(index=False):
        (page,) = pages.pages_of(metric, names)
        if metric in names[page] and metric != "mse":  # of states, frames and observations: in words
            assert pages.unit_of(metric) == unit, metric


def test_a_model_travels_with_its_card(finished):
    from wm_pipelines.datasets.local import ModelsDataset

    for path in sorted((finished.data / "06_models").glob("*/*/*")):
        for variant, model in ModelsDataset(filepath=str(path)).load().variants.items():
            task, family, world = path.parts[-3:]
            card = model.card
            assert (card["task"], card["family"], card["world"], card["variant"]) == (task, family, world, variant)
            assert {"config", "seeds", "data_hash", "versions", "fingerprint", "spec", "view", "knows"} <= set(card)
            assert card["spec"]["name"] == world
            assert isinstance(model.restore(), families.get(family))


# ---------------------------------------------------------------- the same bytes


def test_killed_and_run_by_several_processes_it_ends_in_the_same_bytes(finished, project):
    running = project.start("--runner=ParallelRunner")
    try:
        while not any(project.data.glob("07_model_output/*/*/*/results/results.json")):
            assert running.poll() is None, "ended before anything was judged"
            time.sleep(0.01)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not (project.reports / "leaderboard.parquet").exists()
    assert project.start("--runner=ParallelRunner").wait() == 0
    expected = finished.hashes()
    assert {name: digest for name, digest in project.hashes().items() if expected.get(name) != digest} == {}
    assert set(project.hashes()) == set(expected)
    assert not [path for path in project.data.rglob(".*") if path.name != ".lock"], "nothing half-written is left"


def test_a_second_run_reuses_what_is_there_and_changes_nothing(finished, caplog):
    before, node = finished.hashes(), "physics.mlp.train_two_body"
    with caplog.at_level("INFO", logger="wm_pipelines"):
        finished.run("--pipeline=physics_eval", f"--nodes={node}")
        assert "mlp/plain on two_body: unchanged" in caplog.text
        caplog.clear()
        finished.run("--pipeline=physics_eval", f"--nodes={node}", "--params=tasks.physics.learning.resume=false")
        assert "unchanged" not in caplog.text
    assert finished.hashes() == before


# ---------------------------------------------------------------- damage


@pytest.fixture
def restored(finished, tmp_path):
    """Give a file or folder of the finished run; it is as before afterwards."""
    kept = {}

    def keep(name: str) -> Path:
        path = finished.data / name
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        kept[path] = copy(path, tmp_path / str(len(kept)))
        return path

    yield keep
    for path, copy in kept.items():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.move(copy, path)


def written(project: Project) -> dict[Path, int]:
    """When every file was written."""
    return {path: path.stat().st_mtime_ns for path in project.data.rglob("[!.]*") if path.is_file()}


DAMAGES = [
    ("03_primary/two_body/train.arrow", "corrupt", "physics.mlp.train_two_body"),
    ("03_primary/two_body/train.arrow", "missing", "physics.mlp.train_two_body"),
    ("06_models/physics/mlp/two_body/plain.safetensors", "truncated", "physics.mlp.evaluate_two_body"),
    ("06_models/physics/mlp/two_body/plain.json", "corrupt", "physics.mlp.evaluate_two_body"),
    ("07_model_output/physics/mlp/two_body/results/scores.parquet", "truncated", "physics.leaderboard.gather"),
    ("07_model_output/physics/mlp/two_body/training/curves.csv", "corrupt", "physics.report.report"),
]


@pytest.mark.parametrize(("file", "how", "node"), DAMAGES)
def test_a_damaged_file_is_one_line_and_earlier_results_stay(finished, restored, file, how, node):
    path = restored(file)
    data = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(data[: len(data) // 2] if how == "truncated" else data[:-9] + b"\x01" + data[-8:])
    before = written(finished)
    error = finished.error_of("--pipeline=physics_eval", f"--nodes={node}")
    assert path.name in error
    assert "kedro run" in error
    assert written(finished) == before


def test_a_model_of_other_episodes_is_refused(finished, restored):
    restored("03_primary/mass_spring")
    finished.run("--pipeline=data_ingestion", "--namespaces=mass_spring", "--params=mass_spring.seed=1")
    error = finished.error_of("--pipeline=evaluation", "--nodes=physics.mlp.evaluate_mass_spring")
    assert "mlp/long on mass_spring: the model was trained on episodes" in error


def test_results_of_other_code_are_named_and_left_out(finished, restored, caplog):
    made_from = restored("08_reporting") / "leaderboard_parts" / "fields.json"
    made_from.write_text(re.sub(r'"code": "\w+"', '"code": "0"', made_from.read_text()))
    finished.run("--nodes=board.leaderboard")
    assert set(finished.leaderboard()["task"]) == set(SMOKE) - {"fields"}
    assert "The results of 'fields' are stale" in caplog.text
    assert "kedro run --pipeline=field_eval" in caplog.text


def test_a_place_that_cannot_be_written_is_one_line(project):
    project.data.write_text("a file where the folder should be")
    assert "data/smoke" in project.error_of("--pipeline=data_ingestion")


def test_missing_inputs_say_which_pipeline_makes_them(project):
    assert "kedro run --pipeline=data_ingestion" in project.error_of("--nodes=physics.mlp.train_two_body")


def test_one_run_at_a_time_has_a_data_folder(project):
    running = project.start("--pipeline=data_ingestion")
    try:
        while not (project.data / ".lock").exists() or not (project.data / ".lock").read_bytes():
            assert running.poll() is None
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGSTOP)
        assert f"in use by another run (process {running.pid}" in project.error_of("--pipeline=data_ingestion")
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
