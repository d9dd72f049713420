"""``dvc.yaml``: written from the list and the imports, run by the registry's nodes, read by DVC."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog

from tests.pipelines.conftest import ROOT
from wm_pipelines.metrics.table import LEADERBOARD_COLUMNS
from wm_pipelines.pipeline_registry import register_pipelines
from wm_pipelines.pipelines import combinations as lists
from wm_pipelines.pipelines.stages import as_text, behind, stage_names, stages
from wm_pipelines.provenance import REPORTS, import_closure, judging_modules
from wm_pipelines.registry import tasks

pytestmark = pytest.mark.pipeline


@pytest.fixture(autouse=True)
def base(monkeypatch):
    monkeypatch.setattr(lists, "_environment", {"conf_source": ROOT / "conf", "env": "base"})


@pytest.fixture
def written():
    return yaml.safe_load(as_text())["stages"]


def spelled_out(stage):
    """A stage for every item of its loop."""
    items = stage.get("foreach", [""])
    for item in items:
        text = yaml.safe_dump(stage.get("do", stage)).replace("${key}", item).replace("${item}", item)
        for name, value in items[item].items() if isinstance(items, dict) else ():
            text = text.replace(f"${{item.{name}}}", value)
        yield yaml.safe_load(text)


def paths(entries):
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def chosen(command, pipelines):
    """Nodes that a command runs."""
    options = dict(word.removeprefix("--").split("=") for word in command.split() if word.startswith("--"))
    nodes = pipelines[options.get("pipeline", "__default__")].nodes
    if "namespaces" in options:
        return [node for node in nodes if node.namespace == options["namespaces"]]
    by_name = {node.name: node for node in nodes}
    return [by_name[name] for name in options["nodes"].split(",")]


def test_the_file_is_what_the_script_writes():
    assert (ROOT / "dvc.yaml").read_text() == as_text(), "run: make stages"


def test_stages_run_every_node_once_and_track_its_files_and_parameters(written):
    pipelines = register_pipelines()
    catalog = DataCatalog.from_config(OmegaConfigLoader(str(ROOT / "conf"), base_env="base")["catalog"])
    run = []
    for stage in chain.from_iterable(map(spelled_out, written.values())):
        nodes = chosen(stage["cmd"], pipelines)
        run += [node.name for node in nodes]
        made = {name for node in nodes for name in node.outputs}
        tracked = paths([*stage["outs"], *stage.get("metrics", [])])
        for name in made:
            assert any(Path(str(catalog.get(name)._filepath)).is_relative_to(out) for out in tracked), name
        # The list of what is in the leaderboard decides by which parts there are, and these are named one by one.
        read = {name for node in nodes for name in node.inputs} - made - {"checkpoints", "leaderboard_parts"}
        parameters = {name.removeprefix("params:") for name in read if name.startswith("params:")}
        for name in read - {f"params:{name}" for name in parameters}:
            place = Path(str(catalog.get(name)._filepath))
            assert any(place.is_relative_to(dep) for dep in stage["deps"]), f"{stage['cmd']} reads {place}"
        known = {key for entry in stage.get("params", []) for keys in entry.values() for key in keys}
        assert parameters <= known, stage["cmd"]
    assert sorted(run) == sorted(["play.page", *(node.name for node in pipelines["__default__"].nodes)])


def test_where_nobody_can_be_steered_there_is_no_page_to_play_on(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "conf/base/globals.yml").read_text())
    (tmp_path / "base").mkdir()
    few = {"data_root": "data", "tasks": {"physics": content["tasks"]["physics"]}}
    (tmp_path / "base/globals.yml").write_text(yaml.safe_dump(few))
    shutil.copy(ROOT / "conf/base/parameters_play.yml", tmp_path / "base")
    monkeypatch.setattr(lists, "_environment", {"conf_source": tmp_path, "env": "base"})
    found = stages()["stages"]
    made = {path for stage in found.values() for path in paths(stage.get("outs", stage.get("do", {}).get("outs", [])))}
    assert "play" not in found
    assert "play.page" not in {node.name for node in register_pipelines()["play"].nodes}
    assert {path for path in paths(found["board"]["deps"]) if path.startswith("data/")} <= made


def test_source_and_parameter_files_exist(written):
    for stage in chain.from_iterable(map(spelled_out, written.values())):
        for path in stage["deps"]:
            assert path.startswith("data/") or (ROOT / path).exists(), path
        for entry in stage.get("params", []):
            for path, keys in entry.items():
                content = yaml.safe_load((ROOT / path).read_text())
                for key in keys:
                    place = content
                    for part in key.split("."):
                        place = place[part]


@pytest.mark.parametrize("task", ["physics", "fields", "images", "videos", "control", "language"])
def test_a_fit_depends_on_what_judges_and_not_on_what_reports(task):
    files = import_closure(*judging_modules(task), without=REPORTS)
    assert ROOT / f"src/wm_pipelines/tasks/{task}/judge.py" in files
    assert not [path for path in files if "reporting" in path.parts or path.name == "report.py"]
    for path in files:  # what is imported with a module is no report; those are imported where a page is written
        for node in ast.parse(path.read_text()).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(fnmatch(name, pattern) for name in names for pattern in REPORTS), path


# ---------------------------------------------------------------- DVC

SOME = (
    "ingest_mass_spring", "ingest_pendulum", "fit_physics_mlp", "fit_physics_hnn", "figure_library", "report_physics",
)  # fmt: skip
WORLDS = ("mass_spring", "pendulum")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A few stages of two worlds, as if they had been run; only what they name is there."""
    from dvc.repo import Repo

    folder = tmp_path_factory.mktemp("dvc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "_environment", {"conf_source": ROOT / "conf", "env": "base"})
        content = {name: stage for name, stage in stages()["stages"].items() if name in SOME}
    for stage in content.values():
        if isinstance(stage.get("foreach"), dict):
            stage["foreach"] = {world: item for world, item in stage["foreach"].items() if world in WORLDS}
        elif "foreach" in stage:
            stage["foreach"] = [world for world in stage["foreach"] if world in WORLDS]
        else:
            stage["deps"] = [dep for dep in stage["deps"] if dep != "data/07_model_output/physics"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": content}))
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", folder)
    for stage in chain.from_iterable(map(spelled_out, content.values())):
        for out in paths(stage["outs"]):
            (folder / out).mkdir(parents=True)
            (folder / out / "made").write_text(out)
    repo = Repo.init(str(folder), no_scm=True)
    with repo.config.edit() as config:
        config["core"]["analytics"] = False
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        repo.commit(force=True)
    yield repo
    repo.close()


@pytest.fixture
def status(repository, monkeypatch):
    """Change a file, say which stages have to run again, change it back."""
    monkeypatch.chdir(repository.root_dir)

    def changed(file: str, old: str = "", new: str = "# another line\n") -> set[str]:
        path = Path(repository.root_dir) / file
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1) if old else before + new)
        try:
            found = {name.removeprefix("dvc.yaml:") for name in repository.status()}
            missing = set(stage_names(stages())) - set(stage_names(yaml.safe_load(Path("dvc.yaml").read_text())))
            told = behind(Path(repository.root_dir) / "dvc.lock")
            assert {name for name in told if name not in missing} == found
            assert not any(file not in "".join(told[name]) for name in found)
            return found
        finally:
            path.write_text(before)

    return changed


MLP, HNN = ({f"fit_physics_{family}@{world}" for world in WORLDS} for family in ("mlp", "hnn"))
INGEST = {f"ingest_{world}@{world}" for world in WORLDS}


@pytest.mark.pipeline
def test_after_a_run_nothing_is_to_be_done(repository, monkeypatch):
    monkeypatch.chdir(repository.root_dir)
    assert repository.status() == {}


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (("src/wm_pipelines/blocks/hamiltonian_flow.py",), HNN),
        (("src/wm_pipelines/families/mlp.py",), MLP),
        (("src/wm_pipelines/blocks/transformer.py",), set()),
        (("src/wm_pipelines/families/mae/family.py",), set()),
        (("src/wm_pipelines/learning/loop.py",), MLP | HNN),
        (("src/wm_pipelines/tasks/physics/judge.py",), MLP | HNN | {"report_physics"}),
        (("src/wm_pipelines/tasks/physics/report.py",), {"report_physics"}),
        (("src/wm_pipelines/reporting/page.py",), {"report_physics"}),
        (("src/wm_pipelines/cli.py",), set()),
        (("src/wm_pipelines/worlds/making.py",), INGEST),
        (("conf/base/parameters_mass_spring.yml", "mass: 1.0 kg", "mass: 2.0 kg"), {"ingest_mass_spring@mass_spring"}),
        (("conf/base/parameters_hnn.yml", "order: 4", "order: 2"), HNN),
        (("conf/base/parameters_physics.yml", "rollout_episodes: 3", "rollout_episodes: 2"), MLP | HNN),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_depends_on_a_change_is_run_again_and_nothing_else(status, change, stale):
    assert status(*change) == stale


@pytest.mark.pipeline
def test_seeds_of_a_task_are_its_own(status):
    assert status("conf/base/globals.yml", "seeds: [0, 1, 2]", "seeds: [0]") == MLP | HNN


@pytest.mark.pipeline
def test_dvc_reads_the_whole_file(repository, tmp_path, monkeypatch):
    from dvc.repo import Repo

    (tmp_path / "dvc.yaml").write_text(as_text())
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    repo = Repo.init(str(tmp_path), no_scm=True)
    found = list(repo.stage.collect())
    assert {stage.addressing.removeprefix("dvc.yaml:") for stage in found} == set(stage_names(stages()))
    assert len(repo.index.outs_graph) > len(found)  # the graph has no overlapping outputs and no circle
    repo.close()


def test_the_plot_shows_what_the_summary_has_and_every_task_judges():
    ((_, plot),) = stages()["plots"][0].items()
    assert {plot["x"], plot["y"]} <= {*LEADERBOARD_COLUMNS}
    template = json.loads((ROOT / f".dvc/plots/{plot['template']}.json").read_text())
    shown = template["transform"][0]["filter"]["oneOf"]
    for task in lists.combinations():
        decisive = tasks.get(task).main_metrics
        assert [metric for metric in shown if any(fnmatch(metric, pattern) for pattern in decisive)], task


# ---------------------------------------------------------------- where it is written


@pytest.fixture
def checkout(tmp_path):
    """Another checkout of the project, with code of its own."""
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def write_stages(folder, source):
    command = [sys.executable, "-m", "wm_pipelines.pipelines.stages"]
    environment = os.environ | {"PYTHONPATH": str(source / "src")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_file_is_written_into_the_project_of_the_working_directory_and_named(checkout):
    (checkout / "conf/local").mkdir(exist_ok=True)
    (checkout / "conf/local/globals.yml").write_text("tasks: {images: null}\n")
    done = write_stages(checkout / "conf", checkout)
    assert (done.returncode, done.stdout) == (0, f"Wrote {checkout / 'dvc.yaml'}\n"), done.stderr
    assert (checkout / "dvc.yaml").read_text() == as_text()


def test_code_of_another_checkout_is_refused(checkout, tmp_path_factory):
    done = write_stages(checkout, ROOT)
    assert done.returncode != 0
    assert done.stderr.startswith(
        f"Error: the project here is '{checkout}', but wm_pipelines is imported from '{ROOT}'"
    )
    assert not (checkout / "dvc.yaml").exists()
    outside = write_stages(tmp_path_factory.mktemp("empty"), ROOT)
    assert outside.returncode != 0
    assert outside.stderr.startswith("Error: no project at ")
